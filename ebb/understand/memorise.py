"""Does a model copy its training images? How near its samples lie to them, beside images that it never saw."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, SupportsIndex

import numpy as np
import torch
from numpy.typing import NDArray

from ebb.data.pictures import batches
from ebb.errors import DataError
from ebb.judge.arrays import Given, array_of, indices_of
from ebb.judge.features import Features, extract, members
from ebb.recipe.limits import whole

MOST = 3000  # samples, and unseen images, that are looked at
NEXT = 10  # neighbours after the nearest that say how dense the data is there
SPARE = 5  # more of them than needed, so that rounding in the search loses none
ROWS, COLUMNS, EXACT = 1000, 10_000, 100  # images of either set compared at a time, and candidates made exact
COMMON = 10
"""An image that the training data holds so often, such as a blank page, is no secret of it."""
SHARE = 0.01
"""Samples are counted that lie nearer than this share of unseen images does."""
SURE = 1e-3
"""How seldom a model that copies nothing may be called one that does, in each space."""
PAIRS = 12

Array = NDArray[np.float64]


@dataclass(frozen=True)
class NearestImages:
    """How near to the training images samples lie in one space, beside unseen images.

    `closer` is the share of samples nearer (in ratio, see `memorisation`) than the nearest hundredth of unseen images,
    with its 95 % interval, `expected` that of a model which copies nothing, and `beyond` the share nearer than every
    unseen image; `chance` is how often such a model shows as much of either. `samples` and `held_out` are 101
    percentiles of the ratio, from the nearest to the farthest; `distance` and `held_out_distance` are medians of the
    plain distance, the root mean square over the numbers of a row (8-bit steps for pixels), which tells less: simple
    images lie near to others without being copies.
    """

    space: str
    closer: float
    expected: float
    low: float
    high: float
    beyond: float
    chance: float
    samples: list[float]
    held_out: list[float]
    distance: float
    held_out_distance: float


@dataclass(frozen=True)
class Memorisation:
    """The verdict in words, the figures it rests on, and the pairs (sample, training image, distance) most alike.

    `by_label` is the share closer in pixels for each label asked for; `n_samples`, `n_train` and `n_held_out` are the
    images compared, `identical` the samples that equal a training image in every value, and `leaked` the unseen images
    that do, and were left aside.
    """

    verdict: str
    spaces: list[NearestImages]
    pairs: list[tuple[int, int, float]]
    by_label: dict[str, float]
    n_samples: int
    n_train: int
    n_held_out: int
    identical: int
    leaked: int


def memorisation(
    samples: Given,
    asked: Given | None,
    train: Given,
    held_out: Given,
    features: Features | None,
    *,
    seed: SupportsIndex,
) -> Memorisation:
    """Whether samples are copies of training images, all uint8 [n, c, h, w], by where unseen images lie.

    In pixels, and in `features` (of an ensemble, the first member's), the figure of an image is the ratio

        |x − its nearest training image| / mean |x − the NEXT after it|,

    as in Carlini et al. 2023 (on CIFAR-10, with 50 neighbours) and Yoon et al. 2023 (with one): about 1 where data is
    dense or sparse alike, and near 0 for a copy. A model that copies nothing and draws from the distribution of the
    data cannot be told from unseen images by it. So with r the SHARE of the m unseen images, the number of samples
    below the r-th smallest ratio of unseen ones follows one law for all data (`surprise`). There is a sign of
    memorisation where so many lie below it, or below the smallest of all, as fewer than SURE of such models have.

    Training images count once, however often they occur; unseen images that training holds are left aside, and so is
    every image whose nearest occurs there COMMON times or more. Of samples and unseen images at most MOST, drawn by
    `seed`, are looked at; of training, all.

    What unseen images share with training short of equality (frames of one film) hides copies of that kind. Samples of
    a part of the data, such as one label, need unseen images of that part. `asked` are the labels of the samples.
    Raises DataError for sets that cannot be compared.
    """
    samples, asked, train, held_out = checked(samples, asked, train, held_out)
    known, occurrences, seen = distinct(train)
    some, unseen, leaked = looked_at(samples, held_out, seen, whole("seed", seed))
    if len(known) < 2 or len(unseen) < 1:
        raise DataError(
            f"copies are told by 2 or more different training images and 1 or more unseen ones that training does not"
            f" hold, got {len(known)} and {len(unseen)}"
        )
    sets = samples[some], train[known] if len(known) < len(train) else train, held_out[unseen]
    found = [
        (space, closeness(mine, theirs, occurrences), closeness(others, theirs, occurrences))
        for space, (mine, theirs, others) in views(sets, features)
    ]
    spaces, (_, near, usual) = [compared(*each) for each in found], found[0]
    order = np.argsort(near.ratio)[: min(PAIRS, int(near.counts.sum()))]
    pairs = [(int(some[i]), int(known[near.index[i]]), float(near.distance[i])) for i in order]
    labels = {} if asked is None else by_label(asked[some], near, limit(usual))
    identical = int((near.counts & (near.distance == 0)).sum())
    said = verdict(spaces, len(some), len(unseen), identical)
    return Memorisation(said, spaces, pairs, labels, len(some), len(train), len(unseen), identical, leaked)


def checked(
    samples: Given, asked: Given | None, train: Given, held_out: Given
) -> tuple[NDArray[np.uint8], NDArray[np.int64] | None, NDArray[np.uint8], NDArray[np.uint8]]:
    """The same as arrays; DataError unless all are 8-bit images, or numbers, of one shape, some of each, with a label
    for each sample if any."""
    names = ("samples", "training images", "unseen images")
    mine, known, unseen = (array_of(name, one) for name, one in zip(names, (samples, train, held_out), strict=True))
    for name, images in zip(names, (mine, known, unseen), strict=True):
        stored = images.dtype == known.dtype and (images.dtype == np.uint8) == (images.ndim == 4)
        if not stored or images.shape[1:] != known.shape[1:] or len(images) < 1:
            raise DataError(
                f"expected {name} of the shape of the training images, uint8 [n ≥ 1, c, h, w], or numbers, with"
                f" {list(known.shape[1:])}, got {images.dtype} {list(images.shape)}"
            )
    labels = indices_of("labels", asked)
    if labels is not None and labels.shape != mine.shape[:1]:
        raise DataError(f"expected one label for each of {len(mine)} samples, got {list(labels.shape)}")
    return mine, labels, known, unseen


def looked_at(
    samples: NDArray[np.uint8], held_out: NDArray[np.uint8], seen: set[bytes], seed: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], int]:
    """The indices of samples, at most MOST, those of held-out images not in `seen`, and how many of them are."""
    draw = np.random.default_rng(seed)
    fresh = np.flatnonzero([digest(image) not in seen for image in held_out])
    some, unseen = (np.sort(draw.permutation(each)[:MOST]) for each in (np.arange(len(samples)), fresh))
    return some, unseen, len(held_out) - len(fresh)


def digest(image: NDArray[np.uint8]) -> bytes:
    """What equal images share and others do not."""
    return hashlib.blake2b(image.tobytes(), digest_size=16).digest()


def distinct(images: NDArray[np.uint8]) -> tuple[NDArray[np.int64], NDArray[np.int64], set[bytes]]:
    """The first index of each different image, how often it occurs, and the digests of all."""
    first: dict[bytes, int] = {}
    occurrences: dict[bytes, int] = {}
    for i, image in enumerate(images):
        key = digest(image)
        first.setdefault(key, i)
        occurrences[key] = occurrences.get(key, 0) + 1
    return np.array(list(first.values())), np.array(list(occurrences.values())), set(first)


def views(
    sets: tuple[NDArray[np.uint8], ...], features: Features | None
) -> Iterator[tuple[str, tuple[NDArray[Any], ...]]]:
    """The sets as rows of numbers [n, d] in each space: pixels, then features."""
    yield "pixels" if sets[0].dtype == np.uint8 else "values", tuple(images.reshape(len(images), -1) for images in sets)
    if features is not None:
        first = members(features)[0]  # the others would say the same again
        yield first.name, tuple(extract(first, batches(images)) for images in sets)


@dataclass(frozen=True, eq=False)
class Closeness:
    """For each of n images: the ratio (∞ where it does not count), the distance to the nearest training image and its
    index, and whether it counts: not where that image is COMMON."""

    ratio: Array
    distance: Array
    index: NDArray[np.int64]
    counts: NDArray[np.bool_]


def closeness(rows: NDArray[Any], train: NDArray[Any], occurrences: NDArray[np.int64]) -> Closeness:
    """How near rows [n, d] lie to the different training rows, beside the density of those there."""
    distance, index = nearest(rows, train, min(NEXT + 1, len(train)))
    around = distance[:, 1:].mean(axis=1)
    ratio = np.divide(distance[:, 0], around, out=np.ones(len(rows)), where=around > 0)
    counts = occurrences[index[:, 0]] < COMMON
    return Closeness(np.where(counts, ratio, np.inf), distance[:, 0], index[:, 0], counts)


def nearest(rows: NDArray[Any], train: NDArray[Any], k: int) -> tuple[Array, NDArray[np.int64]]:
    """The `k` rows of train [n, d] nearest to each row [m, d], in order: (distance / √d [m, k], index [m, k]).

    Candidates are found in float32 by |b|² − 2a·b, with the mean taken off first, so that less cancels; their distances
    are then computed as they are defined, so an exact copy is at 0. It takes m·n·d multiplications, and at most about
    250 MB beyond the rows for images of 3,072 numbers.
    """
    count = min(k + SPARE, len(train))
    centre = train.mean(axis=0, dtype=np.float64).astype(np.float32)
    queries = torch.from_numpy(rows.astype(np.float32) - centre)
    best = torch.full((len(rows), count), math.inf)
    index = torch.zeros(len(rows), count, dtype=torch.int64)
    for begin in range(0, len(train), COLUMNS):
        block = torch.from_numpy(train[begin : begin + COLUMNS].astype(np.float32) - centre)
        squares = block.square().sum(1)
        for part in (slice(i, i + ROWS) for i in range(0, len(rows), ROWS)):
            found = torch.addmm(squares, queries[part], block.T, alpha=-2)
            near = found.topk(min(count, len(block)), largest=False, sorted=False)
            kept = torch.cat([best[part], near.values], 1).topk(count, largest=False, sorted=False)
            best[part] = kept.values
            index[part] = torch.cat([index[part], near.indices + begin], 1).gather(1, kept.indices)
    places, exact = index.numpy(), np.empty((len(rows), count))
    for part in (slice(i, i + EXACT) for i in range(0, len(rows), EXACT)):
        gap = train[places[part]].astype(np.float32) - rows[part, None].astype(np.float32)
        exact[part] = np.sqrt(np.einsum("nkd,nkd->nk", gap, gap) / rows.shape[1])
    order = np.lexsort((places, exact))[:, :k]  # by distance, equal ones by index
    return np.take_along_axis(exact, order, 1), np.take_along_axis(places, order, 1)


def limit(unseen: Closeness) -> float:
    """The ratio below which SHARE of the unseen images lie."""
    return float(np.sort(unseen.ratio)[rank(int(unseen.counts.sum())) - 1])


def rank(count: int) -> int:
    """r: SHARE of `count` unseen images, at least one."""
    return max(1, round(SHARE * count))


def compared(space: str, mine: Closeness, unseen: Closeness) -> NearestImages:
    """The figures of one space. Raises DataError where all that is left is near to common images."""
    n, m = int(mine.counts.sum()), int(unseen.counts.sum())
    if n < 1 or m < 1:
        raise DataError(
            f"all {'samples' if n < 1 else 'unseen images'} lie nearest to images that occur {COMMON} times or more",
            "take repeated images out of the data",
        )
    r = rank(m)
    closer, beyond = (int((mine.ratio < bar).sum()) for bar in (limit(unseen), unseen.ratio.min()))
    chance = 2 * min(surprise(closer, n, r, m), surprise(beyond, n, 1, m))
    percentiles = np.linspace(0, 1, 101)
    return NearestImages(
        space,
        closer / n,
        r / (m + 1),
        *binomial(closer, n),
        beyond / n,
        min(1.0, chance),
        np.quantile(mine.ratio[mine.counts], percentiles).tolist(),
        np.quantile(unseen.ratio[unseen.counts], percentiles).tolist(),
        float(np.median(mine.distance[mine.counts])),
        float(np.median(unseen.distance[unseen.counts])),
    )


def surprise(x: int, n: int, r: int, m: int) -> float:
    """P(X ≥ x): X of n draws lie below the r-th smallest of m more from the same continuous distribution, any at all.

    P(X = i) = C(i + r − 1, i)·C(n − i + m − r, n − i)/C(n + m, n), the negative hypergeometric law.
    """

    def log_ways(of: int, take: int) -> float:
        return math.lgamma(of + 1) - math.lgamma(take + 1) - math.lgamma(of - take + 1)

    total = log_ways(n + m, n)
    chances = (math.exp(log_ways(i + r - 1, i) + log_ways(n - i + m - r, n - i) - total) for i in range(x, n + 1))
    return min(1.0, math.fsum(chances))


def binomial(hits: int, count: int) -> tuple[float, float]:
    """The 95 % interval of a share, hits of count (Wilson 1927)."""
    z2, share = 1.96**2, hits / count
    middle = (share + z2 / (2 * count)) / (1 + z2 / count)
    reach = math.sqrt(z2 * (share * (1 - share) + z2 / (4 * count)) / count) / (1 + z2 / count)
    return max(0.0, middle - reach), min(1.0, middle + reach)


def by_label(asked: NDArray[np.int64], mine: Closeness, threshold: float) -> dict[str, float]:
    """The share of samples below the threshold, for each label that was asked for."""
    return {str(label): float((mine.ratio[asked == label] < threshold).mean()) for label in np.unique(asked).tolist()}


def verdict(spaces: list[NearestImages], samples: int, unseen: int, identical: int) -> str:
    """In words, of the most surprising space: copies, samples that are near, no sign, or too few images to tell.

    There is a sign where `chance` is below SURE. The samples in excess of what is expected are called copies where half
    of them or more lie nearer than every unseen image, and "most" where they are half of all samples. A few that are
    `identical` to training images are named where there is no other sign. Too few images are compared where not even
    copies alone would be one.
    """
    if 2 * surprise(samples, samples, 1, unseen) >= SURE:
        return f"cannot tell: {samples} samples and {unseen} unseen images are too few"
    worst = min(spaces, key=lambda space: space.chance)
    where = f"in {worst.space}" if worst.space in ("pixels", "values") else f"in the features of {worst.space}"
    share = (
        f"{100 * worst.closer:.3g} % of the samples lie as close to a training image, {where}, as only"
        f" {100 * worst.expected:.2g} % of unseen images do"
    )
    if worst.chance >= SURE:
        return f"no sign of memorisation{f' but {identical} exact copies' if identical else ''}: {share}"
    excess = worst.closer - worst.expected
    if worst.beyond < excess / 2:
        return f"some samples lie closer to training images than unseen ones do: {share}"
    beyond = f"{100 * worst.beyond:.3g} % closer than any of them"
    return f"{'most' if excess >= 0.5 else 'some'} samples are copies: {share}, and {beyond}"
