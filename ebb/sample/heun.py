"""Heun's method on the probability flow: two denoiser calls a step, second order."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ebb.process.denoiser import Cond, Denoiser
from ebb.process.path import Path, spread
from ebb.sample.loop import Draw, Stepped


@dataclass(frozen=True)
class Heun:
    """The trapezoidal rule on dx = x̂0 dα + ε̂ dσ, predicted by a jump (Karras et al. 2022, algorithm 1).

    Written in α and σ themselves it needs no derivative of the path, equals Karras' method on α = 1 and Heun's method
    on the velocity of the linear path. A step to σ = 0, where ε̂ cannot be asked, stays a jump.
    """

    order: int = 2

    def start(self, path: Path) -> None:
        """No state."""

    def step(self, denoise: Denoiser, x: Tensor, t: Tensor, s: Tensor, cond: Cond, state: None, draw: Draw) -> Stepped:
        """A jump, and its correction by what the denoiser says where it landed."""
        path, x0 = denoise.path, denoise(x, t, cond)
        landed = path.jump(x, x0, t, s)
        if not bool((path.sigma(s) > 0).all()):
            return Stepped(landed, x0, None)
        there = denoise(landed, s, cond)
        data, noise = (x0 + there) / 2, (path.noise(x, x0, t) + path.noise(landed, there, s)) / 2
        moved = spread(path.alpha(s) - path.alpha(t), x) * data + spread(path.sigma(s) - path.sigma(t), x) * noise
        return Stepped(x + moved, x0, None)
