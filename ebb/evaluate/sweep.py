"""Which settings sample best, and which is the cheapest that is nearly as good: every combination, measured alike.

Each cell draws the same labels from the same seeds and meets the same real images, so cells differ by their settings
alone. The cheapest cell within 5 % of the smallest distance becomes the run's default (`sampling.json`).
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ebb.data.dataset import Dataset
from ebb.data.modality import Modality, compared, in_terms
from ebb.data.of_run import data_of
from ebb.data.pictures import batches
from ebb.encode.conditioner import Values
from ebb.errors import EbbError, UsageError
from ebb.evaluate.by_class import label_accuracy
from ebb.evaluate.enough import comparable, countable, decisive, one_bucket
from ebb.evaluate.evaluate import Loaded, Measuring, coarse, loaded, measuring
from ebb.evaluate.judges import features_for, standing_of
from ebb.evaluate.measure import split
from ebb.events import Done, Figure, Progress, Work
from ebb.judge.distances import Array, Statistic, averaged, bootstrap, frechet_counted, once, too_few
from ebb.judge.features import Features, blocks, extract
from ebb.judge.possible import Standing
from ebb.process.times import GRIDS, Given
from ebb.recipe.names import parse, spell
from ebb.recipe.recipe import Sampling
from ebb.report.sweep_section import write_page
from ebb.sample.noise import Noise
from ebb.sample.solvers import NAMED
from ebb.sample.tune import StochasticError, tune
from ebb.store.place import by_name
from ebb.store.write import replace_text
from ebb.system.model import scheme_of
from ebb.system.requests import asked_for, labels_of
from ebb.system.sampler import Request, Sampler
from ebb.system.system import System
from ebb.understand.cost import counted

NEAR = 1.05
"""The chosen cell's distance is at most this multiple of the smallest."""

FEW = 12
"""Up to so many steps the times are searched for."""

WARM_UP = 64
"""Samples of the search, seeded from 2^32 on: none of them is measured."""

SHOWN, POINTS = 12, 200
"""Samples of a cell that are shown, and where each is a point of a drawing."""

RESAMPLES = 100


@dataclass(frozen=True, eq=False)
class Cell:
    """One setting with its Fréchet distance, the share of samples that show their label, and what a sample costs."""

    sampling: Sampling
    distance: float
    accuracy: float | None
    evaluations: float
    """network evaluations for each sample; guidance needs two a call"""
    seconds: float
    """for each sample"""
    shown: NDArray[Any]
    """the first few samples, as their modality stores them"""

    def facts(self) -> dict[str, Any]:
        """All but the samples, as JSON."""
        figures = {name: value for name, value in vars(self).items() if name not in ("sampling", "shown")}
        return {**self.sampling.model_dump(), **figures}


@dataclass(frozen=True, eq=False)
class SweepResult:
    """All cells, from the cheapest to the dearest; the best, the chosen, and the distance of real images to real."""

    cells: tuple[Cell, ...]
    best: Cell
    chosen: Cell
    interval: tuple[float, float]
    """95 % of the best cell's distance, by bootstrap"""
    floor: float
    about: dict[str, Any]

    def facts(self) -> dict[str, Any]:
        """What sweep.json holds; the best and the chosen cell by their places."""
        cells = [cell.facts() for cell in self.cells]
        index = {"best": self.cells.index(self.best), "chosen": self.cells.index(self.chosen)}
        return {"cells": cells, **index, "interval": self.interval, "floor": self.floor, "about": self.about}


@dataclass(frozen=True)
class Candidates:
    """The settings that are tried: every solver × number of steps × guidance scale, on the run's own grid of times and,
    for up to 12 steps of a deterministic solver, on one searched for."""

    solvers: Sequence[str]
    steps: Sequence[int]
    guidance: Sequence[float] = ()
    """without any, 1 and the run's own"""
    search: bool = True
    """whether times are searched for"""
    precision: str | None = None
    """of the network's forward pass, or the run's own"""

    def scales(self, system: System) -> list[float]:
        """The guidance scales that are tried."""
        return list(self.guidance) or sorted({1.0, system.sampling.guidance})

    def check(self, system: System) -> None:
        """Raise UsageError for a solver, a number of steps or a scale that cannot be, and where none is named."""
        if not self.solvers or not self.steps:
            raise UsageError("a sweep needs at least one solver and one number of steps", "try --steps 8 12 16")
        for solver in self.solvers:
            parse(solver, NAMED, "solver")
        for count in self.steps:
            system.settled(steps=count)
        for scale in self.scales(system):
            system.settled(guidance=scale)

    def several(self, system: System) -> bool:
        """Whether there is anything to choose from."""
        return self.search or len(self.solvers) * len(self.steps) * len(self.scales(system)) > 1

    def settings(self, system: System) -> Work[list[Sampling]]:
        """Every combination on the system's own grid and, where it helps, one searched for at the scale nearest 1."""
        own = system.sampling.grid if not system.sampling.grid.startswith("given") else Sampling().grid
        scales, every = self.scales(system), list[Sampling]()
        for solver, count in product(dict.fromkeys(self.solvers), dict.fromkeys(self.steps)):
            grids = [own]
            if self.search and count <= FEW:
                yield Progress(f"searching times for {solver} in {count} steps")
                least = min(scales, key=lambda scale: abs(scale - 1))
                better = searched(system, system.settled(solver=solver, grid=own, steps=count, guidance=least))
                grids += [better] if better else []
            for grid, scale in product(grids, dict.fromkeys(scales)):
                every.append(system.settled(solver=solver, grid=grid, steps=count, guidance=scale))
        return every


