"""Data as a doctor sees it: the images with what the scan found, which of them look alike, and what labels they seem
to deserve."""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from numpy.typing import NDArray
from torch import Tensor

from ebb.data.dataset import Dataset
from ebb.data.reading import as_asked
from ebb.doctor.finding import Finding, NothingToExamineError, Severity, Suspect
from ebb.errors import DataError, UsageError
from ebb.events import Progress, Sink, ignored
from ebb.judge.features import fitted, probabilities
from ebb.recipe.recipe import DiffusionRecipe

ALIKE = 0.995
"""The correlation of all values of two images from which they count as copies. JPEG at quality 80, noise of 4 levels
and another brightness leave 0.997 and more; the closest two of 20,000 different CIFAR-10 images have 0.99, of MNIST
0.985."""

THUMB, THUMB_ALIKE = 8, 0.98
"""Candidates are found on thumbnails of this side, at this correlation; copies have 0.998 there."""

BLOCK, FEW = 2048, 4
"""Images compared at a time, and pairs kept of each with the others in a block."""

MOST_COMPARED, MOST_HELD_OUT = 20_000, 2_000
"""Images compared with one another, and held-out images compared with all: about two seconds each."""

MOST_JUDGED, JUDGE_SECONDS = 6_000, 1.5
"""Images whose labels are judged, and the work put into each of two classifiers (`features.train_classifier`)."""

WEAK = 0.7
"""A classifier that is right about fewer labels is too weak to judge them, and so will be the one of the other half:
of CIFAR-10 it is right about 42 %, of digits and MNIST about 95 % and more."""

LONG = 4
"""So many times as long as it is high, and an array [n, a, b] is series of `a` channels, no pictures."""


def kind_of(array: NDArray[np.generic]) -> str | None:
    """What an array is read as: "images", "rows" or "series", as an .npz calls them; None where it is none of them."""
    finite = array.dtype.kind in "uib" or (array.dtype.kind == "f" and bool(np.isfinite(array).all()))
    if array.ndim == 2:
        return "rows" if finite else None
    flat = array.ndim == 3 and (array.shape[1] < 4 or array.shape[2] >= LONG * array.shape[1])
    if flat:
        return "series" if finite else None
    pictures = array.ndim == 3 or (array.ndim == 4 and array.shape[1] in (1, 3))
    return "images" if pictures and min(array.shape[-2:]) >= 4 else None


LEAST_JUDGED = 500
"""Images below which a classifier cannot judge labels."""


