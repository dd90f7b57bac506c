"""Progressive distillation: a student makes two of its teacher's steps in one, and is the next teacher."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ebb.errors import UsageError
from ebb.process.denoiser import Denoiser, NetworkDenoiser
from ebb.process.flow_map import FlowMap, TwoTimes, placed, shares
from ebb.process.path import LOUDEST, Path
from ebb.shapes import Float
from ebb.train.objectives.map_matching import Noised, Target, either, euler_shrink
from ebb.train.objectives.objective import ObjectiveState
from ebb.train.objectives.two_halves import jumping, twice


@dataclass(frozen=True)
class Progressive(Target):
    """target: the x0 whose jump lands where two of the teacher's do, of `steps` to the whole (Salimans & Ho 2022,
    algorithm 2). A run has a phase for each halving, down to one step: `Halving`."""

    steps: int = 16
    needs = "teacher"
    steady = False

    def __post_init__(self) -> None:
        if self.steps < 2 or self.steps & (self.steps - 1):
            raise UsageError(f"a teacher's steps are halved down to one: 2, 4, 8, 16, …, got {self.steps}")

    @property
    def phases(self) -> int:
        """How often the steps are halved."""
        return self.steps.bit_length() - 1

    def between(
        self, path: Path, t: Float[Tensor, "b"], u: Float[Tensor, "b"]
    ) -> tuple[Float[Tensor, "b"], Float[Tensor, "b"]]:
        """Two of the teacher's steps, from where such a pair begins."""
        return on_grid(path, t, torch.full_like(t, 2 / self.steps))

    def __call__(self, flow_map: FlowMap, at: Noised, teacher: Denoiser | None) -> Float[Tensor, "b *d"]:
        """The x0 of both jumps at once."""
        if teacher is None:
            raise UsageError("progressive distillation halves the steps of a teacher", "ebb distil RUN")
        return twice(jumping(teacher), at)

    def begun(self, student: NetworkDenoiser, updates: int) -> Target:
        """All phases, in equally many of the updates."""
        return Halving(self, student, updates)

    def shrink(self, std: Float[Tensor, "n"], nsr: float, taught: bool) -> Float[Tensor, "n"]:
        """That of the teacher's own steps from there: the student adds no error."""
        share, levels = nsr / (1 + nsr), [nsr]
        while (share := share - 1 / self.steps) > 1e-9:
            levels.append(share / (1 - share))
        return euler_shrink(std, [*levels, 0.0])


def on_grid(
    path: Path, t: Float[Tensor, "b"], length: Float[Tensor, "b"]
) -> tuple[Float[Tensor, "b"], Float[Tensor, "b"]]:
    """(t, s): the way of that `length` in τ = σ/(α + σ) in which t lies, of those that divide the whole evenly."""
    upper = torch.ceil(shares(path, t) / length - 1e-9).clamp(min=1) * length
    return placed(path, upper.clamp(max=LOUDEST / (1 + LOUDEST))), placed(path, upper - length)


REPEATED = 0.25
"""The share of ways in a phase that are those of the phases before, so that the last model still knows them."""


class Halving(ObjectiveState, Target):
    """`Progressive` in phases: 16 → 8 → 4 → 2 → 1 steps, the average of each phase's student being the next teacher.

    A share REPEATED of the ways are as long as in earlier phases; for these the teacher's own answer is the target, so
    that one model goes in one step, two, four, … at the end. It remembers the phase and the weights of its teacher.
    """

    phase: Tensor
    needs = "teacher"

    def __init__(self, first: Progressive, student: NetworkDenoiser, updates: int) -> None:
        super().__init__()
        self.first, self.updates = first, updates
        self.teacher = copy.deepcopy(student).requires_grad_(False).eval()
        self.register_buffer("phase", torch.zeros((), dtype=torch.long))

    def advance(self, step: int, averaged: nn.Module) -> None:
        """Begin the phase that is due, with the averaged student as its teacher."""
        due = min(step * self.first.phases // self.updates, self.first.phases - 1)
        if due > int(self.phase):
            self.teacher.load_state_dict(averaged.state_dict())
            self.phase.fill_(due)

    @property
    def length(self) -> float:
        """In τ, of the ways that are new in this phase: 2/16, 1/4, ½, 1."""
        return float(2 ** int(self.phase)) * 2 / self.first.steps

    def between(
        self, path: Path, t: Float[Tensor, "b"], u: Float[Tensor, "b"]
    ) -> tuple[Float[Tensor, "b"], Float[Tensor, "b"]]:
        """The ways of this phase, and some of the earlier ones, each as often."""
        earlier = torch.floor(u / REPEATED * int(self.phase)) + 1
        shorter = torch.where(u < REPEATED, 0.5**earlier, torch.ones_like(u)) if self.phase else torch.ones_like(u)
        return on_grid(path, t, self.length * shorter)

    def __call__(self, flow_map: FlowMap, at: Noised, teacher: Denoiser | None) -> Float[Tensor, "b *d"]:
        """The x0 of two of the teacher's jumps, and of a way that it knows its own answer."""
        if not self.phase:
            return self.first(flow_map, at, teacher)
        own = TwoTimes(self.teacher)
        far = shares(flow_map.path, at.t) - shares(flow_map.path, at.s)
        return either(far < 0.75 * self.length, own(at.x, at.t, at.s, at.cond), twice(own, at))
