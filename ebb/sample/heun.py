"""Heun's method on the probability flow: two denoiser calls a step, second order."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from ebb.process.denoiser import Cond
from ebb.process.moment import Moment, combine
from ebb.process.path import Path
from ebb.sample.trajectory import Denoise, Draw, Stepped


@dataclass(frozen=True)
class Heun:
    """The trapezoidal rule on dx = x̂0 dα + ε̂ dσ, predicted by a jump (Karras et al. 2022, algorithm 1).

    Written in α and σ themselves it needs no derivative of the path, equals Karras' method on α = 1 and Heun's method
    on the velocity of the linear path. A step to σ = 0, where ε̂ cannot be asked, stays a jump.
    """

    order: ClassVar[int] = 2

    def start(self, path: Path) -> None:
        """No state."""

    def step(self, denoise: Denoise, x: Tensor, t: Moment, s: Moment, cond: Cond, state: None, draw: Draw) -> Stepped:
        """A jump, and its correction by what the denoiser says where it landed."""
        x0 = denoise(x, t, cond)
        landed = t.jump(x, x0, s)
        if s.sigma == 0:
            return Stepped(landed, x0, None)
        there = denoise(landed, s, cond)
        data, noise = (s.alpha - t.alpha) / 2, (s.sigma - t.sigma) / 2
        moved = combine((1, x), (data, x0), (data, there), (noise, t.noise(x, x0)), (noise, s.noise(landed, there)))
        return Stepped(moved, x0, None)
