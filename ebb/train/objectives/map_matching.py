"""Flow-map matching: what a model of two times learns from, whatever the few-step method.

Every method is a `Target`: what f(x_t, t, s) should have answered, by the model itself or a teacher, without gradient.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from torch import Tensor

from ebb.data.loader import Batch
from ebb.guide.distilled import GUIDANCE, share_of
from ebb.process.bins import tally
from ebb.process.denoiser import Cond, Denoiser, NetworkDenoiser
from ebb.process.flow_map import FlowMap, two_times
from ebb.process.path import Path, spread
from ebb.process.predict import recover_factors
from ebb.process.times import Density, LogitNormal
from ebb.shapes import Float
from ebb.train.objectives.denoising import drawn, spaced
from ebb.train.objectives.objective import Loss


class Noised(NamedTuple):
    """What a target is made from: x = α·x0 + σ·ε at t, the destination s, and the conditions; times are [b]."""

    x0: Tensor
    eps: Tensor
    x: Tensor
    t: Tensor
    s: Tensor
    cond: Cond

    def rows(self, which: Tensor) -> Noised:
        """The samples of these numbers."""
        x0, eps, x, t, s = (tensor[which.to(tensor.device)] for tensor in self[:5])  # times may lie elsewhere
        return Noised(x0, eps, x, t, s, {name: value[which.to(value.device)] for name, value in self.cond.items()})

    def beside(self, other: Noised) -> Noised:
        """Its samples and those of another."""
        x0, eps, x, t, s = (torch.cat(both) for both in zip(self[:5], other[:5], strict=True))
        cond = {name: torch.cat([value, other.cond[name]]) for name, value in self.cond.items()}
        return Noised(x0, eps, x, t, s, cond)


class Target(ABC):
    """What f(x_t, t, s) is drawn towards, and where it is asked to go."""

    needs: ClassVar[Literal["teacher", "nothing"]] = "nothing"
    """Whether there has to be a teacher, whose flow is learned in place of the data's."""

    @abstractmethod
    def __call__(self, flow_map: FlowMap, at: Noised, teacher: Denoiser | None) -> Float[Tensor, "b *d"]:
        """The x0 that f(x, t, s) should have answered."""

    def posed(
        self, flow_map: FlowMap, at: Noised, teacher: Denoiser | None, generator: torch.Generator
    ) -> tuple[Noised, Float[Tensor, "b *d"]]:
        """What f is asked, and the target of each: as it was drawn."""
        return at, self(flow_map, at, teacher)

    steady: ClassVar[bool] = True
    """Whether it is the same however many updates there will be."""
    anywhere: ClassVar[bool] = True
    """Whether f learns to land on every s, or on the data alone."""

    def between(
        self, path: Path, t: Float[Tensor, "b"], u: Float[Tensor, "b"]
    ) -> tuple[Float[Tensor, "b"], Float[Tensor, "b"]]:
        """(t, s) for times t that were drawn and u uniform in (0, 1): t itself, and s evenly between 0 and t."""
        return t, u * t

    def begun(self, student: NetworkDenoiser, updates: int) -> Target:
        """The target that a run of so many updates of `student` has: itself, or one with a `ObjectiveState`."""
        return self

    def weight(self, path: Path, t: Float[Tensor, "b"], s: Float[Tensor, "b"]) -> Float[Tensor, "b"]:
        """The weight of a sample besides the network's own scale: 1."""
        return torch.ones_like(t)

    def shrink(self, std: Float[Tensor, "n"], nsr: float, taught: bool) -> Float[Tensor, "n"]:
        """Of data N(m, std²), the deviation of f(x_t, t, 0) at ν_t = `nsr` where all is learned, over the flow's own.

        It is 1 where the method has no bias. `taught` by the exact denoiser, or by the data alone.
        """
        return torch.ones_like(std)


