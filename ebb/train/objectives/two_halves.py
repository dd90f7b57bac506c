"""Two short ways make a long one: shortcut models and progressive self-distillation."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ebb.process.denoiser import Denoiser
from ebb.process.flow_map import FlowMap, Straight, landed, placed, shares
from ebb.process.path import Path
from ebb.shapes import Float
from ebb.train.objectives.map_matching import Noised, Target, either


@dataclass(frozen=True)
class TwoHalves(Target):
    """target: the x0 whose jump lands where two of the map's own do, by way of the middle in τ = σ/(α + σ).

    X_{t→s} = X_{u→s} ∘ X_{t→u} (progressive self-distillation; Boffi et al. 2025). Ways shorter than `shortest` are
    made of two jumps of the teacher, where there is one.
    """

    shortest: float = 0.0

    def __call__(self, flow_map: FlowMap, at: Noised, teacher: Denoiser | None) -> Float[Tensor, "b *d"]:
        """The x0 of both jumps at once."""
        own = twice(flow_map, at)
        if teacher is None or self.shortest == 0:
            return own
        short = shares(flow_map.path, at.t) - shares(flow_map.path, at.s) < self.shortest
        return either(short, twice(jumping(teacher), at), own)


@dataclass(frozen=True)
class Shortcut(Target):
    """`TwoHalves` with ways of 1/2, 1/4, …, 1/128 of the whole alone (Frans et al. 2024, §3)."""

    def between(
        self, path: Path, t: Float[Tensor, "b"], u: Float[Tensor, "b"]
    ) -> tuple[Float[Tensor, "b"], Float[Tensor, "b"]]:
        """To a power of ½ nearer, or the data where that is nearer."""
        far = 0.5 ** torch.ceil(SHORTEST * (1 - u)).clamp(min=1)
        return t, placed(path, (shares(path, t) - far).clamp(min=0))

    def __call__(self, flow_map: FlowMap, at: Noised, teacher: Denoiser | None) -> Float[Tensor, "b *d"]:
        """The x0 of both jumps at once."""
        return twice(flow_map, at)


SHORTEST = 7
"""The shortest way of a shortcut, as a power of ½."""


def jumping(teacher: Denoiser) -> FlowMap:
    """A teacher as a flow map: itself where it is one, and else by DDIM's jumps."""
    return teacher if isinstance(teacher, FlowMap) else Straight(teacher)


def twice(flow_map: FlowMap, at: Noised) -> Float[Tensor, "b *d"]:
    """The x0 whose jump from x at t lands where two jumps of a flow map do, by way of the middle in τ."""
    path, there, here = flow_map.path, shares(flow_map.path, at.t), shares(flow_map.path, at.s)
    middle = placed(path, (there + here) / 2)
    between = path.jump(at.x, flow_map(at.x, at.t, middle, at.cond), at.t, middle)
    end = path.jump(between, flow_map(between, middle, at.s, at.cond), middle, at.s)
    return landed(path, at.x, end, at.t, torch.where(there > here, at.s, torch.zeros_like(at.s)))
