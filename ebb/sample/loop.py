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
from ebb.process.denoiser import Cond, Denoiser
from ebb.process.path import Path
from ebb.shapes import Float

Draw = Callable[[Tensor], Tensor]
"""Fresh unit Gaussian noise shaped like its argument."""


class Stepped(NamedTuple):
    """What a step leaves: x at the destination, the x̂0 the denoiser gave at the start, and the solver's new state."""

    x: Tensor
    x0: Tensor
    state: Any


@runtime_checkable
class Solver(Protocol):
    """A method to follow the flow (or the reverse SDE) from t to s < t.

    `order` is the order of convergence of the deterministic flow, and of the mean where the method is stochastic.
    """

    @property
    def order(self) -> int:
        """The order of convergence that `ebb.testing.check_solver` measures."""
        ...

    def start(self, path: Path) -> Any:
        """The state before the first step."""
        ...

    def step(self, denoise: Denoiser, x: Tensor, t: Tensor, s: Tensor, cond: Cond, state: Any, draw: Draw) -> Stepped:
        """One step from x at times t [b] to times s [b]."""
        ...


@dataclass(frozen=True)
class Point:
    """A place on a trajectory: x at time t, and the x̂0 that led there."""

    t: float
    x: Tensor
    x0: Tensor


def checked(times: Tensor, path: Path) -> list[float]:
    """The grid as floats; raises UsageError unless it falls strictly within [0, end]."""
    grid: list[float] = times.tolist()
    falling = all(t > s for t, s in pairwise(grid))
    if len(grid) < 2 or not falling or grid[-1] < 0 or grid[0] > path.end:
        raise UsageError(
            f"a time grid falls strictly, from at most {path.end:g} to at least 0, in 2 or more times; got {grid[:6]}",
            "for example ebb.GRIDS['uniform'](path, 16)",
        )
    return grid


@torch.no_grad()
def trajectory(
    denoiser: Denoiser,
    solver: Solver,
    times: Float[Tensor, "n"],
    x: Float[Tensor, "b *d"],
    cond: Cond,
    noise: Callable[[int, Tensor], Tensor],
) -> Iterator[Point]:
    """Follow `solver` along `times` from x at times[0], yielding a Point after each step.

    `noise(step, like)` gives the unit Gaussian noise of a step (`ebb.Noise`). The last point's x is the sample.
    """
    state = solver.start(denoiser.path)
    for index, (t, s) in enumerate(pairwise(checked(times, denoiser.path))):
        now, then = (torch.full((len(x),), time, dtype=torch.float64) for time in (t, s))
        x, x0, state = solver.step(denoiser, x, now, then, cond, state, partial(noise, index))
        yield Point(s, x, x0)
