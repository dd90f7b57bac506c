"""Two runs on the same data: the same seeds, labels and count, and an interval for the difference of each figure."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Unpack

import numpy as np
from numpy.typing import NDArray

from ebb.data.dataset import Dataset
from ebb.data.modality import compared, in_terms
from ebb.data.of_run import data_of, trained_as
from ebb.data.pictures import batches
from ebb.errors import UsageError
from ebb.evaluate import figures
from ebb.evaluate.by_class import judges, score_counted
from ebb.evaluate.drawn import Drawn
from ebb.evaluate.enough import comparable, countable, one_bucket
from ebb.evaluate.evaluate import (
    Measuring,
    coarse,
    drawn_from,
    loaded,
    measuring,
    old,
    settings_of,
)
from ebb.evaluate.figures import Distance, Pile, Sets
from ebb.evaluate.judges import features_for, standing_of
from ebb.evaluate.measure import split
from ebb.events import Done, Figure, Progress, Work
from ebb.judge import manifold, sliced
from ebb.judge.distances import DEVIATES, Array, Rows, Statistic, averaged, estimate, once
from ebb.judge.features import Features, extract, probabilities, vote
from ebb.judge.possible import Standing
from ebb.report.run_report import write_report
from ebb.store.write import replace_text
from ebb.system.requests import asked_for, labels_of
from ebb.system.sampler import Settings

RESAMPLES = 200


@dataclass(frozen=True)
class Difference:
    """A figure of two runs, `value` − `other` with its 95 % interval, which way is better, and the answer in words."""

    value: float
    other: float
    difference: float
    low: float
    high: float
    better: str
    paired: bool
    says: str


@dataclass(frozen=True)
class Comparison:
    """Everything of a comparison."""

    run: str
    other: str
    count: int
    seed: int
    features: str
    differences: dict[str, Difference]
    warnings: list[str]
    settings: dict[str, Any]
    other_settings: dict[str, Any]
    judge: Standing | None = None
    """how far the classifiers that judged lie from what is possible"""

    def facts(self) -> dict[str, Any]:
        """What against-OTHER.json holds."""
        return asdict(self) | {"verdict": self.verdict}

    @property
    def says(self) -> str:
        """What the differences say, in a sentence, the Fréchet distance first where there is one."""
        order = sorted(self.differences, key=lambda name: name != "Fréchet distance")
        each = "; ".join(f"{name}: {self.differences[name].says}" for name in order)
        return f"{self.count:,} samples of {self.run} and {self.other}, by {self.features}: {each}"

    @property
    def verdict(self) -> str:
        """Which of the two is better by how many of the figures, in a sentence."""
        says, names = [found.says for found in self.differences.values()], (self.run, self.other)
        wins = {name: sum(text.startswith(f"{name} is better") for text in says) for name in names}
        first, second = sorted(names, key=lambda name: -wins[name])
        if not wins[first]:
            return f"no figure of {len(says)} shows a difference between {first} and {second}"
        rest = len(says) - wins[first] - wins[second]
        return (
            f"{first} is better by {wins[first]} of {len(says)} figures, {second} by {wins[second]}; {rest} cannot tell"
        )


def against(
    run: str | Path,
    other: str | Path,
    count: int,
    how: Measuring = Measuring(),
    *,
    seed: int = 0,
    **settings: Unpack[Settings],
) -> Work[Comparison]:
    """Compare `count` samples of two runs that were trained on the same images; written to RUN/against-OTHER.json.

    Sample i of both is made from the same noise for the same label, and both meet the same real images in the same
    features, so that chance moves both alike and the interval of the difference is narrower than those of the figures.
    `settings` are asked of both; without them each samples as it does. Samples are kept as by `evaluate`. Raises
    UsageError for a run compared with itself or with one of other data, and ResourceError as `evaluate` does.
    """
    run, other = Path(run), Path(other)
    countable(count, seed)
    same_data(run, other)
    file = f"against-{other.resolve().name}.json"
    with measuring(run, file, "report.html", fresh=how.fresh) as mine, measuring(other, fresh=how.fresh) as others:
        yield from (*mine, *others)
        ones = [loaded(folder, how.weights, **settings) for folder in (run, other)]
        dataset = data_of(run, how.data)
        comparable(run, len(dataset.rows))
        seen, accuracy = yield from features_for(run, dataset, how.features, fresh=how.fresh)
        given = asked_for(ones[0].system, dataset, count, seed)
        labels = labels_of(ones[0].system, given, dataset)
        drawn = list[Drawn]()
        for one in ones:
            request = one.system.request(given, count, seed)
            drawn.append((yield from drawn_from(one, request, dataset, f"{one.run.name}: sampling")))
        yield Progress("comparing")
        names = called(run, other)
        made_by = [settings_of(one, d, seed) for one, d in zip(ones, drawn, strict=True)]
        found, warnings = differences(*both(drawn, dataset, labels, seen, seed), names)
        warnings += one_bucket(dataset)
        warnings += [line for folder, d in zip((run, other), drawn, strict=True) for line in old(folder, d)]
        judge = standing_of(dataset, seen, accuracy)
        warnings, things = [*warnings, *coarse(judge)], dataset.modality.things
        warnings = [in_terms(line, things) for line in warnings]
        found = {name: replace(one, says=in_terms(one.says, things)) for name, one in found.items()}
        result = Comparison(*names, count, seed, seen.name, found, warnings, made_by[0], made_by[1], judge)
        replace_text(run / file, json.dumps(result.facts(), indent=1))
        write_report(run)
    yield Figure(file.removesuffix(".json"), result.facts())
    yield Done(str(run))
    return result


def both(
    drawn: Sequence[Drawn], dataset: Dataset, labels: NDArray[np.int64] | None, seen: Features, seed: int
) -> tuple[Sets, Sets]:
    """The samples of both runs, each beside the same real images."""
    real, *made = (compared(dataset.modality, rows) for rows in (dataset.rows, *(d.rows for d in drawn)))
    count = len(made[0])
    truth = (None, None) if dataset.labels is None else split(dataset.labels, count, seed, dataset.apart)
    floor, reference = (
        Pile(part, of, extract(seen, batches(part)))
        for part, of in zip(split(real, count, seed, dataset.apart), truth, strict=True)
    )
    one, two = (
        Sets(Pile(rows, labels, extract(seen, batches(rows))), floor, reference, seen, seed, RESAMPLES) for rows in made
    )
    return one, two


def same_data(run: Path, other: Path) -> None:
    """Raise UsageError unless these are two runs, trained on the same images."""
    if run.resolve() == other.resolve():
        raise UsageError(f"{run} cannot be compared with itself", "name another run: --against RUN2")
    one, two = (trained_as(folder)[1] for folder in (run, other))
    if one["fingerprint"] != two["fingerprint"]:
        there, here = (f"{about.get('data', '')} (fingerprint {about['fingerprint'][:12]}…)" for about in (two, one))
        raise UsageError(
            f"{other} was trained on other images than {run}: {there}, not {here}",
            "compare runs of the same data at the same --data.size",
        )


def called(run: Path, other: Path) -> tuple[str, str]:
    """What the runs are called in words: their names, or their paths where these are the same."""
    names = run.resolve().name, other.resolve().name
    return names if names[0] != names[1] else (str(run), str(other))


def differences(one: Sets, two: Sets, names: tuple[str, str]) -> tuple[dict[str, Difference], list[str]]:
    """Every figure that both sets have, and a line for those that could not be had."""
    gaps, missing = dict[str, Gap](), list[str]()
    for figure in (figures.telling_apart, figures.teaching):
        found = [figure(sets) for sets in (one, two)]
        if isinstance(found[0], str) or isinstance(found[1], str):
            missing += [f"{figure.__name__.replace('_', ' ')}: left out, {why}" for why in found[:1]]
            continue
        for name in found[0]:
            gaps[name] = unpaired(found[0][name], found[1][name])
    pairs, left_out = in_pairs(one, two, names)
    count = len(one.samples.features)
    return pairs | {name: worded(gap, names, count) for name, gap in gaps.items()}, left_out + missing


def in_pairs(one: Sets, two: Sets, names: tuple[str, str]) -> tuple[dict[str, Difference], list[str]]:
    """Every figure that compares sample i of both, and a line for the distance that could not be had."""
    gaps, count = {**resampled(one, two), **counted(one, two)}, len(one.samples.features)
    few = f"Fréchet distance: left out, {one.least} images give no covariance of {one.dimension} features"
    missing = [] if "Fréchet distance" in gaps else [few]
    return {name: worded(gap, names, count) for name, gap in gaps.items()}, missing


Gap = tuple[float, float, float, float, str, bool]
"""value, other, low and high of their difference, better, paired."""


def resampled(one: Sets, two: Sets) -> dict[str, Gap]:
    """The figures of whole sets: sample i of both runs, and each real image, is counted alike in every resampling."""
    columns, seed = one.columns, one.seed
    ways: dict[str, tuple[Statistic, Callable[[Pile], Array], str]] = {
        name: (averaged(statistic, columns), read, "low")
        for name, (statistic, read) in figures.STATISTICS.items()
        if name != "Fréchet distance" or one.least > one.dimension
    }
    if judges(one.features):
        ways["class score"] = score_counted, lambda pile: probabilities(one.features, pile.features), "high"
    ways["sliced Wasserstein distance"] = (
        sliced.sliced_counted,
        lambda pile: sliced.projected(pile.rows, seed),
        "low",
    )
    found = dict[str, Gap]()
    for name, (statistic, read, better) in ways.items():
        a, b, real = read(one.samples), read(two.samples), read(one.reference)
        times = figures.affordable(one) if name == "Fréchet distance" else one.resamples
        _, low, high = estimate(gap_of(statistic, a.shape[1]), np.hstack([a, b]), real, resamples=times, seed=seed)
        found[name] = once(statistic, a, real), once(statistic, b, real), low, high, better, True
    return found


def gap_of(statistic: Statistic, width: int) -> Statistic:
    """The statistic of the first `width` columns less that of the others: both runs' rows side by side."""

    def gap(rows: Rows, real: Rows, counts: Rows, counts_real: Rows) -> Array:
        first, second = (statistic(part, real, counts, counts_real) for part in (rows[:, :width], rows[:, width:]))
        return first - second

    return gap


