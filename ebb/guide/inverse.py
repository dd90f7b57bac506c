"""Inverse problems: samples that agree with a measurement y = A·x0 + n, n ~ N(0, noise²·I).

A is linear, or the derivative at x̂0 of a function that is not (`ebb.guide.operators.Curved`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ebb.errors import UsageError
from ebb.guide.cfg import Guide
from ebb.guide.energy import capped, energy, linearised, tilted, weighted
from ebb.guide.inpaint import rows
from ebb.guide.operators import Measurement
from ebb.process.denoiser import Cond, Wrapped
from ebb.process.moment import Time
from ebb.process.path import Path
from ebb.shapes import Float


def solved(matrix: Callable[[Tensor], Tensor], target: Float[Tensor, "b *m"], iterations: int) -> Tensor:
    """K⁻¹·target for each sample by conjugate gradients (Hestenes & Stiefel 1952); K symmetric and positive.

    A direction along which K is not positive (it may be so for an imperfect denoiser) ends that sample's search.
    """
    across = tuple(range(1, target.ndim))

    def dot(a: Tensor, b: Tensor) -> Tensor:
        return (a * b).sum(across, keepdim=True)

    def ratio(a: Tensor, b: Tensor) -> Tensor:
        return torch.where(b > 0, a / torch.where(b > 0, b, 1), 0)

    solution, rest, direction = torch.zeros_like(target), target, target
    length = dot(rest, rest)
    for _ in range(iterations):
        along = matrix(direction)
        stride = ratio(length, dot(direction, along))
        solution, rest = solution + stride * direction, rest - stride * along
        shorter = dot(rest, rest)
        direction, length = rest + ratio(shorter, length) * direction, shorter
    return solution


Covariance = Callable[[Path, Time, Tensor, Callable[[Tensor], Tensor]], Tensor]
"""Cov[x0 | x_t] as a map: (path, t, u [b, *d], back) → Cov·u, `back` being u → Jᵀu with J = ∂x̂0/∂x_t."""


def tweedie(path: Path, t: Time, u: Tensor, back: Callable[[Tensor], Tensor]) -> Tensor:
    """σ²/α·Jᵀ·u: Tweedie's covariance (Rozet et al. 2024, §4.2), the true one for the true denoiser."""
    return weighted(path, t, u, lambda alpha, sigma: sigma**2 / alpha) * back(u)


@dataclass(frozen=True)
class Isotropic:
    """r²·u with r² = σ²s²/(α²s² + σ²): the covariance if the data were N(0, s²·I) (Song et al. 2023, ΠGDM, §3)."""

    data_std: float

    def __call__(self, path: Path, t: Time, u: Tensor, back: Callable[[Tensor], Tensor]) -> Tensor:
        """r²·u."""
        s = self.data_std
        return weighted(path, t, u, lambda alpha, sigma: (sigma * s) ** 2 / ((alpha * s) ** 2 + sigma**2)) * u


@dataclass(frozen=True)
class Measured(Wrapped):
    """x̂0 + σ²/α·Jᵀ·Aᵀ·(A·Cov·Aᵀ + noise²·I)⁻¹·(y − A·x̂0), J = ∂x̂0/∂x_t.

    What the posterior mean becomes if p(x0 | x_t) is N(x̂0, Cov).
    """

    y: Tensor
    operator: Measurement
    noise: float
    covariance: Covariance
    iterations: int

    def __call__(self, x: Float[Tensor, "b *d"], t: Time, cond: Cond) -> Float[Tensor, "b *d"]:
        """The guided x̂0. Raises UsageError where y is not what the operator measures."""
        x, t = capped(self.path, x, t)
        x0, back = linearised(self.denoiser, x, t, cond)

        predicted, push, pull = self.operator.at(x0)

        def spread_of(v: Tensor) -> Tensor:
            return push(self.covariance(self.path, t, pull(v), back)) + self.noise**2 * v

        residual = rows(self.y, predicted, "a measurement").to(x0.dtype) - predicted
        weights = solved(spread_of, residual, self.iterations)
        return tilted(self.path, x0, back(pull(weights)), t)


def known_noise(noise: float, iterations: int) -> None:
    """Raise UsageError unless the noise is at least 0, and the iterations 1."""
    if noise < 0 or iterations < 1:
        raise UsageError(f"expected noise ≥ 0 and iterations ≥ 1, got {noise:g} and {iterations}")


def mmps(y: Tensor, operator: Measurement, noise: float, iterations: int = 5) -> Guide:
    """Moment-matching posterior sampling (Rozet et al. 2024, §4.2): Cov = σ²/α·Jᵀ, solved by CG.

    For Gaussian data, any linear operator and any noise it is the exact posterior mean E[x0 | x_t, y] once `iterations`
    reach the number of measurements; for other data it fits p(x0 | x_t) by its first two moments. It costs one call of
    the denoiser and iterations + 1 ways back through it. `y` is [*m], one for all, or [b, *m].
    """
    known_noise(noise, iterations)
    return lambda denoiser: Measured(denoiser, y, operator, noise, tweedie, iterations)


def pigdm(y: Tensor, operator: Measurement, noise: float, data_std: float = 1.0, iterations: int = 20) -> Guide:
    """Pseudo-inverse guidance (ΠGDM, Song et al. 2023, §3): Cov = r²·I as for data N(0, data_std²·I).

    One way back through the denoiser; the solve (`iterations` of CG) needs only the operator, and one is enough where
    A·Aᵀ is a multiple of I, as for `mask`. Exact for isotropic Gaussian data of that `data_std`; elsewhere it takes
    directions the data does not have for as uncertain as the rest. `y` is [*m], one for all, or [b, *m].
    """
    known_noise(noise, iterations)
    if not data_std > 0:
        raise UsageError(f"expected data_std > 0, got {data_std:g}")
    return lambda denoiser: Measured(denoiser, y, operator, noise, Isotropic(data_std), iterations)


def dps(y: Tensor, operator: Callable[[Tensor], Tensor], scale: float = 1.0) -> Guide:
    """Diffusion posterior sampling (Chung et al. 2023, eq. 16): score − scale/‖e‖·∇_x‖e‖², e = y − A·x̂0(x_t).

    A heuristic: it puts x̂0 for x0 in p(y | x0), and the division by ‖e‖ (their step size) is for stability, not
    from the noise's size. It pulls towards agreement with y, by an amount that `scale` and not the noise decides; too
    small a scale leaves a residual, too large a one jumps about the solution. In their algorithm the pull on x does not
    depend on the step's length; here it is part of the score, so any solver and number of steps integrates the same
    flow. The operator may be any differentiable function. Scale 0 is off. `y` is [*m], one for all, or [b, *m].
    """

    def doubled_distance(x0: Tensor) -> Tensor:  # ∇‖e‖²/‖e‖ = 2∇‖e‖, which torch gives as 0 where e = 0
        predicted = operator(x0)
        distance: Tensor = torch.linalg.vector_norm((rows(y, predicted, "a measurement") - predicted).flatten(1), dim=1)
        return 2 * distance

    return energy(doubled_distance, scale)