def sweep(
    run: str | Path,
    candidates: Candidates,
    count: int = 1000,
    how: Measuring = Measuring(),
    *,
    keep: bool = True,
    seed: int = 0,
) -> Work[SweepResult]:
    """Measure every candidate on `count` samples of the run at `run`.

    Writes sweep.json, .html and .png into the run and, unless `keep` is False, the chosen settings into sampling.json.
    Raises UsageError, before anything is drawn, for settings that cannot be and
    for too few samples or images to choose what is kept by; else as `evaluate` does.
    """
    run = Path(run)
    countable(count, seed)
    with measuring(run, "sweep.json", "sweep.html", "sweep.png", "sampling.json") as begun:
        yield from begun
        began, dataset = time.perf_counter(), data_of(run, how.data)
        one = loaded(run, how.weights, precision=candidates.precision)
        comparable(run, len(dataset.rows))
        system = one.system
        candidates.check(system)
        trial = yield from trial_of(one, dataset, count, seed, features=how.features)
        if keep and candidates.several(system):  # one setting is chosen by nothing
            decisive(run, count, len(trial.reference), trial.widest)
        found, failed = yield from tried((yield from candidates.settings(system)), trial)
        cells = sorted((cell for cell, _ in found), key=lambda cell: (cell.evaluations, cell.seconds))
        best, chosen = choose(cells)
        rows = next(rows for cell, rows in found if cell is best)
        low, high = bootstrap(trial.distance, rows, trial.reference, resamples=RESAMPLES, seed=seed)
        notes = [overlapping(cells, best, high), *one_bucket(dataset), *failed]
        about = trial.about(began) | {"kept": keep, "warnings": [*trial.warnings, *filter(None, notes)]}
        result = SweepResult(tuple(cells), best, chosen, (max(low, 0.0), high), trial.floor, about)
        store(run, result, one.system.modality)
        yield Done(str(run))
        return result


@dataclass(frozen=True, eq=False)
class Trial:
    """What all settings have in common: what is asked for, and the real images that the samples meet."""

    one: Loaded
    given: Values
    labels: NDArray[np.int64] | None
    count: int
    seed: int
    features: Features
    ceiling: float | None
    """how often the features' classifier is right about real images"""
    judge: Standing | None
    """how far that lies from what is possible"""
    floor: float
    """the distance of real images to real images"""
    reference: Array

    def __call__(self, how: Sampling) -> tuple[Cell, Array]:
        """The cell of a setting, and the features of its samples."""
        with counted(*self.one.system.networks(how)) as evaluations:
            began = time.perf_counter()
            made = self.modality.stored(Sampler(self.one.system)(Request(self.given, self.count, how, self.seed)))
            took = time.perf_counter() - began
        rows = extract(self.features, batches(compared(self.modality, made)))
        accuracy, _ = label_accuracy(self.features, rows, self.labels, None)
        cost = evaluations[0] / self.count
        distance = once(self.distance, rows, self.reference)
        return Cell(
            how, distance, accuracy, cost, took / self.count, made[: SHOWN if len(self.modality.axes) > 1 else POINTS]
        ), rows

    @property
    def modality(self) -> Modality:
        """What the run's examples are."""
        return self.one.system.modality

    @property
    def distance(self) -> Statistic:
        """Of features, as `evaluate` takes it."""
        return distance_in(self.features)

    @property
    def widest(self) -> int:
        """Features of the widest member of the judge."""
        return max(int(part.stop - part.start) for part in blocks(self.features))

    @property
    def warnings(self) -> list[str]:
        """What a reader must know of every distance of it."""
        few = too_few(self.count, self.widest)
        return [in_terms(line, self.modality.things) for line in (*([few] if few else []), *coarse(self.judge))]

    def about(self, began: float) -> dict[str, Any]:
        """The circumstances, as JSON."""
        about = {"run": by_name(self.one.run).name, "checkpoint": self.one.checkpoint, "count": self.count}
        about |= {
            "things": self.modality.things,
            "seed": self.seed,
            "features": self.features.name,
            "classifier_accuracy": self.ceiling,
        }
        about |= {"judge": None if self.judge is None else asdict(self.judge)}
        about |= {"threads": torch.get_num_threads(), "minutes": round((time.perf_counter() - began) / 60, 1)}
        return about


