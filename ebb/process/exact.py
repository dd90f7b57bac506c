"""Denoisers in closed form: what a perfect network would answer for data whose distribution is known.

To explain (what should the model see at this noise level?), to diagnose (how far is the network from it?) and to test
(every solver and objective is held against them). They compute in float64 and answer in the precision of x.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ebb.errors import UsageError
from ebb.process.denoiser import Cond
from ebb.process.moment import Moment, Time, factors
from ebb.process.path import Path, spread
from ebb.shapes import Float


@dataclass(frozen=True, eq=False)
class Gaussian:
    """Data x0 ~ N(mean, covariance), mean [n], covariance [n, n]; x of shape [b, n]."""

    path: Path
    mean: Tensor
    covariance: Tensor
    takes_moments: ClassVar[bool] = True

    def __post_init__(self) -> None:
        n = self.mean.numel()
        if self.mean.ndim != 1 or self.covariance.shape != (n, n):
            raise UsageError(
                f"expected mean [n] and covariance [n, n], got {list(self.mean.shape)}, {list(self.covariance.shape)}"
            )

    def axes(self, t: Time) -> tuple[Tensor, Tensor, Tensor]:
        """(Q, λ, α²λ + σ²): the covariance's eigenvectors [n, n], eigenvalues [n], and the variances of x_t, [b, n], or
        [n] at a shared time."""
        values, vectors = torch.linalg.eigh(self.covariance.double())
        alpha, sigma = factors(self.path, t)
        return vectors, values, alpha**2 * values + sigma**2

    def centred(self, x: Tensor, t: Time) -> Tensor:
        """x − α·mean, float64."""
        return x.double() - factors(self.path, t)[0] * self.mean.double()

    def __call__(self, x: Float[Tensor, "b n"], t: Time, cond: Cond) -> Float[Tensor, "b n"]:
        """E[x0 | x_t = x] = m + αΣ(α²Σ + σ²I)⁻¹(x − αm)."""
        vectors, values, variances = self.axes(t)
        gain = factors(self.path, t)[0] * values / variances
        return (self.mean.double() + (self.centred(x, t) @ vectors * gain) @ vectors.T).to(x.dtype)

    def log_density(self, x: Float[Tensor, "b n"], t: Time) -> Float[Tensor, "b"]:
        """log p_t(x), in nats."""
        vectors, _, variances = self.axes(t)
        squares = (self.centred(x, t) @ vectors) ** 2 / variances
        return -0.5 * (squares + torch.log(2 * math.pi * variances)).sum(1)

    def score(self, x: Float[Tensor, "b n"], t: Time) -> Float[Tensor, "b n"]:
        """∇ log p_t(x) = −(α²Σ + σ²I)⁻¹(x − αm)."""
        vectors, _, variances = self.axes(t)
        return -((self.centred(x, t) @ vectors / variances) @ vectors.T).to(x.dtype)

    def flow(self, x: Float[Tensor, "b n"], t: Time, s: Time) -> Float[Tensor, "b n"]:
        """The probability flow's x_s that starts at x_t = x: each axis keeps its standard score."""
        vectors, _, variances = self.axes(t)
        ratio = torch.sqrt(self.axes(s)[2] / variances)
        at = factors(self.path, s)[0] * self.mean.double()
        return (at + (self.centred(x, t) @ vectors * ratio) @ vectors.T).to(x.dtype)


@dataclass(frozen=True, eq=False)
class Mixture:
    """Data from Σ weight_k·N(mean_k, std_k²·I): means [k, *d], stds [k], weights [k] summing to 1; x of shape [b, *d].

    With std 0 it is a finite data set, and the posterior mean is what a network that memorises it would say.
    """

    path: Path
    means: Tensor
    stds: Tensor
    weights: Tensor
    takes_moments: ClassVar[bool] = True

    def __post_init__(self) -> None:
        k = len(self.means)
        if self.stds.shape != (k,) or self.weights.shape != (k,):
            raise UsageError(
                f"expected stds and weights of shape [{k}] for {k} means, got {list(self.stds.shape)},"
                f" {list(self.weights.shape)}"
            )

    def joint(self, x: Tensor, t: Time) -> tuple[Tensor, Tensor]:
        """(log(weight_k·N(x; α·mean_k, var_k)) [b, k], var_k = α²std_k² + σ², [b, k], or [k] at a shared time)."""
        alpha, sigma = factors(self.path, t)
        flat, means = x.double().flatten(1), self.means.double().flatten(1)
        variances = (alpha * self.stds.double()) ** 2 + sigma**2
        squares = (flat**2).sum(1, keepdim=True) - 2 * alpha * (flat @ means.T) + alpha**2 * (means**2).sum(1)
        log_normal = -0.5 * (squares / variances + flat.shape[1] * torch.log(2 * math.pi * variances))
        return torch.log(self.weights.double()) + log_normal, variances

    def responsibilities(self, x: Float[Tensor, "b *d"], t: Time) -> Float[Tensor, "b k"]:
        """p(component k | x_t = x)."""
        return torch.softmax(self.joint(x, t)[0], 1)

    def __call__(self, x: Float[Tensor, "b *d"], t: Time, cond: Cond) -> Float[Tensor, "b *d"]:
        """E[x0 | x_t = x] = Σ p(k | x)·(mean_k + α·std_k²/var_k·(x − α·mean_k))."""
        logits, variances = self.joint(x, t)
        alpha = factors(self.path, t)[0]
        share = torch.softmax(logits, 1)
        gain = alpha * self.stds.double() ** 2 / variances
        flat, means = x.double().flatten(1), self.means.double().flatten(1)
        mean = (share * (1 - alpha * gain)) @ means + (share * gain).sum(1, keepdim=True) * flat
        return mean.reshape(x.shape).to(x.dtype)

    def log_density(self, x: Float[Tensor, "b *d"], t: Time) -> Float[Tensor, "b"]:
        """log p_t(x), in nats."""
        return torch.logsumexp(self.joint(x, t)[0], 1)

    def score(self, x: Float[Tensor, "b *d"], t: Time) -> Float[Tensor, "b *d"]:
        """∇ log p_t(x), from the posterior mean (Tweedie)."""
        x0 = self(x.double(), t, {})
        return (t.score(x.double(), x0) if isinstance(t, Moment) else self.path.score(x.double(), x0, t)).to(x.dtype)

    def sample(self, count: int, generator: torch.Generator) -> Float[Tensor, "n *d"]:
        """`count` draws of x0, float64."""
        k = torch.multinomial(self.weights.double(), count, replacement=True, generator=generator)
        eps = torch.randn(count, *self.means.shape[1:], generator=generator, dtype=torch.float64)
        return self.means.double()[k] + spread(self.stds.double()[k], eps) * eps


def finite(path: Path, points: Float[Tensor, "k *d"]) -> Mixture:
    """The exact denoiser of a finite data set, every point equally likely; to be asked at t > 0."""
    k = len(points)
    return Mixture(path, points, torch.zeros(k, dtype=torch.float64), torch.full((k,), 1 / k, dtype=torch.float64))
