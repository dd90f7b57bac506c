"""Following a model of two times: each step says how far it goes, and lands there in one call."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from ebb.errors import UsageError
from ebb.process.denoiser import Cond, filled
from ebb.process.flow_map import WAY
from ebb.process.moment import Moment, at, where
from ebb.process.path import Path
from ebb.sample.ddim import diffused
from ebb.sample.trajectory import Denoise, Draw, Stepped


@dataclass(frozen=True)
class Jump:
    """x_s = jump(x_t, f(x_t, t, u)) for a network with a port called `WAY`, then up again from u to s by fresh noise.

    `renewed` γ is the share of the noise at s that is new: ν_u = √(1 − γ²)·ν_s (Kim et al. 2024, algorithm 3). 0
    follows the flow, u = s; 1 goes to the data and up again (Song et al. 2023, algorithm 1).
    """

    renewed: float = 0.0
    order: ClassVar[int] = 1

    def __post_init__(self) -> None:
        if not 0 <= self.renewed <= 1:
            raise UsageError(f"renewed is a share of the noise, from 0 to 1; got {self.renewed}")

    def start(self, path: Path) -> Path:
        """The path, on which a step finds where it lands."""
        return path

    def step(self, denoise: Denoise, x: Tensor, t: Moment, s: Moment, cond: Cond, state: Path, draw: Draw) -> Stepped:
        """One denoiser call, and one draw where noise is renewed."""
        u = below(state, s, self.renewed)
        far = filled(share(t) - share(u), x.shape[0], x.device)
        x0 = denoise(x, t, {**cond, WAY: far})
        x = t.jump(x, x0, u)
        return Stepped(x if u is s else diffused(x, u, s, draw(x)), x0, state)


def share(t: Moment) -> float:
    """τ = σ/(α + σ), of which `ebb.process.flow_map.way` is a difference."""
    return t.sigma / (t.alpha + t.sigma)


def below(path: Path, s: Moment, renewed: float) -> Moment:
    """The moment u ≤ s with ν_u = √(1 − renewed²)·ν_s; s itself where nothing is renewed."""
    if renewed == 0 or s.sigma == 0:
        return s
    return at(path, 0.0) if renewed == 1 else where(path, s.lam - math.log1p(-(renewed**2)) / 2)
