"""How a flow map changes along a direction of (x, t, s): what the continuous few-step objectives ask of a network.

Fused attention has no forward-mode derivative on most devices and a compiled network none at all, so the derivative is
a central difference unless the exact one is asked for.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.func import jvp
from torch.nn.attention import SDPBackend, sdpa_kernel

from ebb.process.denoiser import Cond
from ebb.process.flow_map import FlowMap
from ebb.process.path import Path, spread
from ebb.shapes import Float

Derivative = Literal["difference", "forward"]

REACH = 5e-3
"""Half the way that a difference spans, in τ = σ/(α + σ): its error by curvature and by float32 are then both ~1e-4."""


Moving = tuple[Tensor | None, Tensor | None, Tensor | None]
"""How fast x [b, *d], t [b] and s [b] move; None for what stays."""


def along(
    flow_map: FlowMap,
    point: tuple[Tensor, Tensor, Tensor],
    moving: Moving,
    cond: Cond,
    how: Derivative = "difference",
) -> Float[Tensor, "b *d"]:
    """d/dh f(x + h·dx, t + h·dt, s + h·ds, cond) at h = 0, for `point` (x, t, s), `moving` (dx, dt, ds).

    "difference" is (f₊ − f₋)/(h₊ + h₋) from two calls, with both times kept within the path and in order; "forward" is
    exact, and asks attention for a way that can be differentiated so.
    """
    if how == "forward":
        some = [index for index, tangent in enumerate(moving) if tangent is not None]

        def moved(*values: Tensor) -> Tensor:
            x, t, s = (dict(zip(some, values, strict=True)).get(index, still) for index, still in enumerate(point))
            return flow_map(x, t, s, cond)

        with sdpa_kernel(SDPBackend.MATH):
            primals, tangents = ([of[index] for index in some] for of in (point, moving))
            change: Tensor = jvp(moved, tuple(primals), tuple(tangents))[1]
            return change
    ahead, behind = reach(flow_map.path, point, moving, 1), reach(flow_map.path, point, moving, -1)
    (x, t, s), (y, u, v) = stepped(point, moving, ahead), stepped(point, moving, -behind)
    there, here = flow_map(x, t, s, cond), flow_map(y, u, v, cond)
    return (there - here) / spread(ahead + behind, there)


def stepped(point: tuple[Tensor, Tensor, Tensor], moving: Moving, h: Float[Tensor, "b"]) -> list[Tensor]:
    """The point h on."""
    pairs = zip(point, moving, strict=True)
    return [value if by is None else value + spread(h, value) * by for value, by in pairs]


def reach(path: Path, point: tuple[Tensor, Tensor, Tensor], moving: Moving, sign: int) -> Float[Tensor, "b"]:
    """How far h a difference goes to one side: `REACH`, and no further than the times stay in order on the path."""
    _, t, s = point
    fast, slow = (torch.zeros_like(t) if speed is None else sign * speed for speed in moving[1:])
    clock = t if moving[1] is not None else s
    alpha, sigma = path.alpha(clock), path.sigma(clock)
    alpha_rate, sigma_rate = path.rates(clock)
    h = REACH * (alpha + sigma) ** 2 / (alpha * sigma_rate - sigma * alpha_rate)
    for room, speed in ((path.end - t, fast), (t, -fast), (s, -slow), (t - s, slow - fast)):
        h = torch.where(speed > 0, torch.minimum(h, room / speed.clamp(min=1e-12)), h)
    return h
