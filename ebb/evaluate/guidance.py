"""Which guidance a run samples with: chosen by a measured figure when training ends, for a share of its time.

Every scale draws the same labels from the same seeds and meets the same real dataset, so that what chance moves it moves
in all of them, and the interval of a difference from guidance 1 is narrower than those of the distances.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ebb.data.dataset import Dataset
from ebb.data.images import PICTURES
from ebb.data.of_run import data_of
from ebb.data.pictures import batches
from ebb.evaluate.compare import gap_of
from ebb.evaluate.enough import worthwhile
from ebb.evaluate.evaluate import Loaded, loaded, measuring
from ebb.evaluate.judges import features_for, judged
from ebb.evaluate.measure import split
from ebb.evaluate.sweep import Cell, distance_in, measured
from ebb.events import Figure, Message, Progress, Work
from ebb.judge.distances import ROWS, Array, Statistic, estimate
from ebb.judge.features import blocks, extract
from ebb.recipe.recipe import DiffusionRecipe, Recipe, Sampling, from_yaml, seconds
from ebb.report.run_report import write_report
from ebb.store.write import replace_text
from ebb.system.requests import asked_for, labels_of
from ebb.system.system import System

SHARE = 0.1
"""Of a run's budget, or of the time that it took where it has none, at most so much is spent on the choice."""

TEACHING = 0.4
"""Of that, at most so much on classifiers to judge by, where there are none of this data yet."""

SCALES = (1.0, 1.5, 2.0, 1.25)
"""The scales, the first of which is off; where time runs short the last are left out."""

INTERVALS = ("within(low=0.28, high=2.9)",)
"""Noise levels within which alone the best scale, and one twice as far from 1, are tried too (Kynkäänniemi et al.
2024, fig. 2)."""

MOST = 2000
"""Samples of each setting, at most."""

TRIAL = 64
"""Samples that are drawn first, to time them."""

RESAMPLES = 100
SEED = 2**31
"""The seeds of the samples: not those that one looks at, nor those that `ebb evaluate` measures."""


@dataclass(frozen=True)
class Trial:
    """A setting, its distance, and by how much that differs from guidance 1 with a 95 % interval, sample by sample."""

    sampling: Sampling
    distance: float
    difference: float
    low: float
    high: float
    accuracy: float | None
    evaluations: float
    seconds: float

    def facts(self) -> dict[str, Any]:
        """The trial as JSON."""
        return self.sampling.model_dump() | {name: value for name, value in vars(self).items() if name != "sampling"}


@dataclass(frozen=True)
class Choice:
    """All trials, guidance 1 first, the one that was chosen, and why in a line."""

    trials: tuple[Trial, ...]
    chosen: Trial
    because: str
    about: dict[str, Any]


def choose_guidance(run: str | Path, data: str | None = None) -> Work[Choice | None]:
    """Try guidance on the run at `run` and keep what its samples are nearest to the data with (`sampling.json`).

    The result, its table in guidance.json and in the report, is None where there is nothing to choose: a model that
    hears no labels or learnt no null, images that cannot be judged, guidance that was asked for, settings that were
    measured before, too little time. Guidance 1 stays unless another is nearer by more than the interval of the
    difference. Raises what `evaluate` does.
    """
    run = Path(run)
    recipe, rest = from_yaml(run / "run.yaml")
    if not open_choice(run, recipe, rest):
        return None
    one = loaded(run, "ema")
    until = time.perf_counter() + SHARE * spent(run, recipe)
    dataset = data_of(run, data)
    if not choosable(one.system, dataset):
        return None
    with measuring(run, "guidance.json", "sampling.json") as begun:
        yield from begun
        found = yield from tried(run, one, dataset, until)
        if found is None:
            return None
        store(run, found)
        write_report(run)
    yield Figure("guidance", facts(found))
    yield Message(found.because)
    return found


def open_choice(run: Path, recipe: Recipe, rest: dict[str, Any]) -> bool:
    """Whether guidance is a run's to choose: its model learnt a null, nobody asked for a scale, and none was chosen."""
    asked = rest.get("asked", {})
    fixed = {"sample.guidance", "sample.guides"} & set(asked)
    known = isinstance(recipe, DiffusionRecipe) and recipe.label_dropout > 0
    return known and not fixed and not any((run / file).exists() for file in ("sampling.json", "guidance.json"))


def choosable(system: System, dataset: Dataset) -> bool:
    """Whether the model hears labels of pictures that classifiers can judge, and there are enough of them."""
    return (
        system.modality == PICTURES
        and bool(system.labels.names)
        and judged(dataset)
        and worthwhile(len(dataset.rows)) is not None
    )


def spent(run: Path, recipe: Recipe) -> float:
    """The run's budget in seconds; where it has none, those that its log says it took."""
    if recipe.budget is not None:
        return seconds(recipe.budget)
    lines = (run / "log.jsonl").read_text(encoding="utf8").splitlines()
    return float(json.loads(lines[-1]).get("seconds", 0.0)) if lines else 0.0


