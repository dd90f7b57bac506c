"""Denoising: the one objective of diffusion and flow matching, for every path, target, density and weighting."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ebb.data.loader import Batch
from ebb.process.bins import tally
from ebb.process.denoiser import Predictor, target_error
from ebb.process.path import LOUDEST, Path, spread
from ebb.process.predict import determinant
from ebb.process.times import Density, LogitNormal
from ebb.recipe.names import check_call
from ebb.shapes import Float
from ebb.train.objectives.coupling import Coupling, independent
from ebb.train.objectives.objective import Loss
from ebb.train.objectives.weights import Weighting, unit


def spaced(count: int, generator: torch.Generator) -> Float[Tensor, "b"]:
    """`count` evenly spaced points of (0, 1) with one random offset, float64 (Kingma et al. 2021, appendix I.1).

    Each is uniform; together they cover every noise level in every batch, which lowers the variance of the loss.
    """
    offset = torch.rand(1, generator=generator, device=generator.device, dtype=torch.float64)
    return (offset + torch.arange(count, device=generator.device, dtype=torch.float64) / count) % 1


def drawn(times: Density, path: Path, u: Float[Tensor, "b"]) -> Float[Tensor, "b"]:
    """The density's times at u, at ν ≤ LOUDEST: a target that cannot tell x0 there is asked just short of the end."""
    t = times(path, u)
    return torch.minimum(t, path.time(torch.full_like(t, LOUDEST)))


@dataclass(frozen=True)
class Denoising:
    """E[w(t)·(F_θ(x_t, t) − (a·x0 + b·ε))²], x_t = α·x0 + σ·ε, mean over samples and elements.

    ε is the batch's own, where it has one (reflow), and else drawn by the coupling. Parts of one's own are functions:
    `times(path, u) → t`, `weight(path, t, det) → w` on the target's squared error (`ebb.train.objectives.weights`),
    `coupling(x0, generator) → ε`; UsageError for one that cannot be called so.
    """

    times: Density = LogitNormal()
    weight: Weighting = unit
    coupling: Coupling = independent

    def __post_init__(self) -> None:
        check_call("a density of times", self.times, "path", "u")
        check_call("a loss weight", self.weight, "path", "t", "det")
        check_call("a coupling", self.coupling, "x0", "generator")

    def losses(
        self, model: Predictor, batch: Batch, t: Float[Tensor, "b"], eps: Float[Tensor, "b *d"]
    ) -> Float[Tensor, "b *d"]:
        """w(t)·(F_θ(x_t, t) − (a·x0 + b·ε))² of every element, at these times and with this noise."""
        factors = model.prediction(model.path, t)
        error = target_error(model, batch.x0, eps, t, batch.cond, factors)
        return self.weighted(model.path, t, factors, error)

    def weighted(
        self, path: Path, t: Float[Tensor, "b"], factors: tuple[Tensor, Tensor], error: Float[Tensor, "b *d"]
    ) -> Float[Tensor, "b *d"]:
        """w(t)·error² of the target a·x0 + b·ε, whose (a, b) are the `factors`."""
        return spread(self.weight(path, t, determinant(path, t, *factors)), error) * error**2

    def questions(self, path: Path, batch: Batch, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """A time [b] at ν ≤ LOUDEST and a noise [b, *d] for each example."""
        t = drawn(self.times, path, spaced(len(batch.x0), generator))
        return t, self.coupling(batch.x0, generator) if batch.eps is None else batch.eps

    def __call__(self, model: Predictor, batch: Batch, generator: torch.Generator) -> Loss:
        """The loss of one batch; no division but the weighting's."""
        t, eps = self.questions(model.path, batch, generator)
        losses = self.losses(model, batch, t, eps)
        return Loss(losses.mean(), levels=tally(model.path, t, losses.detach().flatten(1).mean(1)))
