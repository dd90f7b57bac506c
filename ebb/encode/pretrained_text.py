"""Text encoders trained by others, frozen, from a folder of the user: CLIP, T5, and sentence encoders such as BERT."""

from __future__ import annotations

import hashlib
import importlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from ebb.encode.condition import each
from ebb.encode.text import checked
from ebb.errors import DamagedError, DataError, ResourceError, UsageError, nearest
from ebb.networks.ports import Port, StatesPort
from ebb.shapes import Float
from ebb.store.checkpoint import sha256

AFTER_PADDING = ("roberta", "xlm-roberta", "mpnet")
"""Types that number places from the one after their padding."""

CLASSES = {
    "clip": "CLIPTextModel", "clip_text_model": "CLIPTextModel", "t5": "T5EncoderModel", "mt5": "MT5EncoderModel",
    "umt5": "UMT5EncoderModel", **dict.fromkeys(("bert", "distilbert", *AFTER_PADDING), "AutoModel"),
}  # fmt: skip
"""The class of `transformers` for each model_type of a config.json."""

TOKENIZERS = (
    {"tokenizer.json"}, {"vocab.json", "merges.txt"}, {"vocab.txt"}, {"spiece.model"}, {"sentencepiece.bpe.model"},
)  # fmt: skip
"""The files a tokenizer is read from: one of these sets is needed."""

WEIGHTS, SHARDS = "model.safetensors", "model.safetensors.index.json"
PART = 32
"""Texts that pass at a time."""


class PretrainedText:
    """The last hidden states of a frozen encoder of `transformers`, read from a local folder and nowhere else.

    The folder is as `save_pretrained` writes it: config.json, tokenizer files, model.safetensors (or its shards).
    `length` is the most pieces of a text, special ones included; longer texts are cut.

    Raises UsageError for a folder that lacks files (named), an encoder of an unknown type or a length it has no places
    for, DataError for weights only in files that may hold code, DamagedError for files that are not what they claim,
    and ResourceError where transformers is not installed.
    """

    def __init__(self, folder: Path, length: int = 77, device: torch.device | None = None) -> None:
        self.folder, self.length = folder, length
        self.device = device or torch.device("cpu")
        self.files, kind = found(folder)
        self.tokenizer, self.model = loaded(folder, CLASSES[kind])
        config = self.model.config
        spent = config.pad_token_id + 1 if kind in AFTER_PADDING else 0
        most = getattr(config, "max_position_embeddings", length + spent) - spent  # T5 has no end
        if not 1 <= length <= most:
            raise UsageError(f"{folder} reads texts of 1 to {most} pieces, got a length of {length}", f"length={most}")
        self.model.to(self.device)
        self.width = int(config.hidden_size)

    @cached_property
    def fingerprint(self) -> str:
        """sha256 over the names and contents of all files that are read, and the length."""
        return _hashed([[file.name, sha256(file)] for file in self.files] + [self.length])

    def count(self, text: str) -> int:
        """The pieces of a text, special ones included, also those that are cut."""
        return len(self.tokenizer(checked(text))["input_ids"])

    @torch.no_grad()
    def states(self, texts: Sequence[str]) -> Float[Tensor, "n length width"]:
        """The states of texts as float32 [n, length, width], on the encoder's device; rows of padding are 0.

        A text without words is all padding, not the few special pieces a tokenizer would make of it: it says nothing.
        Raises UsageError as `checked` does.
        """
        parts = [torch.zeros(0, self.length, self.width, device=self.device)]
        for first in range(0, len(texts), PART):
            some = [checked(text) for text in texts[first : first + PART]]
            rows = self.tokenizer(
                some, padding="max_length", truncation=True, max_length=self.length, return_tensors="pt"
            ).to(self.device)
            out = self.model(input_ids=rows["input_ids"], attention_mask=rows["attention_mask"]).last_hidden_state
            spoken = torch.tensor([bool(text.strip()) for text in some], device=self.device)
            kept = rows["attention_mask"].bool() & spoken[:, None]
            parts.append(torch.where(kept[..., None], out.float(), torch.zeros((), device=self.device)))
        return torch.cat(parts)


