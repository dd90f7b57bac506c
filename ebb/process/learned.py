"""Denoisers that also say how much noise a step back should leave: learned variance."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from ebb.errors import UsageError
from ebb.process.denoiser import Cond, NetworkDenoiser
from ebb.process.moment import Time
from ebb.process.path import Path, spread
from ebb.shapes import Float


@runtime_checkable
class VarianceDenoiser(Protocol):
    """A denoiser that can state, with x̂0, the variance of a step: a share f for each element."""

    @property
    def path(self) -> Path:
        """The path whose noisy data the denoiser understands."""
        ...

    def __call__(self, x: Tensor, t: Tensor, cond: Cond) -> Tensor:
        """E[x0 | x_t = x, cond]: x [b, *d], t [b] → [b, *d]."""
        ...

    def with_share(self, x: Tensor, t: Tensor, cond: Cond) -> tuple[Tensor, Tensor]:
        """(x̂0, f), both [b, *d]: the reverse step's log-variance is f·log β + (1 − f)·log β̃."""
        ...


class LearnedVariance(nn.Module):
    """`denoiser` whose network answers [F, v], twice as wide along axis 1: F as ever, and f = (v + 1)/2 from v.

    The reverse step from t has log-variance f·log β + (1 − f)·log β̃ per element (Nichol & Dhariwal 2021, eq. 15), so v
    is −1 at the posterior's variance β̃ and 1 at the forward step's β. β belongs to a step and not to a time: f is what
    it was trained for only with steps of the length it was trained with. The network runs under autocast to `dtype`,
    where one is given.
    """

    takes_moments = True

    def __init__(self, denoiser: NetworkDenoiser, dtype: torch.dtype | None = None) -> None:
        super().__init__()
        self.denoiser, self.dtype = denoiser, dtype

    @property
    def path(self) -> Path:
        """The denoiser's own."""
        return self.denoiser.path

    def forward(self, x: Float[Tensor, "b *d"], t: Time, cond: Cond) -> Float[Tensor, "b *d"]:
        """x̂0 = E[x0 | x_t = x, cond]; the variance is not asked."""
        return self.with_share(x, t, cond)[0]

    def with_share(
        self, x: Float[Tensor, "b *d"], t: Time, cond: Cond
    ) -> tuple[Float[Tensor, "b *d"], Float[Tensor, "b *d"]]:
        """(x̂0, f) from one call of the network, float32. Raises UsageError where its output is not [b, 2c, …]."""
        x = x.float()
        with torch.autocast(x.device.type, self.dtype) if self.dtype else nullcontext():
            F, share = with_variance(self.denoiser, x, t, cond)
        return self.denoiser.recovered(x, F, t), share


def with_variance(denoiser: NetworkDenoiser, x: Tensor, t: Time, cond: Cond) -> tuple[Tensor, Tensor]:
    """The network's F, and f = (v + 1)/2. Raises UsageError where its output is not [b, 2c, …]."""
    both = denoiser.output(x, t, cond)
    if both.shape[1] != 2 * x.shape[1] or both.shape[2:] != x.shape[2:]:
        raise UsageError(
            f"learned variance needs a network that answers {[len(x), 2 * x.shape[1], *x.shape[2:]]} for"
            f" {list(x.shape)}, got {list(both.shape)}",
            "give the network twice the outputs (answers=2), or use the denoiser without LearnedVariance",
        )
    F, v = both.chunk(2, 1)
    return F, (v + 1) / 2


def step_divergence(
    path: Path,
    t: Float[Tensor, "b"],
    s: Float[Tensor, "b"],
    share: Float[Tensor, "b *d"],
    square: Float[Tensor, "b *d"],
) -> Float[Tensor, "b *d"]:
    """The divergence of each element's step back from t to s > 0, which states the `share` f, from the posterior, nats:

        KL(q(x_s | x_t, x0) ‖ p(x_s | x_t)) = ½·(f·log r + (1 + (1/ν_s² − 1/ν_t²)·(x0 − x̂0)²)·r^{−f} − 1),

    `square` being (x0 − x̂0)² and r = β/β̃ = (σ_t/σ_s)² (Nichol & Dhariwal 2021, eq. 4 with the variance of
    eq. 15; the means differ by √((1/ν_s² − 1/ν_t²)·β̃)·(x0 − x̂0)). It is least at the variance of x_s given x_t,
    r^f = 1 + (1/ν_s² − 1/ν_t²)·E(x0 − x̂0)².
    """
    wide = spread(2 * torch.log(path.sigma(t) / path.sigma(s)), share)
    gain = spread(path.nsr(s) ** -2 - path.nsr(t) ** -2, square)
    return (share * wide + (1 + gain * square) * torch.exp(-share * wide) - 1) / 2
