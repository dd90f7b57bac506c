"""Lagrangian flow-map matching: where a map lands moves with the flow there (Boffi et al. 2025, LSD)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ebb.process.denoiser import Denoiser
from ebb.process.derivative import Derivative, along
from ebb.process.flow_map import FlowMap, pace, placed, shares
from ebb.process.path import jump_factors, spread
from ebb.shapes import Float
from ebb.train.objectives.map_matching import Noised, Target


@dataclass(frozen=True)
class Lagrangian(Target):
    """target = D(X, s) + (α_s − r·α_t)·κ_s·∂f/∂s, X = X_{t→s}(x), r = σ_s/σ_t, κ = `pace`.

    It says ∂X_{t→s}(x)/∂s = velocity(X, s). D is the teacher's, or the map's own at s = t: self-distillation. Only a
    derivative by time is asked of the network, none by x.
    """

    derivative: Derivative = "difference"

    def __call__(self, flow_map: FlowMap, at: Noised, teacher: Denoiser | None) -> Float[Tensor, "b *d"]:
        """The target from the answer where the map lands, and the change of its own with s."""
        path = flow_map.path
        s = torch.minimum(placed(path, shares(path, at.s).clamp(min=NEAREST)), at.t)
        landing = path.jump(at.x, flow_map(at.x, at.t, s, at.cond), at.t, s)
        there = flow_map(landing, s, s, at.cond) if teacher is None else teacher(landing, s, at.cond)
        change = along(flow_map, (at.x, at.t, s), (None, None, torch.ones_like(s)), at.cond, self.derivative)
        _, aim = jump_factors(path.alpha(at.t), path.sigma(at.t), path.alpha(s), path.sigma(s))
        return there + spread(aim * pace(path, s), there) * change


NEAREST = 1e-5
"""The τ that a destination keeps from the data, where a denoiser has nothing to say."""