@dataclass(frozen=True, eq=False)
class DataSubject:
    """Images as read, and the range of the values they came with where they are an array of floats.

    `dataset` is None for an array that is no data; what needs more than its values then raises DataError.
    """

    name: str
    dataset: Dataset | None
    floats: tuple[float, float] | None = None

    @classmethod
    def of(cls, where: str | NDArray[np.generic] | Tensor, progress: Sink = ignored) -> DataSubject:
        """Data by name, as `ebb.data.reading.as_asked` takes it, or as an array: pictures [n, c, h, w] or [n, h, w],
        rows [n, d] or series [n, channel, time] (`kind_of`); of any other only the values are judged. Raises the errors
        of reading."""
        if isinstance(where, str):

            def tick(stage: str, done: int, of: int) -> None:
                progress(Progress(f"reading {stage}", done, of))

            place = Path(tempfile.gettempdir())
            return cls(where, as_asked(where, DiffusionRecipe(), place, progress=tick, hold_back=False))
        array = where.detach().cpu().numpy() if isinstance(where, Tensor) else where
        name = f"{type(where).__name__} {array.dtype} {list(array.shape)}"
        if not array.size:
            raise UsageError(f"expected data, got an empty array of shape {list(array.shape)}")
        floats = None if array.dtype == np.uint8 else (float(array.min()), float(array.max()))
        kind = kind_of(array)
        if kind is None:
            return cls(name, None, floats)
        with tempfile.TemporaryDirectory() as folder:  # read as everything else is: one way in
            file = os.path.join(folder, "array.npz")
            stored: dict[str, Any] = {kind: as_bytes(array) if kind == "images" else array}
            np.savez(file, **stored)
            return cls(name, as_asked(file, DiffusionRecipe(), Path(folder), hold_back=False), floats)

    @property
    def read(self) -> Dataset:
        """The examples; DataError where there are none."""
        if self.dataset is None:
            forms = "pictures [n, c, h, w] with 1 or 3 channels, or [n, h, w]; rows [n, d]; series [n, channel, time]"
            raise DataError(f"{self.name} is none of what is learnt from", f"give {forms}; finite values")
        return self.dataset

    def noted(self, *kinds: str) -> tuple[int, str]:
        """How many images the scan noted under these kinds, and a few of their names."""
        notes = [note for note in self.read.summary.findings if note.kind in kinds]
        return sum(note.count for note in notes), ", ".join(name for note in notes for name in note.examples)

    @cached_property
    def names(self) -> Sequence[str]:
        """What each example is called: its file where it has one, else its number."""
        originals = self.read.originals
        return [f"#{index}" for index in range(len(self.read.rows))] if originals is None else originals.names

    @cached_property
    def places(self) -> Mapping[str, int]:
        """The row of each name."""
        return {name: row for row, name in enumerate(self.names)}

    def examples(self, *kinds: str) -> tuple[Suspect, ...]:
        """The examples that the scan names under these kinds of note, each beside the first one that it equals."""
        noted = [
            (name, note.kind) for note in self.read.summary.findings for name in note.examples if note.kind in kinds
        ]
        found = [(self.places[name], why) for name, why in noted if name in self.places]
        pairs = [(self.first_equal(row), row, why) for row, why in found]
        return tuple(Suspect((row,) if first == row else (first, row), why) for first, row, why in pairs)

    def first_equal(self, row: int) -> int:
        """The first example that equals one."""
        rows = self.read.rows
        one = np.asarray(rows[row])
        same = (np.asarray(rows[: row + 1]).reshape(row + 1, -1) == one.reshape(1, -1)).all(1)
        return int(same.argmax())

    @cached_property
    def copies(self) -> tuple[NDArray[np.int64], int]:
        """Pairs [k, 2] of images alike but not equal, closest first, among the second: how many were compared."""
        pixels = self.read.rows
        chosen = some(len(pixels), MOST_COMPARED)
        rows = pixels[chosen]
        pairs = alike(rows)
        differ = np.array([not np.array_equal(rows[a], rows[b]) for a, b in pairs], bool)
        return chosen[pairs[differ]], len(chosen)

    @cached_property
    def leaks(self) -> tuple[NDArray[np.int64], int]:
        """Pairs [k, 2] of a held-out image and a training image that are alike or equal, closest first, and how many
        held-out images were compared. NothingToExamineError without held-out images."""
        dataset = self.read
        if dataset.held_out is None:
            raise NothingToExamineError("the data comes without a test set")
        held = dataset.held_out.rows
        chosen = some(len(held), MOST_HELD_OUT)
        pairs = alike(held[chosen], dataset.rows)
        return np.stack([chosen[pairs[:, 0]], pairs[:, 1]], 1), len(chosen)

    @cached_property
    def judged(self) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """(which images were judged [k], the probability of each class [k, classes] that a classifier gives them which
        was trained on the other half); those of one half only where its classifier is WEAK. NothingToExamineError
        without labels, or with too few."""
        dataset = self.read
        if dataset.labels is None or len(dataset.names) < 2:
            raise NothingToExamineError("the images have no labels, or one for all")
        chosen = some(len(dataset.rows), MOST_JUDGED)
        if len(chosen) < max(LEAST_JUDGED, 20 * len(dataset.names)) or min(dataset.rows.shape[2:]) < 8:
            few = f"{len(chosen)} images of {len(dataset.names)} classes are too few to judge labels by"
            raise NothingToExamineError(few)
        noted = np.zeros((len(chosen), len(dataset.names)))
        halves = np.arange(len(chosen)) % 2 == 0
        for half in (halves, ~halves):
            seen = dataset.rows[chosen[half]], dataset.labels[chosen[half]]
            model, rows = fitted(seen, dataset.rows[chosen[~half]], len(dataset.names), seed=0, seconds=JUDGE_SECONDS)
            noted[~half] = probabilities(model, rows)
            if (noted[~half].argmax(1) == dataset.labels[chosen[~half]]).mean() < WEAK:
                return chosen[~half], noted[~half]
        return chosen, noted


