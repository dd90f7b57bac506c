"""The pictures that examples were made of: their names, their sizes, and what the crop leaves out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ebb.data.archive import DAMAGED
from ebb.data.decode import Head, UnusableError, decode, lost
from ebb.data.listing import suffix
from ebb.data.splits import ImageFiles, Split


@dataclass(frozen=True, eq=False)
class Originals:
    """The name of each of n pictures and its height and width [n, 2] before it had the shape of an example."""

    names: tuple[str, ...]
    sizes: NDArray[np.int64]

    @classmethod
    def of(cls, split: Split, heads: Mapping[int, Head], usable: Sequence[int]) -> Originals:
        """Those of a split that could be used."""
        every, sizes = split.names, [(heads[at].height, heads[at].width) for at in usable]
        return cls(tuple(every[at] for at in usable), np.array(sizes, np.int64).reshape(-1, 2))

    def take(self, rows: NDArray[np.int64]) -> Originals:
        """Those of some."""
        return Originals(tuple(self.names[row] for row in rows), self.sizes[rows])

    def cut(self, shape: Sequence[int]) -> NDArray[np.float64]:
        """The share of the area of each that an example [c, h, w] leaves out, [n]."""
        return lost(self.sizes, shape)


def whole(split: Split, name: str, size: Sequence[int], side: int) -> NDArray[np.uint8] | None:
    """One picture of a split without any crop, uint8 [3, h, w] with its longer side of `side` pixels at most.

    `size` is its height and width. None where the pictures of the split are no files, or it cannot be read any more.
    """
    if not isinstance(split, ImageFiles):
        return None
    scale = min(1.0, side / max(size))
    height, width = (max(1, round(length * scale)) for length in size)
    try:
        with split.files.open(name) as file:
            return decode(file, suffix(name), (3, height, width))[0]
    except (UnusableError, *DAMAGED):
        return None
