"""Which settings sample best, and which is the cheapest that is nearly as good: every combination, measured alike.

Each cell draws the same labels from the same seeds and meets the same real images, so cells differ by their settings
alone. The cheapest cell within 5 % of the smallest distance becomes the run's default (`sampling.json`).
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ebb.data.images import to_pixels
from ebb.data.of_run import data_of
from ebb.data.pictures import batches
from ebb.encode.conditioner import Values
from ebb.errors import EbbError, UsageError
from ebb.evaluate.by_class import label_accuracy
from ebb.evaluate.enough import comparable, countable, decisive
from ebb.evaluate.evaluate import features_for, loaded, measuring, of_pictures
from ebb.evaluate.measure import split
from ebb.events import Done, Figure, Progress, Work
from ebb.guide.cfg import cfg
from ebb.judge.distances import Array, Statistic, averaged, bootstrap, frechet_counted, once, too_few
from ebb.judge.features import Features, blocks, extract
from ebb.process.times import GRIDS, Given
from ebb.recipe.names import parse, spell
from ebb.recipe.recipe import Sampling
from ebb.report.sweep_section import write_page
from ebb.sample.noise import Noise
from ebb.sample.solvers import SOLVERS
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

SHOWN = 12
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
    shown: NDArray[np.uint8]
    """the first few samples, uint8 [n, c, h, w]"""

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


def sweep(
    run: str | Path,
    solvers: Sequence[str],
    steps: Sequence[int],
    guidance: Sequence[float] = (),
    count: int = 1000,
    *,
    search: bool = True,
    keep: bool = True,
    precision: str | None = None,
    seed: int = 0,
    data: str | None = None,
) -> Work[SweepResult]:
    """Measure every solver × number of steps × guidance scale of the run at `run`, on its own grid of times and, for up
    to 12 steps of a deterministic solver, on one searched for (unless `search` is False); in `precision`, or the run's.

    Writes sweep.json, .html and .png into the run and, unless `keep` is False, the chosen settings into sampling.json;
    `data` is as in `evaluate`. Raises UsageError, before anything is drawn, for settings that cannot be and for too few
    samples or images to choose what is kept by; else as `evaluate` does.
    """
    run = Path(run)
    countable(count, seed)
    with measuring(run, "sweep.json", "sweep.html", "sweep.png", "sampling.json") as begun:
        yield from begun
        began, dataset = time.perf_counter(), data_of(run, data)
        one = of_pictures(loaded(run, "ema", precision=precision), run)
        comparable(run, len(dataset.rows))
        system = one.system
        possible(system, solvers, steps, scales := list(guidance) or sorted({1.0, system.sampling.guidance}))
        features, ceiling = yield from features_for(run, dataset)
        parts, widest = split(dataset.rows, count, seed), max(part.stop - part.start for part in blocks(features))
        if keep and (search or len(solvers) * len(steps) * len(scales) > 1):  # one setting is chosen by nothing
            decisive(run, count, len(parts[1]), widest)
        given = asked_for(system, dataset, count, seed)
        labels = labels_of(system, given, dataset)
        floor, reference = (extract(features, batches(part)) for part in parts)
        at = partial(measured, system, given, count, labels=labels, seed=seed, features=features, reference=reference)
        found, failed = yield from tried((yield from settings_of(system, solvers, steps, scales, search)), at)
        cells = sorted((cell for cell, _ in found), key=lambda cell: (cell.evaluations, cell.seconds))
        best, chosen = choose(cells)
        rows, distance = next(rows for cell, rows in found if cell is best), distance_in(features)
        low, high = bootstrap(distance, rows, reference, resamples=RESAMPLES, seed=seed)
        warnings = [line for line in [too_few(count, widest), overlapping(cells, best, high), *failed] if line]
        about = {"run": by_name(run).name, "checkpoint": one.checkpoint, "count": count, "seed": seed, "kept": keep}
        about |= {"features": features.name, "classifier_accuracy": ceiling, "warnings": warnings}
        about |= {"threads": torch.get_num_threads(), "minutes": round((time.perf_counter() - began) / 60, 1)}
        result = SweepResult(tuple(cells), best, chosen, (max(low, 0.0), high), once(distance, floor, reference), about)
        store(run, result)
        yield Done(str(run))
        return result


def tried(
    settings: Sequence[Sampling], at: Callable[[Sampling], tuple[Cell, Array]]
) -> Work[tuple[list[tuple[Cell, Array]], list[str]]]:
    """What `at` finds of each setting, and why it failed at others; EbbError where it did at all."""
    found, failed = list[tuple[Cell, Array]](), list[str]()
    for number, how in enumerate(settings):
        named = f"{how.solver}, {how.steps} steps, guidance {how.guidance:g}"
        yield Progress(named, number, len(settings))
        try:
            found.append(at(how))
            yield Figure("cell", found[-1][0].facts())
        except EbbError as error:  # such as values that are not finite: the other cells are worth having
            failed.append(f"{named}: {error}".splitlines()[0])
    if not found:
        raise EbbError("no setting could be measured", failed[0])
    return found, failed


def possible(system: System, solvers: Sequence[str], steps: Sequence[int], scales: Sequence[float]) -> None:
    """Raise UsageError for a solver, a number of steps or a scale that cannot be, and where none is named."""
    if not solvers or not steps:
        raise UsageError("a sweep needs at least one solver and one number of steps", "try --steps 8 12 16")
    for solver in solvers:
        parse(solver, SOLVERS, "solver")
    for count in steps:
        system.settled(steps=count)
    for scale in scales:
        system.settled(guidance=scale)


def settings_of(
    system: System, solvers: Sequence[str], steps: Sequence[int], scales: Sequence[float], search: bool
) -> Work[list[Sampling]]:
    """Every combination on the system's own grid, and on one searched for, at the scale nearest 1, where it helps."""
    possible(system, solvers, steps, scales)
    own = system.sampling.grid if not system.sampling.grid.startswith("given") else Sampling().grid
    found = list[Sampling]()
    for solver, count in product(dict.fromkeys(solvers), dict.fromkeys(steps)):
        grids = [own]
        if search and count <= FEW:
            yield Progress(f"searching times for {solver} in {count} steps")
            least = min(scales, key=lambda scale: abs(scale - 1))
            better = searched(system, system.settled(solver=solver, grid=own, steps=count, guidance=least))
            grids += [better] if better else []
        for grid, scale in product(grids, dict.fromkeys(scales)):
            found.append(system.settled(solver=solver, grid=grid, steps=count, guidance=scale))
    return found


