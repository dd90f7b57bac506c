"""Denoising: the one objective of diffusion and flow matching, for every path, target, density and weighting."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ebb.data.loader import Batch
from ebb.process.denoiser import Predictor
from ebb.process.path import LOUDEST, spread
from ebb.process.predict import determinant
from ebb.process.times import Density, LogitNormal
from ebb.shapes import Float
from ebb.train.objectives.objective import Loss
from ebb.train.objectives.weights import Weighting, unit


def spaced(count: int, generator: torch.Generator) -> Float[Tensor, "b"]:
    """`count` evenly spaced points of (0, 1) with one random offset, float64 (Kingma et al. 2021, appendix I.1).

    Each is uniform; together they cover every noise level in every batch, which lowers the variance of the loss.
    """
    offset = torch.rand(1, generator=generator, device=generator.device, dtype=torch.float64)
    return (offset + torch.arange(count, device=generator.device, dtype=torch.float64) / count) % 1


@dataclass(frozen=True)
class Denoising:
    """E[w(t)·(F_θ(x_t, t) − (a·x0 + b·ε))²], x_t = α·x0 + σ·ε, mean over samples and elements."""

    times: Density = LogitNormal()
    weight: Weighting = unit

    def __call__(self, model: Predictor, batch: Batch, generator: torch.Generator) -> Loss:
        """The loss of one batch, at ν ≤ LOUDEST; no division but the weighting's."""
        path, x0 = model.path, batch.x0
        t = self.times(path, spaced(len(x0), generator))
        t = torch.minimum(t, path.time(torch.full_like(t, LOUDEST)))
        eps = torch.randn(x0.shape, generator=generator, device=generator.device).to(x0)
        a, b = model.prediction(path, t)
        target = spread(a, x0) * x0 + spread(b, eps) * eps
        error = model.raw(path.mix(x0, eps, t), t, batch.cond) - target
        weight = self.weight(path, t, determinant(path, t, a, b))
        return Loss((spread(weight, error) * error**2).mean())
