"""Every figure of one measurement, with its interval, its floor and the count it needs, or why it cannot be had."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ebb.data.pictures import batches
from ebb.evaluate import by_class, two_sample
from ebb.judge import manifold, sliced
from ebb.judge.distances import Array, Statistic, averaged, estimate, frechet_counted, kernel_counted, once, wilson
from ebb.judge.features import SIDE, Features, RandomFeatures, blocks, extract, probabilities

COLUMNS = 10
"""Images for each feature that a Fréchet distance needs: two sets of one distribution then read about a twentieth of
its variance apart."""

PAIRED = 5_000
"""Images of a set, the first, of which all pairs are looked at: the work grows with the square of the count."""

LEAST = 10
"""Images of a set below which nothing is measured: a resampled set might be one image over and over."""

HUNDRED = 100
"""Images that the interval of an unbiased distance needs: it is that of a mean of many."""


@dataclass(frozen=True)
class Distance:
    """A figure of the samples, its 95 % interval, and the same figure of real images in place of the samples.

    `needs` is the count of samples from which on it can be trusted, None where any will do; `better` says whether a
    good model reads low, high, or a half.
    """

    value: float
    low: float
    high: float
    floor: float
    needs: int | None
    better: Literal["low", "high", "half"]


@dataclass(frozen=True, eq=False)
class Pile:
    """Examples as they are stored, uint8 [n, c, h, w] or numbers, their labels and their features [n, d]."""

    rows: NDArray[Any]
    labels: NDArray[np.int64] | None
    features: Array


@dataclass(frozen=True, eq=False)
class Sets:
    """Samples, as many real images held back for the floor, and the real images that both are compared with."""

    samples: Pile
    floor: Pile
    reference: Pile
    features: Features
    seed: int
    resamples: int

    @property
    def columns(self) -> list[slice]:
        """The columns of each member of the features."""
        return blocks(self.features)

    @property
    def dimension(self) -> int:
        """The columns of the widest member."""
        return max(int(part.stop - part.start) for part in self.columns)

    @property
    def least(self) -> int:
        """Images of the smallest of the three sets."""
        return min(len(pile.features) for pile in (self.samples, self.floor, self.reference))


Outcome: TypeAlias = dict[str, Distance] | str
"""Figures by name, or why there are none."""


def _sampled(
    sets: Sets, statistic: Statistic, read: Callable[[Pile], Array], needs: int, resamples: int | None = None
) -> Distance:
    """A statistic of `read(pile)`, which is better where it is low, with its bootstrap interval and its floor."""
    samples, floor, reference = (read(pile) for pile in (sets.samples, sets.floor, sets.reference))
    value, low, high = estimate(statistic, samples, reference, resamples=resamples or sets.resamples, seed=sets.seed)
    return Distance(value, low, high, once(statistic, floor, reference), needs, "low")


def rows(pile: Pile) -> Array:
    """All features."""
    return pile.features


def first(pile: Pile) -> Array:
    """The features of the first PAIRED images."""
    return pile.features[:PAIRED]


STATISTICS: dict[str, tuple[Statistic, Callable[[Pile], Array]]] = {
    "Fréchet distance": (frechet_counted, rows),
    "kernel distance": (kernel_counted, first),
}
"""Distances of features, and what they are taken of; of an ensemble, the mean of the members'."""


def _of_features(name: str, sets: Sets, resamples: int, needs: int) -> Distance:
    """One of STATISTICS, the mean of the members'."""
    statistic, read = STATISTICS[name]
    return _sampled(sets, averaged(statistic, sets.columns), read, needs, resamples)


def affordable(sets: Sets) -> int:
    """How often a Fréchet distance is resampled: as asked up to 256 features, beyond them (256/features)² as often, but
    at least 20 times, where an interval is right to a sixth of its width."""
    return min(sets.resamples, max(20, round(sets.resamples * (256 / sets.dimension) ** 2)))


def frechet(sets: Sets) -> Outcome:
    """The Fréchet distance; refused for as many images as features or fewer, where a covariance is not one."""
    if sets.least <= sets.dimension:
        return f"{sets.least} images give no covariance of {sets.dimension} features"
    figure = _of_features("Fréchet distance", sets, affordable(sets), COLUMNS * sets.dimension)
    return {"Fréchet distance": replace(figure, low=max(figure.low, 0.0))}  # a distance is never negative


def kernel(sets: Sets) -> Outcome:
    """The kernel distance of at most PAIRED images of each set; unbiased, it may read below 0."""
    return {"kernel distance": _of_features("kernel distance", sets, sets.resamples, HUNDRED)}


def lying(pile: Pile, sets: Sets) -> dict[str, Array]:
    """How at most 5,000 images of `pile` and of the reference lie among each other: precision, recall, density and
    coverage image by image (`manifold.Membership`), the mean over the members of the features."""
    centre = sets.reference.features.mean(axis=0)
    rows, real = ((x.features[: manifold.MOST] - centre).astype(np.float32) for x in (pile, sets.reference))
    found = []
    for part in sets.columns:
        mine, theirs = rows[:, part], real[:, part]
        found.append(vars(manifold.membership(mine, theirs, manifold.radii(mine), manifold.radii(theirs))))
    return {name: np.mean([scores[name] for scores in found], axis=0) for name in found[0]}


