"""Which images are held back where the data comes without a test set: those whose bytes hash lowest.

The choice is a function of each image alone, so it does not depend on the order of the files, more images added later
move few, and exact copies of an image are never on both sides.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain

import numpy as np
from numpy.typing import NDArray

LEAST, SHARE, MOST = 200, 20, 1000
"""A set of LEAST images or more gives one in SHARE of them, at most MOST."""

CLASS_SHARE = 10
"""No class gives more than one in so many of its images: small ones are not emptied."""

CHUNK = 2048
"""Images looked at together, so that a memory map is never read whole."""


def held_back(buckets: Sequence[np.ndarray], labels: np.ndarray | None) -> list[int]:
    """The images to hold back, rising: of all in `buckets`, each uint8 [n, c, h, w], numbered through, and their
    labels, None where there are none."""
    count = sum(map(len, buckets))
    wanted = min(count // SHARE, MOST) if count >= LEAST else 0
    if not wanted:
        return []
    copies = defaultdict[bytes, list[int]](list)
    for at, image in enumerate(chain.from_iterable(chunks(buckets))):
        copies[hashlib.blake2b(image, digest_size=16, person=b"held out").digest()].append(at)
    kinds = np.zeros(count, np.int64) if labels is None else labels
    room = {kind: count // CLASS_SHARE for kind, count in enumerate(np.bincount(kinds).tolist())}
    chosen = list[int]()
    for _, group in sorted(copies.items()):
        if len(chosen) == wanted:
            break
        needed = Counter(kinds[group].tolist())
        if len(chosen) + len(group) <= wanted and all(room[kind] >= count for kind, count in needed.items()):
            chosen += group
            for kind, count in needed.items():
                room[kind] -= count
    return sorted(chosen)


def parted(
    buckets: Sequence[np.ndarray], chosen: list[int]
) -> tuple[list[np.ndarray], list[np.ndarray], NDArray[np.int64]]:
    """(the images that are left of each bucket, those `chosen`, where the former were): the former move up within
    the arrays themselves."""
    mine = np.isin(np.arange(sum(map(len, buckets))), chosen)
    parts = np.split(mine, np.cumsum([*map(len, buckets)])[:-1])
    aside = [np.ascontiguousarray(pixels[taken]) for pixels, taken in zip(buckets, parts, strict=True)]
    rest = [moved_up(pixels, np.flatnonzero(~taken)) for pixels, taken in zip(buckets, parts, strict=True)]
    return rest, aside, np.flatnonzero(~mine)


def moved_up(pixels: np.ndarray, left: NDArray[np.int64]) -> np.ndarray:
    """The images that are `left`, in the first places of their own array."""
    for first in range(0, len(left), CHUNK):
        some = left[first : first + CHUNK]
        pixels[first : first + len(some)] = pixels[some]
    return pixels[: len(left)]


def chunks(buckets: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    """Images of one shape, CHUNK at most together, in order."""
    return (np.ascontiguousarray(pixels[at : at + CHUNK]) for pixels in buckets for at in range(0, len(pixels), CHUNK))
