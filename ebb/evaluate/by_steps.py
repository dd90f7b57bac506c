"""A model of few steps by the number of its steps, beside the model that taught it at its own."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ebb.data.modality import compared
from ebb.data.pictures import batches
from ebb.encode.conditioner import Values
from ebb.errors import EbbError
from ebb.evaluate.analysed import Analysed, Result
from ebb.evaluate.by_class import label_accuracy
from ebb.evaluate.figures import Distance, Pile, Sets, measured
from ebb.evaluate.measure import sets_of
from ebb.judge.features import extract
from ebb.judge.scene_reader import agreement, judge
from ebb.process.times import GRIDS
from ebb.recipe.document import from_yaml
from ebb.recipe.names import parse
from ebb.recipe.recipe import FewStepRecipe, Sampling
from ebb.sample.jump import Jump
from ebb.sample.solvers import NAMED
from ebb.store.origin import Origin, unchanged
from ebb.system.requests import asked_for
from ebb.system.sampler import Request, Sampler
from ebb.system.system import System, load, locate
from ebb.train.objectives.consistency import HIGHEST
from ebb.train.objectives.map_matching import Target
from ebb.train.objectives.methods import METHODS
from ebb.understand.cost import counted

COUNTS = (1, 2, 4, 8)
"""Steps that are measured."""

NAMES = ("Fréchet distance", "precision, recall, density, coverage", "two-sample test")
"""The figures of each."""

RESAMPLES = 100

AT_ONCE = 500
"""Samples that are floats at a time."""

SPREAD = 2000
"""Examples, at most, of which the directions and their deviations are taken."""


@dataclass(frozen=True)
class StepFigures:
    """Samples in so many steps: what one costs, how near they are, and how much they vary."""

    name: str
    steps: int
    evaluations: float
    """of the network, for each sample"""
    seconds: float
    """for each sample"""
    distances: dict[str, Distance]
    accuracy: float | None
    """the share that shows the label it was asked for; of scenes, all that its caption says"""
    spread: float
    """the deviation of the samples from their mean, over that of the data"""
    expected: float | None
    """the same of a Gaussian with the data's covariance, of which the method's bias is known in closed form"""


@dataclass(frozen=True)
class BySteps:
    """By the number of steps, and last the teacher where it is there."""

    rows: tuple[StepFigures, ...]
    count: int
    """samples of each"""


def by_steps(subject: Analysed) -> Result:
    """The same labels from the same seeds in each of COUNTS steps, and by the teacher as it samples itself."""
    taught, warnings = teacher_of(subject.run)
    system, count = subject.system, len(subject.drawn.rows)
    asked = [(f"{n} step{'s' * (n > 1)}", system, system.settled(steps=n)) for n in COUNTS]
    if taught is not None:
        asked.append((f"teacher, {taught.sampling.steps} steps", taught, taught.sampling))
    given = asked_for(system, subject.dataset, count, subject.seed)
    sets, real, right = sets_among(subject), spectrum_of(subject), shown_of(subject, given)
    rows = []
    for name, model, how in asked:
        pixels, seconds, evaluations = drawn(model, Request(given, count, how, subject.seed))
        features = extract(subject.features, batches(compared(system.modality, pixels)))
        figures, _ = measured(replace(sets, samples=Pile(pixels, subject.labels, features)), NAMES)
        accuracy = right(pixels, features)
        spread = deviation(unit(system, pixels)) / float(real.square().sum().sqrt())
        expected = expected_of(subject, how, real) if model is system else None
        rows.append(StepFigures(name, how.steps, evaluations, seconds, figures, accuracy, spread, expected))
    return Result({"steps": BySteps(tuple(rows), count)}, tuple(warnings))


def shown_of(subject: Analysed, given: Values) -> Callable[[Any, Any], float | None]:
    """(samples, their features) → the share that shows what was asked for, where somebody can tell."""
    dataset = subject.dataset
    if dataset.summary.kind != "shapes" or "text" not in given:
        return lambda _, features: label_accuracy(subject.features, features, subject.labels, dataset.names)[0]
    reader = judge(subject.system.shape[1])
    return lambda pixels, _: agreement(reader, pixels, given["text"]).share


def teacher_of(run: Path) -> tuple[System | None, list[str]]:
    """The model that taught a run, or why it is not to be had; None alone of a run without one."""
    origins = from_yaml(run / "run.yaml")[1].get("origins", ())
    for origin in (Origin.read(facts) for facts in origins if facts["role"] == "teacher"):
        places = [place for place in (Path(origin.run), run.parent / Path(origin.run).name) if place.is_dir()]
        if not places:
            return None, [f"steps: the teacher {origin.run} is not there to be measured beside"]
        try:
            unchanged([origin], [Origin.of(str(places[0]), "teacher", locate(places[0]))])
            return load(places[0]), []
        except EbbError as error:
            return None, [f"steps: the teacher is not measured beside: {error.what}"]
    return None, []


def drawn(system: System, request: Request) -> tuple[NDArray[np.generic], float, float]:
    """Samples as they are stored; seconds and evaluations for each of them."""

    def parts() -> Iterator[NDArray[np.generic]]:
        for first in range(0, len(request), AT_ONCE):
            yield system.modality.stored(sampler(request.part(first, AT_ONCE)))

    sampler, began = Sampler(system), time.perf_counter()
    with counted(system.model.network) as evaluations:
        made = np.concatenate(list(parts()))
    return made, (time.perf_counter() - began) / len(request), evaluations[0] / len(request)


def sets_among(subject: Analysed) -> Sets:
    """The sets that the samples of the evaluation are measured in."""
    dataset, modality = subject.dataset, subject.dataset.modality
    mine = compared(modality, subject.drawn.rows), subject.labels
    theirs = compared(modality, dataset.rows), dataset.labels
    return sets_of(mine, theirs, subject.features, dataset.apart, subject.seed, RESAMPLES)


def unit(system: System, stored: NDArray[np.generic]) -> Tensor:
    """At most SPREAD examples as the denoiser has them, [n, d]."""
    x = system.modality.unit(torch.from_numpy(np.array(stored[:SPREAD])))
    return torch.cat(
        [system.encode(part.to(system.device)).cpu().flatten(1) for part in torch.split(x, AT_ONCE)]
    ).double()


def deviation(x: Tensor) -> float:
    """√ of the variance of all elements together."""
    return float(x.var(0, correction=0).sum().sqrt())


def spectrum_of(subject: Analysed) -> Tensor:
    """The standard deviation of the data along each of its principal directions."""
    some = np.random.default_rng(subject.seed).permutation(len(subject.dataset.rows))[:SPREAD]
    x = unit(subject.system, subject.dataset.rows[some])
    std: Tensor = torch.linalg.svdvals(x - x.mean(0)) / len(x) ** 0.5
    return std


def expected_of(subject: Analysed, how: Sampling, std: Tensor) -> float | None:
    """What `StepFigures.spread` is for a Gaussian of these deviations; None where theory does not say.

    It says so without guidance, of jumps to the data and up again by noise that is all new, and of those on the flow.
    """
    recipe = from_yaml(subject.run / "run.yaml")[0]
    if not isinstance(recipe, FewStepRecipe) or recipe.method is None or how.guidance != 1 or how.guides:
        return None
    solver, target = parse(how.solver, NAMED, "solver"), parse(recipe.method, METHODS, "method")
    if not isinstance(solver, Jump):
        return None
    path = subject.system.denoiser.path
    levels = path.nsr(parse(how.grid, GRIDS, "grid")(path, how.steps)[:-1]).tolist()
    if solver.renewed == 0 and target.anywhere:
        levels = levels[:1]  # where two jumps lead, one does
    elif solver.renewed != 1 and how.steps > 1:
        return None
    return renewed(target, std, levels, recipe.teacher is not None)


def renewed(target: Target, std: Tensor, levels: list[float], taught: bool) -> float:
    """The deviation of a Gaussian's samples over the data's after f(x_t, t, 0) at each of these ν, noise between.

    In x/α = x0 + ν·ε the flow's slope is s/√(s² + ν²), so the variance v becomes (v + ν²)·s²/(s² + ν²), less `shrink`.
    """
    variance = torch.zeros_like(std)
    for nsr in (min(level, HIGHEST) for level in levels):
        slope = std / (std**2 + nsr**2).sqrt() * target.shrink(std, nsr, taught)
        variance = slope**2 * (variance + nsr**2)
    return float((variance.sum() / std.square().sum()).sqrt())
