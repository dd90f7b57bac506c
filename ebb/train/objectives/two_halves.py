"""Two short ways make a long one: progressive distillation, shortcut models, progressive self-distillation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ebb.errors import UsageError
from ebb.process.denoiser import Denoiser
from ebb.process.flow_map import FlowMap, landed, placed, shares
from ebb.process.path import Path
from ebb.shapes import Float
from ebb.train.objectives.map_matching import Noised, Target


@dataclass(frozen=True)
class TwoHalves(Target):
    """target: the x0 whose jump lands where two steps by way of u do, u in the middle of t and s in τ = σ/(α + σ).

    Each step is the map's own (Boffi et al. 2025, PSD): X_{t→s} = X_{u→s} ∘ X_{t→u}. With a teacher, and `steps` as
    many as there are of its own to a sample, the steps are the teacher's jumps between neighbours of that grid and s is
    two of them on: progressive distillation (Salimans & Ho 2022, algorithm 2). `ways` "dyadic" goes 1/2, 1/4, …,
    1/128 of the whole: shortcut models (Frans et al. 2024, §3).
    """

    teacher: Denoiser | None = None
    steps: int = 16
    ways: Literal["even", "dyadic"] = "even"

    def __post_init__(self) -> None:
        if self.steps < 2 or self.steps % 2:
            raise UsageError(f"a teacher's steps are halved: an even number of them, got {self.steps}")

    def destination(self, path: Path, t: Float[Tensor, "b"], u: Float[Tensor, "b"]) -> Float[Tensor, "b"]:
        """s by the way that u chooses: two steps of the grid nearer, a power of ½ of the whole, or anywhere below t."""
        share = shares(path, t)
        if self.teacher is not None:
            return placed(path, (share - 2 / self.steps).clamp(min=0))
        if self.ways == "dyadic":
            return placed(path, (share - 0.5 ** torch.ceil(7 * (1 - u)).clamp(min=1)).clamp(min=0))
        return placed(path, share * u)

    def __call__(self, flow_map: FlowMap, at: Noised) -> Float[Tensor, "b *d"]:
        """The x0 of both steps at once."""
        path, there = flow_map.path, shares(flow_map.path, at.t)
        middle = placed(path, (there + shares(path, at.s)) / 2)
        between = path.jump(at.x, self.answer(flow_map, at.x, at.t, middle, at), at.t, middle)
        end = path.jump(between, self.answer(flow_map, between, middle, at.s, at), middle, at.s)
        far = there - shares(path, at.s) > 1e-6
        return landed(path, at.x, end, at.t, torch.where(far, at.s, torch.zeros_like(at.s)))

    def answer(self, flow_map: FlowMap, x: Tensor, t: Tensor, s: Tensor, at: Noised) -> Tensor:
        """The x0 of one step."""
        return flow_map(x, t, s, at.cond) if self.teacher is None else self.teacher(x, t, at.cond)
