"""Models that land anywhere on the flow in one call, and sampling by a few such jumps."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
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


@dataclass(frozen=True, eq=False)
class Renewal:
    """The `share` γ of the noise at each stop that is new, drawn from noise(step, like), as `ebb.Noise` is.

    The jump goes on to u, ν_u = √(1 − γ²)·ν_s, and the forward process leads back up to s (Kim et al. 2024,
    algorithm 3). 0 follows the flow; 1 is the multistep sampling of consistency models, to the data and up again (Song
    et al. 2023, algorithm 1). Raises UsageError for a share outside 0…1.
    """

    share: float
    noise: Callable[..., Tensor]

    def __post_init__(self) -> None:
        if not 0 <= self.share <= 1:
            raise UsageError(f"the share of the noise that is renewed is between 0 and 1, got {self.share}")


def jumps(
    flow_map: FlowMap,
    times: Float[Tensor, "n"],
    x: Float[Tensor, "b *d"],
    cond: Cond,
    guide: Callable[[Denoiser], Denoiser] = lambda denoiser: denoiser,
    renewal: Renewal | None = None,
) -> Iterator[Point]:
    """One call and one jump for each step of a falling grid, yielding a Point after each; the last point is the sample.

    Without a `renewal` they follow the flow. Raises UsageError for a grid that does not fall.
    """
    path = flow_map.path
    grid = checked(times, path)
    if grid[0] < grid[-1]:
        raise UsageError(f"jumps need falling times, got {grid[:6]}")
    for index, (t, s) in enumerate(pairwise(at(path, time) for time in grid)):
        u = below(path, s, 0 if renewal is None else renewal.share)
        with torch.no_grad():
            x0 = Denoise(guide(flow_map.toward(u.time)))(x, t, cond)
            x = t.jump(x, x0, u)
            if renewal is not None and u is not s:
                x = diffused(x, u, s, renewal.noise(index, x))
        yield Point(s.time, x, x0)
