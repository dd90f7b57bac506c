"""RePaint: steps repeated with the noise put back, so that known and unknown parts come to agree."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ebb.process.denoiser import Cond
from ebb.process.moment import Moment, combine
from ebb.process.path import Path
from ebb.recipe.limits import whole
from ebb.sample.ddim import noise_ratio
from ebb.sample.trajectory import Denoise, Draw, Solver, Stepped


@dataclass(frozen=True)
class Resample:
    """Every step of `solver` from t to s made `repeats` times, between them noise from s back to t.

    x_t = (α_t/α_s)·x_s + √(σ_t² − (α_t/α_s)²σ_s²)·z, a step of the forward process (Lugmayr et al. 2022, algorithm 1,
    lines 9 and 10, U = `repeats`, jump length 1). With `inpaint` the unknown part gets that many chances to settle with
    the known one at each noise level. The step to σ = 0 is made once. A repeat starts from no state: what a solver
    remembers belongs to noise that is no longer there.

    Costs `repeats` times the calls; without a guide it changes nothing but the noise.
    """

    solver: Solver
    repeats: int = 10

    def __post_init__(self) -> None:
        whole("repeats", self.repeats)

    @property
    def order(self) -> int:
        """The solver's own."""
        return self.solver.order

    def start(self, path: Path) -> Any:
        """The solver's own state."""
        return self.solver.start(path)

    def step(self, denoise: Denoise, x: Tensor, t: Moment, s: Moment, cond: Cond, state: Any, draw: Draw) -> Stepped:
        """`repeats` steps of the solver, and one draw less than that of noise between them."""
        count = 1 if s.sigma == 0 else self.repeats
        spare = t.sigma * math.sqrt(1 - noise_ratio(t, s) ** 2)

        for turn in range(count):
            # draws are numbered so that no turn, and no noise put back between two, shares one

            def drawn(like: Tensor, part: int = 0, turn: int = turn) -> Tensor:
                return draw(like, 2 * count * part + turn)

            stepped = self.solver.step(denoise, x, t, s, cond, state, drawn)
            if turn < count - 1:
                x = combine((t.alpha / s.alpha, stepped.x), (spare, draw(x, count + turn)))
                state = self.solver.start(denoise.path)
        return stepped
