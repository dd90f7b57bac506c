"""The validation loss: held-out images, with the same noise and times at every asking: only the model differs."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ebb.data.loader import Batch, Examples, keyed
from ebb.networks.evaluating import evaluating
from ebb.process.denoiser import Predictor
from ebb.sample.noise import Noise
from ebb.train.objectives.denoising import Denoising, drawn

MOST = 128
"""The most images that are looked at: a validation costs no more than a forward pass or two."""

CPU = torch.device("cpu")

CHOICE = 2**62
"""The key under which the images are chosen, far from those of epochs."""


@dataclass(frozen=True)
class Validation:
    """The mean of `objective`'s loss over `batches`, a number that repeats bit for bit.

    The noise of image i is keyed by seed + i, and its time is the ((i + ½)/n)-quantile of the objective's density: the
    n images together cover every noise level that is trained, once. No condition is dropped and nothing is augmented.
    With the objective of the run it is in the unit of the training loss.
    """

    batches: list[Batch]
    objective: Denoising = Denoising()
    seed: int = 0
    autocast: torch.dtype | None = None
    hints: tuple[str, ...] = ()
    """conditions of which it is measured how much they are used"""

    def use(self, model: Predictor, loss: float) -> float:
        """By which share of `loss`, that of the model, it is higher where each example has the hints of another one."""
        turned = [
            replace(batch, cond={n: v.roll(1, 0) if n in self.hints else v for n, v in batch.cond.items()})
            for batch in self.batches
        ]
        return replace(self, batches=turned)(model) / loss - 1

    def __call__(self, model: Predictor) -> float:
        """The loss of `model` as it would be sampled (evaluation mode); its modes are restored, no generator moves."""
        count, done, total = sum(len(batch.x0) for batch in self.batches), 0, 0.0
        with torch.no_grad(), evaluating(model):
            for batch in self.batches:
                x0, size = batch.x0, len(batch.x0)
                u = (torch.arange(done, done + size, dtype=torch.float64) + 0.5) / count
                t = drawn(self.objective.times, model.path, u)
                eps = Noise.of(self.seed + done, size)(0, x0)
                with torch.autocast(x0.device.type, self.autocast) if self.autocast else nullcontext():
                    losses = self.objective.losses(model, batch, t, eps)
                total += float(losses.double().mean()) * size
                done += size
        return total / count


def unseen_batches(
    unseen: Examples,
    *,
    encode: Callable[[Tensor], Tensor] = lambda x: x,
    batch: int = MOST,
    seed: int = 0,
    device: torch.device = CPU,
) -> list[Batch]:
    """At most MOST held-out images, chosen by `seed`, in batches of `batch`.

    `encode` makes of values in [−1, 1] what is denoised.
    """
    chosen = keyed(seed, CHOICE).permutation(len(unseen.x0))[:MOST]
    parts = (chosen[first : first + batch] for first in range(0, len(chosen), batch))
    return [Batch(encode(unseen.read(index, device)), unseen.conditions(index, device)) for index in parts]