def neighbours(sets: Sets) -> Outcome:
    """Precision, recall, density and coverage."""
    figures, least = {}, lying(sets.floor, sets)
    counts = [min(len(pile.features), manifold.MOST) for pile in (sets.samples, sets.reference)]
    for name, scores in lying(sets.samples, sets).items():
        low, high = manifold.interval(scores, *counts)
        floor = float(least[name].mean())
        figures[name] = Distance(float(scores.mean()), low, high, floor, manifold.NEEDS, "high")
    return figures


def pixels(sets: Sets) -> Outcome:
    """The sliced Wasserstein distance of the pixels."""

    def read(pile: Pile) -> Array:
        return sliced.projected(pile.rows, sets.seed)

    figure = _sampled(sets, sliced.sliced_counted, read, sliced.NEEDS)
    return {"sliced Wasserstein distance": figure}


def class_score(sets: Sets) -> Outcome:
    """The class score of the vote."""
    if not by_class.judges(sets.features):
        return f"the features ({sets.features.name}) know no classes"

    def read(pile: Pile) -> Array:
        return probabilities(sets.features, pile.features)

    needs = by_class.SCORED * read(sets.reference).shape[1]
    return {"class score": replace(_sampled(sets, by_class.score_counted, read, needs), better="high")}


def _too_small(images: NDArray[Any], least: int) -> str | None:
    """Why no classifier can be trained on images."""
    if images.ndim != 4:
        return "the classifier is one of images"
    if min(images.shape[2:]) < SIDE:
        return f"a classifier needs images of {SIDE}×{SIDE} or more"
    if least < two_sample.LEAST:
        return f"a classifier cannot be trained on {least} images"
    return None


def telling_apart(sets: Sets) -> Outcome:
    """The two-sample test, with Wilson's interval for the images tested. Its floor needs no training: it is 0.5.

    The network that tells sees the features and those of a random network beside them: what a classifier of labels
    was trained to overlook, such as faint noise, is a difference too.
    """
    numbers = sets.samples.rows.ndim != 4  # rows and series are looked at as they are
    why = _too_small(sets.samples.rows, sets.least)
    if why and not (numbers and sets.least >= two_sample.LEAST):
        return why
    piles = [pile.rows[: two_sample.MOST] for pile in (sets.samples, sets.reference)]
    if numbers:
        samples, real = (np.reshape(values, (len(values), -1)).astype(np.float64) for values in piles)
    else:
        random, rows = RandomFeatures(piles[0].shape[1]), (sets.samples.features, sets.reference.features)
        samples, real = (
            np.hstack([seen[: two_sample.MOST], extract(random, batches(values))])
            for seen, values in zip(rows, piles, strict=True)
        )
    value, count = two_sample.two_sample_accuracy(samples, real, seed=sets.seed)
    return {"two-sample test": Distance(value, *wilson(value, count), 0.5, two_sample.NEEDS, "half")}


def teaching(sets: Sets) -> Outcome:
    """Accuracy on real images of a classifier that learnt from samples, with Wilson's interval for the images tested.

    The floor is that of one which learnt from as many real images, all else equal.
    """
    asked, labels, truth = sets.samples.labels, sets.floor.labels, sets.reference.labels
    if asked is None or labels is None or truth is None:
        return "samples or images have no labels"
    if len(np.unique(truth)) < 2 or len(np.unique(asked)) < 2:
        return "there is one class only"
    count = min(len(asked), len(labels))
    why = _too_small(sets.samples.rows, count)
    if why:
        return why
    classes = 1 + int(max(asked.max(), labels.max(), truth.max()))
    (value, tested), (floor, _) = (
        two_sample.taught((pixels[:count], of[:count]), (sets.reference.rows, truth), classes, seed=sets.seed)
        for pixels, of in ((sets.samples.rows, asked), (sets.floor.rows, labels))
    )
    figure = Distance(value, *wilson(value, tested), floor, two_sample.EACH * classes, "high")
    return {"trained on samples": figure}


FIGURES: dict[str, Callable[[Sets], Outcome]] = {
    "Fréchet distance": frechet,
    "kernel distance": kernel,
    "precision, recall, density, coverage": neighbours,
    "class score": class_score,
    "sliced Wasserstein distance": pixels,
    "two-sample test": telling_apart,
    "trained on samples": teaching,
}
"""All that is measured, in the order in which it is shown."""


def measured(sets: Sets, names: Iterable[str] = FIGURES) -> tuple[dict[str, Distance], list[str]]:
    """The figures of these names that can be had, and a line for each that cannot."""
    if sets.least < LEAST:
        return {}, [f"all figures: left out, a set of {sets.least} images says nothing; {LEAST} are the least"]
    figures, missing = dict[str, Distance](), []
    for name in names:
        found = FIGURES[name](sets)
        if isinstance(found, str):
            missing.append(f"{name}: left out, {found}")
        else:
            figures |= found
    return figures, missing
