"""One measurement of one set of samples: figures, each with an interval and the floor it is read against."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, SupportsIndex

import numpy as np
from numpy.typing import NDArray

from ebb.data.pictures import batches
from ebb.errors import DataError, UsageError
from ebb.evaluate.by_class import distance_by_class, label_accuracy
from ebb.evaluate.figures import Distance, Pile, Sets, measured
from ebb.judge.arrays import Given, indices_of, values_of
from ebb.judge.distances import averaged, frechet_counted, too_few
from ebb.judge.features import Features, extract
from ebb.recipe.limits import whole

__all__ = ["Classes", "Distance", "Evaluation", "as_table", "label_accuracy", "measure", "split"]

REFERENCE = 10_000
CHUNK = 1000  # samples turned to 8 bits at a time

PerhapsLabelled = tuple[NDArray[Any], NDArray[np.int64] | None]
"""Images and their labels, if they have any."""


@dataclass(frozen=True)
class Evaluation:
    """All that was measured and all that is needed to measure it again; `dataclasses.asdict` of it is JSON.

    Accuracies are fractions: `classifier_accuracy` on held-out real images, `label_accuracy` and `per_class` the
    share of samples which the classifier sees as the label they were asked for. None where there is no answer.
    `frechet_by_class` compares the samples of a class with real images of it. What could not be measured is missing
    from `distances` and explained in `warnings`.
    """

    distances: dict[str, Distance]
    n_samples: int
    n_reference: int
    n_floor: int
    features: str
    classifier_accuracy: float | None
    label_accuracy: float | None
    per_class: dict[str, float]
    frechet_by_class: dict[str, float]
    warnings: list[str]
    seconds: float
    settings: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Classes:
    """The classes of samples and of real images, and which of these overlap, as far as it is known."""

    asked: Given | None = None
    """the labels [N] the samples were made for"""
    real: Given | None = None
    """the labels [n] of the real images"""
    names: Sequence[str] | None = None
    accuracy: float | None = None
    """of the classifier, on held-out real images"""
    apart: int = 1
    """how many places apart real examples share nothing, as `ebb.data.dataset.Dataset` has it"""


def measure(
    samples: Given,
    real: Given,
    features: Features,
    classes: Classes = Classes(),
    *,
    seed: SupportsIndex = 0,
    resamples: int = 100,
) -> Evaluation:
    """Measure `samples [N, c, h, w]` against `real` images [n, c, h, w], tensors or arrays, uint8 or floats in [−1, 1];
    or rows [N, d] or series [N, c, t] of numbers, in units of their deviation, against others.

    Real images are split by `seed` into a floor set of min(N, n // 2) and a reference set of the rest, at most 10,000.
    Samples and floor set meet the same reference, so the two numbers differ by the model alone. Images of floats are
    rounded to 8 bits first, as a saved one is. With classifiers as `features` the labels that were asked for give the
    label accuracy; with those of the real images, figures by class and of a classifier they teach.

    Raises DataError for different image shapes, values that are not finite, or sets below two images; UsageError for
    features that are none, and a seed that is none.
    """
    start = time.perf_counter()
    if not callable(features) or not isinstance(getattr(features, "dimension", None), int):
        raise UsageError(
            f"expected features, a function of images with a name and a dimension, got {features!r:.60}",
            "such as ebb.judge.ensemble.train_ensemble(pixels, labels, classes)[0]",
        )
    asked, known = indices_of("the labels asked for", classes.asked), indices_of("the real labels", classes.real)
    made, truth = values_of("samples", samples), values_of("real images", real)
    sets = sets_of((made, asked), (truth, known), features, classes.apart, whole("seed", seed), resamples)
    distances, missing = measured(sets)
    accuracy, per_class = label_accuracy(features, sets.samples.features, asked, classes.names)
    by_class, few = _frechet_by_class(sets, classes.names)
    return Evaluation(
        distances=distances,
        n_samples=len(sets.samples.features),
        n_reference=len(sets.reference.features),
        n_floor=len(sets.floor.features),
        features=features.name,
        classifier_accuracy=classes.accuracy,
        label_accuracy=accuracy,
        per_class=per_class,
        frechet_by_class=by_class,
        warnings=[*_warnings(sets, asked, known), *missing, *few],
        seconds=time.perf_counter() - start,
    )


def sets_of(
    mine: PerhapsLabelled, theirs: PerhapsLabelled, features: Features, apart: int, seed: int, resamples: int
) -> Sets:
    """Samples, floor and reference with their features and labels, as `measure` has them. Raises DataError."""
    (samples, asked), (real, real_labels) = mine, theirs
    if samples.shape[1:] != real.shape[1:] or len(samples) < 2 or len(real) < 4:
        raise DataError(
            f"expected samples [N ≥ 2, c, h, w] shaped like real [n ≥ 4], got {samples.shape}, {real.shape}"
        )
    for what, labels, images in (("asked label", asked, samples), ("label", real_labels, real)):
        if labels is not None and len(labels) != len(images):
            raise DataError(f"expected one {what} for each of {len(images)} images, got {len(labels)}")
    of_real = (None, None) if real_labels is None else split(real_labels, len(samples), seed, apart)
    real = rounded(real)
    parts = zip((rounded(samples), *split(real, len(samples), seed, apart)), (asked, *of_real), strict=True)
    piles = (Pile(pixels, labels, extract(features, batches(pixels))) for pixels, labels in parts)
    drawn, floor, reference = piles
    return Sets(drawn, floor, reference, features, seed, resamples)


BLOCK = 8
"""Spans of overlap in a block of time, of which one is lost as a gap to the next."""


def split(real: NDArray[Any], count: int, seed: int, apart: int = 1) -> tuple[NDArray[Any], NDArray[Any]]:
    """(floor set, reference set) of real images, or of their labels, for a measurement of `count` samples.

    Where examples nearer than `apart` places overlap, as windows of one series do, whole blocks of them go to either
    set, with a gap behind each: no value is in both. Raises DataError where the series is too short for two blocks.
    """
    rng, held = np.random.default_rng(seed), min(count, len(real) // 2)
    if apart == 1:
        order = rng.permutation(len(real))
        return real[order[:held]], real[order[held : held + REFERENCE]]
    length = min(BLOCK * apart, len(real) // 2)
    if length < apart:
        raise DataError(
            f"{len(real):,} windows, of which {apart:,} in a row overlap: there are no two that share nothing",
            "take shorter ones: --data.window",
        )
    blocks = rng.permutation(len(real) // length)
    inside = np.arange(length - apart + 1)
    floor = min(-(-held // len(inside)), len(blocks) // 2)
    parts = ((blocks[:floor], held), (blocks[floor:], REFERENCE))
    first, second = (rng.permutation((some[:, None] * length + inside).ravel())[:most] for some, most in parts)
    return real[first], real[second]


def _frechet_by_class(sets: Sets, class_names: Sequence[str] | None) -> tuple[dict[str, float], list[str]]:
    """The Fréchet distance of each class that has the images, and a line for those that have not."""
    asked, labels = sets.samples.labels, sets.reference.labels
    if asked is None or labels is None:
        return {}, []
    names = class_names or [str(label) for label in range(1 + int(max(asked.max(), labels.max())))]
    found, few = distance_by_class(
        averaged(frechet_counted, sets.columns),
        sets.dimension,
        (sets.samples.features, asked),
        (sets.reference.features, labels),
        names,
    )
    which = "every class" if not found else f"{len(few)} of {len(few) + len(found)} classes"
    text = (
        f"Fréchet distance by class: left out for {which}, it needs {2 * sets.dimension} samples and real images of it"
    )
    return found, [text] if few else []


def rounded(samples: NDArray[Any]) -> NDArray[Any]:
    """Floats in [−1, 1], clipped and rounded to the 256 levels of an image; uint8, and what is no image, as it is."""
    if samples.dtype == np.uint8:
        return samples
    chunks = [samples[i : i + CHUNK] for i in range(0, len(samples), CHUNK)]
    bad = sum(int((~np.isfinite(chunk)).reshape(len(chunk), -1).any(axis=1).sum()) for chunk in chunks)
    if bad:
        raise DataError(f"{bad} of {len(samples)} images hold NaN or infinite values", "the model or solver diverged")
    if samples.ndim != 4:
        return samples
    return np.concatenate([((chunk.clip(-1, 1) + 1) * 127.5).round().astype(np.uint8) for chunk in chunks])


def _warnings(sets: Sets, asked: NDArray[np.int64] | None, real_labels: NDArray[np.int64] | None) -> list[str]:
    """What a reader must know before comparing these figures with others."""
    few = too_few(sets.least, sets.dimension) if sets.least > sets.dimension else None  # below, it is left out
    found = [few] if few else []
    if len(sets.floor.features) < len(sets.samples.features):
        found.append(
            f"the floor has {len(sets.floor.features)} real images, the samples are {len(sets.samples.features)}: with"
            f" fewer images the Fréchet distance reads higher, so the true floor is lower"
        )
    if asked is not None and real_labels is not None:
        shares = [
            np.bincount(x, minlength=1 + max(asked.max(), real_labels.max())) / len(x) for x in (asked, real_labels)
        ]
        moved = 0.5 * np.abs(shares[0] - shares[1]).sum()
        if moved > 0.1:
            found.append(
                f"the labels asked for are not mixed like the real ones ({moved:.0%} would have to change): "
                f"part of the distance is this difference"
            )
    return found


def as_table(evaluation: Evaluation) -> list[tuple[str, str]]:
    """Rows (what, figure in plain words), for printing."""
    table = []
    for name, d in evaluation.distances.items():
        few = d.needs is not None and evaluation.n_samples < d.needs
        beyond = f"; to be trusted from {d.needs:,} samples on" if few else ""
        table.append((name, f"{d.value:.3g} [{d.low:.3g}, {d.high:.3g}]; real ones score {d.floor:.3g}{beyond}"))
    if evaluation.label_accuracy is not None:
        ceiling = evaluation.classifier_accuracy
        beside = "" if ceiling is None else f"; real ones score {ceiling:.1%}"
        table.append(("label accuracy", f"{evaluation.label_accuracy:.1%} show what was asked for{beside}"))
    table.append(("images", f"{evaluation.n_samples:,} samples, {evaluation.n_reference:,} real ones as reference"))
    table.append(("features", evaluation.features))
    table.extend(("note", warning) for warning in evaluation.warnings)
    return table
