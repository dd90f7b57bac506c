"""The noise that a stochastic solver draws on its way, made larger or smaller."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ebb.process.denoiser import Cond
from ebb.process.moment import Moment
from ebb.process.path import Path
from ebb.sample.trajectory import Denoise, Draw, Solver, Stepped


@dataclass(frozen=True)
class Louder:
    """`solver` with k·z, k = `scale`, wherever it draws unit noise z: 1 is the solver itself, 0 its mean alone.

    The S_noise of Karras et al. 2022 (algorithm 2) for any solver, and what other samplers call temperature. It is not
    one: of Gaussian data it makes a Gaussian of the same mean whose variance depends on solver and steps, where
    `ebb.temperature` makes the density's power. The noise that a trajectory begins with stays as it is.
    """

    solver: Solver
    scale: float

    @property
    def order(self) -> int:
        """The solver's own."""
        return self.solver.order

    def start(self, path: Path) -> Any:
        """The solver's own state."""
        return self.solver.start(path)

    def step(self, denoise: Denoise, x: Tensor, t: Moment, s: Moment, cond: Cond, state: Any, draw: Draw) -> Stepped:
        """A step of the solver with other noise."""

        def scaled(like: Tensor, *part: int) -> Tensor:
            return self.scale * draw(like, *part)

        return self.solver.step(denoise, x, t, s, cond, state, scaled)
