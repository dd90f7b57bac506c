"""A run's own way of sampling beside those of most tables: 50 steps of DDIM, 1,000 of DDPM with either variance."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ebb.data.modality import compared
from ebb.data.of_run import data_of
from ebb.encode.conditioner import part
from ebb.errors import EbbError
from ebb.evaluate.compare import gap_of
from ebb.evaluate.enough import comparable, countable
from ebb.evaluate.evaluate import Measuring, loaded, measuring
from ebb.evaluate.sweep import RESAMPLES, Cell, Trial, trial_of
from ebb.events import Done, Figure, Progress, Work
from ebb.judge.distances import Array, estimate
from ebb.recipe.recipe import Sampling
from ebb.report.run_report import write_report
from ebb.sample.noise import START, Noise
from ebb.store.write import replace_text
from ebb.system.model import scheme_of
from ebb.system.sampler import Sampler

REFERENCES: dict[str, dict[str, Any]] = {
    "DDIM, 50 steps": {"solver": "ddim", "grid": "uniform", "steps": 50},
    "DDPM, 1,000 steps, σ² = β": {"solver": "ddpm(variance='large')", "grid": "uniform", "steps": 1000},
    "DDPM, 1,000 steps, σ² = β̃": {"solver": "ddpm", "grid": "uniform", "steps": 1000},
}
"""Settings by what papers call them (Song et al. 2021, table 1; Ho et al. 2020, §3.2), on even times."""

OWN = "the run's own"

FILE = "references.json"

APART = 100_000
"""What is added to the seed: a default that a sweep chose would look better on the samples that it was chosen by."""

ELSEWHERE = 2**40
"""What is added to the seeds of the draws on the way, so that none of them is drawn twice."""


@dataclass(frozen=True)
class Reference:
    """A way of sampling: what it costs, its Fréchet distance, and how far that is from the run's own way."""

    name: str
    sampling: dict[str, Any]
    kind: Literal["deterministic", "stochastic"]
    seconds: float
    """for 1,000 samples"""
    evaluations: float
    """of the network, for each sample"""
    distance: float
    difference: tuple[float, float, float] | None
    """its distance less that of the run's own way, and the 95 % interval of that, paired; None of the own way"""
    start: float
    """the share of what tells two samples apart that the noise they start from decides: 1 where it decides all"""

    @classmethod
    def of(cls, facts: Mapping[str, Any]) -> Reference:
        """What `References.facts` wrote of it."""
        own = {field.name: facts[field.name] for field in fields(cls)}
        return cls(**own | {"difference": facts["difference"] and tuple(facts["difference"])})

    @property
    def interpolates(self) -> str:
        """What has to turn from one sample to another for the samples between them to be between them."""
        if self.kind == "deterministic":
            return "by its start"
        return f"by all its draws; its start decides {self.start:.0%}"

    @property
    def says(self) -> str:
        """What no figure says of it, in a line."""
        return f"{self.name}: {self.kind}, interpolates {self.interpolates}; best for {self.best_for}"

    @property
    def best_for(self) -> str:
        """What it is worth, by what was measured."""
        uses = ["interpolating, inverting, editing"] if self.kind == "deterministic" else []
        if self.difference is None:
            return ", ".join(["every day", *uses])
        _, low, high = self.difference
        if high < 0:
            return ", ".join(["the smaller distance", *uses])
        against = "as good as the run's own" if low <= 0 else "worse than the run's own"
        return f"{', '.join([*uses, 'comparing with papers'])}; {against}"


@dataclass(frozen=True)
class References:
    """All ways, the run's own first, the distance of real images to real ones, and the circumstances."""

    ways: tuple[Reference, ...]
    floor: float
    about: dict[str, Any]

    def facts(self) -> dict[str, Any]:
        """As JSON, with what is said of each way."""
        ways = [asdict(one) | {"interpolates": one.interpolates, "best_for": one.best_for} for one in self.ways]
        return {"ways": ways, "floor": self.floor, "about": self.about}


def references(
    run: str | Path,
    count: int = 1000,
    how: Measuring = Measuring(),
    *,
    precision: str | None = None,
    seed: int = 0,
) -> Work[References]:
    """`count` samples of the run at `run` by its own settings and by each of REFERENCES, from the same seeds for the
    same labels, against the same real images.

    The references have the run's guidance and guides; seeds are others than a sweep of the same `seed` chose by. Writes
    references.json after each way, so that the same command goes on where it was interrupted, and report.html anew.
    Raises as `evaluate` does.
    """
    run = Path(run)
    countable(count, seed)
    with measuring(run, FILE, "report.html") as begun:
        yield from begun
        began, dataset = time.perf_counter(), data_of(run, how.data)
        one = loaded(run, how.weights, precision=precision)
        comparable(run, len(dataset.rows))
        trial = yield from trial_of(one, dataset, count, seed + APART, features=how.features)
        result = yield from measured_beside(run / FILE, trial, began)
        write_report(run)
        yield Done(str(run))
        return result


