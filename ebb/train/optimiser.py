"""The optimiser and its learning rate over a run."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import nn


def adamw(model: nn.Module, lr: float, weight_decay: float = 0.0, beta2: float = 0.99) -> torch.optim.Optimizer:
    """AdamW (Loshchilov & Hutter 2019), fused into one pass; biases and norms are not decayed."""

    def group(chosen: Iterable[nn.Parameter], decay: float) -> dict[str, object]:
        return {"params": list(chosen), "weight_decay": decay}

    parameters = list(model.parameters())
    groups = [
        group((p for p in parameters if p.ndim > 1), weight_decay),
        group((p for p in parameters if p.ndim <= 1), 0.0),
    ]
    return torch.optim.AdamW(groups, lr=lr, betas=(0.9, beta2), fused=True)


@dataclass(frozen=True)
class WarmupDecay:
    """The learning rate at a step: `peak`, reached over `warmup` steps, then falling linearly to 0 at `steps`.

    It falls over the last `decay` of the steps and is level before (Hägele et al. 2024, §3: a cooldown).
    """

    peak: float
    steps: int
    warmup: int
    decay: float = 1.0

    @property
    def level(self) -> int:
        """The steps until it begins to fall, which are those that do not depend on `steps`."""
        return max(self.warmup, int((1 - self.decay) * self.steps))

    def __call__(self, step: int) -> float:
        """The rate of step number `step`, counted from 0."""
        rising = (step + 1) / max(1, self.warmup)
        falling = (self.steps - step) / max(1, self.steps - self.level)
        return self.peak * max(0.0, min(1.0, rising, falling))
