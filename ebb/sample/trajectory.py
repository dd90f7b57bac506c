"""The one sampling loop. A solver says how to make one step; it never loops, logs or keeps anything between calls."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor

from ebb.errors import UsageError
from ebb.process.denoiser import Cond, Denoiser, answer
from ebb.process.moment import Moment, at
from ebb.process.path import Path
from ebb.shapes import Float

Draw = Callable[..., Tensor]
"""`draw(like)`: unit Gaussian noise for this step, shaped like `like`; `draw(like, k)`: the k-th of several."""


@dataclass(frozen=True, slots=True)
class Denoise:
    """A denoiser asked at a moment: what a solver calls."""

    denoiser: Denoiser

    @property
    def path(self) -> Path:
        """The denoiser's own."""
        return self.denoiser.path

    def __call__(self, x: Tensor, t: Moment, cond: Cond) -> Tensor:
        """x̂0 for x [b, *d] at the time `t` of the whole batch."""
        return answer(self.denoiser, x, t, cond)


class Stepped(NamedTuple):
    """What a step leaves: x at the destination, the x̂0 the denoiser gave at the start, and the solver's new state."""

    x: Tensor
    x0: Tensor
    state: Any


@runtime_checkable
class Solver(Protocol):
    """A method to follow the flow (or the reverse SDE) from the moment t to the moment s.

    `order` is the order of convergence of the deterministic flow, and of the mean where the method is stochastic.
    """

    @property
    def order(self) -> int:
        """The order of convergence that `ebb.testing.check_solver` measures."""
        ...

    def start(self, path: Path) -> Any:
        """The state before the first step."""
        ...

    def step(self, denoise: Denoise, x: Tensor, t: Moment, s: Moment, cond: Cond, state: Any, draw: Draw) -> Stepped:
        """One step from x at `t` to `s`; neither x nor anything in `state` is written to.

        A step to σ = 0 ends on an answer of the denoiser, untouched: what a guide holds there, the sample holds.
        """
        ...


@dataclass(frozen=True, slots=True)
class Point:
    """A place on a trajectory: x at time t, and the x̂0 that led there."""

    t: float
    x: Tensor
    x0: Tensor


def checked(times: Tensor, path: Path) -> list[float]:
    """The grid as floats; raises UsageError unless it falls strictly within [0, end], or rises so from above 0."""
    grid: list[float] = times.tolist()
    falling = all(t > s for t, s in pairwise(grid))
    rising = all(t < s for t, s in pairwise(grid)) and min(grid, default=0) > 0
    if len(grid) < 2 or not (falling or rising) or min(grid) < 0 or max(grid) > path.end:
        raise UsageError(
            f"a time grid falls strictly, from at most {path.end:g} to at least 0, in 2 or more times (or rises, from"
            f" above 0); got {grid[:6]}",
            "for example ebb.GRIDS['uniform'](path, 16)",
        )
    return grid


def trajectory(
    denoiser: Denoiser,
    solver: Solver,
    times: Float[Tensor, "n"],
    x: Float[Tensor, "b *d"],
    cond: Cond,
    noise: Callable[..., Tensor],
) -> Iterator[Point]:
    """Follow `solver` along `times` from x at times[0], yielding a Point after each step.

    `noise(step, like)` gives the unit Gaussian noise of a step (`ebb.Noise`). The last point's x is the sample. Along
    rising times a deterministic solver goes from data to noise.
    """
    moments = [at(denoiser.path, time) for time in checked(times, denoiser.path)]
    denoise, state = Denoise(denoiser), solver.start(denoiser.path)
    for index, (t, s) in enumerate(pairwise(moments)):
        with torch.no_grad():
            x, x0, state = solver.step(denoise, x, t, s, cond, state, partial(noise, index))
        yield Point(s.time, x, x0)
