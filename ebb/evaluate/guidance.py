"""Which guidance a run samples with: chosen by a measured figure when training ends, for a share of its time.

Every setting draws the same labels from the same seeds and meets the same real images, so that what chance moves it
moves in all of them, and the interval of a difference from guidance 1 is narrower than those of the distances.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from ebb.data.dataset import Dataset
from ebb.data.images import PICTURES
from ebb.data.of_run import data_of
from ebb.encode.conditioner import part
from ebb.evaluate.enough import worthwhile
from ebb.evaluate.evaluate import Loaded, loaded, measuring
from ebb.evaluate.judges import judged
from ebb.evaluate.references import paired
from ebb.evaluate.sweep import Cell, Trial, trial_of
from ebb.events import Figure, Message, Progress, Work
from ebb.judge.distances import ROWS, Array
from ebb.judge.ensemble import pace
from ebb.recipe.document import from_yaml
from ebb.recipe.recipe import DiffusionRecipe, Recipe, Sampling, seconds
from ebb.report.run_report import write_report
from ebb.store.write import replace_text
from ebb.system.system import System

SHARE = 0.1
"""Of a run's budget, or of the time that it took where it has none, at most so much is spent on the choice."""

TEACHING = 0.4
"""Of that, at most so much is asked of classifiers to judge by, where there are none of this data yet."""

SCALES = (1.5, 2.0, 1.25)
"""The scales beside 1, which is off; where time runs short the last are left out."""

INTERVAL = "within(low=0.28, high=2.9)"
"""Noise levels within which alone the best scale, and one twice as far from 1, are tried too (Kynkäänniemi et al. 2024,
§ 4)."""

AUTO = 2.0
"""The scale of guidance by an earlier average, where the run has one (`ebb.guide.named.Auto`; Karras et al. 2024)."""

SETTINGS = 1 + len(SCALES) + 1 + 2
"""Settings that are tried, at most: AUTO is one."""

FEWEST = 3
"""Settings that are worth a choice: none, and the first two scales."""

LEAST = 5.0
"""Seconds below which nothing is tried."""

MOST = 2000
"""Samples of each setting, at most."""

TIMED = 64
"""Samples that are drawn first, to time them."""

SEED = 2**31
"""The seeds of the samples: not those that one looks at, nor those that `ebb evaluate` measures."""

Drawing = Callable[[Sampling], tuple[Cell, Array]]
"""A setting → what it gives, and the features of its samples."""

Pairing = Callable[[Array, Array], tuple[float, float, float]]
"""Features of two settings → how much farther from the data the first is, and the interval of that."""


@dataclass(frozen=True)
class Attempt:
    """A setting, its distance, and by how much that differs from guidance 1 with a 95 % interval, sample by sample."""

    sampling: Sampling
    distance: float
    difference: float
    low: float
    high: float
    accuracy: float | None
    evaluations: float

    @classmethod
    def of(cls, cell: Cell, difference: tuple[float, float, float] = (0.0, 0.0, 0.0)) -> Attempt:
        """The attempt of a cell; without a difference it is guidance 1 itself."""
        return cls(cell.sampling, cell.distance, *difference, cell.accuracy, cell.evaluations)

    def facts(self) -> dict[str, Any]:
        """The attempt as JSON."""
        return self.sampling.model_dump() | {name: value for name, value in vars(self).items() if name != "sampling"}


@dataclass(frozen=True)
class Choice:
    """All attempts, guidance 1 first, the one that was chosen, why in a line, and the circumstances."""

    attempts: tuple[Attempt, ...]
    chosen: Attempt
    because: str
    about: dict[str, Any]

    def facts(self) -> dict[str, Any]:
        """The choice as JSON."""
        attempts = [attempt.facts() for attempt in self.attempts]
        chosen = self.attempts.index(self.chosen)
        return {"attempts": attempts, "chosen": chosen, "because": self.because, "about": self.about}


def choose_guidance(run: str | Path, data: str | None = None) -> Work[Choice | None]:
    """Try guidance on the run at `run` and keep what its samples are nearest to the data with, in sampling.json.

    The table is written to guidance.json and into the report. None where there is nothing to choose: a model that hears
    no labels or learnt no null, images that cannot be judged, guidance that was asked for or chosen before, too little
    time. Guidance 1 stays unless another is nearer by more than the interval of the difference. Raises as `evaluate`.
    """
    run, began = Path(run), time.perf_counter()
    recipe, rest = from_yaml(run / "run.yaml")
    if not undecided(run, recipe, rest):
        return None
    one, time_left = loaded(run, "ema"), SHARE * spent(run, recipe)
    if time_left < LEAST or not choosable(one.system, dataset := data_of(run, data)):
        return None
    with measuring(run, "guidance.json", "sampling.json") as begun:
        yield from begun
        choice = yield from compared(one, dataset, began + time_left)
        if choice is None:
            yield Message("guidance stays off: the budget is too short to choose another by measured samples")
            return None
        store(run, choice)
        write_report(run)
    yield Figure("guidance", choice.facts())
    yield Message(choice.because)
    return choice


def undecided(run: Path, recipe: Recipe, rest: dict[str, Any]) -> bool:
    """Whether guidance is a run's to choose: its model learnt a null, nobody asked for a scale, and none was chosen."""
    fixed = {"sample.guidance", "sample.guides"} & set(rest.get("asked", {}))
    known = isinstance(recipe, DiffusionRecipe) and recipe.condition_dropout > 0
    return known and not fixed and not any((run / file).exists() for file in ("sampling.json", "guidance.json"))