@dataclass(frozen=True)
class Noted:
    """A check of what the scan noted: a finding where it noted some of these `kinds`."""

    name: str
    kinds: tuple[str, ...]
    symptom: str
    evidence: str
    """in which {count} are noted, {names} are some of them, {total} is the number of examples, {classes} of classes"""
    cause: str
    advice: str
    share: float = 0.0
    """of the examples, from which it is a finding"""
    severe: float = math.inf
    """the share from which it is an error"""

    def __call__(self, data: DataSubject) -> Finding | None:
        """The finding, where there is one."""
        (count, names), total = data.noted(*self.kinds), len(data.read.rows)
        if not count or count / total < self.share:
            return None
        evidence = self.evidence.format(
            count=f"{count:,}", names=names, total=f"{total:,}", classes=f"{len(data.read.names):,}"
        )
        severity: Severity = "error" if count / total >= self.severe else "warning"
        suspects = data.examples(*self.kinds)
        return Finding(self.name, self.symptom, evidence, self.cause, self.advice, severity, suspects=suspects)


def as_bytes(array: NDArray[np.generic]) -> NDArray[np.uint8]:
    """Values as bytes: [−1, 1] or [0, 1] onto 0…255 where they fit, else from the lowest to the highest; NaN is 0."""
    if array.dtype == np.uint8:
        return np.asarray(array, np.uint8)
    values = np.nan_to_num(array.astype(np.float32))
    low, high = float(values.min()), float(values.max())
    low, high = (-1.0, 1.0) if -1 <= low < 0 and high <= 1 else (0.0, 1.0) if low >= 0 and high <= 1 else (low, high)
    levels: NDArray[np.uint8] = np.rint((values - low) * (255 / max(high - low, 1e-30))).astype(np.uint8)
    return levels


def worst(names: Sequence[str]) -> str:
    """The first five names."""
    return ", ".join(names[:5]) + (", …" if len(names) > 5 else "")


def some(count: int, most: int) -> NDArray[np.int64]:
    """All of `count` places, or `most` of them drawn at random, rising."""
    if count <= most:
        return np.arange(count)
    return np.sort(np.random.default_rng(0).choice(count, most, replace=False))


def directions(pixels: NDArray[np.uint8], side: int | None = None) -> Tensor:
    """Images, or their thumbnails of a side, as unit vectors around their own mean, [n, d] float32.

    Their products are correlations. The vector of a constant image is 0.
    """
    parts = []
    for start in range(0, len(pixels), BLOCK):
        x = torch.from_numpy(np.ascontiguousarray(pixels[start : start + BLOCK])).float()
        if side is not None and min(x.shape[2:]) > side:
            x = F.adaptive_avg_pool2d(x, side)
        x = x.flatten(1)
        x = x - x.mean(1, keepdim=True)
        parts.append(x / x.norm(dim=1, keepdim=True).clamp(min=1e-6))
    return torch.cat(parts)


def alike(a: NDArray[np.uint8], b: NDArray[np.uint8] | None = None) -> NDArray[np.int64]:
    """Pairs (i, j) [k, 2] with a correlation of a[i] and b[j] above ALIKE, closest first; without `b` i < j within `a`.

    Thumbnails propose and whole images decide.
    """
    pairs, scores = [np.zeros((0, 2), np.int64)], [np.zeros(0)]
    for noted in proposed(directions(a, THUMB), None if b is None else directions(b, THUMB)):
        left, right = directions(a[noted[:, 0]]), directions((a if b is None else b)[noted[:, 1]])
        score = (left * right).sum(1).double().numpy()
        pairs.append(noted[score > ALIKE])
        scores.append(score[score > ALIKE])
    order: NDArray[np.int64] = np.argsort(-np.concatenate(scores), kind="stable")
    return np.concatenate(pairs)[order]


def proposed(a: Tensor, b: Tensor | None) -> Iterator[NDArray[np.int64]]:
    """Pairs with a product above THUMB_ALIKE, some at a time; of a row the closest few in each block, since of a
    thousand copies of one image nobody needs all million pairs."""
    other = a if b is None else b
    for i in range(0, len(a), BLOCK):
        for j in range(i if b is None else 0, len(other), BLOCK):
            close = a[i : i + BLOCK] @ other[j : j + BLOCK].T
            close = close.triu(1) if b is None and i == j else close
            rows = (close.amax(1) > THUMB_ALIKE).nonzero()[:, 0]
            if not len(rows):
                continue
            best = close[rows].topk(min(FEW, close.shape[1]), 1)
            row, place = (best.values > THUMB_ALIKE).nonzero(as_tuple=True)
            yield torch.stack([rows[row] + i, best.indices[row, place] + j], 1).numpy()