@dataclass(frozen=True)
class MapMatching:
    """E[w·(f(x_t, t, s) − target)²], the mean over samples and elements, in units of the network's own output.

    A share `still` of the batch has s = t, whose target is x0, or the teacher's E[x0 | x_t]: a denoiser stays one.
    `guidance` (low, high) tells the model, and the teacher, a scale: the lowest to a share `unguided`, the others one
    evenly drawn from there.
    """

    target: Target
    teacher: Denoiser | None = None
    times: Density = LogitNormal()
    still: float = 0.25
    guidance: tuple[float, float] | None = None
    unguided: float = 0.5

    def __call__(self, model: Any, batch: Batch, generator: torch.Generator) -> Loss:
        """The loss of one batch."""
        flow_map, path, count = two_times(model), model.path, len(batch.x0)
        t = drawn(self.times, path, spaced(count, generator))
        u, among, scale = torch.rand(3, count, generator=generator, device=generator.device, dtype=torch.float64)
        still = among < self.still
        far, near = self.target.between(path, t, u)
        t, s = torch.where(still, t, far), torch.where(still, t, near)
        eps = torch.randn(batch.x0.shape, generator=generator, device=generator.device).to(batch.x0)
        at = Noised(batch.x0, eps, path.mix(batch.x0, eps, t), t, s, self.hearing(batch, scale))
        with torch.no_grad():
            at, aim = self.posed(flow_map, at, still, generator)
        error = (flow_map(at.x, at.t, at.s, at.cond) - aim) / spread(unit_of(model, at.t), aim)
        weight = self.target.weight(path, at.t, at.s).to(error)
        losses = weight * (error**2).flatten(1).mean(1)
        return Loss(losses.mean(), levels=tally(path, at.t, losses.detach()))

    def hearing(self, batch: Batch, u: Float[Tensor, "b"]) -> Cond:
        """The conditions, with a guidance scale by u uniform in (0, 1), where one is told."""
        if self.guidance is None:
            return batch.cond
        low, high = self.guidance
        scale = low + (high - low) * ((u - self.unguided) / (1 - self.unguided)).clamp(min=0)
        return {**batch.cond, GUIDANCE: share_of(scale).to(batch.x0)}

    def posed(
        self, flow_map: FlowMap, at: Noised, still: Tensor, generator: torch.Generator
    ) -> tuple[Noised, Float[Tensor, "b *d"]]:
        """What f is asked, and what it should answer: those that are `still` first, each asked for its own target."""
        here, going = (mask.nonzero()[:, 0] for mask in (still, ~still))
        if not len(here):
            return self.target.posed(flow_map, at, self.teacher, generator)
        staying = at.rows(here)
        aim = staying.x0 if self.teacher is None else self.teacher(staying.x, staying.t, staying.cond)
        if not len(going):
            return staying, aim
        moving, aims = self.target.posed(flow_map, at.rows(going), self.teacher, generator)
        return staying.beside(moving), torch.cat([aim, aims])


def euler_shrink(std: Float[Tensor, "n"], levels: Sequence[float]) -> Float[Tensor, "n"]:
    """What jumps along these falling ν make of the deviation of N(m, std²), over what the flow makes of it.

    A jump by the exact denoiser, of slope s²/(s² + t²) on the path α = 1, keeps r/t of the rest; the flow's own slope
    is √((s² + r²)/(s² + t²)), s = std.
    """
    variance, factor = std.double().clamp(min=1e-9).square(), torch.ones_like(std, dtype=torch.float64)
    for t, r in pairwise(levels):
        jump = r / t + (1 - r / t) * variance / (variance + t**2)
        factor = factor * jump / ((variance + r**2) / (variance + t**2)).sqrt()
    return factor


def either(which: Tensor, a: Float[Tensor, "b *d"], b: Float[Tensor, "b *d"]) -> Float[Tensor, "b *d"]:
    """The samples of a where `which` [b] is True, and else those of b."""
    return torch.where(which.reshape(-1, *(1,) * (a.ndim - 1)).to(a.device), a, b)


def unit_of(model: Any, t: Float[Tensor, "b"]) -> Float[Tensor, "b"]:
    """|∂x̂0/∂F| at t: an error of x̂0 divided by it is one of what the network says, which is of unit size at every
    noise level. 1 for a model without a network."""
    if not isinstance(model, NetworkDenoiser):
        return torch.ones_like(t)
    return recover_factors(model.path, model.prediction, t)[1].abs()
