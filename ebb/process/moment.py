"""A moment: one time on a path with its coefficients as plain numbers, which is all that a sampling step needs.

A batch that is sampled shares its times, so α and σ are two numbers and not [b] tensors: they are found once (`at`
remembers them), before the loop, in float64, and a step is a few multiples of whole tensors (`combine`) with no
arithmetic on the device and nothing to wait for. A denoiser is told either, a `Time`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from ebb.process.path import Path, jump_factors, noise_factors, score_factors
from ebb.shapes import Float


@dataclass(frozen=True, slots=True)
class Moment:
    """The time t with α(t) and σ(t). Its methods are those of `Path`, for a time that the whole batch shares."""

    time: float
    alpha: float
    sigma: float
    nsr: float
    """ν = σ/α, ∞ where α = 0"""
    lam: float
    """λ = log(α/σ), half the log-SNR: ∞ at σ = 0, −∞ at α = 0"""
    norm: float
    """√(α² + σ²)"""

    def shared(self, count: int) -> Float[Tensor, "b"]:
        """The time for each of `count` samples, float64."""
        return torch.full((count,), self.time, dtype=torch.float64)

    def mix(self, x0: Tensor, eps: Tensor) -> Tensor:
        """α·x0 + σ·ε."""
        return weighed((self.alpha, self.sigma), x0, eps)

    def noise(self, x: Tensor, x0: Tensor) -> Tensor:
        """ε = (x − α·x0)/σ, for σ > 0."""
        return weighed(noise_factors(self.alpha, self.sigma), x, x0)

    def score(self, x: Tensor, x0: Tensor) -> Tensor:
        """∇ log p_t(x) = −ε/σ when x0 = E[x0 | x_t], for σ > 0."""
        return weighed(score_factors(self.alpha, self.sigma), x, x0)

    def jump(self, x: Tensor, x0: Tensor, s: Moment) -> Tensor:
        """The flow from here to `s` if x0 were constant (`Path.jump`)."""
        return weighed(jump_factors(self.alpha, self.sigma, s.alpha, s.sigma), x, x0)


Time = Float[Tensor, "b"] | Moment
"""When a denoiser is asked: the time of each sample, or the moment of its own path that all of them share."""


def combine(*terms: tuple[float, Tensor]) -> Tensor:
    """Σ factor·tensor in as few passes over memory as there are: none for a factor 0, one for two that sum to 1."""
    terms = tuple(term for term in terms if term[0] != 0) or ((0.0, terms[0][1]),)
    (factor, tensor), *rest = terms
    if any(other.dtype != tensor.dtype for _, other in rest):  # as PyTorch promotes, at more passes
        return sum((other * by for by, other in rest), tensor * factor)
    if rest and abs(factor + rest[0][0] - 1) < 1e-15:
        total = torch.lerp(tensor, rest[0][1], rest[0][0])
        rest = rest[1:]
    elif rest and factor == 1:
        total = torch.add(tensor, rest[0][1], alpha=rest[0][0])
        rest = rest[1:]
    else:
        total = tensor * factor
    for factor, tensor in rest:
        total.add_(tensor, alpha=factor)
    return total


def weighed(factors: tuple[float, float], x: Tensor, y: Tensor) -> Tensor:
    """The sum of two tensors, each times its factor (`combine`)."""
    return combine((factors[0], x), (factors[1], y))


def repeated(t: Time, copies: int) -> Float[Tensor, "n"] | Moment:
    """`t` for a batch made of so many copies; a moment is that of any batch."""
    return t if isinstance(t, Moment) else t.repeat(copies)


def each(t: Time, count: int) -> Float[Tensor, "b"]:
    """The time of each of `count` samples."""
    return t.shared(count) if isinstance(t, Moment) else t


@lru_cache(maxsize=65536)
def at(path: Path, time: float) -> Moment:
    """The moment of `path` at `time`. A path is frozen, so each answer is computed once."""
    t = torch.tensor([time], dtype=torch.float64)
    alpha, sigma = float(path.alpha(t)), float(path.sigma(t))
    nsr = sigma / alpha if alpha else math.inf
    return Moment(time, alpha, sigma, nsr, -math.log(nsr) if nsr else math.inf, math.hypot(alpha, sigma))


@lru_cache(maxsize=65536)
def where(path: Path, lam: float) -> Moment:
    """The moment of `path` at which log(α/σ) is `lam`; beyond the path's range, its nearer end."""
    return at(path, float(path.time(torch.tensor([math.exp(-lam)], dtype=torch.float64))))


def factors(path: Path, t: Time) -> tuple[float, float] | tuple[Tensor, Tensor]:
    """(α, σ) to multiply rows [b, n] by: two numbers where the batch shares its time, else tensors [b, 1]."""
    if isinstance(t, Moment):
        return t.alpha, t.sigma
    return path.alpha(t)[:, None], path.sigma(t)[:, None]