def counted(one: Sets, two: Sets) -> dict[str, Gap]:
    """The figures that are shares of samples or of real images, image by image."""
    found = dict[str, Gap]()
    labels = one.samples.labels
    if labels is not None and judges(one.features):
        hits = [(vote(one.features, sets.samples.features) == labels).astype(float) for sets in (one, two)]
        found["label accuracy"] = by_image(hits[0], hits[1], len(labels))
    if one.least > max(manifold.NEAREST):
        lying = [figures.lying(sets.samples, sets) for sets in (one, two)]
        n, m = (min(len(pile.features), manifold.MOST) for pile in (one.samples, one.reference))
        found |= {name: by_image(lying[0][name], lying[1][name], n * m / (n + m)) for name in lying[0]}
    return found


def by_image(one: Array, two: Array, count: float) -> Gap:
    """The means of two scores of the same images, and the interval of the mean of their differences.

    `count` is the number of independent scores that the mean is worth: of shares of one set among another, nm/(n + m),
    as `manifold.interval` has it. Of Gaussian sets of one distribution, in 4 to 32 dimensions, it holds 0 in 90 to 99
    of 100 cases.
    """
    gaps = one - two
    middle, reach = float(gaps.mean()), DEVIATES * float(gaps.std()) / math.sqrt(count)
    return float(one.mean()), float(two.mean()), middle - reach, middle + reach, "high", True


