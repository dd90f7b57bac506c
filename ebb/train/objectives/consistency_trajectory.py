"""Consistency trajectories: some steps of the teacher's, and the rest of the way by the map's own jump (CTM)."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from ebb.errors import UsageError
from ebb.process.denoiser import Denoiser
from ebb.process.flow_map import FlowMap, landed, placed, shares
from ebb.process.path import Path, spread
from ebb.shapes import Float
from ebb.train.objectives.map_matching import Noised, Target, either


@dataclass(frozen=True)
class ConsistencyTrajectory(Target):
    """target: the x0 whose jump lands where `steps` of the teacher's do, of `of` to the whole, and then the map's own.

    From x at t the teacher goes to u by even steps in τ = σ/(α + σ), none beyond s; from u the map jumps to s (Kim et
    al. 2024, eq. 9). With all `steps` = `of` by the teacher nothing moves while it is learned: it is regression on the
    teacher's own trajectories, whose error is left, as of its solver of second order (`multistep`).
    """

    steps: int = 4
    of: int = 16
    needs = "teacher"

    def __post_init__(self) -> None:
        if not 1 <= self.steps <= self.of:
            raise UsageError(f"a teacher makes some of its steps: 1 to {self.of}, got {self.steps}")

    def __call__(self, flow_map: FlowMap, at: Noised, teacher: Denoiser | None) -> Float[Tensor, "b *d"]:
        """The x0 of the whole way at once."""
        if teacher is None:
            raise UsageError("consistency trajectories begin with a teacher's steps", "ebb distil RUN")
        path, goal = flow_map.path, shares(flow_map.path, at.s)
        stops = [shares(path, at.t)]
        for _ in range(self.steps):
            stops.append(torch.maximum(stops[-1] - 1 / self.of, goal))
        times = torch.stack([at.t, *(placed(path, stop) for stop in stops[1:])])
        x, u = multistep(teacher, at, times)[-1], times[-1]
        if self.steps < self.of:
            away = u > at.s
            answer = flow_map(x, torch.where(away, u, at.t), at.s, at.cond)
            x = either(away, path.jump(x, answer, u, at.s), x)
        going = at.s < at.t
        return landed(path, at.x, x, at.t, torch.where(going, at.s, torch.zeros_like(at.s)))


def multistep(teacher: Denoiser, at: Noised, times: Float[Tensor, "n b"]) -> Float[Tensor, "n b *d"]:
    """Where the teacher's trajectory from x is at `times` of each sample's own, the first of which are x's, by steps of
    DPM-Solver++(2M).

    x̂0 is extrapolated to mid-step in λ = log(α/σ); where that is infinite, or nothing lies before, the step is a jump
    (Lu et al. 2022b, algorithm 2).
    """
    path, x, passed = teacher.path, at.x, [at.x]
    earlier: tuple[Tensor, Tensor] | None = None
    for t, s in pairwise(times.unbind()):
        going = s < t  # a sample that has arrived waits for the others
        x0 = teacher(x, torch.where(going, t, at.t), at.cond)
        aim = x0 if earlier is None else x0 + spread(ahead(path, earlier[1], t, s), x0) * (x0 - earlier[0])
        x = either(going, path.jump(x, aim, torch.where(going, t, at.t), s), x)
        passed.append(x)
        earlier = x0, t
    return torch.stack(passed)


def ahead(path: Path, before: Float[Tensor, "b"], t: Float[Tensor, "b"], s: Float[Tensor, "b"]) -> Float[Tensor, "b"]:
    """h/(2·h_prev), h the step in λ from t to s and h_prev the one before; 0 where either is none or infinite."""
    lam = [-path.nsr(time).log() for time in (before, t, s)]
    weight = (lam[2] - lam[1]) / (2 * (lam[1] - lam[0]))
    return torch.where(weight.isfinite() & (s > 0), weight, torch.zeros_like(weight))
