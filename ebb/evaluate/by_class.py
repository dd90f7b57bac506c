"""What a classifier and labels can tell: the class score, and accuracy and distance class by class."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ebb.judge.distances import Array, Rows, Statistic, once, too_few
from ebb.judge.features import Classifies, Features, vote

SCORED = 100
"""Images for each class that the class score needs: its logarithm then reads at most 0.005 low."""


def judges(features: Features) -> bool:
    """Whether `features` know classes: those of a classifier, or of several."""
    return all(isinstance(member, Classifies) for member in getattr(features, "members", [features]))


def score_counted(a: Rows, b: Rows, counts_a: Rows, counts_b: Rows) -> Array:
    """exp(mean KL(p(y|x) ‖ p(y))) of class probabilities `a` [n, classes], with p(y) their mean: a `Statistic`.

    The formula of the inception score (Salimans et al. 2016, § 4), over all rows at once; with another classifier it
    is another number. 1: all images look alike to the classifier; the number of classes: each is sure, and all are
    seen alike often. The set `b` is not looked at. From n rows its logarithm reads about (classes − 1)/2n low.
    """
    rows, total = a.astype(np.float64), counts_a.sum(axis=1, dtype=np.float64)
    certainty = counts_a @ _plogp(rows).sum(axis=1) / total
    mixed = counts_a @ rows / total[:, None]
    return np.asarray(np.exp(certainty - _plogp(mixed).sum(axis=1)))


def _plogp(p: Array) -> Array:
    """p·log p, 0 at 0."""
    return np.asarray(p * np.log(np.where(p > 0, p, 1)))


def distance_by_class(
    statistic: Statistic,
    dimension: int,
    samples: tuple[Array, NDArray[np.int64]],
    real: tuple[Array, NDArray[np.int64]],
    names: Sequence[str],
) -> tuple[dict[str, float], list[str]]:
    """(`statistic` of the samples of a class and its real rows, by name; the classes that have too few of either).

    `samples` and `real` are rows and their labels; a class needs twice as many rows as an image has features
    (`dimension`) in both. A distance within a class sees what all classes together hide, such as one that has
    collapsed. A class that has no samples was not asked for and is in neither answer.
    """
    found, few = dict[str, float](), []
    for label in np.unique(samples[1]).tolist():
        mine, theirs = (rows[labels == label] for rows, labels in (samples, real))
        if too_few(min(len(mine), len(theirs)), dimension):
            few.append(names[label])
        else:
            found[names[label]] = once(statistic, mine, theirs)
    return found, few


def label_accuracy(
    features: Features, rows: Array, asked: NDArray[np.int64] | None, class_names: Sequence[str] | None
) -> tuple[float | None, dict[str, float]]:
    """How often the classifiers see the asked label, in all and by class; (None, {}) without labels or classifier."""
    if asked is None or not judges(features):
        return None, {}
    hits = vote(features, rows) == asked
    names = class_names or [str(label) for label in range(1 + int(asked.max()))]
    return float(hits.mean()), {names[k]: float(hits[asked == k].mean()) for k in np.unique(asked)}
