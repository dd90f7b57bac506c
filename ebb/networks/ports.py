"""Ports: what a network can be asked for besides x and the time, each a frozen description that builds its layers.

A network has ports by name, and `cond` holds a tensor for each of them, batch first. Every kind of port has one row
that says nothing; what a network hears then is learned: it is what dropout trains for guidance.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ebb.errors import UsageError
from ebb.networks.blocks import Fourier, zeroed
from ebb.networks.text_encoder import TextEncoder, TextRows, TextStates
from ebb.recipe.names import parse
from ebb.shapes import Float


class PortEmbedding(NamedTuple):
    """What a port makes of its value, of these what it has.

    A `vector` [b, w] that scales and shifts; `rows` [b, m, w] to attend to and which of them are `seen` [b, m], of a
    text in concepts [b, k, m, w] and [b, k, m]; `channels` [b, c, *size] that stand beside x.
    """

    vector: Tensor | None = None
    rows: Tensor | None = None
    seen: Tensor | None = None
    channels: Tensor | None = None


class Port(ABC):
    """One thing that a network can be asked for. Its fields are numbers, so that it can be written down."""

    floating = True
    """Whether its values are floating, not integer."""
    beside = 0
    """The channels it adds to those of x."""
    rows = 0
    """The most rows that it gives to attend to."""
    concepts = 0
    """The most texts that a text is taken apart into, each with rows of its own; 0 where it stays whole."""
    required = True
    """Whether `cond` has to have it; 0 stands for one that it has not."""

    def __post_init__(self) -> None:
        """Raise UsageError for a size below 1."""
        if any(size < (name != "concepts") for name, size in vars(self).items()):
            raise UsageError(f"the sizes of a port are at least 1, got {self}")

    @abstractmethod
    def sizes(self, size: tuple[int, ...]) -> tuple[int, ...]:
        """The axes of a value after the batch, for x of this size; −n is any up to n."""

    @abstractmethod
    def build(self, width: int) -> nn.Module:
        """Its layers, value [b, *sizes] → `PortEmbedding` of this width."""


@dataclass(frozen=True)
class ClassPort(Port):
    """One of `count` classes: int64 [b], numbered from 0; number `count` says nothing."""

    count: int
    floating = False

    def sizes(self, size: tuple[int, ...]) -> tuple[int, ...]:
        """A number alone."""
        return ()

    def build(self, width: int) -> nn.Module:
        """A table of vectors."""
        return ClassEmbedding(self.count, width)


@dataclass(frozen=True)
class VectorPort(Port):
    """`count` numbers of about unit size: float [b, count]; a row with NaN in it says nothing."""

    count: int

    def sizes(self, size: tuple[int, ...]) -> tuple[int, ...]:
        """All numbers."""
        return (self.count,)

    def build(self, width: int) -> nn.Module:
        """An MLP, and a learned vector."""
        return NumbersEmbedding(self.count, width)


@dataclass(frozen=True)
class PiecesPort(Port):
    """A text as ids of pieces: int64 [b, n ≤ length], 0 for padding; a text of nothing else says nothing.

    With `concepts` there is an axis of up to that many texts after the batch.
    """

    vocabulary: int
    length: int
    concepts: int = 0
    floating = False

    @property
    def rows(self) -> int:  # type: ignore[override]
        """The longest text."""
        return self.length

    def sizes(self, size: tuple[int, ...]) -> tuple[int, ...]:
        """The pieces, of each concept."""
        return (*([-self.concepts] if self.concepts else []), -self.length)

    def build(self, width: int) -> nn.Module:
        """A small transformer over the pieces."""
        return TextEmbedding(TextEncoder(self.vocabulary, self.length, width), width, self.concepts > 0)


@dataclass(frozen=True)
class StatesPort(Port):
    """A text as states of a frozen encoder: float [b, n ≤ length, width], rows of 0 for padding; a text of nothing
    else says nothing. `concepts` as in `PiecesPort`."""

    width: int
    length: int
    concepts: int = 0

    @property
    def rows(self) -> int:  # type: ignore[override]
        """The longest text."""
        return self.length

    def sizes(self, size: tuple[int, ...]) -> tuple[int, ...]:
        """The states, of each concept."""
        return (*([-self.concepts] if self.concepts else []), -self.length, self.width)

    def build(self, width: int) -> nn.Module:
        """A linear map of the states."""
        return TextEmbedding(TextStates(self.width, width), width, self.concepts > 0)


@dataclass(frozen=True)
class MapPort(Port):
    """Numbers at every place of x: float [b, channels, *size] of about unit size, NaN where nothing is said."""

    channels: int

    @property
    def beside(self) -> int:  # type: ignore[override]
        """All of them."""
        return self.channels

    def sizes(self, size: tuple[int, ...]) -> tuple[int, ...]:
        """The channels, in the size of x."""
        return (self.channels, *size)

    def build(self, width: int) -> nn.Module:
        """A learned value for each channel."""
        return Blank(self.channels)


@dataclass(frozen=True)
class SharePort(Port):
    """A number from 0 to 1, float [b]: how much of something. It may be left out, which is 0, and is silent at first.

    So a network that has learned without it answers as before until it is trained with it.
    """

    required = False

    def sizes(self, size: tuple[int, ...]) -> tuple[int, ...]:
        """A number alone."""
        return ()

    def build(self, width: int) -> nn.Module:
        """Sines and cosines, and an MLP whose last layer starts at 0."""
        return ShareEmbedding(width)


PORTS = {
    "classes": ClassPort,
    "vector": VectorPort,
    "pieces": PiecesPort,
    "states": StatesPort,
    "map": MapPort,
    "share": SharePort,
}
"""The ports that a file can name."""

Ports = Mapping[str, Port | str]
"""Ports by name, each as an object or as its text: {"label": "classes(count=10)"}."""

NO_PORTS: Ports = MappingProxyType({})


def ports_of(ports: Ports) -> dict[str, Port]:
    """Ports as objects; raises UsageError for a text that names none."""
    return {name: parse(port, PORTS, "port") if isinstance(port, str) else port for name, port in ports.items()}


class ClassEmbedding(nn.Module):
    """A vector for each class, and one for none."""

    def __init__(self, count: int, width: int) -> None:
        super().__init__()
        self.table = nn.Embedding(count + 1, width)

    def forward(self, value: Tensor) -> PortEmbedding:
        """The vectors of the classes."""
        return PortEmbedding(self.table(value))


class NumbersEmbedding(nn.Module):
    """Numbers [b, k] of about unit size → [b, width] by an MLP; a row with NaN in it has a learned vector instead."""

    def __init__(self, count: int, width: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(count, width), nn.SiLU(), nn.Linear(width, width))
        self.null = nn.Parameter(torch.zeros(width))

    def forward(self, values: Float[Tensor, "b k"]) -> PortEmbedding:
        """The vector. NaN never enters the MLP, since a gradient of 0 times NaN would be NaN."""
        known = ~values.isnan().any(-1, keepdim=True)
        vector = self.mlp(torch.where(known, values, 0.0).to(self.null.dtype))
        return PortEmbedding(torch.where(known, vector, self.null.to(vector.dtype)))


class ShareEmbedding(nn.Module):
    """A number of [0, 1] → [b, width]: `gain` times an MLP of its sines and cosines, less what it makes of 0, so that
    a 0 says nothing.

    The gain is kept with the weights. More than 1 makes up for the start at 0 in a network that has learned without it:
    an update moves each matrix by about as much, and what else it hears has long been somewhere.
    """

    gain: Tensor

    def __init__(self, width: int, gain: float = 1.0) -> None:
        super().__init__()
        self.register_buffer("gain", torch.tensor(gain))
        self.register_load_state_dict_pre_hook(of_unit_gain)  # type: ignore[no-untyped-call]
        self.waves = Fourier(width, highest=FASTEST)
        self.mlp = nn.Sequential(nn.Linear(width, width), nn.SiLU(), zeroed(nn.Linear(width, width)))

    def forward(self, value: Float[Tensor, "b"]) -> PortEmbedding:
        """The vector."""
        dtype = self.mlp[0].weight.dtype
        silent: Tensor = self.mlp(self.waves(torch.zeros_like(value[:1])).to(dtype))
        vector = self.mlp(self.waves(value).to(dtype)) - silent
        return PortEmbedding(self.gain.to(vector) * vector)


def of_unit_gain(_: nn.Module, state: dict[str, Tensor], prefix: str, *__: Any) -> None:
    """What was saved before shares had a gain has a gain of 1."""
    state.setdefault(f"{prefix}gain", torch.ones(()))


FASTEST = 30.0
"""Radians of the fastest wave in which a share is told: what it decides changes slowly with it."""


class TextEmbedding(nn.Module):
    """A text as rows, and linear(pooled text) as the vector; with `apart` each concept is read alone."""

    def __init__(self, encoder: TextEncoder | TextStates, width: int, apart: bool = False) -> None:
        super().__init__()
        self.encoder, self.apart = encoder, apart
        self.pooled = nn.Linear(width, width)

    def forward(self, text: Tensor) -> PortEmbedding:
        """Of concepts rows are [b, k, m, w], seen [b, k, m], and pooled is the mean of those that say something."""
        if not self.apart:
            read: TextRows = self.encoder(text)
            return PortEmbedding(self.pooled(read.pooled), read.rows, read.seen)
        rows, seen, pooled = (torch.unflatten(part, 0, text.shape[:2]) for part in self.encoder(text.flatten(0, 1)))
        speaks = seen[..., 1:].any(-1)[..., None].to(pooled.dtype)
        return PortEmbedding(self.pooled((speaks * pooled).sum(1) / speaks.sum(1).clamp(min=1)), rows, seen)


class Blank(nn.Module):
    """Channels [b, c, *size] as they are, with a learned value for each channel where they are NaN."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.blank = nn.Parameter(torch.zeros(channels))

    def forward(self, value: Float[Tensor, "b c *size"]) -> PortEmbedding:
        """The channels."""
        blank = self.blank.reshape(1, -1, *(1,) * (value.ndim - 2))
        return PortEmbedding(channels=torch.where(value.isnan(), blank, value))
