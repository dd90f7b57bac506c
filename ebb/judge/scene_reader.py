"""Whether images of `shapes` show what was asked for: a judge reads each quarter, and what it reads is compared."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ebb.data.pictures import batches
from ebb.data.scenes import KINDS, Scene, Scenes, parse, seen, truth
from ebb.errors import DataError
from ebb.judge.features import ImageClassifier, extract, train_classifier, vote

CLASSES = 1 + 2 * KINDS
"""Of a quarter: nothing, or one of the kinds, small or large."""

JUDGED = 6000
"""Scenes that the judge learns from; of another seed than those of the data set."""

REAL = 1000
"""Scenes with their own captions, which tell what the judge allows; of yet another seed."""

SEED = 11


@dataclass(frozen=True)
class Agreement:
    """Of `count` images the share that show all that their captions say, and nothing else.

    `things` is the share of the things asked for that are there in kind, wherever; `novel` is `share` among captions
    with a pair of things that no training scene has, None where there are none. `ceiling` is the `share` of real scenes
    with their own captions: what the judge allows.
    """

    count: int
    share: float
    things: float
    novel: float | None
    ceiling: float


def quarters(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The four quarters of each image, uint8 [4·n, c, side/2, side/2], in the order of PLACES."""
    if pixels.ndim != 4 or pixels.shape[1] != 3 or pixels.shape[2] != pixels.shape[3] or pixels.shape[2] % 2:
        raise DataError(f"expected scenes uint8 [n, 3, side, side] of an even side, got {list(pixels.shape)}")
    n, c, side, _ = pixels.shape
    cut = pixels.reshape(n, c, 2, side // 2, 2, side // 2).transpose(0, 2, 4, 1, 3, 5)
    return np.ascontiguousarray(cut.reshape(4 * n, c, side // 2, side // 2))


def judge(side: int = 32, *, seconds: float = 20.0) -> ImageClassifier:
    """A classifier of quarters, trained on scenes that it has drawn for itself; `seconds` as in `train_classifier`."""
    known = truth(JUDGED, SEED, side=side)
    return train_classifier(quarters(known.pixels), known.cells.reshape(-1), CLASSES, seed=SEED, seconds=seconds)[0]


def cells_of(reader: ImageClassifier, pixels: NDArray[np.uint8]) -> NDArray[np.int64]:
    """What the judge sees at the four places of each image, [n, 4], as `ebb.data.scenes.Scene.cells`."""
    return vote(reader, extract(reader, batches(quarters(pixels)))).reshape(len(pixels), -1)


def agreement(reader: ImageClassifier, pixels: NDArray[np.uint8], captions: Sequence[str]) -> Agreement:
    """How many of the images show what their captions say. Raises UsageError for a caption that says anything else than
    scenes have, DataError for images of another shape."""
    asked, cells = [parse(caption) for caption in captions], cells_of(reader, pixels)
    right = np.array([agrees(row, scene) for row, scene in zip(cells, asked, strict=True)])
    there = [here for row, scene in zip(cells, asked, strict=True) for here in things_there(row, scene)]
    new = np.array([scene.novel for scene in asked])
    real: Scenes = truth(REAL, SEED + 1, side=pixels.shape[-1])
    known = zip(cells_of(reader, real.pixels), map(parse, real.captions), strict=True)
    ceiling = [agrees(row, scene) for row, scene in known]
    novel = float(right[new].mean()) if new.any() else None
    return Agreement(len(pixels), float(right.mean()), float(np.mean(there)), novel, float(np.mean(ceiling)))


def things_there(cells: NDArray[np.int64], asked: Scene) -> list[bool]:
    """Of each thing that was asked for, whether one of its kind was seen, wherever."""
    kinds = {(int(cell) - 1) % KINDS for cell in cells if cell}
    return [thing.kind in kinds for thing in asked.objects]


def agrees(cells: NDArray[np.int64], asked: Scene) -> bool:
    """Whether what was seen is a scene, and all that was asked for holds in it."""
    scene = seen(cells)
    return scene is not None and asked.describes(scene)
