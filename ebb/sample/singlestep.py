"""Singlestep solvers on x̂0: second order from two denoiser calls a step, and nothing remembered."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from ebb.process.denoiser import Cond
from ebb.process.moment import Moment, where
from ebb.process.path import Path
from ebb.sample.trajectory import Denoise, Draw, Stepped


def halfway(path: Path, t: Moment, s: Moment) -> Moment | None:
    """The moment at the middle of the step in λ; None where λ is infinite at an end of it, and there is no middle."""
    lam = (t.lam + s.lam) / 2
    return where(path, lam) if math.isfinite(lam) else None


@dataclass(frozen=True)
class DPMpp2S:
    """DPM-Solver++(2S) with r₁ = ½ (Lu et al. 2022b, algorithm 1): a jump with the x̂0 found halfway in λ.

    u = jump to (λ_t + λ_s)/2 with x̂0(x_t), then x_s = jump from x_t with x̂0(u): the midpoint rule in λ. A step from
    α = 0 or to σ = 0 has no middle in λ and is a jump of one call. Two denoiser calls a step.
    """

    order: ClassVar[int] = 2

    def start(self, path: Path) -> None:
        """No state."""

    def step(self, denoise: Denoise, x: Tensor, t: Moment, s: Moment, cond: Cond, state: None, draw: Draw) -> Stepped:
        """A jump halfway, and the whole step by what the denoiser says there."""
        x0 = aim = denoise(x, t, cond)
        middle = halfway(denoise.path, t, s)
        if middle is not None:
            aim = denoise(t.jump(x, x0, middle), middle, cond)
        return Stepped(t.jump(x, aim, s), x0, None)
