"""First-order solvers: DDIM and its stochastic relatives, all of them a jump with some of the noise renewed."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from ebb.errors import UsageError
from ebb.process.denoiser import Cond
from ebb.process.moment import Moment, combine
from ebb.process.path import Path
from ebb.sample.loop import Denoise, Draw, Stepped


def kept(t: Moment, s: Moment) -> float:
    """ν_s/ν_t, written without dividing by α_t: the share of the noise at s that was already there at t.

    Raises UsageError for a step towards the noise, which only deterministic solvers can make.
    """
    share = s.sigma * t.alpha / (s.alpha * t.sigma)
    if share > 1:
        raise UsageError("a stochastic solver goes from noise to data only", "invert with ddim, heun or dpmpp_2m")
    return share


@dataclass(frozen=True)
class Euler:
    """x_s = x_t + (α_s − α_t)·x̂0 + (σ_s − σ_t)·ε̂: Euler's method on dx = x̂0 dα + ε̂ dσ.

    It is `jump`, hence DDIM with η = 0, Euler on the velocity for the linear path and Euler in σ for EDM's.
    """

    order: int = 1

    def start(self, path: Path) -> None:
        """No state."""

    def step(self, denoise: Denoise, x: Tensor, t: Moment, s: Moment, cond: Cond, state: None, draw: Draw) -> Stepped:
        """One jump."""
        x0 = denoise(x, t, cond)
        return Stepped(t.jump(x, x0, s), x0, None)


@dataclass(frozen=True)
class DDIM:
    """x_s = α_s·x̂0 + √(σ_s² − c²)·ε̂ + c·z with c = η·σ_s·√(1 − (ν_s/ν_t)²) (Song et al. 2021, eq. 12 and 16).

    η = 0 is deterministic, η = 1 samples the posterior of the forward process. Holds on every path.
    """

    eta: float = 0.0
    order: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.eta <= 1:
            raise UsageError(f"eta is a share of the noise to renew, from 0 to 1; got {self.eta}")

    def start(self, path: Path) -> None:
        """No state."""

    def step(self, denoise: Denoise, x: Tensor, t: Moment, s: Moment, cond: Cond, state: None, draw: Draw) -> Stepped:
        """One denoiser call, and one draw where η > 0."""
        x0 = denoise(x, t, cond)
        if self.eta == 0 or s.sigma == 0:
            return Stepped(t.jump(x, x0, s), x0, None)
        renewed = self.eta**2 * (1 - kept(t, s) ** 2)
        eps = combine((math.sqrt(1 - renewed), t.noise(x, x0)), (math.sqrt(renewed), draw(x)))
        return Stepped(s.mix(x0, eps), x0, None)


@dataclass(frozen=True)
class DDPM:
    """Ancestral sampling, x_s ~ N(α_s·x̂0 + σ_s·(ν_s/ν_t)·ε̂, variance) (Ho et al. 2020, algorithm 2 and eq. 7).

    variance "small" is the posterior's β̃ = σ_s²(1 − (ν_s/ν_t)²), exact for data at a point; "large" is the forward
    step's β = σ_t²(1 − (ν_s/ν_t)²), exact for unit Gaussian data. The last step, to σ = 0, adds no noise.
    """

    variance: Literal["small", "large"] = "small"
    order: int = 1

    def start(self, path: Path) -> None:
        """No state."""

    def step(self, denoise: Denoise, x: Tensor, t: Moment, s: Moment, cond: Cond, state: None, draw: Draw) -> Stepped:
        """One denoiser call and one draw."""
        x0 = denoise(x, t, cond)
        if s.sigma == 0:
            return Stepped(t.jump(x, x0, s), x0, None)
        share = kept(t, s)
        spare = (t.sigma if self.variance == "large" else s.sigma) * math.sqrt(1 - share**2)
        mean = combine((s.sigma * share / t.sigma, x), (s.alpha - s.sigma * share * t.alpha / t.sigma, x0))
        return Stepped(combine((1, mean), (spare, draw(x))), x0, None)
