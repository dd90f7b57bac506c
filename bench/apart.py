"""How far a run's samples are from real images by a judge that had no part in any choice that ebb makes.

    python bench/apart.py runs/cifar10-train --data cifar10-train.zip --guidance 1 1.5 2

ebb chooses its guidance by its own classifiers, which flatters them. This judge is of another kind: a plain stack of
convolutions, without the judges' whitening, residues and mirror images, trained by another optimiser from another seed
on another split. It is trained once, before any sample is looked at, and stays in `--judge`; the samples are of other
seeds too. The first row of samples is the run by its own settings; `--samples` are files of pixels and labels that
others drew, such as bench/quality keeps of the peers.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from ebb.data.dataset import Dataset
from ebb.data.images import to_pixels
from ebb.data.of_run import data_of
from ebb.data.pictures import batches
from ebb.errors import EbbError
from ebb.evaluate.by_class import label_accuracy
from ebb.evaluate.figures import Distance, Outcome, Pile, Sets, frechet, kernel, neighbours
from ebb.evaluate.measure import split
from ebb.judge.ensemble import Ensemble, load_ensemble, save_ensemble
from ebb.judge.features import ImageClassifier, extract, train_classifier
from ebb.system.sampler import Settings
from ebb.system.system import load

SEED = 7_000_000
"""Of the samples' noise: far from every seed by which ebb looks, measures and chooses."""


def judge_of(dataset: Dataset, file: Path, seconds: float) -> Ensemble:
    """The judge in `file`, trained if it is not there; how often it is right about unseen images is printed."""
    fingerprint = dataset.summary.fingerprint
    known = load_ensemble(file, fingerprint, ImageClassifier)
    if known is None:
        aside = dataset.held_out and (dataset.held_out.rows, dataset.held_out.labels)
        made, right = train_classifier(
            dataset.rows, dataset.labels, len(dataset.names), seed=SEED, seconds=seconds, held_out=aside or None
        )
        known = Ensemble([made]), right
        file.parent.mkdir(parents=True, exist_ok=True)
        save_ensemble(file, *known, fingerprint)
    print(f"the judge is right about {known[1]:.1%} of unseen images\n", flush=True)
    return known[0].eval().requires_grad_(False)


def spelled(figure: Distance, digits: str) -> str:
    """A figure and its interval."""
    return f"{figure.value:{digits}} ({figure.low:{digits}} to {figure.high:{digits}})"


def named(outcome: Outcome, name: str) -> Distance:
    """One figure; SystemExit says why there is none."""
    if isinstance(outcome, str):
        raise SystemExit(outcome)
    return outcome[name]


def row(name: str, sets: Sets) -> str:
    """The figures of a set of samples."""
    share = label_accuracy(sets.features, sets.samples.features, sets.samples.labels, None)[0]
    cells = [
        spelled(named(frechet(sets), "Fréchet distance"), ".3f"),
        spelled(named(kernel(sets), "kernel distance"), ".4f"),
        spelled(named(neighbours(sets), "recall"), ".2f"),
        f"{share:.1%}",
    ]
    return f"| {name} | {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--data", type=Path, help="where the images are now")
    parser.add_argument("--guidance", type=float, nargs="*", default=(1.0,))
    parser.add_argument("--guide", nargs="*", default=(), help="guides, such as auto, each at guidance 2")
    parser.add_argument(
        "--samples", type=Path, nargs="*", default=(), help=".npz with pixels [n, c, h, w] and labels [n]"
    )
    parser.add_argument("--n", type=int, default=1000)
    parser.add_argument("--seconds", type=float, default=200, help="work of the judge: 4,000 images each")
    parser.add_argument("--judge", type=Path, default=Path("runs/judges/apart.safetensors"))
    parser.add_argument("--threads", type=int, default=2)
    how = parser.parse_args()
    torch.set_num_threads(how.threads)
    try:
        system, dataset = load(how.run), data_of(how.run, how.data)
        judge = judge_of(dataset, how.judge, how.seconds)
        parts = [split(each, how.n, 1, dataset.apart) for each in (dataset.rows, dataset.labels)]
        floor, reference = (Pile(x, y, extract(judge, batches(x))) for x, y in zip(*parts, strict=True))
        labels = np.random.default_rng(1).choice(dataset.labels, how.n)

        def line(name: str, rows: NDArray[np.uint8], labels: NDArray[np.int64]) -> str:
            return row(name, Sets(Pile(rows, labels, extract(judge, batches(rows))), floor, reference, judge, 0, 100))

        print("| | Fréchet distance | kernel distance | recall | show their label |\n" + "|---" * 5 + "|")
        print(row("real images", Sets(floor, floor, reference, judge, 0, 100)), flush=True)
        own = f"by its own settings, {system.settled().guidance:g} {' '.join(system.settled().guides)}".strip()
        asked: dict[str, Settings] = {own: {}}
        asked |= {f"guidance {scale:g}": {"guidance": scale, "guides": ()} for scale in how.guidance}
        asked |= {guide: {"guidance": 2.0, "guides": (guide,)} for guide in how.guide}
        for name, settings in asked.items():
            rows = to_pixels(system.sample(how.n, label=labels.tolist(), seed=SEED, **settings))
            print(line(name, rows, labels), flush=True)
        for file in how.samples:
            with np.load(file) as drawn:
                print(line(str(file), drawn["pixels"][: how.n], drawn["labels"][: how.n]), flush=True)
    except EbbError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
