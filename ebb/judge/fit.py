"""How the network that judges is trained: until images that it has not seen say that it has learnt what it can."""

from __future__ import annotations

import copy
from collections.abc import Generator
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from numpy.typing import NDArray
from torch import Tensor

from ebb.data.pictures import batches, to_unit
from ebb.judge.features import Labelled, extract, vote
from ebb.judge.residual_classifier import WHITENED, ResidualClassifier
from ebb.machine import ready
from ebb.train.muon import muon

BATCH = 256
"""Images of an update; a set of fewer than ten times as many is learnt in smaller ones."""

PEAK, WARMUP, DECAY = 0.01, 0.05, 0.05
"""The highest learning rate, the share of the images over which it is reached, and the decay of weights."""

FALL = 0.5
"""The rate falls to zero over at most this share of the images."""

MARKS = 32
"""Unseen images are asked after each of so many parts of the most work, and after an epoch at the least."""

ASKED = 2000
"""Unseen images that are asked at a mark; all are at the end."""

PATIENCE, BETTER = 3, 0.95
"""The rate begins to fall when so many marks in a row had no fewer errors than this share of the fewest before."""

EPOCHS = 40
"""The most passes over the data: a small set is learnt by heart sooner than it teaches more."""

ALIKE = 0.95
"""The share of its accuracy that a network which never met mirror images keeps on them where they are as real."""

SMOOTHING = 0.1
SHIFT = 10
"""Images are moved by up to one of so many parts of their side; what enters is a reflection."""


@dataclass(frozen=True, eq=False)
class Fitted:
    """A classifier, the features of the unseen images, how often it is right about them, and the images it saw."""

    classifier: ResidualClassifier
    rows: NDArray[np.float64]
    accuracy: float
    shown: int
    marks: tuple[float, ...]
    """the accuracy at each mark, on at most ASKED of the unseen images"""


@dataclass
class Course:
    """The learning rate by images shown: level until `ended`, then falling; what the marks were decides when."""

    most: int
    errors: list[float] = field(default_factory=list)
    ended: int | None = None
    last: int = field(init=False)
    """the images shown when the rate is zero"""

    def __post_init__(self) -> None:
        self.last = self.most

    @property
    def level(self) -> int:
        """Images shown when the rate begins to fall."""
        return int(self.most * (1 - FALL)) if self.ended is None else self.ended

    def rate(self, shown: int) -> float:
        """The share of the peak."""
        rising = (shown + 1) / (WARMUP * self.most)
        falling = (self.last - shown) / max(1, self.last - self.level)
        return max(0.0, min(1.0, rising, falling))

    def note(self, shown: int, errors: float) -> None:
        """Take the errors at a mark: the fall begins where the last PATIENCE marks brought nothing."""
        self.errors.append(errors)
        if self.ended is not None or shown >= self.level or len(self.errors) <= PATIENCE:
            return
        before, late = min(self.errors[:-PATIENCE]), min(self.errors[-PATIENCE:])
        if late > BETTER * before:
            self.ended, self.last = shown, min(self.most, int(shown / (1 - FALL)))


