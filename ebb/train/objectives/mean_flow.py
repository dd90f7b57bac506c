"""Eulerian flow-map matching: along the flow the landing place does not change (MeanFlow, continuous consistency)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ebb.process.denoiser import Denoiser
from ebb.process.derivative import Derivative, along
from ebb.process.flow_map import FlowMap, pace
from ebb.process.path import Path, jump_factors, spread
from ebb.shapes import Float
from ebb.train.objectives.map_matching import Noised, Target


@dataclass(frozen=True)
class MeanFlow(Target):
    """target = f − r·(f − x̂0) − (α_s − r·α_t)·κ·df/dt, r = σ_s/σ_t, κ = `pace`, df/dt along x's own motion.

    It says d X_{t→s}(x_t)/dt = 0. On the linear path, where u = (x − f)/t, it is u = v − (t − s)·du/dt (Geng et al.
    2025, eq. 11). Without a teacher x moves by its own x0 and ε; with one x̂0 and the motion are the teacher's, which
    takes the variance out.
    """

    derivative: Derivative = "difference"

    def __call__(self, flow_map: FlowMap, at: Noised, teacher: Denoiser | None) -> Float[Tensor, "b *d"]:
        """The target from the map's own answer and its change."""
        path = flow_map.path
        x0 = at.x0 if teacher is None else teacher(at.x, at.t, at.cond)
        own, change = flow_map(at.x, at.t, at.s, at.cond), self.change(flow_map, at, x0)
        keep, aim = jump_factors(path.alpha(at.t), path.sigma(at.t), path.alpha(at.s), path.sigma(at.s))
        return own - spread(keep, own) * (own - x0) - spread(aim * pace(path, at.t), own) * change

    def change(self, flow_map: FlowMap, at: Noised, x0: Tensor) -> Tensor:
        """df/dt while x moves as x0 says and s stays."""
        motion = flow_map.path.velocity(at.x, x0, at.t)
        return along(flow_map, (at.x, at.t, at.s), (motion, torch.ones_like(at.t), None), at.cond, self.derivative)


@dataclass(frozen=True)
class ContinuousConsistency(Target):
    """`MeanFlow` to the data alone, with the step of the target bounded: f − g/(‖g‖ + c) (Lu & Song 2025, §4.1).

    g is what MeanFlow adds to f, and ‖g‖ the root of the mean of its squares, c = 0.1.
    """

    derivative: Derivative = "difference"
    bound: float = 0.1

    anywhere = False

    def between(
        self, path: Path, t: Float[Tensor, "b"], u: Float[Tensor, "b"]
    ) -> tuple[Float[Tensor, "b"], Float[Tensor, "b"]]:
        """Always to the data."""
        return t, torch.zeros_like(t)

    def __call__(self, flow_map: FlowMap, at: Noised, teacher: Denoiser | None) -> Float[Tensor, "b *d"]:
        """The bounded target."""
        own = flow_map(at.x, at.t, at.s, at.cond)
        step = MeanFlow(self.derivative)(flow_map, at, teacher) - own
        size = step.flatten(1).square().mean(1).sqrt()
        return own + step / (spread(size, step) + self.bound)
