"""Exponential Adams–Bashforth methods: a jump with the mean, over the step, of a polynomial through the last answers.

On a Gaussian path the flow is linear apart from the denoiser's answer, so it integrates exactly to
x_s = r·x_t + (α_s − r·α_t)·mean of x̂0, with r = σ_s/σ_t, and to x_s = (α_s/α_t)·x_t + (σ_s − σ_t·α_s/α_t)·mean of ε̂.
The means are over the step, with density e^λ and e^{−λ} in λ = log(α/σ). A method is which of the two answers it
follows, through how many past ones it lays the polynomial, and in which variable: everything else is here, once.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from itertools import takewhile
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from ebb.errors import UsageError
from ebb.process.denoiser import Cond
from ebb.process.moment import Moment, combine
from ebb.process.path import Path, jump_factors
from ebb.sample.trajectory import Denoise, Draw, Stepped

Variable = Literal["lam", "nsr", "time"]
"""What the polynomial is in: the fields λ, ν = σ/α and t of a Moment."""

Past = tuple[tuple[Tensor, Moment], ...]
"""Answers with the moments they were given at, newest first."""

ROOTS, MASSES = np.polynomial.legendre.leggauss(32)
"""Gauss–Legendre on [−1, 1]: on steps of up to 30 in λ as exact as float64, and without the cancellation that closed
forms of these integrals have on short ones."""


TAIL_ROOTS, TAIL_MASSES = np.polynomial.laguerre.laggauss(32)
"""Gauss–Laguerre, for the density e^{−λ} on a step to σ = 0, which is endless in λ."""


@lru_cache(maxsize=65536)
def averages(
    power: float, path: Path, variable: Variable, t: Moment, s: Moment, nodes: tuple[Moment, ...]
) -> tuple[float, ...]:
    """w_j = ∫ L_j e^{power·λ} dλ / ∫ e^{power·λ} dλ over λ from λ_t to λ_s; they sum to 1.

    L_j is the Lagrange polynomial in `variable` that is 1 at nodes[j] and 0 at the other nodes; one node has all the
    weight. λ_t is finite, λ_s too unless `power` is −1, when the integrals to σ = 0 are finite.
    """
    if len(nodes) == 1:
        return (1.0,)
    if math.isinf(s.lam):
        lam, mass = t.lam + TAIL_ROOTS, TAIL_MASSES
    else:
        lam = (t.lam + s.lam) / 2 + (s.lam - t.lam) / 2 * ROOTS
        mass = MASSES * np.exp(power * (lam - s.lam))
    places = {"lam": lam, "nsr": np.exp(-lam)}.get(variable)
    if places is None:
        places = path.time(torch.from_numpy(np.exp(-lam))).numpy()
    at: list[float] = [getattr(node, variable) for node in nodes]
    weights = []
    for j, here in enumerate(at):
        basis = mass
        for other in at[:j] + at[j + 1 :]:
            basis = basis * (places - other) / (here - other)
        weights.append(float(basis.sum() / mass.sum()))
    return tuple(weights)


def usable(past: Past, s: Moment, variable: Variable = "lam") -> Past:
    """The newest answers, as many as a step to `s` can lay a polynomial through: those at finite `variable`.

    Only the newest where `variable` is infinite at an end of the step, as λ is at α = 0 and σ = 0: no polynomial gets
    there, and one answer makes the step a jump.
    """
    if math.isinf(getattr(s, variable)):
        return past[:1]
    return tuple(takewhile(lambda entry: math.isfinite(getattr(entry[1], variable)), past)) or past[:1]


def spread_over(factor: float, weights: tuple[float, ...], past: Past) -> list[tuple[float, Tensor]]:
    """factor·Σ w_j·answer_j, as terms for `combine`."""
    return [(factor * weight, answer) for weight, (answer, _) in zip(weights, past, strict=True)]


def towards(x: Tensor, t: Moment, s: Moment, weights: tuple[float, ...], past: Past) -> Tensor:
    """A jump from x at `t` to `s` with x̂0 = Σ w_j·x̂0_j, in as many passes as there are terms."""
    keep, aim = jump_factors(t.alpha, t.sigma, s.alpha, s.sigma)
    return combine((keep, x), *spread_over(aim, weights, past))


def along(x: Tensor, t: Moment, s: Moment, weights: tuple[float, ...], past: Past) -> Tensor:
    """A jump from x at `t` to `s` with ε̂ = Σ w_j·ε̂_j, for α_t > 0: `towards` with data and noise swapped."""
    keep, aim = jump_factors(t.sigma, t.alpha, s.sigma, s.alpha)
    return combine((keep, x), *spread_over(aim, weights, past))


@dataclass(frozen=True)
class ExponentialAB:
    """Exponential Adams–Bashforth of order 2, 3 or 4 on x̂0, polynomial in λ (Hochbruck & Ostermann 2010, §2.5).

    x_s = r·x_t + α_s·∫ e^{λ−λ_s} p(λ) dλ, p through the last `order` answers, integrated exactly: DPM-Solver++'s
    integral (Lu et al. 2022b, eq. 8) with nothing approximated but x̂0. Order 3 is `DPMpp3M`. The order grows from 1
    over the first steps; a step from α = 0 or to σ = 0, where λ is infinite, is a jump. State: the last answers x̂0.
    """

    order: int = 4

    def __post_init__(self) -> None:
        between("exponential Adams–Bashforth", self.order, 2, 4)

    def start(self, path: Path) -> Past:
        """Nothing remembered."""
        return ()

    def step(self, denoise: Denoise, x: Tensor, t: Moment, s: Moment, cond: Cond, state: Past, draw: Draw) -> Stepped:
        """One denoiser call."""
        x0 = denoise(x, t, cond)
        past = ((x0, t), *state)[: self.order]
        used = usable(past, s)
        weights = averages(1, denoise.path, "lam", t, s, tuple(when for _, when in used))
        return Stepped(towards(x, t, s, weights, used), x0, past)


@dataclass(frozen=True)
class DEIS:
    """Exponential Adams–Bashforth of order 2 or 3 on ε̂: DEIS-AB (Zhang & Chen 2023, eq. 14–15).

    x_s = (α_s/α_t)·x_t + α_s·∫ p dν over ν from ν_t to ν_s, p through the last `order` answers ε̂. `variable` says in
    what p is a polynomial: "time" is the paper's tAB, "nsr" its ρAB (for α = 1 iPNDM_v, Adams–Bashforth with
    variable steps in σ), "lam" the log-ρ form of diffusers' DEISMultistepScheduler. Order k is the paper's tAB(k − 1).
    The order grows from 1 over the first steps. A step from or to α = 0, where ν is infinite, is a jump; so is the step
    to σ = 0, which lands on x̂0 and on whatever a guide made of it. State: the last answers ε̂.
    """

    order: int = 3
    variable: Variable = "time"

    def __post_init__(self) -> None:
        between("DEIS", self.order, 2, 3)

    def start(self, path: Path) -> Past:
        """Nothing remembered."""
        return ()

    def step(self, denoise: Denoise, x: Tensor, t: Moment, s: Moment, cond: Cond, state: Past, draw: Draw) -> Stepped:
        """One denoiser call."""
        x0 = denoise(x, t, cond)
        past = ((t.noise(x, x0), t), *state)[: self.order]
        if t.alpha == 0 or s.alpha == 0 or s.sigma == 0:
            return Stepped(t.jump(x, x0, s), x0, past)
        used = usable(past, s, self.variable)
        weights = averages(-1, denoise.path, self.variable, t, s, tuple(when for _, when in used))
        return Stepped(along(x, t, s, weights, used), x0, past)


EQUAL_STEPS = ((1.0,), (3 / 2, -1 / 2), (23 / 12, -16 / 12, 5 / 12), (55 / 24, -59 / 24, 37 / 24, -9 / 24))
"""Adams–Bashforth weights for equal steps, newest answer first."""


@dataclass(frozen=True)
class IPNDM:
    """Improved PNDM: a jump with ε̂ combined by Adams–Bashforth weights for equal steps (Zhang & Chen 2023).

    Up to `terms` ≤ 4 answers: (3ε̂ − ε̂₁)/2, (23ε̂ − 16ε̂₁ + 5ε̂₂)/12, (55ε̂ − 59ε̂₁ + 37ε̂₂ − 9ε̂₃)/24. The weights average
    ε̂ evenly over the step, the flow averages it in ν: they agree to `terms`-th order on a grid that is even in ν alone.
    On any other smoothly spaced grid the method is of second order however many terms it has, which is its stated
    order; where neighbouring steps differ by a factor, of first. `DEIS(variable="nsr")` adapts the weights instead.
    From α = 0, where ε̂ tells nothing of x̂0, it jumps by x̂0, and to σ = 0 too. State: the last answers ε̂.
    """

    terms: int = 4

    def __post_init__(self) -> None:
        between("iPNDM", self.terms, 2, 4, "terms")

    @property
    def order(self) -> int:
        """2, for any number of terms."""
        return 2

    def start(self, path: Path) -> Past:
        """Nothing remembered."""
        return ()

    def step(self, denoise: Denoise, x: Tensor, t: Moment, s: Moment, cond: Cond, state: Past, draw: Draw) -> Stepped:
        """One denoiser call."""
        x0 = denoise(x, t, cond)
        past = ((t.noise(x, x0), t), *state)[: self.terms]
        if t.alpha == 0 or s.sigma == 0:
            return Stepped(t.jump(x, x0, s), x0, past)
        return Stepped(along(x, t, s, EQUAL_STEPS[len(past) - 1], past), x0, past)


def between(method: str, value: int, low: int, high: int, field: str = "order") -> None:
    """Raise UsageError unless `value` is one of low … high."""
    if not low <= value <= high:
        raise UsageError(f"{method} has {field} {low} to {high}, got {value}", f"for example {field}={high}")
