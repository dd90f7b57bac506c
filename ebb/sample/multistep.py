"""Multistep solvers on x̂0: second and third order at one denoiser call a step, by remembering the last answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from ebb.process.denoiser import Cond
from ebb.process.moment import Moment
from ebb.process.path import Path
from ebb.sample.adams import Past, averages, towards, usable
from ebb.sample.trajectory import Denoise, Draw, Stepped


def midpoint(s: Moment, past: Past) -> tuple[float, ...]:
    """The weights of x̂0 extrapolated to mid-step in λ from the last two answers: (1 + w, −w), w = h/(2·h_prev)."""
    if len(past) == 1:
        return (1.0,)
    (_, t), (_, earlier) = past
    beyond = (s.lam - t.lam) / (2 * (t.lam - earlier.lam))
    return 1 + beyond, -beyond


@dataclass(frozen=True)
class DPMpp2M:
    """DPM-Solver++(2M) (Lu et al. 2022b, algorithm 2): a jump with x̂0 extrapolated to mid-step in log-SNR.

    D = x̂0 + h/(2·h_prev)·(x̂0 − x̂0_prev), h the step in λ = log(α/σ). Where λ is infinite, at α = 0 or σ = 0, the
    ratio says nothing and the step is a plain jump: the first, the last, and the second after a start at α = 0.
    State: (x̂0, t) of the last step, or None.
    """

    order: ClassVar[int] = 2

    def start(self, path: Path) -> None:
        """Nothing remembered."""

    def step(
        self,
        denoise: Denoise,
        x: Tensor,
        t: Moment,
        s: Moment,
        cond: Cond,
        state: tuple[Tensor, Moment] | None,
        draw: Draw,
    ) -> Stepped:
        """One denoiser call."""
        x0 = denoise(x, t, cond)
        used = usable(((x0, t), state) if state else ((x0, t),), s)
        return Stepped(towards(x, t, s, midpoint(s, used), used), x0, (x0, t))


@dataclass(frozen=True)
class DPMpp3M:
    """DPM-Solver++(3M): a jump with the mean of the parabola in λ through the last three x̂0 (Lu et al. 2022b, eq. 8).

    x_s = r·x_t + α_s·(I₀·x̂0 + I₁·D₁ + I₂·D₂), D₁ and D₂ the parabola's slope at t and leading coefficient over the step
    u from 0 to 1, I_k = h·∫ e^{−h(1−u)} u^k du. The authors' multistep code, and diffusers' and k-diffusion's after it,
    multiply D₂ by I₂/2, the factor of a second derivative: of order 2, though with few steps the smaller term may be
    the better one. The first steps are of order 1 and 2; from α = 0 or to σ = 0, where λ is infinite, the step is a
    jump. State: the last two x̂0.
    """

    order: ClassVar[int] = 3

    def start(self, path: Path) -> Past:
        """Nothing remembered."""
        return ()

    def step(self, denoise: Denoise, x: Tensor, t: Moment, s: Moment, cond: Cond, state: Past, draw: Draw) -> Stepped:
        """One denoiser call."""
        x0 = denoise(x, t, cond)
        past = ((x0, t), *state)[:3]
        used = usable(past, s)
        weights = averages(1, denoise.path, "lam", t, s, tuple(when for _, when in used))
        return Stepped(towards(x, t, s, weights, used), x0, past[:2])
