"""Buckets by shape: a few shapes of about equally many pixels, each image in the one that cuts least of it off.

Known as aspect ratio bucketing (NovelAI 2022). There are few, so that each holds enough for whole batches.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ebb.data.decode import lost
from ebb.shapes import sides

MOST = 5
"""The most buckets of a data set."""

LEAST, SHARE = 16, 50
"""A bucket holds LEAST images or more, and one in SHARE of all; one of fewer goes to those beside it."""

GAIN = 0.01
"""The share of the area of all images that a bucket saves from being cut off, at least."""

UNEQUAL = 0.1
"""The share by which its pixels may be more or fewer than those of the square."""

Size = tuple[int, int]
"""Height and width."""


@dataclass(frozen=True)
class Bucket:
    """A bucket in figures, JSON-able: height and width of its images, how many these are, and the mean share of their
    area that is cut off."""

    size: tuple[int, ...]
    count: int
    cut: float

    def __str__(self) -> str:
        return f"{sides(self.size)} ({self.count:,} images)"


def mean_cut(buckets: Sequence[Bucket]) -> float:
    """The mean share of the area of all images that is cut off."""
    return sum(one.count * one.cut for one in buckets) / sum(one.count for one in buckets)


def candidates(side: int) -> list[Size]:
    """The square and all shapes of about as many pixels up to 1:4 and 4:1, from the widest to the highest.

    Sides are multiples of about an eighth of the square's, a power of 2, so that patches and halvings divide them.
    """
    step = max(2, 2 ** int(math.log2(max(1, side // 8))))
    lengths = range(max(4, step * math.ceil(side / 2 / step)), 2 * side + 1, step)
    pairs = {(h, w) for h in lengths for w in lengths if abs(h * w - side**2) <= UNEQUAL * side**2}
    return sorted(pairs | {(side, side)}, key=lambda size: size[0] / size[1])


def cuts(sizes: NDArray[np.int64], shapes: Sequence[Size]) -> NDArray[np.float64]:
    """The share of each image of sizes [n, (height, width)] that each of k shapes cuts off, [n, k]."""
    return np.stack([lost(sizes, (1, *shape)) for shape in shapes], 1)


def nearest(sizes: NDArray[np.int64], shapes: Sequence[Size]) -> NDArray[np.int64]:
    """The shape that cuts least off each image, int64 [n]; of two alike the first."""
    best: NDArray[np.int64] = cuts(sizes, shapes).argmin(1)
    return best


def counted(sizes: NDArray[np.int64], shapes: Sequence[Size]) -> tuple[Bucket, ...]:
    """What each shape has of images of sizes [n, (height, width)]."""
    cut, own, found = cuts(sizes, shapes), nearest(sizes, shapes), list[Bucket]()
    for at, shape in enumerate(shapes):
        mine = cut[own == at, at]
        found.append(Bucket(tuple(shape), len(mine), round(float(mine.mean()), 4) if len(mine) else 0.0))
    return tuple(found)


def planned(sizes: NDArray[np.int64], side: int) -> list[Size]:
    """The shapes of the buckets of images of sizes [n, (height, width)], the one of most images first.

    Of all `candidates` the one goes whose images lose least by it, until there are MOST; then those that hold too few
    (LEAST, SHARE), and those that save less than GAIN.
    """
    shapes = candidates(side)
    unique, counts = np.unique(sizes, axis=0, return_counts=True)
    cut, fewest = cuts(unique, shapes), max(LEAST, len(sizes) / SHARE)
    left = np.arange(len(shapes))
    while len(left) > 1:
        mine, best = np.partition(cut[:, left], 1, 1), cut[:, left].argmin(1)
        count = np.bincount(best, counts, len(left))
        saved = np.bincount(best, counts * (mine[:, 1] - mine[:, 0]), len(left)) / len(sizes)
        if len(left) > MOST or count.min() >= fewest:
            if len(left) <= MOST and saved.min() > GAIN:
                break
            left = np.delete(left, saved.argmin())
        else:
            left = np.delete(left, count.argmin())
    count = np.bincount(cut[:, left].argmin(1), counts, len(left))
    return [shapes[left[at]] for at in np.argsort(-count, kind="stable")]
