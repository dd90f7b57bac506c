"""Classification of noisy data: what trains a classifier that can guide."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812

from ebb.data.loader import Batch
from ebb.errors import UsageError, nearest
from ebb.guide.classifier_guidance import NoisyClassifier
from ebb.process.times import Density, uniform
from ebb.train.objectives.denoising import spaced
from ebb.train.objectives.objective import Loss


@dataclass(frozen=True)
class Classify:
    """E[−log p_θ(y | x_t)], x_t = α·x0 + σ·ε, y = batch.cond[condition] int64 [b] (Dhariwal & Nichol 2021, §4.1).

    The best p_θ is the posterior at every noise level, whatever `times`. Term: accuracy, over the noise levels drawn.
    """

    times: Density = uniform
    condition: str = "label"

    def __call__(self, model: NoisyClassifier, batch: Batch, generator: torch.Generator) -> Loss:
        """The cross entropy of one batch, in nats; raises UsageError for a batch without labels."""
        if self.condition not in batch.cond:
            raise UsageError(
                f"a classifier is trained on the condition {self.condition!r}", nearest(self.condition, batch.cond)
            )
        x0, label = batch.x0, batch.cond[self.condition]
        t = self.times(model.path, spaced(len(x0), generator))
        eps = torch.randn(x0.shape, generator=generator, device=generator.device).to(x0)
        logits = model(model.path.mix(x0, eps, t), t)
        accuracy = (logits.detach().argmax(1) == label).float().mean()
        return Loss(F.cross_entropy(logits, label), {"accuracy": accuracy})
