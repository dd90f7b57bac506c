"""Few-step models against their teachers: guidance that is told, seeds and learning rates; and how soon one sample is.

    python bench/few.py guidance runs/mnist-few
    python bench/few.py rates runs/mnist --steps 100
    python bench/few.py latency runs/mnist-few

`guidance` draws with each scale told to the model, in 2, 4 and 8 steps, and by its teacher with classifier-free
guidance in its own. `rates` distils a run from 5 seeds at half, once and twice the learning rate, and counts those that
are further from the data in one step than the teacher itself is in one. All samples are of the same seeds, for the same
labels. `latency` asks for one sample at a time on one thread, compiled and not, beside the bare network.
"""

from __future__ import annotations

import argparse
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from itertools import product
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from ebb.data.dataset import Dataset
from ebb.data.modality import compared
from ebb.data.of_run import data_of
from ebb.data.pictures import batches
from ebb.encode.conditioner import part
from ebb.evaluate.by_class import label_accuracy
from ebb.evaluate.by_steps import drawn, teacher_of
from ebb.evaluate.figures import Distance, Pile, Sets, measured
from ebb.evaluate.judges import QUICK, features_for
from ebb.evaluate.measure import sets_of
from ebb.events import finished
from ebb.judge.features import extract
from ebb.recipe.document import from_yaml
from ebb.recipe.recipe import FewStepRecipe, Sampling
from ebb.run.distil import asked_of
from ebb.run.train import train
from ebb.system.requests import asked_for, labels_of
from ebb.system.sampler import Request, Sampler
from ebb.system.system import System, load

SCALES, STEPS = (1.0, 1.5, 2.0, 3.0), (2, 4, 8)
SEEDS, RATES = range(5), (0.5, 1.0, 2.0)
NAMES = ("Fréchet distance", "precision, recall, density, coverage")


class Bench:
    """What samples are measured by: the data of a run, its judge, and the labels that are asked for."""

    def __init__(self, run: Path, count: int) -> None:
        self.dataset: Dataset = data_of(run, None)
        self.count, system = count, load(run)
        self.features, _ = finished(features_for(run, self.dataset, QUICK))
        self.given = asked_for(system, self.dataset, count, 0)
        self.labels = labels_of(system, self.given, self.dataset)
        blank = self.dataset.rows[:count]
        theirs = compared(system.modality, self.dataset.rows), self.dataset.labels
        mine = compared(system.modality, blank), self.labels
        self.sets: Sets = sets_of(mine, theirs, self.features, self.dataset.apart, 0, 100)

    def row(self, name: str, system: System, how: Sampling) -> Distance:
        """Print the figures of samples drawn so; the Fréchet distance."""
        pixels, seconds, evaluations = drawn(system, Request(self.given, self.count, how, 0))
        near, cells = self.figures(pixels)
        print(f"| {name} | {evaluations:.3g} | {1000 * seconds:.3g} | {cells} |", flush=True)
        return near

    def figures(self, pixels: NDArray[np.generic]) -> tuple[Distance, str]:
        """The Fréchet distance of stored samples; and as cells of a table, with recall and the labels shown."""
        features = extract(self.features, batches(compared(self.dataset.modality, pixels)))
        figures, _ = measured(replace(self.sets, samples=Pile(pixels, self.labels, features)), NAMES)
        share, _ = label_accuracy(self.features, features, self.labels, self.dataset.names)
        near, shown = figures["Fréchet distance"], "" if share is None else f"{share:.1%}"
        return near, f"{near.value:.3f} ({near.low:.3f} to {near.high:.3f}) | {figures['recall'].value:.2f} | {shown}"


def guidance(run: Path, count: int) -> None:
    """Told scales against those of the teacher."""
    teacher, _ = teacher_of(run)
    if teacher is None:
        raise SystemExit(f"the teacher of {run} is not there, or has changed")
    bench, student = Bench(run, count), load(run)
    for scale in SCALES:
        for steps in STEPS:
            bench.row(f"told {scale:g}, {steps} steps", student, student.settled(steps=steps, guidance=scale))
        bench.row(f"teacher at {scale:g}", teacher, teacher.settled(guidance=scale))


