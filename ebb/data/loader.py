"""From images in memory to batches, with an order that is a function and not a state."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from ebb.data.scan import Images
from ebb.errors import DataError


@dataclass(frozen=True)
class Batch:
    """Training examples: data `x0 [b, *d]` and their conditions, each a tensor with the same first axis."""

    x0: Tensor
    cond: Mapping[str, Tensor]


FLIPS = 2**63
"""Where the keys of flips begin, above those of epochs."""


def keyed(seed: int, part: int) -> np.random.Generator:
    """A generator that is a function of (seed, part): Philox, counter-based (Salmon et al. 2011)."""
    return np.random.Generator(np.random.Philox(key=np.array([seed, part], dtype=np.uint64)))


@lru_cache(maxsize=2)
def permutation(count: int, seed: int, epoch: int) -> np.ndarray:
    """The order of one epoch, int64 [count]; the last two are kept, since every step of an epoch asks for it."""
    return keyed(seed, epoch).permutation(count)


@dataclass(frozen=True)
class Order:
    """A shuffled order over `count` items that can be asked at any step: `indices(step)`.

    Epoch e is a permutation drawn from a counter-based generator keyed (seed, e); batches run on across epochs, so
    every item is seen exactly once per epoch, whatever the batch size. Nothing is stored, so resuming is exact.
    """

    count: int
    batch: int
    seed: int

    def __post_init__(self) -> None:
        if self.count < 1 or self.batch < 1:
            raise DataError(
                f"an order needs at least one item and a batch of at least 1, got {self.count}, {self.batch}"
            )

    def indices(self, step: int) -> np.ndarray:
        """The items of batch `step`, int64 [batch]."""
        first, last = step * self.batch, (step + 1) * self.batch
        epochs = range(first // self.count, (last - 1) // self.count + 1)
        run = np.concatenate([permutation(self.count, self.seed, e) for e in epochs])
        start = first - epochs[0] * self.count
        return run[start : start + self.batch]


def to_unit(pixels: Tensor) -> Tensor:
    """uint8 values 0…255 as float32 in [−1, 1]."""
    return pixels.to(torch.float32) / 127.5 - 1


@dataclass(frozen=True)
class Loader:
    """Batches assembled by index from images that stay in memory as uint8; no worker, no decoding, no copy of the set.

    `loader(step)` is a pure function of (images, batch, seed, flip, step).
    """

    images: Images
    batch: int
    seed: int = 0
    flip: bool = False
    device: torch.device = torch.device("cpu")

    def __call__(self, step: int) -> Batch:
        """Batch number `step`: x0 float32 [b, c, h, w] in [−1, 1], cond {"label": int64 [b]} or {}."""
        index = Order(len(self.images.pixels), self.batch, self.seed).indices(step)
        x0 = to_unit(torch.from_numpy(self.images.pixels[index]).to(self.device))
        if self.flip:
            mirrored = torch.from_numpy(keyed(self.seed, FLIPS + step).random(self.batch) < 0.5).to(self.device)[
                :, None, None, None
            ]
            x0 = torch.where(mirrored, x0.flip(-1), x0)
        if self.images.labels is None:
            return Batch(x0, {})
        return Batch(x0, {"label": torch.from_numpy(self.images.labels[index]).to(self.device)})
