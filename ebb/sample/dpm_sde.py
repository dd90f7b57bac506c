"""The SDE forms of DPM-Solver++: its multistep and singlestep means, with part of the noise renewed at every step.

They integrate the flow with η times the noise of the forward process added, and as much of the score to balance it
(Lu et al. 2022b, on diffusion SDEs, for η = 1, the reversed forward process; k-diffusion for any η; η = 0 is the flow).
With k = ν_s/ν_t = e^{−h} and r = σ_s/σ_t the step is exactly
x_s = r·k^η·x_t + (α_s − r·k^η·α_t)·x̄0 + σ_s·√(1 − k^{2η})·z,
x̄0 the mean of x̂0 over the step with density e^{(1+η)λ} in λ. k is written without dividing by α_t, so a start at α = 0
renews all of the noise, and a step to σ = 0 lands on x̂0.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from ebb.errors import UsageError
from ebb.process.denoiser import Cond
from ebb.process.moment import Moment, combine
from ebb.process.path import Path
from ebb.sample.adams import Past, averages, spread_over, usable
from ebb.sample.ddim import noise_ratio
from ebb.sample.multistep import midpoint
from ebb.sample.singlestep import halfway
from ebb.sample.trajectory import Denoise, Draw, Stepped


def noisy(eta: float) -> None:
    """Raise UsageError unless `eta` is a strength of the noise that the formulas hold for."""
    if not eta >= 0:
        raise UsageError(f"eta is the strength of the renewed noise, 0 (none) or more; got {eta}", "1 is the usual one")


def renewal(eta: float, t: Moment, s: Moment) -> tuple[float, float, float]:
    """(r·k^η, α_s − r·k^η·α_t, σ_s·√(1 − k^{2η})): what multiplies x, x̄0 and z."""
    share = noise_ratio(t, s) ** eta if eta else 1.0
    keep = s.sigma / t.sigma * share
    return keep, s.alpha - keep * t.alpha, s.sigma * math.sqrt(1 - share**2)


def renewed(
    x: Tensor, shares: tuple[float, float, float], weights: tuple[float, ...], past: Past, draw: Draw
) -> Tensor:
    """The step of the module's formula from x, by the shares of `renewal`, with x̄0 = Σ w_j·x̂0_j; no draw where nothing
    is renewed."""
    keep, aim, spare = shares
    return combine((keep, x), *spread_over(aim, weights, past), (spare, draw(x) if spare else x))


@dataclass(frozen=True)
class DPMpp2MSDE:
    """SDE-DPM-Solver++(2M) (Lu et al. 2022b; the midpoint form of diffusers' "sde-dpmsolver++" of order 2).

    x̄0 is x̂0 extrapolated to mid-step in λ from the last two answers, as in `DPMpp2M`, which η = 0 is. Order 2 is of the
    mean. One denoiser call and one draw a step; a step from α = 0 or to σ = 0 uses the newest answer alone.
    """

    eta: float = 1.0
    order: ClassVar[int] = 2

    def __post_init__(self) -> None:
        noisy(self.eta)

    def start(self, path: Path) -> Past:
        """Nothing remembered."""
        return ()

    def step(self, denoise: Denoise, x: Tensor, t: Moment, s: Moment, cond: Cond, state: Past, draw: Draw) -> Stepped:
        """One denoiser call, and one draw where η > 0."""
        x0 = denoise(x, t, cond)
        used = usable(((x0, t), *state), s)
        return Stepped(renewed(x, renewal(self.eta, t, s), midpoint(s, used), used, draw), x0, ((x0, t),))


@dataclass(frozen=True)
class DPMpp3MSDE:
    """SDE-DPM-Solver++(3M): x̄0 is the mean of the parabola in λ through the last three answers, density e^{(1+η)λ}.

    η = 0 is `DPMpp3M`. diffusers' SDE form has the factor I₂/2 − 1 where the parabola has I₂: of order 1.
    Order 3 is of the mean. One denoiser call and one draw a step; orders 1 and 2 in the first steps.
    """

    eta: float = 1.0
    order: ClassVar[int] = 3

    def __post_init__(self) -> None:
        noisy(self.eta)

    def start(self, path: Path) -> Past:
        """Nothing remembered."""
        return ()

    def step(self, denoise: Denoise, x: Tensor, t: Moment, s: Moment, cond: Cond, state: Past, draw: Draw) -> Stepped:
        """One denoiser call, and one draw where η > 0."""
        x0 = denoise(x, t, cond)
        past = ((x0, t), *state)[:3]
        used = usable(past, s)
        weights = averages(1 + self.eta, denoise.path, "lam", t, s, tuple(when for _, when in used))
        return Stepped(renewed(x, renewal(self.eta, t, s), weights, used, draw), x0, past[:2])


@dataclass(frozen=True)
class DPMpp2SSDE:
    """The SDE form of DPM-Solver++(2S) with r₁ = ½ (k-diffusion's `dpmpp_sde`): x̄0 is the answer found halfway in λ.

    The noise of the half step is part of that of the whole, σ_s·k₂^η·√(1 − k₁^{2η})·z₁ + σ_s·√(1 − k₂^{2η})·z₂ with k₁,
    k₂ those of the halves: both follow one Brownian path. η = 0 is `DPMpp2S`. Two denoiser calls and two draws a step;
    a step from α = 0 or to σ = 0 has no middle and takes one call.
    """

    eta: float = 1.0
    order: ClassVar[int] = 2

    def __post_init__(self) -> None:
        noisy(self.eta)

    def start(self, path: Path) -> None:
        """No state."""

    def step(self, denoise: Denoise, x: Tensor, t: Moment, s: Moment, cond: Cond, state: None, draw: Draw) -> Stepped:
        """Half a step, and the whole one by what the denoiser says there."""
        x0 = denoise(x, t, cond)
        middle = halfway(denoise.path, t, s)
        if middle is None:
            return Stepped(renewed(x, renewal(self.eta, t, s), (1.0,), ((x0, t),), draw), x0, None)
        whole, first, second = (renewal(self.eta, *ends) for ends in ((t, s), (t, middle), (middle, s)))
        z1, z2 = (draw(x), draw(x, 1)) if self.eta else (x, x)  # without η their factors are 0
        there = denoise(combine((first[0], x), (first[1], x0), (first[2], z1)), middle, cond)
        noise = (second[0] * first[2], z1), (second[2], z2)
        return Stepped(combine((whole[0], x), (whole[1], there), *noise), x0, None)
