"""A control of a finished network: a module beside it that makes of a map, its hint, what is added to its features.

What is added goes through layers that are zero at first, so that a control that has not learnt changes nothing.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import NamedTuple

import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from ebb.errors import UsageError
from ebb.networks.blocks import zeroed
from ebb.networks.halves import Encoding, Opened, Residuals
from ebb.shapes import Float


class Hint(NamedTuple):
    """A map arranged as the network's stem takes x, and how much it counts for each sample: the control's scale, or 0
    for a sample without a hint."""

    rows: Tensor
    weight: Float[Tensor, "b"]

    @classmethod
    def of(cls, network: Encoding, value: Float[Tensor, "b c *size"], scale: float) -> Hint:
        """That of a value in which a sample that is NaN throughout has no hint; NaN elsewhere counts as 0."""
        given = ~value.flatten(1).isnan().all(1)
        return cls(network.arranged(value.nan_to_num(nan=0.0)), scale * given.to(value.dtype))

    def weighed(self, features: Tensor) -> Tensor:
        """Features, each sample's times its weight."""
        return features * self.weight.to(features.dtype).view(-1, *[1] * (features.ndim - 1))


class Control(nn.Module, ABC):
    """What is added to a network's features in one pass, by a hint of `channels` channels."""

    channels: int

    @abstractmethod
    def residuals(self, network: Encoding, opened: Opened, hint: Hint) -> Residuals:
        """What is added to the features of `network`, of which this was made, in one pass."""


class HintEmbedding(nn.Module):
    """A hint's rows as features of a width, by two layers."""

    def __init__(self, network: Encoding, channels: int, width: int) -> None:
        super().__init__()
        entering = stem_width(network) // (network.settings["channels"] + network.embedding.beside)
        self.first, self.second = network.layer(channels * entering, width, 3), network.layer(width, width, 3)

    def forward(self, rows: Tensor) -> Tensor:
        """second(SiLU(first(rows)))."""
        out: Tensor = self.second(F.silu(self.first(rows)))
        return out


def stem_width(network: Encoding) -> int:
    """How many values the stem takes at each place."""
    weight: Tensor = network.stem.weight  # type: ignore[assignment]
    return weight.shape[1]


def started(layer: nn.Module, start: float) -> nn.Module:
    """A layer that adds nothing at first, or, with `start` > 0, weights of that deviation and no bias.

    What comes before a layer of zeros learns nothing at the first update, and a channel whose weights stay at zero is
    dead: nothing before it ever learns. A small start lets the gradient reach all channels at once, and the output is
    then the network's to within it, not to the bit. Raises UsageError for a start below 0.
    """
    if not start >= 0:
        raise UsageError(f"a control starts with weights of a deviation of at least 0, got {start}")
    zeroed(layer)
    if start:
        nn.init.normal_(layer.weight, std=start)  # type: ignore[arg-type]
    return layer
