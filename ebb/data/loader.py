"""From images in memory to batches, with an order that is a function and not a state."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from ebb.data.buckets import MOST
from ebb.data.dataset import Dataset
from ebb.data.pictures import Pictures, sent, to_unit
from ebb.errors import DataError
from ebb.store.shards import Rows


@dataclass(frozen=True)
class Batch:
    """Training examples: data `x0 [b, *d]` and their conditions, each a tensor with the same first axis."""

    x0: Tensor
    cond: Mapping[str, Tensor]
    eps: Tensor | None = None
    """the noise that belongs to each, where the data pairs them"""


FLIPS = 2**63
"""Where the keys of flips begin, above those of epochs."""

TURNS = 2**61
"""Where the keys of turns begin, above those of epochs and below all others."""


def keyed(seed: int, part: int) -> np.random.Generator:
    """A generator that is a function of (seed, part): Philox, counter-based (Salmon et al. 2011)."""
    return np.random.Generator(np.random.Philox(key=np.array([seed, part], dtype=np.uint64)))


@lru_cache(maxsize=2 * MOST)
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
        return np.concatenate(
            [
                permutation(self.count, self.seed, e)[max(0, first - e * self.count) : last - e * self.count]
                for e in epochs
            ]
        )


@lru_cache(maxsize=2)
def lap(counts: tuple[int, ...], seed: int, number: int) -> tuple[np.ndarray, np.ndarray]:
    """The bucket of each batch of a lap of `Turns`, and its number among those of that bucket, int64 [Σ counts]."""
    drawn = keyed(seed, TURNS + number)
    of, which = np.repeat(np.arange(len(counts)), counts), np.concatenate([np.arange(count) for count in counts])
    order = ((which + drawn.random(len(of))) / np.repeat(counts, counts)).argsort(kind="stable")
    return of[order], which[order]


@dataclass(frozen=True)
class Turns:
    """Whose turn it is among buckets of so many items, batch by batch: a function of (counts, seed, step).

    In a lap of Σ counts batches each bucket has as many batches as it has items, so that every item of all is met
    equally often. Batch j of a bucket of n falls at a time that is uniform in the j-th of n equal parts of the lap: the
    buckets are mixed in their proportion all along, and no cycle is learnt.
    """

    counts: tuple[int, ...]
    seed: int

    def of(self, step: int) -> tuple[int, int]:
        """The bucket of batch `step`, and the number of that batch among those of the bucket."""
        if len(self.counts) == 1:
            return 0, step
        number, at = divmod(step, sum(self.counts))
        of, which = lap(self.counts, self.seed, number)
        bucket = int(of[at])
        return bucket, number * self.counts[bucket] + int(which[at])


def mirrored(turned: Tensor, x: Tensor, other: Tensor | None = None) -> Tensor:
    """x [b, c, h, w], mirrored left to right where `turned` [b], or there the `other`."""
    return torch.where(turned[:, None, None, None], x.flip(-1) if other is None else other, x)


@dataclass(frozen=True, eq=False)
class Examples:
    """What is learnt from, in memory or mapped to it: `x0` [n, *d], and conditions by name, each [n, …].

    Arrays are pictures, uint8 that is read as −1…1; rows are latents, which `unit` brings to scale. `mirrored` are
    the latents of the same pictures mirrored, since a latent cannot be. `noise` gives the noise that belongs to some.
    Of the conditions, pictures are mirrored with their own, and heard as `folded` has those of their name.
    """

    x0: np.ndarray | Rows
    cond: Mapping[str, np.ndarray | Rows | Pictures] = field(default_factory=dict)
    mirrored: Rows | None = None
    unit: Callable[[Tensor], Tensor] = to_unit
    noise: Callable[[np.ndarray], Tensor] | None = None
    folded: Mapping[str, Callable[[Tensor], Tensor]] = field(default_factory=dict)
    others: tuple[Examples, ...] = ()
    """examples of other shapes, which no batch holds together with these"""

    @property
    def buckets(self) -> tuple[Examples, ...]:
        """The examples of each shape."""
        return self, *self.others

    def read(self, index: np.ndarray, device: torch.device, *, mirrored: bool = False) -> Tensor:
        """Some of the examples, float32 [b, *d] on the device."""
        if isinstance(self.x0, np.ndarray):
            return self.unit(sent(torch.from_numpy(self.x0[index]), device))
        rows = self.mirrored if mirrored and self.mirrored is not None else self.x0
        return sent(self.unit(rows[index].float()), device)  # to scale here: a GPU would wait for the scale

    def conditions(self, index: np.ndarray, device: torch.device, turned: Tensor | None = None) -> dict[str, Tensor]:
        """The conditions of some of the examples, on the device; `turned` bool [b] says which are mirrored."""
        found = dict[str, Tensor]()
        for name, rows in self.cond.items():
            if isinstance(rows, Pictures):
                pictures = rows.read(index, device)
                pictures = pictures if turned is None else mirrored(turned, pictures)
                found[name] = self.folded[name](pictures) if name in self.folded else pictures
            else:
                some = rows[index]
                found[name] = sent(torch.from_numpy(some) if isinstance(some, np.ndarray) else some.float(), device)
        return found

    @classmethod
    def of(cls, dataset: Dataset) -> Examples:
        """The pictures of a data set with their labels, if it has any."""
        return cls(dataset.rows, {} if dataset.labels is None else {"label": dataset.labels})


@dataclass(frozen=True)
class Loader:
    """Batches assembled by index from examples that stay in memory; no worker, no decoding, no copy of the set.

    `loader(step)` is a pure function of (examples, batch, seed, flip, step). Of examples in buckets by shape a batch
    holds those of one (`Turns`), in an order of its own.
    """

    examples: Examples
    batch: int
    seed: int = 0
    flip: bool = False
    device: torch.device = torch.device("cpu")

    def __call__(self, step: int) -> Batch:
        """Batch number `step`: x0 float32 [b, *d], and the conditions of the same examples."""
        buckets = self.examples.buckets
        bucket, turn = Turns(tuple(len(each.x0) for each in buckets), self.seed).of(step)
        examples = buckets[bucket]
        index = Order(len(examples.x0), self.batch, self.seed).indices(turn)
        x0, turned = examples.read(index, self.device), None
        if self.flip:
            turned = sent(torch.from_numpy(keyed(self.seed, FLIPS + step).random(self.batch) < 0.5), self.device)
            other = None if examples.mirrored is None else examples.read(index, self.device, mirrored=True)
            x0 = mirrored(turned, x0, other)
        eps = None if examples.noise is None else sent(examples.noise(index), self.device)
        return Batch(x0, examples.conditions(index, self.device, turned), eps)
