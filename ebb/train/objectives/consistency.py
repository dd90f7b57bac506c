"""Consistency models: f(x_t, t, 0) learns what f says a little nearer to the data (Song et al. 2023)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from ebb.errors import UsageError
from ebb.process.denoiser import Denoiser
from ebb.process.flow_map import FlowMap
from ebb.process.path import Path
from ebb.shapes import Float
from ebb.train.objectives.map_matching import Noised, Target, either, euler_shrink


@dataclass(frozen=True)
class Consistency(Target):
    """target = f(x_r, r, 0), ν_r = ν_t·(1 − n(ν_t)/q)⁺, n(ν) = 1 + 8·sigmoid(−ν), weight 1/(ν_t − ν_r).

    Without a teacher x_r has the x0 and ε of x_t: consistency tuning (Geng et al. 2024, eq. 10 and §4), which needs no
    second network. With one x_r is the end of its Heun step from x_t to r: consistency distillation (Song et al. 2023,
    algorithm 2). Where ν_r = 0 the target is x0, or that end.

    `q` is how finely it goes: the samples of a Gaussian without a teacher have a standard deviation that is too small
    by a known factor (`shrink`), 0.597 of it at q = 2 and 0.996 at 256.
    """

    q: float = 256.0

    def __post_init__(self) -> None:
        if not self.q > 1:
            raise UsageError(f"q is above 1: the nearer time is a share 1 − 1/q of the farther; got {self.q}")

    anywhere = False

    def between(
        self, path: Path, t: Float[Tensor, "b"], u: Float[Tensor, "b"]
    ) -> tuple[Float[Tensor, "b"], Float[Tensor, "b"]]:
        """Always to the data."""
        return t, torch.zeros_like(t)

    def weight(self, path: Path, t: Float[Tensor, "b"], s: Float[Tensor, "b"]) -> Float[Tensor, "b"]:
        """ν_t/(ν_t − ν_r) = max(1, q/n): the error of a step against its length, relative to the noise."""
        return 1 / (1 - nearer(path.nsr(t), self.q) / path.nsr(t))

    def __call__(self, flow_map: FlowMap, at: Noised, teacher: Denoiser | None) -> Float[Tensor, "b *d"]:
        """f at the nearer time, with the destination kept."""
        path = flow_map.path
        r = path.time(nearer(path.nsr(at.t), self.q))
        r = torch.where(r > SMALLEST * path.end, r, torch.zeros_like(r))
        x = path.mix(at.x0, at.eps, r) if teacher is None else heun(teacher, at, r)
        ended = torch.where(r > 0, r, at.t)
        return either(r > 0, flow_map(x, ended, at.s, at.cond), x)

    def shrink(self, std: Float[Tensor, "n"], nsr: float, taught: bool) -> Float[Tensor, "n"]:
        """`shrink` along the chain of nearer times."""
        return shrink(self.q, std, nsr, taught)


SMALLEST = 1e-5
"""The share of a path's end below which the nearer time is the data."""


def nearer(nsr: Tensor, q: float) -> Tensor:
    """ν_r of ν_t (Geng et al. 2024, §4.1, with k = 8, b = 1)."""
    return nsr * (1 - (1 + 8 * torch.sigmoid(-nsr)) / q).clamp(min=0)


def heun(teacher: Denoiser, at: Noised, r: Float[Tensor, "b"]) -> Float[Tensor, "b *d"]:
    """The end of the teacher's step from x_t to r: the jump by the mean of its answers at both ends.

    It is of second order, as algorithm 1 of Karras et al. 2022, in the coordinate in which the jump is straight.
    """
    path, first = teacher.path, teacher(at.x, at.t, at.cond)
    end = path.jump(at.x, first, at.t, r)
    inside = torch.where(r > 0, r, at.t)  # at σ = 0 there is nothing to be asked
    second = either(r > 0, teacher(end, inside, at.cond), first)
    return path.jump(at.x, (first + second) / 2, at.t, r)


HIGHEST, LOWEST = 80.0, 1e-3
"""The ν between which a chain of times is followed: outside nothing is lost."""


def shrink(q: float, std: Float[Tensor, "n"], nsr: float = HIGHEST, taught: bool = False) -> Float[Tensor, "n"]:
    """The deviation of f(x_t, t, 0) of N(m, std²) after consistency tuning, divided by the flow's own, at ν_t = `nsr`.

    Along the chain of times that `nearer` makes, every step of the best linear map, with ε shared between its ends,
    loses what a jump does, a factor √(1 − s²(t − r)²/((s² + r²)(s² + t²))), s = std (`euler_shrink`). `taught`, every
    step is Heun's by the exact denoiser in place of that.
    """
    levels = [min(nsr, HIGHEST)]
    while levels[-1] > LOWEST:
        levels.append(float(nearer(torch.tensor(levels[-1], dtype=torch.float64), q)))
    return heun_shrink(std, levels) if taught else euler_shrink(std, levels)


def heun_shrink(std: Float[Tensor, "n"], levels: Sequence[float]) -> Float[Tensor, "n"]:
    """As `euler_shrink`, of jumps by the mean of the denoiser's slopes at both ends (`heun`)."""
    variance, factor = std.double().clamp(min=1e-9).square(), torch.ones_like(std, dtype=torch.float64)
    for t, r in pairwise(levels):
        first, keep = variance / (variance + t**2), r / t
        second = variance / (variance + r**2) * (keep + (1 - keep) * first) if r > 0 else first
        flow = ((variance + r**2) / (variance + t**2)).sqrt()
        factor = factor * (keep + (1 - keep) * (first + second) / 2) / flow
    return factor
