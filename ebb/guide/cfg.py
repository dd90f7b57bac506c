"""Classifier-free guidance, and CFG++."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from ebb.errors import UsageError
from ebb.guide.ask import ask, null_for
from ebb.process.denoiser import Cond, Denoiser, Wrapped
from ebb.process.moment import Moment, Time, at
from ebb.process.path import spread
from ebb.shapes import Float

Guide = Callable[[Denoiser], Denoiser]

Stretch = Callable[[Tensor, Tensor, float], Tensor]
"""(low, high, scale) → the answer beyond `high`, seen from `low` (both x̂0 [b, *d]); `high` itself at scale 1.

`torch.lerp` goes straight: low + scale·(high − low). `Rescaled` (ebb.guide.rescale) and `Projected` (ebb.guide.apg) do
not.
"""


@dataclass(frozen=True)
class ClassifierFree(Wrapped):
    """x̂0 = null + scale·(cond − null), from one batched call (Ho & Salimans 2022, eq. 6, w = scale − 1).

    x̂0, ε, score and v are related by the same affine map for both answers, so mixing any of them is the same thing;
    another `stretch` than the straight one mixes x̂0.
    """

    scale: float
    null: Cond
    stretch: Stretch = torch.lerp

    def __call__(self, x: Float[Tensor, "b *d"], t: Time, cond: Cond) -> Float[Tensor, "b *d"]:
        """The guided x̂0. Raises UsageError for a condition without null."""
        null, conditional = ask(self.denoiser, x, t, (null_for(cond, self.null), cond))
        return self.stretch(null, conditional, self.scale)


def cfg(scale: float, null: Cond, stretch: Stretch = torch.lerp) -> Guide:
    """Guide towards the condition; `scale` 1 is off, 0 ignores the condition. `null` holds one row for each condition.

    Papers that write (1 + w)·cond − w·null have scale = 1 + w. `stretch` is `torch.lerp` (plain), `Rescaled(phi)`
    (Lin et al. 2024) or `Projected(eta, radius)` (APG, Sadat et al. 2024); each costs one batched call.
    """
    if scale == 1:
        return lambda denoiser: denoiser
    return lambda denoiser: ClassifierFree(denoiser, scale, null, stretch)


@dataclass(frozen=True)
class PlusPlus(Wrapped):
    """x̂0 = null + scale/(1 − ν_s/ν_t)·(cond − null), s the time after t in `times` (falling; 0 after the last).

    A jump to s then lands on α_s·(null + scale·(cond − null)) + σ_s·ε_null, the step of CFG++: with r = σ_s/σ_t and
    ε_null = (x − α_t·null)/σ_t that is r·x + (α_s − r·α_t)·x̂0, where α_s/(α_s − r·α_t) = 1/(1 − ν_s/ν_t).
    """

    scale: float
    null: Cond
    times: tuple[float, ...]

    def reach(self, time: float) -> float:
        """scale/(1 − ν_s/ν_t), the scale of plain guidance at `time`."""
        if time == 0:
            raise UsageError("CFG++ is made of steps towards t = 0, and was asked there", "ask at t > 0")
        s = next((s for s in self.times if s < time), 0.0)
        return self.scale / (1 - at(self.path, s).nsr / at(self.path, time).nsr)

    def __call__(self, x: Float[Tensor, "b *d"], t: Time, cond: Cond) -> Float[Tensor, "b *d"]:
        """The guided x̂0. Raises UsageError for a condition without null."""
        null, conditional = ask(self.denoiser, x, t, (null_for(cond, self.null), cond))
        if isinstance(t, Moment):
            return torch.lerp(null, conditional, self.reach(t.time))
        reach = torch.tensor([self.reach(one) for one in t.tolist()], dtype=torch.float64)
        return torch.lerp(null, conditional, spread(reach, null))


def cfg_plus_plus(scale: float, null: Cond, times: Float[Tensor, "n"]) -> Guide:
    """CFG++ (Chung et al. 2024, algorithm 2): x̂0 is guided, but renoised with the ε of the null answer.

    `scale` is the paper's λ: how far, from 0 (the null alone) to 1 (the condition's x̂0), x̂0 moves towards the condition
    at every step. 1 is not off: ε still is the null's. `times` is the grid that is sampled along, since the step's
    length enters; with `ddim` or `euler` the samples are the paper's exactly. With other solvers it is plain guidance
    by the same scale(t) = λ/(1 − ν_s/ν_t). That grows with the number of steps: CFG++ is made of steps, and has no flow
    as their limit. A guide that asks at other times (`temperature`) goes inside this one, not around it.

    Raises UsageError for a scale outside [0, 1] or times that do not fall.
    """
    grid = tuple(times.tolist())
    if not 0 <= scale <= 1:
        raise UsageError(f"the scale of CFG++ is a share from 0 to 1, got {scale:g}", "try 0.6; cfg takes larger ones")
    if not all(t > s for t, s in pairwise(grid)):
        raise UsageError(f"CFG++ needs the falling times it is sampled along, got {grid[:6]}")
    return lambda denoiser: PlusPlus(denoiser, scale, null, grid)
