"""UniPC: each denoiser answer corrects the step that led to it before it predicts the next."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

from ebb.process.denoiser import Cond
from ebb.process.moment import Moment
from ebb.process.path import Path
from ebb.sample.adams import Past, averages, between, towards, usable
from ebb.sample.multistep import midpoint
from ebb.sample.trajectory import Denoise, Draw, Stepped


class Taken(NamedTuple):
    """The step that led here: where it began, the answers it used (newest first), and all that are remembered."""

    x: Tensor
    used: Past
    past: Past


@dataclass(frozen=True)
class UniPC:
    """UniPC-p with B₂(h) = e^h − 1 on x̂0 (Zhao et al. 2023), p = 2 or 3: order p + 1 at one call a step.

    UniP-p jumps with the mean, density e^λ, of the polynomial in λ through the last p answers; UniC-p does the step
    again with the answer found at its end as one more point, from where it began. Solving for the weights makes both
    integrals exact, whatever B(h) is; B₂ shows only where the paper fixes the one weight at ½: UniP-2 (it is
    DPM-Solver++(2M)) and UniC-1, the trapezoid of the first step. As in the paper the answer at the predicted x serves
    as that at the corrected one, so a step costs one call; the x of a point is the predicted one, and the last step, to
    σ = 0 where λ is infinite, is a jump that nothing corrects. So is a step from α = 0.
    diffusers calls p `solver_order`. State: the last step (`Taken`), or None.
    """

    p: int = 2

    def __post_init__(self) -> None:
        between("UniPC", self.p, 2, 3, "p")

    @property
    def order(self) -> int:
        """p + 1 (Zhao et al. 2023, theorem 3.1)."""
        return self.p + 1

    def start(self, path: Path) -> None:
        """Nothing remembered."""

    def step(
        self, denoise: Denoise, x: Tensor, t: Moment, s: Moment, cond: Cond, state: Taken | None, draw: Draw
    ) -> Stepped:
        """One denoiser call: correct, then predict."""
        x0 = denoise(x, t, cond)
        past: Past = ((x0, t),)
        if state is not None:
            x = self.corrected(denoise.path, x, x0, t, state)
            past = ((x0, t), *state.past)[: self.p]
        used = usable(past, s)
        if len(used) == 2:
            weights = midpoint(s, used)
        else:
            weights = averages(1, denoise.path, "lam", t, s, tuple(when for _, when in used))
        return Stepped(towards(x, t, s, weights, used), x0, Taken(x, used, past))

    def corrected(self, path: Path, x: Tensor, x0: Tensor, s: Moment, taken: Taken) -> Tensor:
        """x at the end `s` of the step that was taken, by UniC; x as it came where λ was infinite."""
        t = taken.used[0][1]
        points = usable(((x0, s), *taken.used), t)
        if len(points) == 1:
            return x
        both = (0.5, 0.5)
        weights = both if len(points) == 2 else averages(1, path, "lam", t, s, tuple(when for _, when in points))
        return towards(taken.x, t, s, weights, points)