def unpaired(one: Distance, two: Distance) -> Gap:
    """Two accuracies of classifiers of their own, and the interval of their difference (Newcombe 1998, method 10)."""
    value, other = one.value, two.value
    low = value - other - math.hypot(value - one.low, two.high - other)
    high = value - other + math.hypot(one.high - value, other - two.low)
    return value, other, low, high, "high" if one.better == "high" else "low", False


def worded(gap: Gap, names: tuple[str, str], count: int) -> Difference:
    """A difference in words: who is better by how much, or that so many images cannot tell."""
    value, other, low, high, better, paired = gap
    if low <= 0 <= high:
        says = f"no difference that {count:,} samples can show"
    else:
        first = (value > other) == (better == "high")
        least, most = sorted((abs(low), abs(high)))
        says = f"{names[0 if first else 1]} is better by {abs(value - other):.3g} [{least:.3g}, {most:.3g}]"
    return Difference(value, other, value - other, low, high, better, paired, says)


def as_rows(found: Comparison) -> list[tuple[str, ...]]:
    """A row of text for each figure (name, both values, difference with interval, in words), then the notes."""
    rows: list[tuple[str, ...]] = [
        (name, f"{d.value:.3g}", f"{d.other:.3g}", f"{d.difference:.3g} [{d.low:.3g}, {d.high:.3g}]", d.says)
        for name, d in found.differences.items()
    ]
    judge = [] if found.judge is None else [("judge", "", "", "", found.judge.says)]
    return [*rows, *judge, *(("note", "", "", "", text) for text in found.warnings)]
