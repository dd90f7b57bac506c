"""Multistep solvers: second order at one denoiser call a step, by remembering the last answer."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ebb.process.denoiser import Cond, Denoiser
from ebb.process.path import Path, spread
from ebb.sample.loop import Draw, Stepped


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
        denoise: Denoiser,
        x: Tensor,
        t: Tensor,
        s: Tensor,
        cond: Cond,
        state: tuple[Tensor, Tensor] | None,
        draw: Draw,
    ) -> Stepped:
        """One denoiser call."""
        path, x0 = denoise.path, denoise(x, t, cond)
        aim = x0
        if state is not None:
            before, earlier = state
            here = path.log_snr(t)
            ratio = (path.log_snr(s) - here) / (2 * (here - path.log_snr(earlier)))
            aim = x0 + spread(torch.where(torch.isfinite(ratio), ratio, 0.0), x) * (x0 - before)
        return Stepped(path.jump(x, aim, t, s), x0, (x0, t))
