"""The hybrid loss, which teaches a denoiser the variance of its steps too (Nichol & Dhariwal 2021, eq. 16)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from ebb.data.loader import Batch
from ebb.process.bins import tally
from ebb.process.denoiser import NetworkDenoiser
from ebb.process.learned import step_divergence, with_variance
from ebb.process.path import Path, spread
from ebb.process.predict import determinant, target
from ebb.recipe.limits import whole
from ebb.shapes import Float
from ebb.train.objectives.denoising import Denoising
from ebb.train.objectives.objective import Loss, Objective


class Aim(Protocol):
    """What a network is taught besides x̂0, and how many tensors of x's shape it answers with for that."""

    answers: ClassVar[int]

    def of(self, denoising: Denoising) -> Objective:
        """The objective, `denoising` and what goes with it."""
        ...


@dataclass(frozen=True)
class MeanAlone:
    """Nothing besides."""

    answers: ClassVar[int] = 1

    def of(self, denoising: Denoising) -> Objective:
        """The denoising loss."""
        return denoising


@dataclass(frozen=True)
class Hybrid:
    """`denoising` + weight·L_vlb with the mean held, of a chain of `steps` even steps; the network answers [F, v].

    L_vlb is Σ KL of the chain's steps back, estimated at each example's own t by steps·KL (`step_divergence`); the
    gradient of (x0 − x̂0)² does not go through it, so that F learns from `denoising` alone and v what is best
    beside it, whatever the weight and the density of times. The chain's last step, from end/steps to 0, adds no noise
    and has none.
    """

    steps: int = 1000
    weight: float = 1e-3
    answers: ClassVar[int] = 2

    def __post_init__(self) -> None:
        whole("steps", self.steps, 2)

    def of(self, denoising: Denoising) -> Objective:
        """Both losses, from one call of the network."""
        return HybridLoss(denoising, self)

    def divergence(
        self, path: Path, t: Float[Tensor, "b"], share: Float[Tensor, "b *d"], square: Float[Tensor, "b *d"]
    ) -> Float[Tensor, "b *d"]:
        """That of the step from t to t − end/steps; 0 where the chain has none."""
        length = path.end / self.steps
        inside = t >= 2 * length
        far = torch.where(inside, t, 2 * length)  # keeps what is thrown away finite
        found = step_divergence(path, far, far - length, share, square)
        return torch.where(spread(inside.to(share), share) > 0, found, 0.0)


@dataclass(frozen=True)
class HybridLoss:
    """`denoising` and the divergence of the stated variance, as `hybrid` has it."""

    denoising: Denoising
    hybrid: Hybrid = field(default_factory=Hybrid)

    def __call__(self, model: NetworkDenoiser, batch: Batch, generator: torch.Generator) -> Loss:
        """The loss of one batch; UsageError for a network that states no variance."""
        path, (t, eps) = model.path, self.denoising.questions(model.path, batch, generator)
        factors = model.prediction(path, t)
        F, share = with_variance(model, path.mix(batch.x0, eps, t), t, batch.cond)
        error = F - target(factors, batch.x0, eps)
        losses = self.denoising.weighted(path, t, factors, error)
        square = (spread(path.sigma(t) / determinant(path, t, *factors), error) * error.detach()) ** 2
        nats = self.hybrid.divergence(path, t, share, square).mean()
        value = losses.mean() + self.hybrid.weight * self.hybrid.steps * nats
        terms = {"variance": nats.detach()}
        return Loss(value, terms, tally(path, t, losses.detach().flatten(1).mean(1)))


OBJECTIVES: dict[str, Aim] = {"denoising": MeanAlone(), "hybrid": Hybrid()}
"""What a recipe can name."""
