"""Models that land anywhere on the flow in one call, and sampling by a few such jumps."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise

import torch
from torch import Tensor

from ebb.errors import UsageError
from ebb.process.denoiser import Cond, Denoiser
from ebb.process.flow_map import FlowMap
from ebb.process.moment import at
from ebb.sample.ddim import diffused
from ebb.sample.jump import below
from ebb.sample.trajectory import Denoise, Point, checked
from ebb.shapes import Float


def jumps(
    flow_map: FlowMap,
    times: Float[Tensor, "n"],
    x: Float[Tensor, "b *d"],
    cond: Cond,
    guide: Callable[[Denoiser], Denoiser] = lambda denoiser: denoiser,
    *,
    renewed: float = 0.0,
    noise: Callable[..., Tensor] | None = None,
) -> Iterator[Point]:
    """One call and one jump for each step of a falling grid, yielding a Point after each; the last point is the sample.

    `renewed` γ is the share of the noise at s that is new: the jump goes on to u, ν_u = √(1 − γ²)·ν_s, and the forward
    process leads back up to s (Kim et al. 2024, algorithm 3). 0 follows the flow; 1 is the multistep sampling of
    consistency models, to the data and up again (Song et al. 2023, algorithm 1). It draws noise(step, like), as
    `ebb.Noise` does. Raises UsageError for a grid that does not fall, and for γ > 0 without noise.
    """
    path = flow_map.path
    grid = checked(times, path)
    if grid[0] < grid[-1] or not 0 <= renewed <= 1 or (renewed > 0 and noise is None):
        raise UsageError(
            f"jumps need falling times, 0 ≤ renewed ≤ 1, and noise where renewed > 0; got {grid[:6]}, {renewed}",
            "for example renewed=1, noise=ebb.Noise.of(seed, count)",
        )
    for index, (t, s) in enumerate(pairwise(at(path, time) for time in grid)):
        u = below(path, s, renewed)
        with torch.no_grad():
            x0 = Denoise(guide(flow_map.toward(u.time)))(x, t, cond)
            x = t.jump(x, x0, u)
            if noise is not None and u is not s:
                x = diffused(x, u, s, noise(index, x))
        yield Point(s.time, x, x0)
