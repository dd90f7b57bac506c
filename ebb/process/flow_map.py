"""Models of two times, which land anywhere on the flow in one call."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Protocol, runtime_checkable

from torch import Tensor

from ebb.process.denoiser import Cond, Denoiser, answer, takes_moments
from ebb.process.moment import Time, at, each
from ebb.process.path import Path
from ebb.shapes import Float


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

    def __call__(self, x: Tensor, t: Tensor, s: Tensor, cond: Cond) -> Tensor:
        """x [b, *d], t [b], s [b] → x0 [b, *d]."""
        ...

    def toward(self, s: float) -> Denoiser:
        """The same model with its destination fixed: an ordinary denoiser (`Toward(self, s)`)."""
        ...


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
