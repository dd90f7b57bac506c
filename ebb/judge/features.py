"""What a distance between sets of images looks at: numbers from networks trained on the spot, or from a random one."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from typing import Protocol, TypeAlias, runtime_checkable

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from numpy.typing import NDArray
from torch import Tensor, nn

from ebb.data.pictures import batches, to_unit
from ebb.errors import DataError, UsageError
from ebb.machine import ready
from ebb.shapes import Float, Int

Labelled: TypeAlias = tuple[NDArray[np.uint8], NDArray[np.int64]]
"""Images uint8 [n, c, h, w] and a label for each, int64 [n]."""

SIDE = 8
"""The shortest side of an image that a classifier takes."""

BATCH = 64
RATE = 4000  # images a second one may count on from two CPU cores, forward and backward


@runtime_checkable
class Features(Protocol):
    """Images float32 [b, c, h, w] in [−1, 1], or rows or series → features float32 [b, dimension]."""

    @property
    def name(self) -> str:
        """The name printed beside every figure, which means nothing without it."""

    @property
    def dimension(self) -> int:
        """How many numbers an image becomes."""

    def __call__(self, images: Float[Tensor, "b *size"], /) -> Float[Tensor, "b d"]:
        """The features of a batch."""


@runtime_checkable
class Classifies(Features, Protocol):
    """Features that know classes: `logits` turns them into class scores by `head`, the last layer."""

    head: nn.Linear

    def logits(self, features: Float[Tensor, "b d"], /) -> Float[Tensor, "b classes"]:
        """The scores of features, not of images, so that images pass through the network once."""


class ImageClassifier(nn.Module):
    """A small convolutional network: `forward` gives 128 features, `logits` turns features into class scores.

    The first convolution strides by `reduction`, which brings images of any size to about 16×16. The features are
    the hidden layer before its ReLU, where they are nearest to a Gaussian, which the Fréchet distance assumes.
    """

    name = "classifier"
    dimension = 128

    def __init__(self, channels: int, classes: int, reduction: int = 1) -> None:
        super().__init__()
        self.channels, self.classes, self.reduction = channels, classes, reduction
        kernel = max(3, 2 * reduction - 1)
        self.body = nn.Sequential(
            nn.Conv2d(channels, 32, kernel, stride=reduction, padding=kernel // 2, bias=False),
            nn.GroupNorm(8, 32),
            nn.ReLU(),
            nn.Conv2d(32, 64, 3, padding=1, bias=False),
            nn.GroupNorm(8, 64),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(64, 128, 3, padding=1, bias=False),
            nn.GroupNorm(8, 128),
            nn.ReLU(),
            nn.AdaptiveMaxPool2d(2),
            nn.Flatten(),
        )
        self.embed = nn.Linear(4 * 128, self.dimension)
        self.head = nn.Linear(self.dimension, classes)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # convolutions run faster on CPUs

    def forward(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d"]:
        """The features of images in [−1, 1]."""
        features: Tensor = self.embed(self.body(images))
        return features

    def logits(self, features: Float[Tensor, "b d"]) -> Float[Tensor, "b classes"]:
        """Class scores from features (not from images, so that images pass through the network once)."""
        scores: Tensor = self.head(F.relu(features))
        return scores


class RandomFeatures(nn.Module):
    """A fixed convolutional network with random weights, for images without labels; 128 features from three scales.

    Weights are N(0, 2 / fan-in) (He et al. 2015, eq. 10) from a CPU generator: a function of `channels` and `seed`.
    Averages of 32, 32 and 4×16 filter responses at full, half and quarter resolution. Such features see colour,
    texture and layout and no meaning: they rank samples of one data set, coarsely.
    """

    dimension = 128

    def __init__(self, channels: int, seed: int = 0) -> None:
        super().__init__()
        self.name = f"random network {seed}"
        generator = torch.Generator().manual_seed(seed)
        for stage, (wide, narrow) in enumerate([(channels, 32), (32, 32), (32, 16)]):
            weight = torch.randn(narrow, wide, 3, 3, generator=generator) * (2 / (9 * wide)) ** 0.5
            self.register_buffer(f"weight{stage}", weight)

    def forward(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d"]:
        """The features of images in [−1, 1]."""
        hidden, pooled = images, []
        for weight, grid in zip(self.buffers(), (1, 1, 2), strict=True):
            hidden = F.relu(F.conv2d(F.pad(hidden, (1, 1, 1, 1), mode="replicate"), weight))
            pooled.append(F.adaptive_avg_pool2d(hidden, grid).flatten(1))
            hidden = F.avg_pool2d(hidden, 2) if min(hidden.shape[2:]) > 1 else hidden  # an image of 4×4 is small soon
        return torch.cat(pooled, dim=1)


class Projections:
    """Numbers themselves [n, *d], or where there are more than MOST their products with so many fixed directions of
    unit length, orthogonal to each other: what rows and series are compared by. A function of the shape alone."""

    MOST = 32

    def __init__(self, shape: Sequence[int]) -> None:
        count = math.prod(shape)
        self.dimension = min(count, self.MOST)
        self.name = f"{self.dimension} projections" if count > self.MOST else "values"
        random = torch.randn(count, self.dimension, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        self.directions = torch.linalg.qr(random).Q if count > self.MOST else torch.eye(count, dtype=torch.float64)

    def __call__(self, x: Float[Tensor, "b *d"]) -> Float[Tensor, "b k"]:
        """The features of a batch."""
        return (x.flatten(1).double() @ self.directions).float()


def extract(features: Features, images: Iterable[Float[Tensor, "b *d"]]) -> NDArray[np.float64]:
    """The features of all images, float64 [n, dimension], without gradients.

    Raises DataError if there are no images or a feature is not finite.
    """
    with torch.inference_mode():
        parts = [features(batch).double().cpu().numpy() for batch in images]
    if not parts:
        raise DataError("features need at least one image, got none")
    rows = np.concatenate(parts)
    if not np.isfinite(rows).all():
        raise DataError("features are not finite", "look for NaN or infinite values in the images")
    return rows


def members(features: Features) -> list[Features]:
    """Those whose features stand side by side in a row of `features`: of an ensemble its classifiers, else itself."""
    return list(getattr(features, "members", [features]))


def blocks(features: Features) -> list[slice]:
    """The columns of each of the `members` in a row of features."""
    ends = [0, *itertools.accumulate(member.dimension for member in members(features))]
    return [slice(start, end) for start, end in itertools.pairwise(ends)]


def _fit(
    classifier: ImageClassifier, images: Tensor, labels: Tensor, steps: int, shift: int, generator: torch.Generator
) -> None:
    """AdamW under a one-cycle rate; every batch is shifted by up to `shift` in each direction, edges repeated."""
    rate, (height, width) = 3e-3, images.shape[-2:]
    optimiser = torch.optim.AdamW(classifier.parameters(), lr=rate, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, rate, total_steps=steps + 1, pct_start=0.2)
    order = torch.empty(0, dtype=torch.int64)
    for _ in range(steps):
        if len(order) < min(BATCH, len(images)):
            order = torch.randperm(len(images), generator=generator)
        index, order = order[:BATCH], order[BATCH:]
        down, right = torch.randint(0, 2 * shift + 1, (2,), generator=generator).tolist()
        padded = F.pad(to_unit(images[index]), (shift,) * 4, mode="replicate")
        moved = padded[:, :, down : down + height, right : right + width]
        scores = classifier.logits(classifier(moved))
        loss = F.cross_entropy(scores, labels[index], label_smoothing=0.05)
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        schedule.step()


def _check(pixels: NDArray[np.uint8], labels: NDArray[np.int64], classes: int) -> None:
    if pixels.dtype != np.uint8 or pixels.ndim != 4 or min(pixels.shape[2:]) < SIDE or len(pixels) < 2:
        raise DataError(
            f"a classifier needs at least 2 images, uint8 [n, c, h, w] with h, w ≥ {SIDE},"
            f" got {pixels.dtype} {pixels.shape}"
        )
    if labels.shape != pixels.shape[:1] or labels.min() < 0 or labels.max() >= classes:
        raise DataError(
            f"a classifier needs one label of 0…{classes - 1} for each of {len(pixels)} images, "
            f"got shape {labels.shape} with values {labels.min()}…{labels.max()}"
        )


def train_classifier(
    pixels: NDArray[np.uint8],
    labels: Int[np.ndarray, " n"],
    classes: int,
    *,
    seed: int = 0,
    seconds: float = 45.0,
    held_out: Labelled | None = None,
) -> tuple[ImageClassifier, float]:
    """Train a classifier on images uint8 [n, c, h, w]; returns it with its accuracy on images it has not seen.

    `held_out` is an official test set; without one a random sixth is held out, at most 5,000 images.
    The work is `seconds` × 4,000 images and at most 40 epochs: counted, never timed, so that one seed gives one
    classifier. The global random state is left alone. Features are scaled to a mean square of 1 on the held-out
    images, since an embedding has no scale of its own and distances depend on it.

    Raises DataError for a wrong shape, type or label.
    """
    seen, unseen = hold_out(pixels, labels, classes, held_out, seed)
    classifier, rows = fitted(seen, unseen[0], classes, seed=seed, seconds=seconds)
    return classifier, float(np.mean(vote(classifier, rows) == unseen[1]))


def hold_out(
    pixels: NDArray[np.uint8], labels: NDArray[np.int64], classes: int, official: Labelled | None, seed: int
) -> tuple[Labelled, Labelled]:
    """(images to train on, images to judge by): all and the `official` test set, or a split where there is none.

    The split holds out a random sixth, at most 5,000 images. Raises DataError for a wrong shape, type or label.
    """
    _check(pixels, labels, classes)
    if official is not None:
        _check(*official, classes)
        return (pixels, labels), official
    order = torch.randperm(len(pixels), generator=torch.Generator().manual_seed(seed)).numpy()
    held, kept = np.split(order, [min(5000, max(1, len(pixels) // 6))])
    return (pixels[kept], labels[kept]), (pixels[held], labels[held])


def fitted(
    seen: Labelled, unseen: NDArray[np.uint8], classes: int, *, seed: int, seconds: float
) -> tuple[ImageClassifier, NDArray[np.float64]]:
    """A classifier trained as `train_classifier` does, and the features of the unseen images, by which it is scaled."""
    ready()
    images, labels = torch.from_numpy(seen[0]), torch.from_numpy(seen[1])
    steps = max(1, int(min(seconds * RATE, 40 * len(images)) / min(BATCH, len(images))))
    reduction = max(1, min(images.shape[2:]) // 14)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        classifier = ImageClassifier(images.shape[1], classes, reduction)
    _fit(classifier, images, labels, steps, shift=reduction, generator=torch.Generator().manual_seed(seed))
    classifier.eval().requires_grad_(False)
    rows = extract(classifier, batches(unseen))
    scale = float(np.sqrt(np.mean(rows**2)))
    for parameter in (classifier.embed.weight, classifier.embed.bias):
        parameter /= scale
    classifier.head.weight *= scale  # relu(x / scale) · scale = relu(x): the logits stay what they were
    return classifier, rows / scale


def probabilities(features: Features, rows: NDArray[np.float64]) -> NDArray[np.float64]:
    """p(class | image) for each row of features [n, d], [n, classes]: the mean of the members' softmax.

    Raises UsageError for features of no classifier, which know no classes.
    """
    scores = []
    with torch.inference_mode():
        for member, columns in zip(members(features), blocks(features), strict=True):
            if not isinstance(member, Classifies):
                raise UsageError(f"only a classifier knows classes, got the features {features.name!r}")
            scores.append(member.logits(torch.from_numpy(rows[:, columns]).to(member.head.weight)).double())
        found: NDArray[np.float64] = torch.stack(scores).softmax(dim=2).mean(dim=0).cpu().numpy()
    return found


def vote(features: Features, rows: NDArray[np.float64]) -> NDArray[np.int64]:
    """The most probable class of each row of features [n, d], int64 [n]. Raises UsageError as `probabilities` does."""
    best: NDArray[np.int64] = probabilities(features, rows).argmax(axis=1)
    return best
