"""How samples wander on their way: out of the data's range, at other temperatures, and after one bad step."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from ebb.process.denoiser import Cond
from ebb.process.moment import Moment, at, where
from ebb.process.path import Path
from ebb.sample.scheme import Scheme
from ebb.sample.trajectory import Denoise, Draw, Point, Solver, Stepped
from ebb.shapes import Float

OFF = 0.1
"""By how much of its norm x is off after a bad step."""

BAD = 2**64 - 2
"""The step under which the error of a bad step is drawn: no trajectory has that many."""


@dataclass(frozen=True)
class Crossing:
    """Where noise equals signal, log-SNR 0: the time, and which step of how many gets there."""

    time: float
    step: int
    of: int


def crossing(path: Path, times: Float[Tensor, "n"]) -> Crossing:
    """Where α = σ on `path`, and the first step of the falling grid that ends at or below it."""
    steps = [s.nsr for _, s in pairwise(at(path, time) for time in times.tolist())]
    here = next(step for step, nsr in enumerate(steps, start=1) if nsr <= 1 or step == len(steps))
    return Crossing(where(path, 0.0).time, here, len(steps))


def first_strays(points: Iterable[Point], times: Float[Tensor, "n"], limit: float, share: float) -> dict[int, int]:
    """{step: how many samples stray there first}: in it more than `share` of the values of x̂0 lie beyond ±limit.

    `points` are the questions asked of a denoiser, x̂0 being the answer, between the falling `times`; steps are counted
    from 1. Samples that never stray are in none.
    """
    down, found, strayed = [-time for time in times.tolist()], dict[int, int](), torch.zeros(0, dtype=torch.bool)
    for point in points:
        outside = (point.x0.abs() > limit).flatten(1).float().mean(1) > share
        strayed = strayed if len(strayed) else torch.zeros_like(outside)
        if new := int((outside & ~strayed).sum()):
            step = min(bisect_right(down, -point.t), len(down) - 1)
            found[step] = found.get(step, 0) + new
        strayed = strayed | outside
    return found


@dataclass(frozen=True)
class Pushed:
    """`solver`, but after so many steps x is off by `push`: its state counts them."""

    solver: Solver
    steps: int
    push: Tensor

    @property
    def order(self) -> int:
        """The solver's own."""
        return self.solver.order

    def start(self, path: Path) -> tuple[int, Any]:
        """No step made, and the solver's own state."""
        return 0, self.solver.start(path)

    def step(
        self, denoise: Denoise, x: Tensor, t: Moment, s: Moment, cond: Cond, state: tuple[int, Any], draw: Draw
    ) -> Stepped:
        """A step of the solver, and the push where it is due."""
        made, inner = state
        x, x0, inner = self.solver.step(denoise, x, t, s, cond, inner, draw)
        return Stepped(x + self.push if made + 1 == self.steps else x, x0, (made + 1, inner))


@dataclass(frozen=True)
class BadStep:
    """How far samples end from where they would, by the name of the solver, if x is off by OFF of its norm after so
    many steps, in distances between two samples."""

    steps: int
    log_snr: float
    ends: dict[str, float]


def bad_steps(
    schemes: Mapping[str, Scheme],
    after: Sequence[int],
    like: Float[Tensor, "b *d"],
    cond: Cond,
    noise: Callable[..., Tensor],
    deviation: float,
) -> list[BadStep]:
    """A BadStep for each number of steps in `after`, by every scheme, of samples shaped `like` with the same noise.

    The error has a random direction and the size OFF·√(α²s² + σ²), s = `deviation` of the data, root mean square. Of
    Gaussian data the probability flow takes an error e at t to e·s/√(α²s² + σ²) at the end, and the reverse SDE to
    e·α·s²/(α²s² + σ²): in the mean it forgets what noise makes anew.
    """
    clean = {name: scheme.fresh(like, cond, noise) for name, scheme in schemes.items()}
    unit, found = noise(BAD, like), list[BadStep]()
    unit = unit / rms(unit)
    for steps in after:
        ends = dict[str, float]()
        for name, scheme in schemes.items():
            now = at(scheme.denoiser.path, float(scheme.times[steps]))
            push = OFF * math.hypot(now.alpha * deviation, now.sigma) * unit
            end = replace(scheme, solver=Pushed(scheme.solver, steps, push)).fresh(like, cond, noise)
            ends[name] = rms(end - clean[name]) / max(rms(clean[name] - clean[name].roll(1, 0)), 1e-30)
        found.append(BadStep(steps, 2 * now.lam, ends))
    return found


def rms(x: Tensor) -> float:
    """The root mean square of all values."""
    return float(x.double().square().mean().sqrt())


@dataclass(frozen=True)
class Range:
    """The lowest and the highest value, and the standard deviation over all of them."""

    low: float
    high: float
    deviation: float

    @classmethod
    def of(cls, x: Tensor) -> Range:
        """Of a tensor."""
        return cls(float(x.min()), float(x.max()), float(x.double().std(correction=0)))


@dataclass(frozen=True)
class Way:
    """What was seen of samples on their way: where noise equals signal, where they first stray, what a bad step does,
    and the ranges of samples by temperature beside that of the data."""

    solver: str
    crossing: Crossing
    samples: int
    strayed: dict[int, int] | None
    """{step: how many stray there first}; None where the data has no range"""
    bad: list[BadStep]
    ranges: dict[str, Range]

    def __str__(self) -> str:
        now, lines = self.crossing, [f"the way of a sample, {self.crossing.of} steps of {self.solver}:"]
        lines.append(f"  noise equals signal (log-SNR 0) at t = {now.time:.3g}, in step {now.step} of {now.of}")
        if self.strayed is not None:
            total, steps = sum(self.strayed.values()), sorted(self.strayed.items())
            first = ": first in " + ", ".join(f"step {step} {count}" for step, count in steps) if steps else ""
            lines.append(f"  values leave the data's range in {total} of {self.samples} samples{first}")
        lines.append(f"  one bad step, x off by {OFF:.0%}, moves the end by (100 %: as far as two samples are apart)")
        for one in self.bad:
            ends = ", ".join(f"{name} {share:.1%}" for name, share in one.ends.items())
            lines.append(f"    after step {one.steps} (log-SNR {one.log_snr:+.1f}): {ends}")
        lines.append("  values from, to, and their standard deviation")
        lines += [f"    {name}: {r.low:.2f} … {r.high:.2f}, {r.deviation:.2f}" for name, r in self.ranges.items()]
        return "\n".join(lines)