def measured_beside(file: Path, trial: Trial, began: float) -> Work[References]:
    """The run's own way and the references, each written to `file` as soon as it is measured; those that are there for
    the same trial are not measured again. EbbError where its own way cannot be measured."""
    system, before = trial.one.system, measured_before(file, trial)
    asked = {OWN: system.sampling} | {name: system.settled(**how) for name, how in REFERENCES.items()}
    own, ways, failed = None, list[Reference](), list[str]()
    for number, (name, how) in enumerate(asked.items()):
        yield Progress(name, number, len(asked), left(ways[0], trial, list(asked.values())[number:]) if ways else None)
        same = before.get(name)
        if own is not None and same is not None and same.sampling == plain(how):
            ways.append(same)
        else:
            try:
                cell, rows = trial(how)
                ways.append(reference(trial, name, cell, None if own is None else paired(trial, rows, own)))
                own = rows if own is None else own
            except EbbError as error:
                if own is None:
                    raise
                failed.append(f"{name}: {error}".splitlines()[0])
        about = trial.about(began) | {"weights": trial.one.sha256, "warnings": [*trial.warnings, *failed]}
        result = References(tuple(ways), trial.floor, about)
        replace_text(file, json.dumps(result.facts(), indent=1))
        yield Figure("references", result.facts())
    return result


def measured_before(file: Path, trial: Trial) -> dict[str, Reference]:
    """The ways that `file` holds of the same weights, samples and features, by name."""
    same = {"weights": trial.one.sha256, "count": trial.count, "seed": trial.seed, "features": trial.features.name}
    same |= {"classifier_accuracy": trial.ceiling}  # quick classifiers have the name of others
    try:
        facts = json.loads(file.read_text(encoding="utf8"))
        ways = [Reference.of(one) for one in facts["ways"]] if same.items() <= facts["about"].items() else []
    except (OSError, ValueError, KeyError, TypeError):
        ways = []
    return {one.name: one for one in ways}


def plain(how: Sampling) -> dict[str, Any]:
    """Settings as a file holds them."""
    settings: dict[str, Any] = how.model_dump(mode="json")
    return settings


def left(own: Reference, trial: Trial, coming: Sequence[Sampling]) -> float:
    """Seconds that ways still take, by those of the run's own for each step."""
    each = own.seconds / 1000 / float(own.sampling["steps"])
    return each * trial.count * sum(how.steps for how in coming)


def reference(trial: Trial, name: str, cell: Cell, difference: tuple[float, float, float] | None) -> Reference:
    """A way of sampling as it was measured in a cell."""
    how = cell.sampling
    scheme = scheme_of(trial.one.system.denoiser, how)
    return Reference(
        name,
        plain(how),
        "stochastic" if scheme.stochastic else "deterministic",
        1000 * cell.seconds,
        cell.evaluations,
        cell.distance,
        difference,
        decided(trial, how, cell.shown) if scheme.stochastic else 1.0,
    )


def paired(trial: Trial, rows: Array, own: Array) -> tuple[float, float, float]:
    """The distance of `rows` less that of `own`, and its 95 % interval: sample i of both is counted alike each time."""
    gap = gap_of(trial.distance, rows.shape[1])
    return estimate(gap, np.hstack([rows, own]), trial.reference, resamples=RESAMPLES, seed=trial.seed)


def decided(trial: Trial, how: Sampling, shown: NDArray[Any]) -> float:
    """The share of what tells samples apart that their starts decide, by drawing from the same starts once more."""
    system, count = trial.one.system, len(shown)
    scheme = scheme_of(system.denoiser, how).guided(*system.guides(how))
    cond = system.conditions(part(trial.given, 0, count), count)
    x = scheme.fresh(torch.empty(count, *system.inner, device=system.device), cond, redrawn(trial.seed, count))
    again = system.modality.stored(Sampler(system).decoded(x))
    one, other = (compared(system.modality, some).astype(np.float64) for some in (shown, again))
    return share_decided(one, other)


def share_decided(one: Array, again: Array) -> float:
    """1 − E|x − x'|²/E|x − y|² of samples [n, *d], their like in `again`, and all others; 1 where none differ."""
    others = np.mean([np.square(one - np.roll(one, by, axis=0)).mean() for by in range(1, len(one))])
    return float(1 - np.square(one - again).mean() / others) if others else 1.0


def redrawn(seed: int, count: int) -> Callable[..., Tensor]:
    """The noise of `count` samples from `seed` on as far as they start from it, and other draws after that."""
    starts, others = Noise.of(seed, count), Noise.of(seed + ELSEWHERE, count)

    def noise(step: int, like: Tensor, part: int = 0) -> Tensor:
        return (starts if step == START else others)(step, like, part)

    return noise


HEADS = ("", "steps", "s for 1,000", "distance", "less the run's own")
"""Of the table."""


def as_rows(result: References) -> list[Sequence[str]]:
    """A row of text for each way."""
    return [
        (
            one.name,
            f"{one.sampling['steps']:,}",
            f"{one.seconds:.3g}",
            f"{one.distance:.4f}",
            "" if one.difference is None else "{:+.4f} [{:+.4f}, {:+.4f}]".format(*one.difference),
        )
        for one in result.ways
    ]
