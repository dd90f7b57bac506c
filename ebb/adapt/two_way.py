"""A narrow control that listens at every block and answers at once (as ControlNet-XS; Zavadski et al. 2023)."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from torch import Tensor, nn

from ebb.adapt.hint import Control, Hint, HintEmbedding, started, stem_width
from ebb.errors import UsageError
from ebb.networks.halves import Encoding, Opened

MULTIPLE = 16
"""Its widths are multiples of this: a vector register of a CPU, and a head of a transformer."""


@dataclass(frozen=True)
class TwoWay:
    """Blocks of a `share` of the network's widths; `start` see `ebb.adapt.hint.started`."""

    share: float = 0.25
    start: float = 0.0

    def __post_init__(self) -> None:
        """Raise UsageError for a share that is not in (0, 1]."""
        if not 0 < self.share <= 1:
            raise UsageError(f"a control has a share of the network's width above 0 and up to 1, got {self.share}")

    def build(self, network: Encoding, channels: int) -> Control:
        """The control of a network by hints of so many channels."""
        return NarrowEncoder(network, channels, self)


class NarrowEncoder(Control):
    """Beside block k of the network, whose features are h: c ← block_k(c) + from_k(h), and h ← h + zero_k(c).

    Of both ways each block knows what the other side made of the hint so far, where a copy hears of it only in the end;
    the network's encoder itself is changed, so that the gradient goes through it.
    """

    def __init__(self, network: Encoding, channels: int, kind: TwoWay) -> None:
        super().__init__()
        self.channels = channels
        widths = [max(MULTIPLE, round(kind.share * width / MULTIPLE) * MULTIPLE) for width in network.widths]
        both, pairs = list(zip(network.widths, widths, strict=True)), pairwise((widths[0], *widths))
        self.stem = network.layer(stem_width(network), widths[0], 3)
        self.hint = HintEmbedding(network, channels, widths[0])
        self.blocks = nn.ModuleList(network.narrow(k, *pair) for k, pair in enumerate(pairs))
        self.listen = nn.ModuleList(network.layer(width, own) for width, own in both)
        self.zeros = nn.ModuleList(started(network.layer(own, width), kind.start) for width, own in both)

    def residuals(self, network: Encoding, opened: Opened, hint: Hint) -> Conversation:
        """Made as the network's pass goes on."""
        return Conversation(self, opened, hint)


class Conversation:
    """The residuals of one pass; `features` are the control's own, after the block before."""

    def __init__(self, control: NarrowEncoder, opened: Opened, hint: Hint) -> None:
        self.control, self.opened, self.hint = control, opened, hint
        self.features: Tensor = control.stem(opened.rows) + control.hint(hint.rows)

    def onward(self, block: int, h: Tensor, /) -> Tensor:
        """h + zero(c), after the control's own block."""
        control = self.control
        if block >= len(control.blocks):
            return h
        self.features = control.blocks[block](self.features, self.opened) + control.listen[block](h)
        return h + self.hint.weighed(control.zeros[block](self.features))

    def across(self, block: int, h: Tensor, /) -> Tensor:
        """h."""
        return h