def choosable(system: System, dataset: Dataset) -> bool:
    """Whether the model hears labels of pictures that classifiers can judge, and there are enough of them."""
    pictures = system.modality == PICTURES and bool(system.labels.names)
    return pictures and judged(dataset) and worthwhile(len(dataset.rows)) is not None


def spent(run: Path, recipe: Recipe) -> float:
    """The run's budget in seconds; where it has none, those that its log says it took."""
    if recipe.budget is not None:
        return seconds(recipe.budget)
    lines = (run / "log.jsonl").read_text(encoding="utf8").splitlines()
    return float(json.loads(lines[-1]).get("seconds", 0.0)) if lines else 0.0


def compared(one: Loaded, dataset: Dataset, until: float) -> Work[Choice | None]:
    """The attempts that can be had `until` a time of `time.perf_counter`; None where that is too soon."""
    began = time.perf_counter()
    if dataset.labels is None:
        return None
    share = TEACHING * min(1.0, pace(dataset.rows, dataset.labels, len(dataset.names)))
    trial = yield from trial_of(one, dataset, MOST, SEED, seconds=share * (until - time.perf_counter()))
    settled = one.system.settled
    off = settled(guidance=1.0)
    least, most = max(TIMED, ROWS * trial.widest), min(MOST, len(dataset.rows) // 2)
    count = affordable(least, most, lambda some: smaller(trial, some)(off), until)
    if count is None or len(trial.reference) <= trial.widest:
        return None
    trial, attempts = smaller(trial, count), list[Attempt]()
    others = [] if one.system.earlier is None else [settled(guidance=AUTO, guides=("auto",))]
    for attempt in race(settled, trial, partial(paired, trial), until, others):
        attempts.append(attempt)
        yield Progress(f"tried guidance {spelled(attempt.sampling)}", len(attempts), SETTINGS)
    chosen = best(attempts)
    about = trial.about(began) | {"seconds": round(time.perf_counter() - began, 1)}
    return Choice(tuple(attempts), chosen, because(attempts, chosen, count), about)


def affordable(least: int, most: int, draw: Callable[[int], object], until: float) -> int | None:
    """How many samples of each setting: as many as time allows of all settings, at most `most`; `least`, the fewest
    that carry a figure, where it allows FEWEST settings of those; None where not even these. A guided sample costs two
    of those that `draw` makes."""
    if least > most:
        return None
    draw(TIMED // 8)  # the first call of all prepares what later ones have
    start = time.perf_counter()
    draw(TIMED)
    each = (time.perf_counter() - start) / TIMED
    left = until - time.perf_counter()
    if least * each * (2 * FEWEST - 1) > left:
        return None
    return max(least, min(most, int(left / (each * (2 * SETTINGS - 1)))))


def smaller(trial: Trial, count: int) -> Trial:
    """The first `count` samples of a trial."""
    labels = None if trial.labels is None else trial.labels[:count]
    return replace(trial, given=part(trial.given, 0, count), labels=labels, count=count)


def race(
    settled: Callable[..., Sampling],
    drawing: Drawing,
    pairing: Pairing,
    until: float,
    others: Sequence[Sampling] = (),
) -> Iterator[Attempt]:
    """Guidance 1, then each other setting that there is time for: the scales, `others`, the best within an interval.

    `settled` completes settings, as `System.settled` does.
    """
    start = time.perf_counter()
    off, own = drawing(settled(guidance=1.0))
    yield Attempt.of(off)
    took, attempts = 2 * (time.perf_counter() - start), list[Attempt]()
    waiting = [settled(guidance=scale) for scale in SCALES]
    while waiting and time.perf_counter() + took < until:
        start = time.perf_counter()
        cell, rows = drawing(waiting.pop(0))
        attempts.append(Attempt.of(cell, pairing(rows, own)))
        yield attempts[-1]
        took = max(took, time.perf_counter() - start)
        if len(attempts) == len(SCALES):
            scale = min(attempts, key=lambda attempt: attempt.distance).sampling.guidance
            waiting = [*others, *(settled(guidance=each, guides=(INTERVAL,)) for each in (scale, 2 * scale - 1))]


def best(attempts: Sequence[Attempt]) -> Attempt:
    """The nearest of those that are nearer than guidance 1, the first, by more than the interval; else that."""
    surely = [attempt for attempt in attempts[1:] if attempt.high < 0]
    return min(surely, key=lambda attempt: attempt.distance, default=attempts[0])


def spelled(how: Sampling) -> str:
    """A scale, and what is around it."""
    return " ".join([f"{how.guidance:g}", *how.guides])


def because(attempts: Sequence[Attempt], chosen: Attempt, count: int) -> str:
    """Why this guidance, in a line."""
    off = attempts[0]
    if chosen is off:
        others = ", ".join(spelled(attempt.sampling) for attempt in attempts[1:]) or "other"
        return f"guidance stays off: by {count:,} samples of each none of {others} is surely nearer to the data"
    return (
        f"guidance {spelled(chosen.sampling)} from now on: {count:,} samples lie {chosen.distance:.3g} from the data,"
        f" without guidance {off.distance:.3g} (difference {chosen.difference:.3g}"
        f" [{chosen.low:.3g}, {chosen.high:.3g}])"
    )


def store(run: Path, choice: Choice) -> None:
    """guidance.json, and where another guidance than 1 was chosen sampling.json, by which the run samples."""
    replace_text(run / "guidance.json", json.dumps(choice.facts(), indent=1))
    if choice.chosen is not choice.attempts[0]:
        settings = {"sampling": choice.chosen.sampling.model_dump(), "because": choice.because}
        replace_text(run / "sampling.json", json.dumps(settings, indent=1))
