"""Denoisers that also say how much noise a step back should leave: learned variance."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from torch import Tensor, nn

from ebb.errors import UsageError
from ebb.process.denoiser import Cond, NetworkDenoiser
from ebb.process.moment import Time
from ebb.process.path import Path
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
    it was trained for only with steps of the length it was trained with.
    """

    takes_moments = True

    def __init__(self, denoiser: NetworkDenoiser) -> None:
        super().__init__()
        self.denoiser = denoiser

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
        F, v = self.halves(x, t, cond)
        return self.denoiser.recovered(x, F, t), (v + 1) / 2

    def halves(self, x: Tensor, t: Time, cond: Cond) -> tuple[Tensor, Tensor]:
        """The network's F and v."""
        both = self.denoiser.output(x, t, cond)
        if both.shape[1] != 2 * x.shape[1] or both.shape[2:] != x.shape[2:]:
            raise UsageError(
                f"learned variance needs a network that answers {[len(x), 2 * x.shape[1], *x.shape[2:]]} for"
                f" {list(x.shape)}, got {list(both.shape)}",
                "give the network twice the outputs, or use the denoiser without LearnedVariance",
            )
        F, v = both.chunk(2, 1)
        return F, v
