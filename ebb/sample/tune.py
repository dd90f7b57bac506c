"""The best times for a few steps: a grid searched for one denoiser, one solver and one number of steps.

Below about ten steps where they lie matters more than the solver. A long trajectory of a small warm-up batch says where
the samples should land; dynamic programming over its times finds a first grid without asking the denoiser again, and a
search of single times with the solver itself ends it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from ebb.errors import UsageError
from ebb.process.denoiser import Cond, Denoiser
from ebb.process.moment import at, where
from ebb.process.path import Path
from ebb.process.times import LogSNR
from ebb.sample.heun import Heun
from ebb.sample.trajectory import Solver, trajectory
from ebb.shapes import Float


class StochasticError(UsageError):
    """A search for a solver that draws noise."""


FINE = 48
"""Steps of the long trajectory."""

ROUNDS = 4
"""In which every time is moved, each time by half as much."""


@dataclass(frozen=True)
class Tuned:
    """A grid, float64 [steps + 1], and how far samples end from the long trajectory's end, before and after.

    The distance is the mean over samples of each one's root mean square: with squares alone, the few samples that turn
    to another mode would decide.
    """

    times: Tensor
    before: float
    after: float


def tune(
    denoiser: Denoiser,
    solver: Solver,
    start: Float[Tensor, "n"],
    x: Float[Tensor, "b *d"],
    cond: Cond,
) -> Tuned:
    """Times, as many as `start` has, from which `solver` lands nearest to where a long trajectory lands.

    `x` is the warm-up batch's noise at start[0]; start[0] and the end, 0, stay. The reference is Heun's method in about
    FINE steps. Candidates are `start` and the grid of `shortest`; the better one is improved by moving one time at a
    time in log ν by shares of its neighbours' distance, halved each of ROUNDS rounds. Costs 2·FINE + about
    5·ROUNDS·steps² calls of the denoiser. Raises StochasticError for a solver that draws noise, since its end is no
    function of its times, and UsageError for a start that does not end at 0 or has as many steps as the reference.
    """
    path, steps = denoiser.path, len(start) - 1
    if float(start[-1]) != 0 or steps >= FINE // 2:
        raise UsageError(
            f"a grid to improve ends at 0 and has fewer than {FINE // 2} steps, got {steps} to {float(start[-1]):g}",
            "long grids need no search",
        )
    ends, best = partial(end, denoiser, solver, x, cond), start.tolist()
    first = ends(best)  # before the reference is paid for: a solver that draws noise stops here
    times = LogSNR()(path, FINE)
    times = torch.cat([start[:1], times[times < start[0]]])
    along = [x]
    answers = []
    for point in trajectory(denoiser, Heun(), times, x, cond, still):
        along.append(point.x)
        answers.append(point.x0)
    goal = along[-1]
    lowest = before = distance(first, goal)
    candidate = shortest(path, times.tolist(), along, answers, steps)
    if (found := distance(ends(candidate), goal)) < lowest:
        best, lowest = candidate, found
    for share in (0.5**k for k in range(1, ROUNDS + 1)):
        for place in range(1, steps):
            for direction in (-1, 1):
                moved = shifted(path, best, place, direction * share)
                if (found := distance(ends(moved), goal)) < lowest:
                    best, lowest = moved, found
    return Tuned(torch.tensor(best, dtype=torch.float64), before, lowest)


def end(denoiser: Denoiser, solver: Solver, x: Tensor, cond: Cond, grid: Sequence[float]) -> Tensor:
    """Where a solver that draws no noise lands from x along the times of `grid`."""
    *_, last = trajectory(denoiser, solver, torch.tensor(grid, dtype=torch.float64), x, cond, still)
    return last.x


def distance(x: Tensor, goal: Tensor) -> float:
    """The mean over samples of the root mean square of what lies between."""
    return float((x - goal).flatten(1).square().mean(1).sqrt().mean())


def still(step: int, like: Tensor, part: int = 0) -> Tensor:
    """In place of noise: a solver that asks for some cannot be searched for."""
    raise StochasticError("a grid is searched for a deterministic solver", "for example dpmpp_2m, heun or ddim")


def shortest(
    path: Path, times: Sequence[float], along: Sequence[Tensor], answers: Sequence[Tensor], steps: int
) -> list[float]:
    """`steps` steps over some of `times` with the least sum of local errors, by dynamic programming (GITS, Chen et al.
    2024, algorithm 1): the error of a step is how far one jump from the trajectory at t lands from it at s.

    `along` holds the trajectory at each time, `answers` the denoiser's at each but the last.
    """
    moments = [at(path, time) for time in times]
    count = len(times)
    cost = torch.full((count, count), math.inf, dtype=torch.float64)
    for i in range(count - 1):
        for j in range(i + 1, count):
            missed = moments[i].jump(along[i], answers[i], moments[j]) - along[j]
            cost[i, j] = float(missed.pow(2).mean().sqrt()) / moments[j].norm
    total, came = torch.full((count,), math.inf, dtype=torch.float64), []
    total[0] = 0
    for _ in range(steps):
        total, origin = (total[:, None] + cost).min(0)
        came.append(origin)
    chosen = [count - 1]
    for origin in reversed(came):
        chosen.append(int(origin[chosen[-1]]))
    return [times[i] for i in reversed(chosen)]


def shifted(path: Path, grid: Sequence[float], place: int, share: float) -> list[float]:
    """`grid` with one time moved by `share` of the way to its neighbour, in log ν (the last one: of a factor e²)."""
    lams = [at(path, time).lam for time in grid[place - 1 : place + 2]]
    here = lams[1]
    low = lams[0] if math.isfinite(lams[0]) else here - 2
    high = lams[2] if math.isfinite(lams[2]) else here + 2
    moved = here + share * (high - here if share > 0 else here - low)
    return [*grid[:place], where(path, moved).time, *grid[place + 1 :]]
