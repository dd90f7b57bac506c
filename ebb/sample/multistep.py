"""Multistep solvers: second order at one denoiser call a step, by remembering the last answer."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ebb.process.denoiser import Cond
from ebb.process.moment import Moment
from ebb.process.path import Path
from ebb.sample.loop import Denoise, Draw, Stepped


@dataclass(frozen=True)
class DPMpp2M:
    """DPM-Solver++(2M) (Lu et al. 2022b, algorithm 2): a jump with x̂0 extrapolated to mid-step in log-SNR.

    D = x̂0 + h/(2·h_prev)·(x̂0 − x̂0_prev), h the step in λ = log(α/σ). Where λ is infinite, at α = 0 or σ = 0, the
    ratio says nothing and the step is a plain jump: the first, the last, and the second after a start at α = 0.
    State: (x̂0, t) of the last step, or None.
    """

    order: int = 2

    def start(self, path: Path) -> None:
        """Nothing remembered."""

    def step(
        self,
        denoise: Denoise,
        x: Tensor,
        t: Moment,
        s: Moment,
        cond: Cond,
        state: tuple[Tensor, Moment] | None,
        draw: Draw,
    ) -> Stepped:
        """One denoiser call."""
        x0 = aim = denoise(x, t, cond)
        if state is not None and math.isfinite(s.lam - state[1].lam):
            before, earlier = state
            aim = torch.lerp(before, x0, 1 + (s.lam - t.lam) / (2 * (t.lam - earlier.lam)))
        return Stepped(t.jump(x, aim, s), x0, (x0, t))
