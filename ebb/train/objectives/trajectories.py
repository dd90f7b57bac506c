"""Regression on a teacher's trajectories, from every place of each to every later one (Luhman & Luhman 2021)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from ebb.errors import UsageError
from ebb.process.denoiser import Denoiser
from ebb.process.flow_map import FlowMap, landed, placed, shares
from ebb.process.path import LOUDEST, Path, spread
from ebb.shapes import Float
from ebb.train.objectives.consistency_trajectory import ConsistencyTrajectory, multistep
from ebb.train.objectives.map_matching import Noised, Target


@dataclass(frozen=True)
class Trajectories(Target):
    """target: the x0 whose jump lands where the teacher's trajectory does, in `steps` steps of DPM-Solver++(2M).

    Nothing moves while it is learned. Every trajectory begins in noise, and is asked about by `ways` samples of the
    batch: from one of its places to a later one, for a third from its beginning, for a third to its end. So a sample
    costs steps/ways calls of the teacher.
    """

    steps: int = 8
    ways: int = 4
    needs = "teacher"

    def __post_init__(self) -> None:
        if self.steps < 1 or self.ways < 1:
            raise UsageError(f"a trajectory has steps and ways, 1 or more of each, got {self.steps} and {self.ways}")

    def __call__(self, flow_map: FlowMap, at: Noised, teacher: Denoiser | None) -> Float[Tensor, "b *d"]:
        """The x0 of a way that begins at x, all of it by the teacher."""
        return ConsistencyTrajectory(self.steps, self.steps)(flow_map, at, teacher)

    def posed(
        self, flow_map: FlowMap, at: Noised, teacher: Denoiser | None, generator: torch.Generator
    ) -> tuple[Noised, Float[Tensor, "b *d"]]:
        """Ways of the trajectories of every `ways`-th sample's noise, under its conditions."""
        if teacher is None:
            raise UsageError("trajectories are a teacher's", "ebb distil RUN")
        path, count, device = flow_map.path, len(at.x), at.t.device
        u = torch.rand(5, count, generator=generator, device=generator.device, dtype=torch.float64).to(device)
        owner = torch.arange(count, device=device) // self.ways
        begun = at.rows(torch.arange(0, count, self.ways, device=device))
        times = self.times(path, float(u[0, 0])).to(device)
        theirs = times[:, None].expand(-1, len(begun.x))
        noise = spread(path.sigma(theirs[0]), begun.eps) * begun.eps
        passed = multistep(teacher, begun._replace(x=noise), theirs)
        last = self.steps
        first = torch.where(u[1] < EDGE, 0, u[2] * last).long()
        later = torch.where(u[3] < EDGE, last, first + 1 + u[4] * (last - first)).long()
        x, end = passed[first, owner], passed[later, owner]
        t, s = times[first].to(at.t), times[later].to(at.s)
        return begun.rows(owner)._replace(x=x, t=t, s=s), landed(path, x, end, t, s)

    def times(self, path: Path, offset: float) -> Float[Tensor, "n"]:
        """From noise to data, evenly in τ but for an `offset` in [0, 1) of all between."""
        top = shares(path, torch.tensor([path.end], dtype=torch.float64)).clamp(max=LOUDEST / (1 + LOUDEST))
        return placed(path, top * self.stops(offset))

    def stops(self, offset: float) -> Float[Tensor, "n"]:
        """`times` as shares of the whole, from 1 to 0."""
        inner = (torch.arange(self.steps - 1, 0, -1, dtype=torch.float64) + 0.5 - offset) / self.steps
        return torch.cat([torch.ones(1, dtype=torch.float64), inner, torch.zeros(1, dtype=torch.float64)])

    def shrink(self, std: Float[Tensor, "n"], nsr: float, taught: bool) -> Float[Tensor, "n"]:
        """That of the teacher's own steps from there, with times that meet it: the student adds no error."""
        share = min(nsr / (1 + nsr), LOUDEST / (1 + LOUDEST))
        stops = self.stops((self.steps * share + 0.5) % 1) * LOUDEST / (1 + LOUDEST)
        levels = [share / (1 - share) for share in stops.tolist()]
        began = min(range(self.steps), key=lambda k: abs(float(stops[k]) - share))
        variance = std.double().clamp(min=1e-9).square()
        sizes = multistep_sizes(variance, levels)
        flow = (variance / (variance + levels[began] ** 2)).sqrt()
        factor: Tensor = sizes[-1] / sizes[began] / flow
        return factor


def multistep_sizes(variance: Float[Tensor, "n"], levels: Sequence[float]) -> list[Float[Tensor, "n"]]:
    """What becomes of the deviation of N(m, variance) at these falling ν, on the path α = 1, by `multistep`."""
    size = (variance + levels[0] ** 2).sqrt()
    sizes, before, lam = [size], size, [-math.log(nsr) if nsr else math.inf for nsr in levels]
    for k, (t, r) in enumerate(pairwise(levels)):
        answer = variance / (variance + t**2) * size
        weight = (lam[k + 1] - lam[k]) / (2 * (lam[k] - lam[k - 1])) if k and r > 0 else 0.0
        size = r / t * size + (1 - r / t) * (answer + weight * (answer - before))
        sizes, before = [*sizes, size], answer
    return sizes


EDGE = 1 / 3
"""The share of ways that begin where a trajectory does, and of those that end where it does."""
