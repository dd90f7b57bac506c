"""Guides for a part of the noise levels."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ebb.errors import UsageError
from ebb.guide.cfg import Guide
from ebb.process.denoiser import Cond, Denoiser, Wrapped, answer
from ebb.process.moment import Moment, Time
from ebb.process.path import spread
from ebb.shapes import Float


@dataclass(frozen=True)
class Within(Wrapped):
    """`guided` where low < ν ≤ high, `denoiser` elsewhere."""

    guided: Denoiser
    low: float
    high: float

    def __call__(self, x: Float[Tensor, "b *d"], t: Time, cond: Cond) -> Float[Tensor, "b *d"]:
        """One of the two asked; both, each for its samples, where a batch's own times lie on both sides."""
        if isinstance(t, Moment):
            return answer(self.guided if self.low < t.nsr <= self.high else self.denoiser, x, t, cond)
        nsr = self.path.nsr(t)
        inside = ((nsr > self.low) & (nsr <= self.high)).to(nsr)
        if bool(inside.all()):
            return self.guided(x, t, cond)
        if not bool(inside.any()):
            return self.denoiser(x, t, cond)
        # whole batches to both: a guide may hold something for each of its samples
        return torch.where(spread(inside, x) != 0, self.guided(x, t, cond), self.denoiser(x, t, cond))


def within(guide: Guide, low: float = 0.0, high: float = math.inf) -> Guide:
    """Apply `guide` only where low < ν ≤ high, ν = σ/α the noise-to-signal ratio (Kynkäänniemi et al. 2024, eq. 6).

    ν is the paper's σ and means the same on every path; log-SNR = −2·log ν. Outside, the denoiser is called as it is,
    which also saves what the guide costs. Raises UsageError unless 0 ≤ low < high.
    """
    if not 0 <= low < high:
        raise UsageError(f"an interval of noise-to-signal ratios has 0 ≤ low < high, got {low:g} and {high:g}")
    return lambda denoiser: Within(denoiser, guide(denoiser), low, high)
