"""Models of two times, which land anywhere on the flow in one call.

Whatever a few-step method trains is one of these: f(x, t, t) is the denoiser, f(x, t, 0) the consistency function.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Protocol, runtime_checkable

import torch
from torch import Tensor

from ebb.process.denoiser import Cond, Denoiser, NetworkDenoiser, answer, takes_moments
from ebb.process.exact import Gaussian
from ebb.process.moment import Time, at, each
from ebb.process.path import Path, jump_factors, spread
from ebb.shapes import Float

WAY = "way"
"""The condition by which a network is told how far it is asked to go (`way`); without it, nowhere: f(x, t, t)."""


def shares(path: Path, t: Float[Tensor, "b"]) -> Float[Tensor, "b"]:
    """τ = σ/(α + σ), from 0 to at most 1: the time, whatever the path's clock; t itself on the linear path."""
    return path.sigma(t) / (path.alpha(t) + path.sigma(t))


def placed(path: Path, share: Float[Tensor, "b"]) -> Float[Tensor, "b"]:
    """The time of a share τ: time(τ/(1 − τ))."""
    return path.time(share / (1 - share))


def way(path: Path, t: Float[Tensor, "b"], s: Float[Tensor, "b"]) -> Float[Tensor, "b"]:
    """τ(t) − τ(s): how far it is from t to s; 0 where s = t."""
    return shares(path, t) - shares(path, s)


def pace(path: Path, t: Float[Tensor, "b"]) -> Float[Tensor, "b"]:
    """ν/(α·dν/dt) = σ/(α·dσ/dt − σ·dα/dt): what brings a derivative by time into units of x0; t on the linear path."""
    alpha_rate, sigma_rate = path.rates(t)
    return path.sigma(t) / (path.alpha(t) * sigma_rate - path.sigma(t) * alpha_rate)


def landed(
    path: Path, x: Float[Tensor, "b *d"], x_s: Float[Tensor, "b *d"], t: Float[Tensor, "b"], s: Float[Tensor, "b"]
) -> Float[Tensor, "b *d"]:
    """The x0 with which the jump from x at t lands on x_s: (x_s − r·x)/(α_s − r·α_t), the inverse of `Path.jump`.

    Of s = t any x0 does, and the quotient is none.
    """
    keep, aim = jump_factors(path.alpha(t), path.sigma(t), path.alpha(s), path.sigma(s))
    return (x_s - spread(keep, x) * x) / spread(aim, x)


@runtime_checkable
class FlowMap(Protocol):
    """A model of two times: the x0 with which the path's jump from x at t lands on the flow's own x_s.

    x_s = r·x + (α_s − r·α_t)·f(x, t, s, cond), r = σ_s/σ_t. At s = 0 it is the flow's end itself, as a consistency
    model says it (Song et al. 2023, definition 1); at s = t it is E[x0 | x_t]. On α = 1 it is the
    g of consistency trajectory models (Kim et al. 2024).
    """

    @property
    def path(self) -> Path:
        """The path whose flow it is."""
        ...

    def __call__(self, x: Tensor, t: Tensor, s: Tensor, cond: Cond, /) -> Tensor:
        """x [b, *d], t [b], s [b] → x0 [b, *d]."""
        ...

    def toward(self, s: float) -> Denoiser:
        """The same model with its destination fixed: an ordinary denoiser (`Toward(self, s)`)."""
        ...


def two_times(model: FlowMap | NetworkDenoiser) -> FlowMap:
    """A model as a flow map: itself, or `TwoTimes` of a denoiser whose network is told the `WAY`."""
    return TwoTimes(model) if isinstance(model, NetworkDenoiser) else model


@dataclass(frozen=True)
class Toward:
    """`flow_map` with the destination `s`: guides and solvers take it for a denoiser."""

    flow_map: FlowMap
    s: float
    takes_moments: ClassVar[bool] = True

    @property
    def path(self) -> Path:
        """The flow map's own."""
        return self.flow_map.path

    def __call__(self, x: Float[Tensor, "b *d"], t: Time, cond: Cond) -> Float[Tensor, "b *d"]:
        """f(x, t, s, cond)."""
        s = at(self.path, self.s)
        if not takes_moments(self.flow_map):
            return self.flow_map(x, each(t, len(x)), s.shared(len(x)), cond)
        return self.flow_map(x, t, s, cond)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Straight:
    """A denoiser as a flow map: the same x0 for every destination, exact for short ways only. Its jumps are DDIM's."""

    denoiser: Denoiser
    takes_moments: ClassVar[bool] = True

    @property
    def path(self) -> Path:
        """The denoiser's own."""
        return self.denoiser.path

    def __call__(self, x: Float[Tensor, "b *d"], t: Time, s: Time, cond: Cond) -> Float[Tensor, "b *d"]:
        """E[x0 | x_t = x, cond], whatever s."""
        return answer(self.denoiser, x, t, cond)

    def toward(self, s: float) -> Denoiser:
        """The denoiser."""
        return self.denoiser


@dataclass(frozen=True)
class TwoTimes:
    """A network denoiser whose network has a port called `WAY`, as a flow map."""

    denoiser: NetworkDenoiser

    @property
    def path(self) -> Path:
        """The denoiser's own."""
        return self.denoiser.path

    def __call__(
        self, x: Float[Tensor, "b *d"], t: Float[Tensor, "b"], s: Float[Tensor, "b"], cond: Cond
    ) -> Float[Tensor, "b *d"]:
        """f(x, t, s, cond)."""
        far = way(self.path, t, s).to(device=x.device, dtype=torch.float32)
        answered: Tensor = self.denoiser(x, t, {**cond, WAY: far})
        return answered

    def toward(self, s: float) -> Denoiser:
        """The denoiser that goes to s."""
        return Toward(self, s)


@dataclass(frozen=True)
class GaussianFlow:
    """The flow map of Gaussian data in closed form: X_{t→s}(x) = α_s·m + (Σ_s/Σ_t)^½·(x − α_t·m), Σ_t = α²Σ + σ²I."""

    gaussian: Gaussian

    @property
    def path(self) -> Path:
        """The Gaussian's own."""
        return self.gaussian.path

    def __call__(
        self, x: Float[Tensor, "b n"], t: Float[Tensor, "b"], s: Float[Tensor, "b"], cond: Cond
    ) -> Float[Tensor, "b n"]:
        """The x0 whose jump lands on X_{t→s}(x); E[x0 | x_t] where s = t."""
        still = (s == t)[:, None]
        elsewhere = torch.where(s == t, torch.zeros_like(s), s)
        going = landed(self.path, x, self.gaussian.flow(x, t, elsewhere), t, elsewhere)
        return torch.where(still, self.gaussian(x, t, cond), going)

    def toward(self, s: float) -> Denoiser:
        """The denoiser that goes to s."""
        return Toward(self, s)