class Joined:
    """Several encoders as one: the states of each follow those of the one before, [n, Σ length, greatest width].

    Narrow states are filled up with zeros (Esser et al. 2024, SD3, fig. 2, joins CLIP's and T5's so); two CLIPs beside
    each other in width, as there, are not made.
    """

    def __init__(self, encoders: Sequence[PretrainedText]) -> None:
        if not encoders:
            raise UsageError("expected one text encoder or more, got none")
        self.encoders = tuple(encoders)
        self.length = sum(encoder.length for encoder in encoders)
        self.width = max(encoder.width for encoder in encoders)

    @property
    def fingerprint(self) -> str:
        """sha256 over the fingerprints of all, in order."""
        return _hashed([encoder.fingerprint for encoder in self.encoders])

    def states(self, texts: Sequence[str]) -> Float[Tensor, "n length width"]:
        """The states of texts as float32 [n, length, width]; rows of padding, also those in between, are 0."""
        each = [encoder.states(texts) for encoder in self.encoders]
        return torch.cat([F.pad(states, (0, self.width - states.shape[2])).to(each[0].device) for states in each], 1)


@dataclass(frozen=True)
class FrozenText:
    """Texts as the states of frozen encoders in local folders, one after the other; else as `Text`.

    The encoders are not part of a model: their folders and a `fingerprint` of their files are. They are read when the
    first text that says something is, and other files than those of training are refused.
    """

    folders: tuple[str, ...]
    length: int
    width: int
    fingerprint: str
    turns: tuple[str, ...] = ()

    @classmethod
    def of(cls, folders: Sequence[str], length: int, device: torch.device, turns: Sequence[str] = ()) -> FrozenText:
        """The encoders of some folders, each hearing texts of `length` pieces; raises as `PretrainedText`."""
        joined = Joined([PretrainedText(Path(folder), length, device) for folder in folders])
        own = tuple(str(Path(folder).resolve()) for folder in folders)
        made = cls(own, joined.length, joined.width, joined.fingerprint, tuple(turns))
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

    def given(self, asked: Any, count: int) -> list[str | None]:
        """The texts."""
        return each(asked, count, "text", str)

    def examples(self) -> Tensor:
        """Those of a few texts it was trained on."""
        return self(self.turns[:8] or ("",))

    def unseen(self, text: str) -> tuple[str, ...]:
        """None: what the encoders were trained on is not known."""
        return ()

    def count(self, text: str) -> int:
        """The most pieces that one of the encoders makes of a text, as a share of its length, in pieces of all."""
        each = self.length // len(self.folders)
        return self.length * max(one.count(text) for one in self.encoder.encoders) // each

    def __call__(self, given: Sequence[str | None]) -> Tensor:
        """The states of texts, float32 [b, length, width]; an empty one, all padding, says nothing."""
        texts = [text or "" for text in given]
        if not any(text.strip() for text in texts):
            return torch.zeros(len(texts), self.length, self.width)
        return self.encoder.states(texts).cpu()

    def to_json(self) -> dict[str, Any]:
        """Plain values from which `from_json` makes it again."""
        plain = asdict(self)
        return {**plain, "examples": plain.pop("turns")}

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> FrozenText:
        """The texts of a contract. Raises KeyError, TypeError where it is not one."""
        names = ("folders", "length", "width", "fingerprint", "examples")
        folders, length, width, fingerprint, examples = (found[name] for name in names)
        return cls(tuple(folders), int(length), int(width), str(fingerprint), tuple(examples))


def _hashed(document: list[Any]) -> str:
    return hashlib.sha256(json.dumps(document).encode()).hexdigest()


