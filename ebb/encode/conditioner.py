"""What a model can be asked for: labels, texts, numbers and pictures, as the named tensors that its network hears."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from types import UnionType
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ebb.encode.labels import Labels
from ebb.encode.numbers import Asked, Numbers
from ebb.encode.picture import Beside
from ebb.encode.pretrained_text import Joined, PretrainedText
from ebb.encode.text import Vocabulary, concepts_of
from ebb.errors import UsageError
from ebb.networks.ports import ClassPort, MapPort, PiecesPort, Port, StatesPort, VectorPort


@dataclass(frozen=True)
class Text:
    """Texts as piece ids of a vocabulary, cut or padded with 0 to `length`; `examples` are some it was trained on.

    With `concepts` a text is taken apart into at most so many (`ebb.encode.text.concepts_of`), each of that length.
    """

    vocabulary: Vocabulary
    length: int
    examples: tuple[str, ...] = ()
    concepts: int = 0

    @property
    def port(self) -> Port:
        """What a network hears it by."""
        return PiecesPort(len(self.vocabulary), self.length, self.concepts)

    def __str__(self) -> str:
        each = f"up to {self.concepts} concepts of " if self.concepts else ""
        return f"{each}up to {self.length} of {len(self.vocabulary):,} pieces"

    def unseen(self, text: str) -> tuple[str, ...]:
        """The words that no caption had."""
        return self.vocabulary.unseen(text)

    def count(self, text: str) -> int:
        """The pieces of a text, or of its longest concept, also those that are cut."""
        return max(len(self.vocabulary.pieces(part)) for part in concepts_of(text, self.concepts))

    def __call__(self, texts: Sequence[str]) -> NDArray[np.int64]:
        """The ids [b, length] of texts, or [b, concepts, length]; an empty one, all padding, is the null."""
        if not self.concepts:
            return np.stack([self.vocabulary.encode(text, self.length) for text in texts])
        ids = np.zeros((len(texts), self.concepts, self.length), np.int64)
        for row, text in zip(ids, texts, strict=True):
            for place, part in zip(row, concepts_of(text, self.concepts), strict=False):
                place[:] = self.vocabulary.encode(part, self.length)
        return ids

    def to_json(self) -> dict[str, Any]:
        """Plain values from which `from_json` makes it again."""
        plain = {"length": self.length, "examples": list(self.examples), "concepts": self.concepts}
        return {"vocabulary": self.vocabulary.to_json()} | plain

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> Text:
        """The text of a contract. Raises KeyError, TypeError, DamagedError where it is not one."""
        vocabulary = Vocabulary.from_json(found["vocabulary"])
        return cls(vocabulary, int(found["length"]), tuple(found["examples"]), int(found.get("concepts", 0)))


@dataclass(frozen=True)
class Frozen:
    """Texts as the states of frozen encoders in local folders, one after the other; else as `Text`.

    The encoders are not part of a model: their folders and a `fingerprint` of their files are. They are read when the
    first text that says something is, and other files than those of training are refused.
    """

    folders: tuple[str, ...]
    length: int
    width: int
    fingerprint: str
    examples: tuple[str, ...] = ()

    @classmethod
    def of(cls, folders: Sequence[str], length: int, device: torch.device, examples: Sequence[str] = ()) -> Frozen:
        """The encoders of some folders, each hearing texts of `length` pieces; raises as `PretrainedText`."""
        joined = Joined([PretrainedText(Path(folder), length, device) for folder in folders])
        own = tuple(str(Path(folder).resolve()) for folder in folders)
        made = cls(own, joined.length, joined.width, joined.fingerprint, tuple(examples))
        vars(made)["encoder"] = joined  # no need to read it again
        return made

    @cached_property
    def encoder(self) -> Joined:
        """The encoders. Raises UsageError where their files are others than those that the model was trained with."""
        each = self.length // len(self.folders)
        joined = Joined([PretrainedText(Path(folder), each) for folder in self.folders])
        if joined.fingerprint != self.fingerprint:
            raise UsageError(
                f"the text encoders in {', '.join(self.folders)} are not those that this model was trained with",
                "put the files of training back",
            )
        return joined

    @property
    def port(self) -> Port:
        """What a network hears it by."""
        return StatesPort(self.width, self.length)

    def __str__(self) -> str:
        return f"{self.length} states of {', '.join(Path(folder).name for folder in self.folders)}"

    def unseen(self, text: str) -> tuple[str, ...]:
        """None: what the encoders were trained on is not known."""
        return ()

    def count(self, text: str) -> int:
        """The most pieces that one of the encoders makes of a text, as a share of its length, in pieces of all."""
        each = self.length // len(self.folders)
        return self.length * max(one.count(text) for one in self.encoder.encoders) // each

    def __call__(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """The states [b, length, width] of texts; an empty one, all padding, is the null."""
        if not any(text.strip() for text in texts):
            return np.zeros((len(texts), self.length, self.width), np.float32)
        return self.encoder.states(texts).cpu().numpy()

    def to_json(self) -> dict[str, Any]:
        """Plain values from which `from_json` makes it again."""
        return asdict(self)

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> Frozen:
        """The texts of a contract. Raises KeyError, TypeError where it is not one."""
        names = ("folders", "length", "width", "fingerprint", "examples")
        folders, length, width, fingerprint, examples = (found[name] for name in names)
        return cls(tuple(folders), int(length), int(width), str(fingerprint), tuple(examples))


def text_from(found: Mapping[str, Any]) -> Text | Frozen:
    """What a contract says of texts; raises as the classes do."""
    return Frozen.from_json(found) if "folders" in found else Text.from_json(found)


@runtime_checkable
class Shown(Protocol):
    """Pictures [n, c, h, w] in [−1, 1], NaN where there is none: a tensor, or what reads some when they are needed."""

    def __getitem__(self, part: slice, /) -> Tensor:
        """Some of them."""


@dataclass(frozen=True)
class Wishes:
    """What each of some samples is asked for: the index of a label, a text, a row of numbers and a picture beside it.

    A model without labels ignores the first, and what else a model does not hear may be left out. Numbers and pictures
    that are left out ask for nothing. Raises UsageError for texts or numbers that are not one for each sample.
    """

    labels: tuple[int, ...]
    texts: tuple[str, ...] = ()
    numbers: tuple[tuple[float, ...], ...] = ()
    pictures: Shown | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        for what, given in (("text", self.texts), ("row of numbers", self.numbers)):
            if given and len(given) != len(self.labels):
                raise UsageError(f"expected one {what} for each of {len(self.labels)} samples, got {len(given)}")

    def __len__(self) -> int:
        return len(self.labels)

    def part(self, first: int, count: int) -> Wishes:
        """The wishes `first`, `first` + 1, …, at most `count` of them."""
        some = slice(first, first + count)
        pictures = None if self.pictures is None else self.pictures[some]
        return Wishes(self.labels[some], self.texts[some], self.numbers[some], pictures)


@dataclass(frozen=True)
class Conditioner:
    """Between wishes and conditions: the labels, vocabulary, numbers and picture of a model, each where it has some."""

    labels: Labels = field(default_factory=Labels)
    text: Text | Frozen | None = None
    numbers: Numbers | None = None
    beside: Beside | None = None

    @property
    def ports(self) -> dict[str, Port]:
        """What a network hears all of it by."""
        ports: dict[str, Port] = {"label": ClassPort(len(self.labels.names))} if self.labels.names else {}
        ports |= {} if self.numbers is None else {"numbers": VectorPort(len(self.numbers.names))}
        ports |= {} if self.text is None else {"text": self.text.port}
        return ports | ({} if self.beside is None else {self.beside.name: MapPort(self.beside.channels)})

    @property
    def shown(self) -> bool:
        """Whether it hears what samples can only be asked for with examples: numbers, or a picture."""
        return self.numbers is not None or self.beside is not None

    def __call__(self, wishes: Wishes) -> dict[str, Tensor]:
        """The conditions of a batch, of these what the model hears: {"label": int64 [b], "text": [b, n] or [b, n, w],
        "numbers": float32 [b, k]}, and the picture beside by its name, float32 [b, c, h, w].

        Texts are int64 ids of pieces, or float32 states.
        """
        cond = dict(self.labels(wishes.labels))
        if self.text is not None:
            cond["text"] = torch.from_numpy(self.text(wishes.texts))
        if self.numbers is not None:
            told = torch.from_numpy(self.numbers(wishes.numbers)) if wishes.numbers else self.numbers.null(len(wishes))
            cond["numbers"] = told
        if self.beside is not None:
            shown = None if wishes.pictures is None else wishes.pictures[:]
            cond[self.beside.name] = self.beside.null(len(wishes)) if shown is None else self.beside(shown)
        return cond

    def null(self) -> dict[str, Tensor]:
        """One row that asks for nothing."""
        return self(Wishes((self.labels.none,), ("",)))

    def examples(self) -> dict[str, Tensor]:
        """Some rows of each condition: every label, a few texts, the least and the most numbers, black and white."""
        found = dict(self.labels(range(len(self.labels.names))))
        if self.text is not None:
            found["text"] = torch.from_numpy(self.text(self.text.examples[:8] or ("",)))
        if self.numbers is not None:
            found["numbers"] = torch.from_numpy(self.numbers([self.numbers.least, self.numbers.most]))
        if self.beside is not None:
            shades = torch.tensor([-1.0, 1.0])[:, None, None, None]
            found[self.beside.name] = self.beside(shades.expand(2, *self.beside.shape))
        return found

    def wishes(
        self,
        count: int,
        *,
        label: Any = None,
        text: str | Sequence[str] | None = None,
        numbers: Asked | None = None,
        beside: Tensor | None = None,
        seed: int = 0,
    ) -> Wishes:
        """What `count` samples are asked for: one label, text, row of numbers or picture for all, or one for each.

        A model that hears several is asked for nothing in those that are not given. Without any wish image i gets
        label, or example text, number (seed + i) in turn. Labels may be a tensor or an array too.

        Raises UsageError for a label that does not exist, for what the model cannot hear, and for a list that is not
        one for each image.
        """
        rows, pictures = self.told(numbers, count), self.seen(beside, count)
        if text is not None and self.text is None:
            known = "labels: --label" if self.labels.names else "neither labels nor texts"
            raise UsageError(
                f"this model was trained without captions, so it cannot be asked for a text; it has {known}"
            )
        silent = label is None and text is None and not rows and pictures is None
        classes, examples = len(self.labels.names), self.text.examples if self.text else ()
        if label is not None:
            indices = [self.labels.index(one) for one in each(label, count, "label", str | int)]
        else:
            indices = [(seed + i) % max(1, classes) if silent else self.labels.none for i in range(count)]
        if self.text is None:
            return Wishes(tuple(indices), (), rows, pictures)
        if text is None and silent and not classes and examples:
            texts = [examples[(seed + i) % len(examples)] for i in range(count)]
        else:
            texts = each("" if text is None else text, count, "text", str)
        return Wishes(tuple(indices), tuple(texts), rows, pictures)

    def told(self, numbers: Asked | None, count: int) -> tuple[tuple[float, ...], ...]:
        """The rows of numbers that `count` samples are asked for, none without; raises UsageError as `wishes` does."""
        if numbers is None:
            return ()
        if self.numbers is None:
            raise UsageError(
                "this model was trained without numbers, so it cannot be asked for one",
                "train one that hears some: ebb train DATA --numbers FIELD",
            )
        return tuple(self.numbers.rows(numbers, count))

    def seen(self, beside: Tensor | None, count: int) -> Tensor | None:
        """The picture beside each of `count` samples; raises UsageError as `wishes` does."""
        return None if beside is None else self.listens().given(beside, count)

    def listens(self) -> Beside:
        """The picture beside that it hears; UsageError where it hears none."""
        if self.beside is None:
            raise UsageError(
                "this model was trained without a picture beside its own, so it cannot be given one",
                "train one that hears some: ebb train DATA --beside FIELD",
            )
        return self.beside

    def about(self, wish: Any) -> Wishes:
        """One wish for this label, or, where it is none and the model hears texts, for this text; as `wishes`."""
        (one,) = each(wish, 1, "label or text", str | int)
        if self.text is not None and str(one) not in self.labels.names:
            return self.wishes(1, text=str(one))
        return self.wishes(1, label=one)

    def of(
        self,
        count: int,
        labels: NDArray[np.int64] | None,
        captions: Sequence[str] | None,
        numbers: NDArray[np.float64] | None = None,
    ) -> dict[str, NDArray[Any]]:
        """The conditions of `count` examples, [count, …] by name, but for pictures; what they lack is null."""
        found = dict[str, NDArray[Any]]()
        if self.labels.names:
            found["label"] = np.full(count, self.labels.none) if labels is None else labels
        if self.text is not None:
            found["text"] = self.text([""] * count if captions is None else captions)
        if self.numbers is not None:
            found["numbers"] = self.numbers.null(count).numpy() if numbers is None else self.numbers(numbers)
        return found


def each(asked: Any, count: int, what: str, kinds: type | UnionType) -> list[Any]:
    """`asked` for each of `count` images: one for all, or a list, an array or a tensor of them.

    Raises UsageError for another number of them than images, and for what is not of these kinds.
    """
    asked = own(asked)
    found = [own(one) for one in asked] if isinstance(asked, list | tuple | range) else [asked] * count
    for one in found:
        if not isinstance(one, kinds) or isinstance(one, bool):
            kind = getattr(kinds, "__name__", str(kinds)).replace("|", "or")
            raise UsageError(f"a {what} is of the kind {kind}, got {one!r:.60}")
    if len(found) != count:
        raise UsageError(f"expected one {what} for each of {count} images, got {len(found)}")
    return found


def own(value: Any) -> Any:
    """A tensor's or an array's values as Python's own; anything else as it is."""
    return value.tolist() if isinstance(value, Tensor | np.ndarray | np.generic) else value