def tried(run: Path, one: Loaded, dataset: Dataset, until: float) -> Work[Choice | None]:
    """The trials that can be had `until` a time of `time.perf_counter`; None where that is too soon for any."""
    began, system = time.perf_counter(), one.system
    features, accuracy = yield from features_for(run, dataset, seconds=TEACHING * max(0.0, until - began))
    widest = max(part.stop - part.start for part in blocks(features))
    given = asked_for(system, dataset, MOST, SEED)
    labels = labels_of(system, given, dataset)
    real = extract(features, batches(split(dataset.rows, MOST, 0)[1]))

    def at(how: Sampling, count: int) -> tuple[Cell, Array]:
        some = {name: values[:count] for name, values in given.items()}
        of = None if labels is None else labels[:count]
        return measured(system, some, count, how, labels=of, seed=SEED, features=features, reference=real)

    start = time.perf_counter()
    at(system.settled(guidance=1.0), TRIAL)
    each = (time.perf_counter() - start) / TRIAL
    count = min(MOST, int((until - time.perf_counter()) / (each * units(len(SCALES)))), len(dataset.rows) // 2)
    if count < max(TRIAL, ROWS * widest) or len(real) <= widest:
        yield Message("guidance stays off: the budget is too short to choose another by measured samples")
        return None
    trials = list[Trial]()
    for trial in race(system, lambda how: at(how, count), distance_in(features), real, until):
        yield Progress(f"guidance {spelled(trial.sampling)}", len(trials) + 1, 0)
        trials.append(trial)
    chosen = best(trials)
    about = {"checkpoint": one.checkpoint, "count": count, "features": features.name, "classifier_accuracy": accuracy}
    about |= {"seconds": round(time.perf_counter() - began, 1)}
    return Choice(tuple(trials), chosen, because(trials, chosen, count), about)


def units(scales: int) -> int:
    """The evaluations of a network, those of guidance 1 as one: guided samples take two, and two scales are tried again
    within an interval."""
    return 1 + 2 * (scales - 1) + 2 * 2 * len(INTERVALS)


def race(
    system: System, at: Callable[[Sampling], tuple[Cell, Array]], distance: Statistic, real: Array, until: float
) -> Iterator[Trial]:
    """Guidance 1, then each other setting that there is still time for: scales, and intervals of the best."""
    off, rows = at(system.settled(guidance=1.0))
    yield Trial(off.sampling, off.distance, 0.0, 0.0, 0.0, off.accuracy, off.evaluations, off.seconds)
    found, waiting, late = list[Trial](), [system.settled(guidance=scale) for scale in SCALES[1:]], False
    took = 2 * off.seconds * len(rows)
    while waiting and time.perf_counter() + took < until:
        start = time.perf_counter()
        cell, others = at(waiting.pop(0))
        trial = against(cell, others, off, rows, distance, real)
        found.append(trial)
        yield trial
        took = max(took, time.perf_counter() - start)
        if not waiting and not late:
            late, nearest = True, min(found, key=lambda one: one.distance)
            waiting = within(system, nearest.sampling.guidance)


def within(system: System, scale: float) -> list[Sampling]:
    """A scale within each of the INTERVALS, and one twice as far from 1."""
    return [system.settled(guidance=one, guides=(text,)) for text in INTERVALS for one in (scale, 2 * scale - 1)]


def against(cell: Cell, rows: Array, off: Cell, before: Array, distance: Statistic, real: Array) -> Trial:
    """A setting beside guidance 1, the same seeds and labels in both: each pair of samples is counted alike."""
    both = np.hstack([rows, before])
    gap, low, high = estimate(gap_of(distance, rows.shape[1]), both, real, resamples=RESAMPLES, seed=0)
    return Trial(cell.sampling, cell.distance, gap, low, high, cell.accuracy, cell.evaluations, cell.seconds)


def best(trials: Sequence[Trial]) -> Trial:
    """The nearest of those that are nearer than guidance 1, the first, by more than the interval; else that."""
    surely = [trial for trial in trials[1:] if trial.high < 0]
    return min(surely, key=lambda trial: trial.distance, default=trials[0])


def spelled(how: Sampling) -> str:
    """A scale, and what is around it."""
    return " ".join([f"{how.guidance:g}", *how.guides])


def because(trials: Sequence[Trial], chosen: Trial, count: int) -> str:
    """Why this guidance, in a line."""
    off = trials[0]
    if chosen is off:
        others = ", ".join(spelled(trial.sampling) for trial in trials[1:])
        return f"guidance stays off: by {count:,} samples of each none of {others} is surely nearer to the data"
    return (
        f"guidance {spelled(chosen.sampling)} from now on: {count:,} samples lie {chosen.distance:.3g} from the data,"
        f" without guidance {off.distance:.3g} (difference {chosen.difference:.3g}"
        f" [{chosen.low:.3g}, {chosen.high:.3g}])"
    )


def facts(found: Choice) -> dict[str, Any]:
    """The choice as JSON."""
    chosen = found.trials.index(found.chosen)
    trials = [trial.facts() for trial in found.trials]
    return {"trials": trials, "chosen": chosen, "because": found.because, "about": found.about}


def store(run: Path, found: Choice) -> None:
    """guidance.json, and sampling.json, which the run samples by, where another guidance than its own was chosen."""
    replace_text(run / "guidance.json", json.dumps(facts(found), indent=1))
    if found.chosen is not found.trials[0]:
        kept = {"sampling": found.chosen.sampling.model_dump(), "because": found.because}
        replace_text(run / "sampling.json", json.dumps(kept, indent=1))