def found(folder: Path) -> tuple[list[Path], str]:
    """(the files an encoder consists of, its type); raises UsageError, DataError and DamagedError as the class."""
    if not folder.is_dir():
        raise UsageError(f"expected the folder of a text encoder, {folder} is not a folder", "give a local folder")
    there = {file.name for file in folder.iterdir() if file.is_file()}
    config, shards = _document(folder / "config.json"), list[str]()
    if WEIGHTS not in there and SHARDS in there:
        listed = _document(folder / SHARDS).get("weight_map")
        if not isinstance(listed, dict) or not all(isinstance(name, str) for name in listed.values()):
            raise DamagedError(f"{folder / SHARDS} does not list which file holds which weights", "fetch it again")
        shards = sorted({Path(name).name for name in listed.values()})
    needed = {"config.json", *(shards or [WEIGHTS])}
    complete = [kind for kind in TOKENIZERS if kind <= there]
    missing = sorted(needed - there)
    if not complete:
        missing.append("tokenizer.json (or the files of another tokenizer)")
    pickled = sorted(name for name in there if name.endswith((".bin", ".pt", ".pth", ".ckpt", ".msgpack", ".h5")))
    if missing == [WEIGHTS] and pickled:
        raise DataError(
            f"expected {WEIGHTS} in {folder}, found {', '.join(pickled)}, which may hold code to run",
            "fetch the safetensors version, or convert it where you trust it: model.save_pretrained(FOLDER)",
        )
    if missing:
        raise UsageError(f"{folder} lacks {', '.join(missing)}", "copy the whole folder of the encoder, all its files")
    beside = [name for name in ("tokenizer_config.json", "special_tokens_map.json", SHARDS * bool(shards)) if name]
    used = needed | set().union(*complete) | (there & set(beside))
    if (kind := str(config.get("model_type"))) not in CLASSES:
        raise UsageError(f"{folder} holds a model of the type {kind!r}, not a text encoder", nearest(kind, CLASSES))
    return [folder / name for name in sorted(used)], kind


def _document(file: Path) -> dict[str, Any]:
    """A JSON object; {} where there is no such file. Raises DamagedError."""
    try:
        document = json.loads(file.read_text(encoding="utf8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as error:
        raise DamagedError(f"{file} cannot be read: {error}", "fetch it again") from error
    if not isinstance(document, dict):
        raise DamagedError(f"expected an object in {file}, got {type(document).__name__}", "fetch it again")
    return document


def loaded(folder: Path, name: str) -> tuple[Any, Any]:
    """The tokenizer and the model of a folder: from safetensors, without code from it, without the network.

    Raises ResourceError without transformers, DamagedError for files that do not make the model `name`.
    """
    try:
        library = importlib.import_module("transformers")
    except ImportError as error:
        raise ResourceError("pretrained text encoders need transformers", "pip install 'ebb[text]'") from error
    safely = {"local_files_only": True, "trust_remote_code": False}
    try:
        tokenizer = library.AutoTokenizer.from_pretrained(str(folder), **safely)
        model, told = getattr(library, name).from_pretrained(
            str(folder), **safely, use_safetensors=True, dtype=torch.float32, output_loading_info=True
        )
    except Exception as error:  # what libraries raise on damaged files is of every type
        reason = str(error).strip().split("\n")[0]
        raise DamagedError(f"{folder} cannot be read as {name}: {reason}", "copy or download it again") from error
    # a pooler is not used here, and many encoders are stored without one
    lacking = sorted(key for key in told["missing_keys"] if not key.startswith("pooler."))
    wrong = sorted(str(key) for key in told.get("mismatched_keys", ()))
    if lacking or wrong:
        what = f"lacks {len(lacking)} weights" if lacking else f"has {len(wrong)} weights of another shape"
        raise DamagedError(f"{folder} {what} of {name}, such as {(lacking or wrong)[0]}", "copy or download it again")
    return tokenizer, model.eval().requires_grad_(False)
