"""A run's default sampling against DDIM in 50 steps and DDPM in 1,000, on the same seeds, labels and real images.

    ebb sweep runs/mnist --n 2000
    python bench/default.py runs/mnist --n 4000

Samples are drawn in parts, kept in the run and not drawn twice, so a longer or a broken run goes on where it was.
Differences are resampled in pairs: sample i of both, and every real image, counts alike.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
from torch import Tensor

import ebb
from ebb.data.images import to_pixels
from ebb.data.of_run import data_of
from ebb.data.pictures import batches
from ebb.evaluate.by_class import label_accuracy
from ebb.evaluate.compare import gap_of
from ebb.evaluate.evaluate import features_for
from ebb.evaluate.measure import split
from ebb.evaluate.sweep import distance_in
from ebb.events import finished
from ebb.judge.distances import Array, estimate, once
from ebb.judge.features import extract
from ebb.recipe.recipe import Sampling
from ebb.system.requests import asked_for, labels_of
from ebb.system.system import System
from ebb.understand.cost import counted

REFERENCES = {
    "DDIM, 50 steps": {"solver": "ddim", "steps": 50},
    "DDPM, 1,000 steps": {"solver": "ddpm", "steps": 1000},
}
"""On uniform times without guidance, as Ho et al. (2020) and Song et al. (2021) sample."""

PART, RESAMPLES = 500, 200


def named(how: Sampling) -> str:
    """A setting in words."""
    return f"the default: {how.solver}, {how.steps} steps"


def drawn(system: System, compile: bool, request: ebb.Request) -> Tensor:
    """Samples of what is asked for; `compile` for the long ones."""
    return ebb.Sampler(system, PART // 2, compile and request.sampling.steps >= 100)(request)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--n", type=int, default=4000, help=f"samples, a multiple of {PART}")
    parser.add_argument("--seed", type=int, default=100_000, help="apart from those that `ebb sweep` chose by")
    parser.add_argument("--compile", action="store_true", help="the steps of DDPM, which takes minutes at first")
    given = parser.parse_args()
    system, dataset = ebb.load(given.run), data_of(given.run)
    features, _ = finished(features_for(given.run, dataset))
    wanted = system.request(asked_for(system, dataset, given.n, given.seed), given.n, given.seed)
    floor, real = (extract(features, batches(part)) for part in split(dataset.rows, given.n, given.seed))
    settings = {named(system.sampling): system.sampling} | {
        name: system.settled(grid="uniform", guidance=1.0, **how) for name, how in REFERENCES.items()
    }
    kept, labels, statistic = given.run / "default", labels_of(system, wanted.given, dataset), distance_in(features)
    kept.mkdir(exist_ok=True)
    print(f"real images against real: {once(statistic, floor, real):.4f}\n")
    print("| | evaluations | ms a sample | distance | default − this [95 %] | label accuracy |")
    print("| --- | --- | --- | --- | --- | --- |")
    draw = partial(drawn, system, given.compile)
    first: Array | None = None
    for number, (name, how) in enumerate(settings.items()):
        made, seconds = list[Array](), 0.0
        with counted(system.denoiser.network) as calls:
            draw(replace(wanted.part(0, 1), sampling=how))
        for start in range(0, given.n, PART):
            file = kept / f"{number}-{how.solver}-{how.steps}-{given.seed + start}.npz"
            if not file.is_file():
                began = time.perf_counter()
                x = to_pixels(draw(replace(wanted.part(start, PART), sampling=how)))
                np.savez(file, images=x, seconds=(time.perf_counter() - began) / PART)
            with np.load(file) as found:
                made.append(found["images"])
                seconds += float(found["seconds"]) * PART / given.n
        rows = extract(features, batches(np.concatenate(made)))
        first, gap = (rows if first is None else first), "–"
        if first is not rows:
            difference, sides = gap_of(statistic, rows.shape[1]), np.hstack([first, rows])
            value, low, high = estimate(difference, sides, real, resamples=RESAMPLES, seed=given.seed)
            gap = f"{value:+.4f} [{low:+.4f}, {high:+.4f}]"
        accuracy, _ = label_accuracy(features, rows, labels, None)
        shown = "–" if accuracy is None else f"{accuracy:.1%}"
        distance = once(statistic, rows, real)
        print(f"| {name} | {calls[0]} | {1000 * seconds:.1f} | {distance:.4f} | {gap} | {shown} |", flush=True)


if __name__ == "__main__":
    main()
