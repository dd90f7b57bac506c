"""Constraints: every answer of the denoiser is projected onto a set, so the sample lies in it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ebb.errors import UsageError
from ebb.guide.cfg import Guide
from ebb.process.denoiser import Cond, Wrapped, answer
from ebb.process.moment import Time
from ebb.process.path import spread
from ebb.shapes import Float

Projection = Callable[[Tensor], Tensor]
"""x [b, *d] → the nearest point of the set to each sample."""


def placed(value: float | Tensor, x: Tensor) -> Tensor:
    """A number or a tensor in the precision and on the device of `x`; a number is filled in: it waits for nothing."""
    return value.to(x) if isinstance(value, Tensor) else torch.full((), value, dtype=x.dtype, device=x.device)


@dataclass(frozen=True)
class Box:
    """{x: low ≤ x ≤ high} in every entry; bounds are numbers or tensors [*d]."""

    low: float | Tensor
    high: float | Tensor

    def __post_init__(self) -> None:
        if not bool((torch.as_tensor(self.low) <= torch.as_tensor(self.high)).all()):
            raise UsageError(f"a box needs low ≤ high, got {self.low} and {self.high}")

    def __call__(self, x: Float[Tensor, "b *d"]) -> Float[Tensor, "b *d"]:
        """min(max(x, low), high)."""
        return torch.minimum(torch.maximum(x, placed(self.low, x)), placed(self.high, x))


@dataclass(frozen=True)
class Ball:
    """{x: ‖x − centre‖ ≤ radius}, the norm over all of a sample; the centre is a number or a tensor [*d]."""

    centre: float | Tensor
    radius: float

    def __post_init__(self) -> None:
        if not self.radius > 0:
            raise UsageError(f"a ball needs a radius above 0, got {self.radius:g}")

    def __call__(self, x: Float[Tensor, "b *d"]) -> Float[Tensor, "b *d"]:
        """x − max(0, 1 − radius/‖x − centre‖)·(x − centre)."""
        out = x - placed(self.centre, x)
        far = torch.linalg.vector_norm(out.flatten(1), dim=1).clamp(min=self.radius)
        return x - spread(1 - self.radius / far, x) * out


@dataclass(frozen=True)
class HalfSpace:
    """{x: ⟨normal, x⟩ ≤ offset}, normal [*d]."""

    normal: Tensor
    offset: float

    def __post_init__(self) -> None:
        if not bool(self.normal.any()):
            raise UsageError("the normal of a half-space is not 0")

    def __call__(self, x: Float[Tensor, "b *d"]) -> Float[Tensor, "b *d"]:
        """x − max(0, ⟨normal, x⟩ − offset)/‖normal‖²·normal."""
        normal = self.normal.to(x)
        beyond = ((x * normal).flatten(1).sum(1) - self.offset).clamp(min=0)
        return x - spread(beyond / (normal**2).sum(), x) * normal


@dataclass(frozen=True)
class Intersection:
    """The points that lie in all of the convex `sets`, by Dykstra's algorithm (Boyle & Dykstra 1986), `rounds` over.

    It tends to the nearest point of the intersection, where alternating projections find just some point of it. After
    finitely many rounds the last set holds exactly and the others nearly; where the sets do not meet, only the last.
    """

    sets: tuple[Projection, ...]
    rounds: int = 50

    def __post_init__(self) -> None:
        if not self.sets or self.rounds < 1:
            raise UsageError(f"expected 1 or more sets and rounds, got {len(self.sets)} and {self.rounds}")

    def __call__(self, x: Float[Tensor, "b *d"]) -> Float[Tensor, "b *d"]:
        """Each set in turn, what the last round took away for it put back before."""
        taken = [torch.zeros_like(x)] * len(self.sets)
        for _ in range(self.rounds):
            for i, project in enumerate(self.sets):
                wanted = x + taken[i]
                x = project(wanted)
                taken[i] = wanted - x
        return x


@dataclass(frozen=True)
class Constrained(Wrapped):
    """P(x̂0)."""

    project: Projection

    def __call__(self, x: Float[Tensor, "b *d"], t: Time, cond: Cond) -> Float[Tensor, "b *d"]:
        """The projected x̂0; raises UsageError for a projection that changes the shape."""
        x0 = answer(self.denoiser, x, t, cond)
        inside = self.project(x0)
        if inside.shape != x0.shape:
            raise UsageError(f"a projection keeps the shape {list(x0.shape)}, this one gave {list(inside.shape)}")
        return inside


def constrain(project: Projection) -> Guide:
    """Project x̂0 onto a set at every call: `Box`, `Ball`, `HalfSpace`, `Intersection`, or any function x [b, *d] → x.

    Every solver lands on x̂0 at σ = 0, so with this guide outermost the sample lies in the set exactly. For a convex set
    that holds all the data the true E[x0 | x_t] lies inside, and only errors are mended; other sets change the
    distribution, though not to the data restricted to the set. A function of your own should treat each sample by
    itself, and leave a point of the set where it is; for a set that is not convex the nearest point may jump from one
    step to the next.
    """
    return lambda denoiser: Constrained(denoiser, project)
