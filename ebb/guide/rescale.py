"""Guidance that keeps the contrast of the unguided answer."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ebb.errors import UsageError
from ebb.process.path import spread
from ebb.shapes import Float


@dataclass(frozen=True)
class Rescaled:
    """φ·(std(high)/std(far))·far + (1 − φ)·far with far = low + scale·(high − low) (Lin et al. 2024, eq. 15 and 16).

    The standard deviations are over all of a sample, of x̂0: the paper matches those of its network's output, v, which
    is another thing, since v holds x_t as well. x̂0 is what is over-exposed, and does not depend on how the network was
    trained. φ = 0 is plain guidance; at scale 1 every φ is off. A sample without contrast is left as it is.
    """

    phi: float = 0.7

    def __post_init__(self) -> None:
        if not 0 <= self.phi <= 1:
            raise UsageError(f"phi is a share from 0 (off) to 1, got {self.phi:g}", "0.7 is the paper's")

    def __call__(self, low: Float[Tensor, "b *d"], high: Float[Tensor, "b *d"], scale: float) -> Float[Tensor, "b *d"]:
        """far·(1 + φ·(std(high)/std(far) − 1))."""
        far = torch.lerp(low, high, scale)
        wanted, got = (answer.flatten(1).std(1, correction=0) for answer in (high, far))
        ratio = torch.where(got > 0, wanted / got, 1)
        return far * spread(1 + self.phi * (ratio - 1), far)
