"""How straight the paths of a flow are: 0 where one step goes all the way."""

from __future__ import annotations

import torch
from torch import Tensor

from ebb.errors import UsageError
from ebb.process.denoiser import Cond, Denoiser
from ebb.process.path import Linear
from ebb.process.times import uniform_grid
from ebb.sample.heun import Heun
from ebb.sample.trajectory import trajectory
from ebb.shapes import Float


def straightness(denoiser: Denoiser, x: Float[Tensor, "b *d"], cond: Cond, *, steps: int = 32) -> float:
    """∫ E‖(x₁ − x₀) − dx/dt‖² dt / E‖x₁ − x₀‖² of the flow that begins in the noise `x`, 0 for straight paths.

    The numerator is S of Liu et al. 2023 (eq. 3): how much the velocity changes along a path. The denominator makes it
    the same for data of any size. The flow is followed in even steps of Heun's method, and each step's slope stands for
    the velocity, so bends within a step are not seen (32 steps miss about a thousandth of it).

    Raises UsageError off the linear path, on which alone a path can be straight at even speed.
    """
    if denoiser.path != Linear():
        raise UsageError(f"only flows on the linear path can be straight, got {denoiser.path}")
    times = uniform_grid(denoiser.path, steps)
    last, bends = x, x.new_zeros(len(x))
    for point in trajectory(denoiser, Heun(), times, x, cond, unused):
        bends += steps * (point.x - last).square().flatten(1).sum(1)
        last = point.x
    length = (last - x).square().flatten(1).sum(1)
    return float((bends - length).mean() / length.mean())


def unused(step: int, like: Tensor, part: int = 0) -> Tensor:
    """The noise that Heun's method does not ask for."""
    return torch.zeros_like(like)
