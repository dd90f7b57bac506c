"""First-order solvers: DDIM and its stochastic relatives, all of them a jump with some of the noise renewed."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from ebb.errors import UsageError
from ebb.process.denoiser import Cond, takes_moments
from ebb.process.learned import VarianceDenoiser
from ebb.process.moment import Moment, combine
from ebb.process.path import Path
from ebb.sample.trajectory import Denoise, Draw, Stepped


def noise_ratio(t: Moment, s: Moment) -> float:
    """ν_s/ν_t, written without dividing by α_t: the share of the noise at s that was already there at t.

    Raises UsageError for a step towards the noise, which only deterministic solvers can make.
    """
    if s.sigma * t.alpha > s.alpha * t.sigma:
        raise UsageError("a stochastic solver goes from noise to data only", "invert with ddim, heun or dpmpp_2m")
    return s.sigma * t.alpha / (s.alpha * t.sigma)


def diffused(x: Tensor, s: Moment, u: Moment, z: Tensor) -> Tensor:
    """x_u | x_s ~ N(α_u/α_s·x, σ_u²(1 − (ν_s/ν_u)²)·I), the forward process from s up to u ≥ s; z is unit noise."""
    return combine((u.alpha / s.alpha, x), (u.sigma * math.sqrt(1 - noise_ratio(u, s) ** 2), z))


@dataclass(frozen=True)
class Euler:
    """x_s = x_t + (α_s − α_t)·x̂0 + (σ_s − σ_t)·ε̂: Euler's method on dx = x̂0 dα + ε̂ dσ.

    It is `jump`, hence DDIM with η = 0, Euler on the velocity for the linear path and Euler in σ for EDM's.
    """

    order: ClassVar[int] = 1

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
    order: ClassVar[int] = 1

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
        renewed = self.eta**2 * (1 - noise_ratio(t, s) ** 2)
        eps = combine((math.sqrt(1 - renewed), t.noise(x, x0)), (math.sqrt(renewed), draw(x)))
        return Stepped(s.mix(x0, eps), x0, None)


@dataclass(frozen=True)
class DDPM:
    """Ancestral sampling, x_s ~ N(α_s·x̂0 + σ_s·(ν_s/ν_t)·ε̂, variance) (Ho et al. 2020, algorithm 2 and eq. 7).

    variance "small" is the posterior's β̃ = σ_s²(1 − (ν_s/ν_t)²), exact for data at a point; "large" is the forward
    step's β = σ_t²(1 − (ν_s/ν_t)²), exact for unit Gaussian data; "learned" is β^f·β̃^{1−f} with the denoiser's own
    share f for each element (Nichol & Dhariwal 2021, eq. 15). The last step, to σ = 0, adds no noise.
    """

    variance: Literal["small", "large", "learned"] = "small"
    order: ClassVar[int] = 1

    def start(self, path: Path) -> None:
        """No state."""

    def step(self, denoise: Denoise, x: Tensor, t: Moment, s: Moment, cond: Cond, state: None, draw: Draw) -> Stepped:
        """One denoiser call and one draw. Raises UsageError for "learned" where the denoiser states no variance."""
        x0, share = self.ask(denoise, x, t, cond)
        if s.sigma == 0:
            return Stepped(t.jump(x, x0, s), x0, None)
        old = noise_ratio(t, s)
        z, spare = draw(x), (t.sigma if self.variance == "large" else s.sigma) * math.sqrt(1 - old**2)
        if share is not None:
            z = z * torch.pow(t.sigma / s.sigma, share)  # √β = (σ_t/σ_s)·√β̃
        mean = combine((s.sigma * old / t.sigma, x), (s.alpha - s.sigma * old * t.alpha / t.sigma, x0))
        return Stepped(combine((1, mean), (spare, z)), x0, None)

    def ask(self, denoise: Denoise, x: Tensor, t: Moment, cond: Cond) -> tuple[Tensor, Tensor | None]:
        """x̂0, and the share f where the variance is learned."""
        if self.variance != "learned":
            return denoise(x, t, cond), None
        if not isinstance(denoise.denoiser, VarianceDenoiser):
            raise UsageError(
                f"learned variance needs a denoiser that states it, got {type(denoise.denoiser).__name__}",
                "use ddpm or ddpm(variance='large'); 'learned' is for what --objective hybrid trains, without guidance",
            )
        when = t if takes_moments(denoise.denoiser) else t.shared(x.shape[0])
        return denoise.denoiser.with_share(x, when, cond)  # type: ignore[arg-type]
