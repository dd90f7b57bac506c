"""Adaptive projected guidance: guidance without what makes it over-saturate."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ebb.errors import UsageError
from ebb.process.path import spread
from ebb.shapes import Float


@dataclass(frozen=True)
class Projected:
    """high + (scale − 1)·(Δ⊥ + η·Δ∥), Δ = (high − low)·min(1, radius/‖high − low‖) (Sadat et al. 2024, algorithm 1).

    Δ∥ is the part of Δ along `high`, which mostly adds contrast, and Δ⊥ the rest; norms and products are over all of a
    sample, so a good radius grows like √(its size). η = 1 with radius = ∞ is plain guidance.

    The paper's momentum, β times the last step's Δ added to Δ, is left out. It is a state between calls, which a
    denoiser does not have: the answer would depend on how often a step asks and on what was sampled before.
    """

    eta: float = 0.0
    radius: float = math.inf

    def __post_init__(self) -> None:
        if not self.radius > 0:
            raise UsageError(f"radius is the largest norm of a difference, above 0; got {self.radius:g}")

    def __call__(self, low: Float[Tensor, "b *d"], high: Float[Tensor, "b *d"], scale: float) -> Float[Tensor, "b *d"]:
        """(1 − (scale − 1)·(1 − η)·c)·high + (scale − 1)·Δ, c = ⟨Δ, high⟩/‖high‖² (0 where high is 0)."""
        apart = high - low
        size, length = (torch.linalg.vector_norm(each.flatten(1), dim=1) for each in (apart, high))
        shrink = (self.radius / size).clamp(max=1)
        along = shrink * (apart * high).flatten(1).sum(1) / length**2
        share = torch.where(length > 0, along, 0)
        kept, added = 1 - (scale - 1) * (1 - self.eta) * share, (scale - 1) * shrink
        return torch.addcmul(spread(kept, high) * high, spread(added, apart), apart)
