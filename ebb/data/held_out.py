"""Which images are held back where the data comes without a test set: those whose bytes hash lowest.

The choice is a function of each image alone, so it does not depend on the order of the files, more images added later
move few, and exact copies of an image are never on both sides.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict

import numpy as np

LEAST, SHARE, MOST = 200, 20, 1000
"""A set of LEAST images or more gives one in SHARE of them, at most MOST."""

CLASS_SHARE = 10
"""No class gives more than one in so many of its images: small ones are not emptied."""

CHUNK = 2048
"""Images looked at together, so that a memory map is never read whole."""


def held_back(pixels: np.ndarray, labels: np.ndarray | None, total: int | None = None) -> list[int]:
    """The images to hold back, rising: of pixels uint8 [n, c, h, w] and labels [n], None where there are none.

    Where these are some of a `total`, that is what LEAST and MOST are of.
    """
    total = len(pixels) if total is None else total
    wanted = min(len(pixels) // SHARE, MOST * len(pixels) // total) if total >= LEAST else 0
    if not wanted:
        return []
    copies = defaultdict[bytes, list[int]](list)
    for first in range(0, len(pixels), CHUNK):
        for at, image in enumerate(np.ascontiguousarray(pixels[first : first + CHUNK]), first):
            copies[hashlib.blake2b(image, digest_size=16, person=b"held out").digest()].append(at)
    kinds = np.zeros(len(pixels), np.int64) if labels is None else labels
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


def parted(pixels: np.ndarray, chosen: list[int]) -> tuple[np.ndarray, np.ndarray, list[int]]:
    """(the images that are left, those `chosen`, where the former were): the former move up within `pixels` itself."""
    aside = np.ascontiguousarray(pixels[chosen])
    left = np.setdiff1d(np.arange(len(pixels)), chosen)
    for first in range(0, len(left), CHUNK):
        some = left[first : first + CHUNK]
        pixels[first : first + len(some)] = pixels[some]
    return pixels[: len(left)], aside, left.tolist()
