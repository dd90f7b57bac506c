"""What a control needs of a network: what enters it, each block's output, and its answer with residuals added there.

A network that has this (`Encoding`) can be controlled from beside it: a control reads and changes what the blocks of
its first half, the encoder, pass on. The network itself stays as it is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

from torch import Tensor, nn

from ebb.networks.embedder import Embedded, Embedder
from ebb.shapes import Float


class Opened(NamedTuple):
    """What the first layer is given (`rows`), and what all blocks hear; made of x, the time and the conditions.

    `size` is that of x; of a transformer `grid` is that of its patches, and `turn` their rotation.
    """

    rows: Tensor
    heard: Embedded
    size: tuple[int, ...]
    grid: tuple[int, ...] = ()
    turn: Tensor | None = None


@runtime_checkable
class Residuals(Protocol):
    """What is added to a network's features at each block of its encoder, numbered from 0.

    Of a U-Net `onward` is what the next block is given, and `across` what the decoder is handed beside; in a
    transformer, which has no such second way, both are done to what goes on.
    """

    def onward(self, block: int, h: Tensor, /) -> Tensor:
        """The features that the next block is given, of its input's shape."""
        ...

    def across(self, block: int, h: Tensor, /) -> Tensor:
        """The features that the decoder is handed, of its input's shape."""
        ...


class Silent:
    """Nothing is added."""

    def onward(self, block: int, h: Tensor, /) -> Tensor:
        """h."""
        return h

    def across(self, block: int, h: Tensor, /) -> Tensor:
        """h."""
        return h


SILENT = Silent()


class Handed:
    """`residuals`, with a list of what is handed across at each block: `features`. For one pass."""

    def __init__(self, residuals: Residuals = SILENT) -> None:
        self.residuals = residuals
        self.features: list[Tensor] = []

    def onward(self, block: int, h: Tensor, /) -> Tensor:
        """As `residuals` have it."""
        h = self.residuals.onward(block, h)
        self.features.append(self.residuals.across(block, h))
        return h

    def across(self, block: int, h: Tensor, /) -> Tensor:
        """h; what is handed is listed already."""
        return h


@runtime_checkable
class Encoding(Protocol):
    """A network whose encoder can be copied, run beside itself, and given residuals."""

    embedding: Embedder
    stem: nn.Module

    @property
    def settings(self) -> Mapping[str, Any]:
        """From which it is made again."""
        ...

    @property
    def encoder(self) -> Sequence[nn.Module]:
        """The parts of its encoder, as `encoded` runs them."""
        ...

    def copied(self) -> Sequence[nn.Module]:
        """A copy of the encoder's parts, with the weights that they have, whose features alone are of interest."""
        ...

    @property
    def widths(self) -> tuple[int, ...]:
        """How wide the features are after each block of the encoder."""
        ...

    def opened(self, x: Float[Tensor, "b c *size"], time: Float[Tensor, "b"], cond: Mapping[str, Tensor], /) -> Opened:
        """What enters; raises UsageError for conditions other than it has ports for."""
        ...

    def arranged(self, values: Float[Tensor, "b c *size"], /) -> Tensor:
        """Values at the places of x, as x itself is arranged for the stem."""
        ...

    def entered(self, stem: nn.Module, opened: Opened, /) -> Tensor:
        """The features before the first block, by a stem such as its own."""
        ...

    def encoded(self, encoder: Sequence[nn.Module], h: Tensor, opened: Opened, residuals: Residuals, /) -> Tensor:
        """The features after all blocks of an encoder such as its own."""
        ...

    def answered(self, opened: Opened, residuals: Residuals, /) -> Float[Tensor, "b k *size"]:
        """The network's output with residuals at its encoder's blocks."""
        ...

    def layer(self, inside: int, out: int, reach: int = 1) -> nn.Module:
        """A linear map at each place, of `reach` places around it where the network has such layers."""
        ...

    def narrow(self, block: int, inside: int, width: int) -> nn.Module:
        """A block beside number `block`: features [.., inside] of the one before, and `Opened` → [.., width]."""
        ...
