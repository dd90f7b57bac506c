"""The validation loss: held-out images, with the same noise and times at every asking: only the model differs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
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
    n images of one shape together cover every noise level that is trained, once. No condition is dropped and nothing is
    augmented. With the objective of the run it is in the unit of the training loss.
    """

    batches: list[Batch]
    objective: Denoising = Denoising()
    seed: int = 0
    autocast: torch.dtype | None = None
    hints: tuple[str, ...] = ()
    """conditions of which it is measured how much they are used"""
    passes: ClassVar[int] = 1
    """forward passes of each example"""

    def use(self, model: Predictor, loss: float) -> float:
        """By which share of `loss`, that of the model, it is higher where each example has the hints of another one."""
        turned = [
            replace(batch, cond={n: v.roll(1, 0) if n in self.hints else v for n, v in batch.cond.items()})
            for batch in self.batches
        ]
        return replace(self, batches=turned)(model) / loss - 1

    def __call__(self, model: Predictor) -> float:
        """The loss of `model` as it would be sampled (evaluation mode); its modes are restored, no generator moves."""
        count, done, total, of_shape = Counter[torch.Size](), 0, 0.0, Counter[torch.Size]()
        for batch in self.batches:
            count[batch.x0.shape[1:]] += len(batch.x0)
        with torch.no_grad(), evaluating(model):
            for batch in self.batches:
                x0, size = batch.x0, len(batch.x0)
                u = (torch.arange(size, dtype=torch.float64) + of_shape[x0.shape[1:]] + 0.5) / count[x0.shape[1:]]
                t = drawn(self.objective.times, model.path, u)
                eps = Noise.of(self.seed + done, size)(0, x0)
                with torch.autocast(x0.device.type, self.autocast) if self.autocast else nullcontext():
                    losses = self.objective.losses(model, batch, t, eps)
                total += float(losses.double().mean()) * size
                done, of_shape[x0.shape[1:]] = done + size, of_shape[x0.shape[1:]] + size
        return total / done


def unseen_batches(
    unseen: Examples,
    *,
    encode: Callable[[Tensor], Tensor] = lambda x: x,
    batch: int = MOST,
    seed: int = 0,
    device: torch.device = CPU,
) -> list[Batch]:
    """At most MOST held-out images, chosen by `seed`, in batches of `batch` of one shape each.

    `encode` makes of values in [−1, 1] what is denoised.
    """
    ends = np.cumsum([len(each.x0) for each in unseen.buckets])
    chosen, made = keyed(seed, CHOICE).permutation(ends[-1])[:MOST], list[Batch]()
    for some, end in zip(unseen.buckets, ends, strict=True):
        mine = chosen[(chosen >= end - len(some.x0)) & (chosen < end)] - (end - len(some.x0))
        parts = (mine[first : first + batch] for first in range(0, len(mine), batch))
        made += [Batch(encode(some.read(index, device)), some.conditions(index, device)) for index in parts]
    return made
