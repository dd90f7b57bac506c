"""A denoiser, a solver and the times it goes along: all of sampling but what is asked for and the noise."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ebb.process.denoiser import Cond, Denoiser
from ebb.process.moment import at
from ebb.process.path import Path
from ebb.sample.noise import START
from ebb.sample.trajectory import Point, Solver, trajectory
from ebb.shapes import Float


@dataclass(frozen=True, eq=False)
class Scheme:
    """`denoiser` followed by `solver` along the falling `times`."""

    denoiser: Denoiser
    solver: Solver
    times: Float[Tensor, "n"]

    def __call__(self, x: Float[Tensor, "b *d"], cond: Cond, noise: Callable[..., Tensor]) -> Iterator[Point]:
        """A Point after each step from x at times[0], as `trajectory` yields them."""
        return trajectory(self.denoiser, self.solver, self.times, x, cond, noise)

    def start(self, noise: Callable[..., Tensor], like: Float[Tensor, "b *d"]) -> Float[Tensor, "b *d"]:
        """Where trajectories begin: σ·ε at times[0], shaped and placed `like` a tensor whose values are not read.

        σ is that of the path at that time: 1 on the linear path at its end, 80 on EDM's.
        """
        return noise(START, like) * at(self.denoiser.path, float(self.times[0])).sigma

    def fresh(self, like: Float[Tensor, "b *d"], cond: Cond, noise: Callable[..., Tensor]) -> Float[Tensor, "b *d"]:
        """Samples from noise alone: where a trajectory from `start` ends."""
        return last(self(self.start(noise, like), cond, noise))

    def guided(self, *guides: Callable[[Denoiser], Denoiser]) -> Scheme:
        """The same with guides around the denoiser, each around those before it."""
        denoiser = self.denoiser
        for guide in guides:
            denoiser = guide(denoiser)
        return replace(self, denoiser=denoiser)

    @property
    def stochastic(self) -> bool:
        """Whether the solver asks for noise on its way: found by following it with one number and no network."""
        draws = list[int]()

        def noise(step: int, like: Tensor, part: int = 0) -> Tensor:
            draws.append(step)
            return torch.zeros_like(like)

        last(replace(self, denoiser=Nought(self.denoiser.path))(torch.ones(1, 1), {}, noise))
        return bool(draws)


@dataclass(frozen=True)
class Nought:
    """The denoiser of data that is 0."""

    path: Path

    def __call__(self, x: Float[Tensor, "b *d"], t: Float[Tensor, "b"], cond: Cond) -> Float[Tensor, "b *d"]:
        """0."""
        return torch.zeros_like(x)


def last(points: Iterator[Point]) -> Float[Tensor, "b *d"]:
    """The x that a trajectory ends on; no other point of it is kept."""
    for point in points:
        x = point.x
    return x
