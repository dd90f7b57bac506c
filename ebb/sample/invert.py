"""From data to the noise that a deterministic solver makes it from."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from ebb.errors import UsageError
from ebb.process.denoiser import Cond, Denoiser
from ebb.process.moment import at
from ebb.sample.trajectory import Point, Solver, checked, trajectory
from ebb.shapes import Float


def invert(
    denoiser: Denoiser, solver: Solver, times: Float[Tensor, "n"], x: Float[Tensor, "b *d"], cond: Cond
) -> Iterator[Point]:
    """Follow the flow from data x up the grid that sampling goes down; the last point's x is the noise at times[0].

    At σ = 0 the flow's velocity cannot be asked, so the way begins at the smallest positive time of `times` with α·x
    there: off by O(σ²) where the data has a density, by O(σ) where it has none. Sampling down the same grid gives x
    back with an error of the solver's order, so use more steps than for sampling. With guidance the way back needs the
    same guide. (DDIM inversion: Song et al. 2021, §5.4; Dhariwal & Nichol 2021, appendix F.)

    Raises UsageError for a grid that does not fall and for a solver that draws noise.
    """
    grid = checked(times, denoiser.path)
    rising = [time for time in reversed(grid) if time > 0]
    if grid[0] < grid[-1] or len(rising) < 2:
        raise UsageError(
            f"inversion takes the falling grid of sampling, with 2 or more positive times; got {grid[:6]}",
            "for example ebb.GRIDS['log_snr'](path, 50)",
        )
    begin = at(denoiser.path, rising[0]).alpha * x
    return trajectory(denoiser, solver, torch.tensor(rising, dtype=torch.float64), begin, cond, refuse)


def refuse(step: int, like: Tensor, part: int = 0) -> Tensor:
    """In place of noise."""
    raise UsageError("a solver that draws noise cannot be inverted", "invert with ddim, heun or dpmpp_2m")