def fit(
    seen: Labelled, unseen: Labelled, classes: int, *, seed: int, most: int, steady: bool = False
) -> Generator[tuple[int, int], None, Fitted]:
    """Train a classifier on images uint8 [n, c, h, w] and labels; yields (images shown, the most that will be).

    Muon under a rate that is level until unseen images say that it should fall (Hägele et al. 2024, § 3),
    at `most` images or EPOCHS at the latest; `steady` never asks them. Images are moved by reflection and, once the
    network sees mirror images as well as those it knows, mirrored. Counted, never timed: one seed gives one classifier.
    Features are scaled to a mean square of 1 on the unseen images, since an embedding has no scale of its own.
    """
    ready()
    images, labels = torch.from_numpy(seen[0]), torch.from_numpy(seen[1])
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        classifier = ResidualClassifier(images.shape[1], classes, max(1, min(images.shape[2:]) // 14))
    some = torch.randperm(len(images), generator=generator)[:WHITENED]
    classifier.whiten(to_unit(images[some]))
    course = Course(min(most, EPOCHS * len(images)))
    yield from _taught(classifier, (images, labels), unseen, course, generator, steady=steady)
    classifier.eval().requires_grad_(False)
    rows = scaled(classifier, extract(classifier, batches(unseen[0])))
    right = float((vote(classifier, rows) == unseen[1]).mean())
    return Fitted(classifier, rows, right, course.last, tuple(1 - error for error in course.errors))


def _taught(
    classifier: ResidualClassifier, known: tuple[Tensor, Tensor], unseen: Labelled, course: Course,
    generator: torch.Generator, *, steady: bool,
) -> Generator[tuple[int, int], None, None]:  # fmt: skip
    """The updates of `fit`, up to where the rate is zero."""
    images, labels = known
    size = max(1, min(BATCH, len(images) // 10))
    crops, order = Crops(images), torch.empty(0, dtype=torch.int64)
    optimiser = muon(classifier, PEAK, DECAY)
    average, shown, mark = copy.deepcopy(classifier), 0, max(len(images), course.most // MARKS)
    due = mark
    while shown < course.last:
        if len(order) < size:
            order = torch.randperm(len(images), generator=generator)
        index, order = order[:size], order[size:]
        for group in optimiser.param_groups:
            group["lr"] = PEAK * course.rate(shown)
        x = crops(index, generator, mirrored=bool(classifier.mirrored))
        scores = classifier.logits(classifier.seen(x))
        optimiser.zero_grad()
        F.cross_entropy(scores, labels[index], label_smoothing=SMOOTHING).backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        shown += size
        follow(average, classifier, size / (shown * 0.1))
        if shown >= due and not steady and shown < course.last:
            due += mark
            _ask(average, classifier, unseen, course, shown)
        yield shown, course.last


@dataclass(frozen=True, eq=False)
class Crops:
    """Images moved by up to a part of their side, each by its own distance; what enters is their reflection."""

    images: Tensor

    def __call__(self, index: Tensor, generator: torch.Generator, *, mirrored: bool) -> Tensor:
        """Those of an index as float32 in [−1, 1], and with `mirrored` every second one, by chance, turned over."""
        height, width = self.images.shape[2:]
        reach = max(1, min(height, width) // SHIFT)
        padded = F.pad(to_unit(self.images[index]), (reach,) * 4, mode="reflect")
        moves = torch.randint(0, 2 * reach + 1, (len(index), 2), generator=generator).tolist()
        moved = [
            x[:, down : down + height, right : right + width] for x, (down, right) in zip(padded, moves, strict=True)
        ]
        x = torch.stack(moved).contiguous(memory_format=torch.channels_last)
        if not mirrored:
            return x
        turned = torch.rand(len(index), generator=generator) < 0.5
        return torch.where(turned[:, None, None, None], x.flip(3), x)


@torch.no_grad()
def follow(average: ResidualClassifier, classifier: ResidualClassifier, share: float) -> None:
    """Move the average by `share` (at most all) of its way to the classifier."""
    for ours, theirs in zip(average.parameters(), classifier.parameters(), strict=True):
        ours.lerp_(theirs, min(1.0, share))


def _ask(
    average: ResidualClassifier, classifier: ResidualClassifier, unseen: Labelled, course: Course, shown: int
) -> None:
    """A mark: the errors of the average, and at the first one whether mirror images are as good as images."""
    pixels, labels = unseen[0][:ASKED], unseen[1][:ASKED]
    right = share_right(average, pixels, labels)
    if not course.errors:
        turned = share_right(average, pixels[..., ::-1].copy(), labels)
        alike = torch.tensor(turned >= ALIKE * right)
        for network in (average, classifier):
            network.mirrored.copy_(alike)
    course.note(shown, 1 - right)


def share_right(classifier: ResidualClassifier, pixels: NDArray[np.uint8], labels: NDArray[np.int64]) -> float:
    """How often the classifier is right about images."""
    return float((vote(classifier, extract(classifier, batches(pixels))) == labels).mean())


@torch.no_grad()
def scaled(classifier: ResidualClassifier, rows: NDArray[np.float64]) -> NDArray[np.float64]:
    """`rows` of features, and the classifier with them, brought to a mean square of 1."""
    scale = float(np.sqrt(np.mean(rows**2)))
    for parameter in (classifier.embed.weight, classifier.embed.bias):
        parameter /= scale
    classifier.head.weight *= scale  # relu(x / scale) · scale = relu(x): the logits stay what they were
    return rows / scale
