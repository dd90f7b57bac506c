"""One measurement of one set of samples: figures, each with an interval and the floor it is read against."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ebb.errors import DataError
from ebb.evaluate.distances import Array, bootstrap, frechet_counted, kernel_counted, too_few
from ebb.evaluate.features import Classifier, Features, batches, extract, judge

STATISTICS = {"Fréchet distance": frechet_counted, "kernel distance": kernel_counted}
REFERENCE = 10_000


@dataclass(frozen=True)
class Distance:
    """A distance from samples to real images, its 95 % interval, and the same distance from other real images."""

    value: float
    low: float
    high: float
    floor: float


@dataclass(frozen=True)
class Evaluation:
    """All that was measured and all that is needed to measure it again; `dataclasses.asdict` of it is JSON.

    Accuracies are fractions: `classifier_accuracy` on held-out real images, `label_accuracy` and `per_class` the
    share of samples which the classifier sees as the label they were asked for. None where there is no answer.
    """

    distances: dict[str, Distance]
    n_samples: int
    n_reference: int
    n_floor: int
    features: str
    classifier_accuracy: float | None
    label_accuracy: float | None
    per_class: dict[str, float]
    warnings: list[str]
    seconds: float
    settings: dict[str, Any] = field(default_factory=dict)


def measure(
    samples: NDArray[Any],
    real: NDArray[np.uint8],
    features: Features,
    *,
    asked: NDArray[np.int64] | None = None,
    real_labels: NDArray[np.int64] | None = None,
    class_names: Sequence[str] | None = None,
    classifier_accuracy: float | None = None,
    settings: Mapping[str, Any] | None = None,
    seed: int = 0,
    resamples: int = 200,
) -> Evaluation:
    """Measure `samples [N, c, h, w]`, uint8 or floats in [−1, 1], against `real`, uint8 [n, c, h, w].

    Real images are split by `seed` into a floor set of min(N, n // 2) and a reference set of the rest, at most
    10,000. Samples and floor set meet the same reference, so the two numbers differ by the model alone.
    Floats are rounded to 8 bits first, as a saved image is: real images are. `asked` are the labels [N] the samples
    were made for; with a `Classifier` as `features` they give the label accuracy.

    Raises DataError for different image shapes, values that are not finite, or sets below two images.
    """
    start = time.perf_counter()
    if samples.shape[1:] != real.shape[1:] or len(samples) < 2 or len(real) < 4:
        raise DataError(
            f"expected samples [N ≥ 2, c, h, w] shaped like real [n ≥ 4], got {samples.shape}, {real.shape}"
        )
    if asked is not None and len(asked) != len(samples):
        raise DataError(f"expected one asked label for each of {len(samples)} samples, got {len(asked)}")
    floor, reference = (extract(features, batches(part)) for part in split(real, len(samples), seed))
    rows = extract(features, batches(_eight_bits(samples)))
    accuracy, per_class = label_accuracy(features, rows, asked, class_names)
    return Evaluation(
        distances=_distances(rows, floor, reference, seed, resamples),
        n_samples=len(rows),
        n_reference=len(reference),
        n_floor=len(floor),
        features=features.name,
        classifier_accuracy=classifier_accuracy,
        label_accuracy=accuracy,
        per_class=per_class,
        warnings=_warnings(rows, floor, reference, asked, real_labels),
        seconds=time.perf_counter() - start,
        settings=dict(settings or {}),
    )


def split(real: NDArray[np.uint8], count: int, seed: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """(floor set, reference set) of `real`, for a measurement of `count` samples."""
    order = np.random.default_rng(seed).permutation(len(real))
    held = min(count, len(real) // 2)
    return real[order[:held]], real[order[held : held + REFERENCE]]


def label_accuracy(
    features: Features, rows: Array, asked: NDArray[np.int64] | None, class_names: Sequence[str] | None
) -> tuple[float | None, dict[str, float]]:
    """How often a classifier sees the asked label, in all and by class; (None, {}) without labels or classifier."""
    if asked is None or not isinstance(features, Classifier):
        return None, {}
    hits = judge(features, rows) == asked
    names = class_names or [str(label) for label in range(features.classes)]
    return float(hits.mean()), {names[k]: float(hits[asked == k].mean()) for k in np.unique(asked)}


def _distances(rows: Array, floor: Array, reference: Array, seed: int, resamples: int) -> dict[str, Distance]:
    """Every statistic of samples and of the floor set, against one reference."""
    once = [np.ones((1, len(x))) for x in (rows, floor, reference)]
    found = {}
    for name, statistic in STATISTICS.items():
        value, least = (
            float(statistic(x, reference, o, once[2])[0]) for x, o in zip((rows, floor), once, strict=False)
        )
        low, high = bootstrap(statistic, rows, reference, resamples=resamples, seed=seed)
        if statistic is frechet_counted:  # a distance is never negative; the kernel's unbiased estimate may be
            low = max(low, 0.0)
        found[name] = Distance(value, low, high, least)
    return found


def _eight_bits(samples: NDArray[Any]) -> NDArray[np.uint8]:
    """Floats in [−1, 1], clipped and rounded to the 256 levels of an image; uint8 as it is."""
    if samples.dtype == np.uint8:
        return samples
    if not np.isfinite(samples).all():
        bad = int((~np.isfinite(samples)).reshape(len(samples), -1).any(axis=1).sum())
        raise DataError(f"{bad} of {len(samples)} samples hold NaN or infinite values", "the model or solver diverged")
    return ((samples.clip(-1, 1) + 1) * 127.5).round().astype(np.uint8)


def _warnings(
    rows: Array, floor: Array, reference: Array, asked: NDArray[np.int64] | None, real_labels: NDArray[np.int64] | None
) -> list[str]:
    """What a reader must know before comparing these figures with others."""
    few = too_few(min(len(rows), len(floor), len(reference)), rows.shape[1])
    found = [few] if few else []
    if len(floor) < len(rows):
        found.append(
            f"the floor has {len(floor)} real images, the samples are {len(rows)}: with fewer images the Fréchet "
            f"distance reads higher, so the true floor is lower"
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
    table = [
        (name, f"{d.value:.3g} [{d.low:.3g}, {d.high:.3g}]; real against real {d.floor:.3g}")
        for name, d in evaluation.distances.items()
    ]
    if evaluation.label_accuracy is not None:
        ceiling = evaluation.classifier_accuracy
        beside = "" if ceiling is None else f"; on real images the classifier is right in {ceiling:.1%}"
        table.append(("label accuracy", f"{evaluation.label_accuracy:.1%} show what was asked for{beside}"))
    table.append(("images", f"{evaluation.n_samples:,} samples, {evaluation.n_reference:,} real ones as reference"))
    table.append(("features", evaluation.features))
    table.extend(("note", warning) for warning in evaluation.warnings)
    return table