def trial_of(
    one: Loaded, dataset: Dataset, count: int, seed: int, *, features: str | None = None, seconds: float | None = None
) -> Work[Trial]:
    """`count` samples of a run, to be held against its images by what `features_for` makes of features and seconds."""
    judge, ceiling = yield from features_for(one.run, dataset, features, seconds=seconds)
    given = asked_for(one.system, dataset, count, seed)
    parts = split(compared(dataset.modality, dataset.rows), count, seed, dataset.apart)
    floor, reference = (extract(judge, batches(part)) for part in parts)
    real, labels = once(distance_in(judge), floor, reference), labels_of(one.system, given, dataset)
    standing = standing_of(dataset, judge, ceiling)
    return Trial(one, given, labels, count, seed, judge, ceiling, standing, real, reference)


def tried(settings: Sequence[Sampling], trial: Trial) -> Work[tuple[list[tuple[Cell, Array]], list[str]]]:
    """What the trial finds of each setting, and why it failed at others; EbbError where it did at all."""
    found, failed = list[tuple[Cell, Array]](), list[str]()
    for number, how in enumerate(settings):
        named = f"{how.solver}, {how.steps} steps, guidance {how.guidance:g}"
        yield Progress(named, number, len(settings))
        try:
            found.append(trial(how))
            yield Figure("cell", found[-1][0].facts())
        except EbbError as error:  # such as values that are not finite: the other cells are worth having
            failed.append(f"{named}: {error}".splitlines()[0])
    if not found:
        raise EbbError("no setting could be measured", failed[0])
    return found, failed


def searched(system: System, sampling: Sampling) -> str | None:
    """The spelled grid that `tune` finds for these settings, from their own on; None for a solver that draws noise."""
    scheme = scheme_of(system.denoiser, sampling).guided(*system.guides(sampling))
    x = scheme.start(Noise.of(2**32, WARM_UP), torch.empty(WARM_UP, *system.inner, device=system.device))
    try:
        cond = system.conditions(system.given(WARM_UP), WARM_UP)
        times = tune(scheme.denoiser, scheme.solver, scheme.times, x, cond).times
    except StochasticError:
        return None
    return spell(Given(tuple(float(f"{time:.6g}") for time in (times / scheme.denoiser.path.end).tolist())), GRIDS)


def distance_in(features: Features) -> Statistic:
    """The Fréchet distance as `evaluate` takes it: of an ensemble, the mean of the members'."""
    return averaged(frechet_counted, blocks(features))


def choose(cells: Sequence[Cell]) -> tuple[Cell, Cell]:
    """(the smallest distance, the fewest evaluations within 5 % of it; of equals the one with the smaller distance)."""
    best = min(cells, key=lambda cell: cell.distance)
    near = [cell for cell in cells if cell.distance <= best.distance + (NEAR - 1) * abs(best.distance)]
    return best, min(near, key=lambda cell: (round(cell.evaluations, 6), cell.distance))


def overlapping(cells: Sequence[Cell], best: Cell, high: float) -> str | None:
    """A note on the cells that lie within the best one's interval, up to `high`: by these samples they are alike."""
    alike = sum(cell.distance <= high for cell in cells if cell is not best)
    if not alike:
        return None
    return (
        f"{alike} of the other {len(cells) - 1} settings lie within the interval of the best one, so chance may have"
        " ranked them: only more samples (--n) tell them apart"
    )


def store(run: Path, result: SweepResult, modality: Modality) -> None:
    """sweep.json, sweep.html, sweep.png and, for `ebb sample` to start from, sampling.json where it is kept."""
    facts = result.facts()
    replace_text(run / "sweep.json", json.dumps(facts, indent=1))
    write_page(run, facts, [modality.sheet(cell.shown, len(cell.shown)) for cell in result.cells])
    if not result.about["kept"]:
        return
    because = (
        f"the fewest evaluations within {NEAR - 1:.0%} of the smallest distance of {len(result.cells)} settings, on"
        f" {result.about['count']} samples of {result.about['checkpoint']}"
    )
    chosen = {"sampling": result.chosen.sampling.model_dump(), "because": because}
    replace_text(run / "sampling.json", json.dumps(chosen, indent=1))


def as_rows(result: SweepResult) -> list[tuple[str, ...]]:
    """A row of text for each cell: settings, evaluations, milliseconds, distance, label accuracy, and whether it is the
    best or the default from now on (the cheapest, where none is kept)."""
    found = {"best": result.best, "default" if result.about.get("kept", True) else "cheapest": result.chosen}
    return [
        (
            cell.sampling.solver,
            cell.sampling.grid.split("(times")[0].replace("given", "searched"),
            f"{cell.sampling.steps}",
            f"{cell.sampling.guidance:g}",
            f"{cell.evaluations:.0f}",
            f"{1000 * cell.seconds:.1f}",
            f"{cell.distance:.4f}",
            "" if cell.accuracy is None else f"{cell.accuracy:.1%}",
            ", ".join(word for word, one in found.items() if one is cell),
        )
        for cell in result.cells
    ]
