"""EDM's stochastic sampler: Heun's method that goes a little back up before each step down."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from ebb.errors import UsageError
from ebb.process.denoiser import Cond
from ebb.process.moment import Moment, where
from ebb.process.path import Path
from ebb.sample.ddim import diffused, noise_ratio
from ebb.sample.heun import Heun
from ebb.sample.trajectory import Denoise, Draw, Stepped


@dataclass(frozen=True)
class Churn:
    """Noise up from ν_t to ν_u = (1 + gamma)·ν_t, then Heun's step from u to s (Karras et al. 2022, algorithm 2).

    Going up is the path's own forward process, x_u = α_u/α_t·x_t + noise·σ_u·√(1 − (ν_t/ν_u)²)·z, so it holds on every
    path and is the paper's x + S_noise·√(t̂² − t²)·z on α = 1. `gamma` is the paper's S_churn/N of one step, there at
    most √2 − 1; `nsr_min` and `nsr_max` are S_tmin and S_tmax, between which there is churn; `noise` is S_noise. There
    is none from α = 0, where there is nothing above, nor beyond the path's end. The order is Heun's for gamma = 0: a
    step down is never shorter than gamma.
    """

    gamma: float = 0.1
    nsr_min: float = 0.05
    nsr_max: float = 50.0
    noise: float = 1.0
    order: ClassVar[int] = 2

    def __post_init__(self) -> None:
        if not (self.gamma >= 0 and 0 <= self.nsr_min <= self.nsr_max and self.noise > 0):
            raise UsageError(
                f"churn needs gamma ≥ 0, 0 ≤ nsr_min ≤ nsr_max and noise > 0, got {self}",
                "the paper's gamma is S_churn over the number of steps, for example 40/256",
            )

    def start(self, path: Path) -> None:
        """No state."""

    def step(self, denoise: Denoise, x: Tensor, t: Moment, s: Moment, cond: Cond, state: None, draw: Draw) -> Stepped:
        """Two denoiser calls, one to σ = 0, and one draw where there is churn."""
        noise_ratio(t, s)
        u = t
        if self.nsr_min <= t.nsr <= self.nsr_max:
            u = where(denoise.path, t.lam - math.log1p(self.gamma))
        if u.nsr <= t.nsr:
            return Heun().step(denoise, x, t, s, cond, state, draw)
        z = draw(x) if self.noise == 1 else self.noise * draw(x)
        return Heun().step(denoise, diffused(x, t, u, z), u, s, cond, state, draw)
