"""Noise that belongs to the sample and not to the batch it is made in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import SupportsIndex

import numpy as np
import torch
from torch import Tensor

from ebb.errors import UsageError
from ebb.recipe.limits import whole

START = 2**64 - 1
"""The step under which a sample's first noise is drawn: no trajectory has that many."""


@dataclass(frozen=True)
class Noise:
    """Unit Gaussian noise from a counter-based generator keyed (seed, step, part); `seeds` holds one seed per sample.

    Sample i's noise depends on seeds[i], the step and the part of it alone: not on the batch, its order, or the device
    (Philox 4×64, Salmon et al. 2011, drawn on the host by numpy).
    """

    seeds: tuple[int, ...]

    def __post_init__(self) -> None:
        for seed in self.seeds:
            if not isinstance(seed, int) or not 0 <= seed < 2**64:
                raise UsageError(f"seeds are whole numbers from 0 to 2^64 − 1, got {seed!r:.60}")

    @classmethod
    def of(cls, seed: SupportsIndex, count: SupportsIndex) -> Noise:
        """The noise of `count` samples seeded seed, seed + 1, …; UsageError for numbers outside `ebb.recipe.limits`."""
        first = whole("seed of noise", seed)
        return cls(tuple(range(first, first + whole("n", count))))

    def __call__(self, step: int, like: Tensor, part: int = 0) -> Tensor:
        """The noise of `step` (of its draw number `part`), shaped, typed and placed like `like` [b, *d]."""
        if len(like) != len(self.seeds):
            raise UsageError(f"this noise belongs to {len(self.seeds)} samples, asked for {len(like)}")
        drawn = np.empty(tuple(like.shape), dtype=np.float32)
        for row, seed in zip(drawn, self.seeds, strict=True):
            key, counter = np.array([seed, step], dtype=np.uint64), np.array([0, 0, 0, part], dtype=np.uint64)
            row[...] = np.random.Generator(np.random.Philox(key=key, counter=counter)).standard_normal(
                like.shape[1:], dtype=np.float32
            )
        return torch.from_numpy(drawn).to(device=like.device, dtype=like.dtype)

    def start(self, shape: Sequence[int]) -> Tensor:
        """The noise that trajectories begin with, float32 [b, *shape]."""
        return self(START, torch.empty(len(self.seeds), *shape))
