"""A moment: one time on a path with its coefficients as plain numbers, which is all that a sampling step needs.

A batch that is sampled shares its times, so α and σ are two numbers and not [b] tensors: they are found once (`at`
remembers them), before the loop, in float64, and a step is a few multiples of whole tensors (`combine`) with no
arithmetic on the device and nothing to wait for.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from ebb.process.path import Path, jump_factors
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
        """The time for each of `count` samples: one number behind `count` places, which `common` sees at no cost."""
        return everywhere(self.time, count)

    def mix(self, x0: Tensor, eps: Tensor) -> Tensor:
        """α·x0 + σ·ε."""
        return combine((self.alpha, x0), (self.sigma, eps))

    def noise(self, x: Tensor, x0: Tensor) -> Tensor:
        """ε = (x − α·x0)/σ, for σ > 0."""
        return combine((1 / self.sigma, x), (-self.alpha / self.sigma, x0))

    def score(self, x: Tensor, x0: Tensor) -> Tensor:
        """∇ log p_t(x) = −ε/σ when x0 = E[x0 | x_t], for σ > 0."""
        return combine((-1 / self.sigma**2, x), (self.alpha / self.sigma**2, x0))

    def jump(self, x: Tensor, x0: Tensor, s: Moment) -> Tensor:
        """The flow from here to `s` if x0 were constant (`Path.jump`)."""
        keep, aim = jump_factors(self.alpha, self.sigma, s.alpha, s.sigma)
        return combine((keep, x), (aim, x0))


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


def everywhere(time: float, count: int) -> Tensor:
    """[count] times that are one number in memory, and carry it as `common`."""
    return kept(time, count) if count > 1 else carrying(time, count)


def carrying(time: float, count: int) -> Tensor:
    """The times, made anew. Several places for one number cannot be written to; one place can."""
    t = torch.tensor([time], dtype=torch.float64).expand(count)
    t.common = time  # type: ignore[attr-defined]  # so that reading it back costs no tensor operation
    return t


kept = lru_cache(maxsize=65536)(carrying)


def common(t: Float[Tensor, "b"]) -> float | None:
    """The one time behind all of `t` where it says so, as those of `Moment.shared` do; else None."""
    return getattr(t, "common", None)


def repeated(t: Float[Tensor, "b"], times: int) -> Float[Tensor, "n"]:
    """`t`, `times` over, for a batch made of so many copies; a shared time stays shared."""
    time = common(t)
    return t.repeat(times) if time is None else everywhere(time, t.shape[0] * times)


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


def factors(path: Path, t: Float[Tensor, "b"]) -> tuple[float, float] | tuple[Tensor, Tensor]:
    """(α, σ) to multiply rows [b, n] by: two numbers where the batch shares its time, else tensors [b, 1]."""
    time = common(t)
    if time is None:
        return path.alpha(t)[:, None], path.sigma(t)[:, None]
    moment = at(path, time)
    return moment.alpha, moment.sigma
