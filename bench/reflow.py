"""What reflow gains: how straight the flow is, and the distance in few steps, of a run and of what learnt its pairs.

ebb train mnist/ --reflow runs/mnist --run runs/straight --budget 4m
python bench/reflow.py runs/mnist runs/straight
"""

from __future__ import annotations

import argparse
from pathlib import Path

import ebb
from ebb.data.images import to_pixels
from ebb.data.of_run import data_of
from ebb.data.pictures import batches
from ebb.encode.conditioner import part
from ebb.evaluate.judges import features_for
from ebb.evaluate.measure import split
from ebb.evaluate.sweep import distance_in
from ebb.events import finished
from ebb.judge.distances import once
from ebb.judge.features import extract
from ebb.system.requests import asked_for
from ebb.understand.straightness import straightness

STEPS = 1, 2, 4, 8, 16
SOME = 128
"""Paths whose bends are measured."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--n", type=int, default=1000)
    given = parser.parse_args()
    dataset = data_of(given.runs[0])
    features, _ = finished(features_for(given.runs[0], dataset))
    floor, real = (extract(features, batches(some)) for some in split(dataset.rows, given.n, 0))
    distance = distance_in(features)
    truth = once(distance, floor, real)
    print(f"distance of {given.n:,} samples by steps of Euler's method; real images have {truth:.4f}")
    print(f"| run | straightness | {' | '.join(map(str, STEPS))} |\n| {'--- | ' * (2 + len(STEPS))}")
    for run in given.runs:
        system = ebb.load(run)
        asked = asked_for(system, dataset, given.n, 0)
        x = ebb.Noise.of(0, SOME).start(system.inner)
        bends = straightness(system.denoiser, x, system.conditions(part(asked, 0, SOME), SOME))
        row = []
        for steps in STEPS:
            made = ebb.Sampler(system)(
                system.request(asked, given.n, solver="euler", grid="uniform", steps=steps, guidance=1.0)
            )
            row.append(once(distance, extract(features, batches(to_pixels(made))), real))
        print(f"| {run.name} | {bends:.3f} | {' | '.join(f'{each:.3f}' for each in row)} |", flush=True)


if __name__ == "__main__":
    main()