def distilled(teacher: Path, steps: int) -> Iterator[tuple[str, Path]]:
    """A run of each seed and rate, beside the teacher."""
    rate: float | None = None
    for seed, share in product(SEEDS, sorted(RATES, key=lambda share: share != 1)):
        place = teacher.parent / "few-rates" / f"{teacher.name}-{seed}-{share:g}"
        place.parent.mkdir(exist_ok=True)
        asked = FewStepRecipe(teacher=str(teacher), steps=steps, seed=seed, sheets=1)
        if rate is not None:
            asked = asked.model_copy(update={"optimiser": asked.optimiser.model_copy(update={"lr": rate * share})})
        data, asked = asked_of(teacher, asked)
        finished(train(data, asked, run=place))
        rate = rate or from_yaml(place / "run.yaml")[0].optimiser.lr
        yield f"seed {seed}, rate × {share:g}", place


def rates(teacher: Path, steps: int, count: int) -> None:
    """How many runs are worse in one step than their teacher."""
    bench, system = Bench(teacher, count), load(teacher)
    untuned = bench.row("the teacher in one step", system, system.settled(steps=1, solver="ddim"))
    worse = 0
    for name, place in distilled(teacher, steps):
        student = load(place)
        worse += not bench.row(name, student, student.settled(steps=1)).value < untuned.value
    print(f"\n{worse} of {len(SEEDS) * len(RATES)} runs are worse in one step than their teacher")


ONE_BY_ONE, IN_A_ROW = 300, 50
"""Samples of each row of `latency`, and how many come one after another, in turn with those of the other rows."""


def requests_of(run: Path) -> dict[str, Callable[[int], object]]:
    """What `latency` times, by name: each a function of the number of the sample."""
    system = load(run)
    given, x = asked_for(system, data_of(run, None), ONE_BY_ONE, 0), torch.randn(1, *system.inner)
    told, cond = torch.full((1,), 0.5), system.conditions(part(given, 0, 1), 1)

    def bare(_: int) -> object:
        with torch.no_grad():
            return system.model.network(x, told, cond)

    def whole(sampler: Sampler, how: Sampling, i: int) -> object:
        return sampler(Request(part(given, i, 1), 1, how, i))

    rows: dict[str, Callable[[int], object]] = {"the network alone": bare}
    for steps, compiled in product((1, 2), (False, True)):
        name = f"{steps} step{'s' * (steps > 1)}{', compiled' * compiled}"
        rows[name] = partial(whole, Sampler(system, 1, compiled), system.settled(steps=steps))
    return rows


def latency(run: Path) -> None:
    """Milliseconds of one sample at a time, and of the processor."""
    torch.set_num_threads(1)
    rows, took = requests_of(run), defaultdict[str, list[tuple[float, float]]](list)
    for first, (name, made) in product(range(0, ONE_BY_ONE, IN_A_ROW), rows.items()):
        for i in range(first - WARM, first + IN_A_ROW):
            began = time.perf_counter(), time.process_time()
            made(max(i, 0))
            if i >= first:
                took[name].append((time.perf_counter() - began[0], time.process_time() - began[1]))
    print("| | p50, ms | p99, ms | p50 of the processor, ms |\n| --- | --- | --- | --- |")
    for name, spent in took.items():
        clock, worked = (1000 * np.array(spent)).T
        print(f"| {name} | {np.median(clock):.2f} | {np.quantile(clock, 0.99):.2f} | {np.median(worked):.2f} |")


WARM = 5
"""Samples before those that are timed: the very first compiles, others find the weights in the cache."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("guidance", "rates", "latency"))
    parser.add_argument("run", type=Path)
    parser.add_argument("--n", type=int, default=1000)
    parser.add_argument("--steps", type=int, default=100, help="updates of each run")
    parser.add_argument("--threads", type=int, default=2)
    how = parser.parse_args()
    torch.set_num_threads(how.threads)
    if how.what == "latency":
        latency(how.run)
        return
    print(
        "| | evaluations | ms | Fréchet distance | recall | labels |\n| --- | --- | --- | --- | --- | --- |", flush=True
    )
    if how.what == "guidance":
        guidance(how.run, how.n)
    else:
        rates(how.run, how.steps, how.n)


if __name__ == "__main__":
    main()
