"""ControlNet: a trained copy of a network's encoder, told the hint (Zhang, Rao & Agrawala 2023)."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass

from torch import Tensor, nn

from ebb.adapt.hint import Control, Hint, HintEmbedding, started
from ebb.networks.halves import Encoding, Handed, Opened


@dataclass(frozen=True)
class ControlNet:
    """A copy of the stem and of the encoder, with the weights that they have; `start` see `ebb.adapt.hint.started`."""

    start: float = 0.0

    def build(self, network: Encoding, channels: int) -> Control:
        """The control of a network by hints of so many channels."""
        return CopiedEncoder(network, channels, self.start)


class CopiedEncoder(Control):
    """Adds zero_k(f_k) to what block k hands across, or of a transformer to what goes on after it; f_k are the copy's
    features there, made of stem(x) + embedding(hint) (§ 3.1, eq. 2).

    Time and conditions are embedded by the network. Of a U-Net nothing is added on the way down, so that its own way
    down needs no gradient.
    """

    def __init__(self, network: Encoding, channels: int, start: float = 0.0) -> None:
        super().__init__()
        self.channels = channels
        self.stem = deepcopy(network.stem)
        self.encoder = nn.ModuleList(network.copied())
        self.requires_grad_(True)  # the network's may be frozen
        self.hint = HintEmbedding(network, channels, network.widths[0])
        self.zeros = nn.ModuleList(started(network.layer(width, width), start) for width in network.widths)

    def residuals(self, network: Encoding, opened: Opened, hint: Hint) -> AddedAcross:
        """All of them, made before the network's own pass."""
        record = Handed()
        network.encoded(tuple(self.encoder), network.entered(self.stem, opened) + self.hint(hint.rows), opened, record)
        return AddedAcross([hint.weighed(zero(f)) for zero, f in zip(self.zeros, record.features, strict=True)])


@dataclass(frozen=True, eq=False)
class AddedAcross:
    """One tensor added to what is handed across at each block, in order; nothing after the last."""

    features: Sequence[Tensor]

    def onward(self, block: int, h: Tensor, /) -> Tensor:
        """h."""
        return h

    def across(self, block: int, h: Tensor, /) -> Tensor:
        """h + its tensor."""
        return h + self.features[block] if block < len(self.features) else h