def searched(system: System, sampling: Sampling) -> str | None:
    """The spelled grid that `tune` finds for these settings, from their own on; None for a solver that draws noise."""
    scheme = scheme_of(system.denoiser, sampling).guided(cfg(sampling.guidance, system.null()))
    x = scheme.start(Noise.of(2**32, WARM_UP), torch.empty(WARM_UP, *system.inner, device=system.device))
    try:
        cond = system.conditions(system.given(WARM_UP), WARM_UP)
        times = tune(scheme.denoiser, scheme.solver, scheme.times, x, cond).times
    except StochasticError:
        return None
    return spell(Given(tuple(float(f"{time:.6g}") for time in (times / scheme.denoiser.path.end).tolist())), GRIDS)


def measured(
    system: System,
    given: Values,
    count: int,
    how: Sampling,
    *,
    labels: NDArray[np.int64] | None,
    seed: int,
    features: Features,
    reference: Array,
) -> tuple[Cell, Array]:
    """One cell, and the features of its samples."""
    with counted(system.denoiser.network) as evaluations:
        began = time.perf_counter()
        made = to_pixels(Sampler(system)(Request(given, count, how, seed)))
        took = time.perf_counter() - began
    rows = extract(features, batches(made))
    accuracy, _ = label_accuracy(features, rows, labels, None)
    cost = evaluations[0] / count
    found = once(distance_in(features), rows, reference)
    return Cell(how, found, accuracy, cost, took / count, made[:SHOWN]), rows


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


def store(run: Path, result: SweepResult) -> None:
    """sweep.json, sweep.html, sweep.png and, for `ebb sample` to start from, sampling.json where it is kept."""
    cells = [cell.facts() for cell in result.cells]
    index = {"best": result.cells.index(result.best), "chosen": result.cells.index(result.chosen)}
    figures = {"interval": result.interval, "floor": result.floor, "about": result.about}
    replace_text(run / "sweep.json", json.dumps({"cells": cells, **index, **figures}, indent=1))
    write_page(run, cells, [cell.shown for cell in result.cells], index, figures)
    if not result.about["kept"]:
        return
    because = (
        f"the fewest evaluations within {NEAR - 1:.0%} of the smallest distance of {len(cells)} settings, on"
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
