"""Restart: back up to more noise and down again, a few times, at one place of the trajectory."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

from torch import Tensor

from ebb.errors import UsageError
from ebb.process.denoiser import Cond
from ebb.process.moment import Moment, where
from ebb.process.path import Path
from ebb.sample.ddim import Euler, diffused, noise_ratio
from ebb.sample.heun import Heun
from ebb.sample.multistep import DPMpp2M
from ebb.sample.trajectory import Denoise, Draw, Solver, Stepped

FLOWS: dict[str, Solver] = {"euler": Euler(), "heun": Heun(), "dpmpp_2m": DPMpp2M()}
"""The deterministic solvers that lead down."""

SAME = 1e-9
"""Ratios that differ by less are one place: a step between them would be rounding."""


@dataclass(frozen=True)
class Restart:
    """Restart sampling (Xu et al. 2023, algorithm 1): a deterministic `solver` that, once it reaches nsr_min, is taken
    up to nsr_max by the forward process and follows the flow down to nsr_min again, `repeats` times.

    The noise contracts the errors made so far, and the flow down adds few. `steps` is the number of steps of each way
    down, evenly spaced in log ν. The step that crosses nsr_min is split there; one that ends there is not. It costs
    repeats·steps steps of `solver`, and one more where it splits. A ratio beyond the path's is its end. The order is
    the solver's without restarts: their ways down keep their number of steps on any grid, and so their error. The state
    is the solver's own, and begins anew at every way down.
    """

    solver: Literal["euler", "heun", "dpmpp_2m"] = "heun"
    nsr_min: float = 0.1
    nsr_max: float = 0.5
    repeats: int = 2
    steps: int = 4

    def __post_init__(self) -> None:
        if not (0 < self.nsr_min < self.nsr_max < math.inf and self.repeats >= 1 and self.steps >= 1):
            raise UsageError(
                f"restart needs 0 < nsr_min < nsr_max < ∞, repeats ≥ 1 and steps ≥ 1, got {self}",
                "for example restart(nsr_min=0.1, nsr_max=0.5, repeats=2, steps=4)",
            )

    @property
    def order(self) -> int:
        """The solver's."""
        return FLOWS[self.solver].order

    def start(self, path: Path) -> Any:
        """The solver's."""
        return FLOWS[self.solver].start(path)

    def step(self, denoise: Denoise, x: Tensor, t: Moment, s: Moment, cond: Cond, state: Any, draw: Draw) -> Stepped:
        """One step of the solver, or the one with the restarts in it: `repeats` draws."""
        noise_ratio(t, s)
        flow, low = FLOWS[self.solver], where(denoise.path, -math.log(self.nsr_min))
        if not t.nsr > low.nsr >= s.nsr * (1 - SAME):
            return flow.step(denoise, x, t, s, cond, state, draw)
        low = s if s.nsr * (1 + SAME) >= low.nsr else low
        x, x0, state = flow.step(denoise, x, t, low, cond, state, draw)
        down = self.way(denoise.path, low)
        for repeat in range(self.repeats):
            x, state = diffused(x, low, down[0], draw(x, repeat)), flow.start(denoise.path)
            for here, there in pairwise(down):
                x, _, state = flow.step(denoise, x, here, there, cond, state, draw)
        if low is not s:
            x, _, state = flow.step(denoise, x, low, s, cond, state, draw)
        return Stepped(x, x0, state)

    def way(self, path: Path, low: Moment) -> list[Moment]:
        """The moments from nsr_max down to `low`, evenly spaced in log ν."""
        high = where(path, -math.log(self.nsr_max))
        stride = (low.lam - high.lam) / self.steps
        return [high, *(where(path, high.lam + k * stride) for k in range(1, self.steps)), low]
