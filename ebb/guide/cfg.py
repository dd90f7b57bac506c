"""Classifier-free guidance."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ebb.errors import UsageError, nearest
from ebb.process.denoiser import Cond, Denoiser
from ebb.process.moment import repeated
from ebb.process.path import Path
from ebb.shapes import Float

Guide = Callable[[Denoiser], Denoiser]


@dataclass(frozen=True)
class ClassifierFree:
    """x̂0 = null + scale·(cond − null), from one batched call (Ho & Salimans 2022, eq. 6, w = scale − 1).

    x̂0, ε, score and v are related by the same affine map for both answers, so mixing any of them is the same thing.
    """

    denoiser: Denoiser
    scale: float
    null: Cond

    @property
    def path(self) -> Path:
        """The denoiser's own."""
        return self.denoiser.path

    def __call__(self, x: Float[Tensor, "b *d"], t: Float[Tensor, "b"], cond: Cond) -> Float[Tensor, "b *d"]:
        """The guided x̂0. Raises UsageError where a condition has no null to compare with."""
        for name in cond:
            if name not in self.null:
                raise UsageError(f"guidance has no null for the condition {name!r}", nearest(name, self.null))
        both = {name: torch.cat([self.null[name].expand_as(value), value]) for name, value in cond.items()}
        null, conditional = self.denoiser(torch.cat([x, x]), repeated(t, 2), both).chunk(2)
        return torch.lerp(null, conditional, self.scale)


def cfg(scale: float, null: Cond) -> Guide:
    """Guide towards the condition; `scale` 1 is off, 0 ignores the condition. `null` holds one row for each condition.

    Papers that write (1 + w)·cond − w·null have scale = 1 + w.
    """
    if scale == 1:
        return lambda denoiser: denoiser
    return lambda denoiser: ClassifierFree(denoiser, scale, null)
