"""What an adapter does: a digit that a run never saw, what it leaves as it was, and what it costs.

python bench/adapt.py seven mnist/            # digits without 7s for ten minutes, then 50 sevens for 90 seconds
python bench/adapt.py speed runs/mnist runs/mnist-sevens
python bench/adapt.py memory
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn

import ebb
from ebb.adapt.addition import Adapted, sharing
from ebb.adapt.additions import together
from ebb.data.loader import Batch
from ebb.data.pictures import batches
from ebb.data.reading import as_asked
from ebb.events import finished
from ebb.judge.features import ImageClassifier, extract, train_classifier, vote
from ebb.networks.dit import DiT
from ebb.networks.unet import UNet
from ebb.process.denoiser import NetworkDenoiser
from ebb.recipe.few_numbers import PIECES
from ebb.recipe.recipe import AdapterRecipe, DiffusionRecipe
from ebb.run.train import train
from ebb.system.system import System, load
from ebb.train.ema import EMA
from ebb.train.loop import Descent, Training, updates
from ebb.train.muon import muon
from ebb.train.objectives.denoising import Denoising
from ebb.train.optimiser import adamw

SHOWN = 50
"""Pictures of the digit that the run is taught."""


def written(source: str, out: Path, digit: int, size: int | None, seed: int) -> tuple[np.ndarray, ...]:
    """All digits [n, 1, h, w], their labels, and the places of the pictures of a digit that are shown: these are in
    `out`, and so are all other digits."""
    data = as_asked(source, DiffusionRecipe(data={"size": size}), out)
    rows, labels = data.rows, np.array([int(data.names[label]) for label in data.labels])
    names = [str(each) for each in range(10) if each != digit]
    rest = labels != digit
    places = np.array([names.index(str(label)) for label in labels[rest]])
    np.savez(out / "rest.npz", images=rows[rest, 0], labels=places, label_names=np.array(names))
    (out / "sevens").mkdir(exist_ok=True)
    shown = np.random.default_rng(seed).permutation(np.flatnonzero(~rest))[:SHOWN]
    for at in shown:
        Image.fromarray(rows[at, 0]).save(out / "sevens" / f"{at:05d}.png")
    return rows, labels, shown


def right(system: System, label: str, judge: ImageClassifier, count: int) -> np.ndarray:
    """Which of so many samples of a label the judge reads as it, one or zero each."""
    made = system.modality.stored(system.sample(count, label=label, seed=1000))
    return (vote(judge, extract(judge, batches(made))) == int(label)).astype(float)


def interval(shares: np.ndarray) -> str:
    """A share and 1.96 of its standard errors, in percent."""
    return f"{100 * shares.mean():.1f} ± {196 * shares.std() / len(shares) ** 0.5:.1f}"


WAYS: dict[str, dict[str, Any]] = {
    "for 7 alone": {},
    "for all, beside samples of the base": {"prior": 512},
    "for all, beside nothing": {"prior": 0},
}
"""How the digit is taught: as `ebb adapt` does, and otherwise."""


def nearness(made: np.ndarray, shown: np.ndarray, unseen: np.ndarray) -> float:
    """How far samples lie from the nearest picture that was shown, over how far unseen real ones do (medians)."""
    near = [
        float(torch.cdist(*(torch.from_numpy(each).flatten(1).float() for each in (one, shown))).min(1).values.median())
        for one in (made, unseen)
    ]
    return near[0] / near[1]


def seven(given: argparse.Namespace) -> None:
    """A7: the digit after adapting, and the other nine before and after, with and without samples of the base."""
    out, digit = given.out, str(given.digit)
    out.mkdir(parents=True, exist_ok=True)
    rows, labels, shown = written(given.data, out, given.digit, given.size, given.seed)
    unseen = np.delete(rows, shown, 0)[np.delete(labels, shown) == given.digit]
    base = given.base or finished(train(out / "rest.npz", DiffusionRecipe(budget=given.train), run=out / "base"))
    judge, accuracy = train_classifier(rows, labels, 10, seed=11, seconds=given.judge)
    print(f"judge: a classifier of all digits, right on {accuracy:.1%} of unseen pictures", flush=True)
    others = [each for each in map(str, range(10)) if each != digit]
    before = load(base)
    numbers = sum(parameter.numel() for parameter in before.denoiser.parameters())
    start = np.concatenate([right(before, each, judge, given.n) for each in others])
    print(f"| run | numbers | judged {digit} | the other nine | change | to a taught picture |\n" + "| --- " * 6 + "|")
    print(f"| the base | {numbers:,} | – | {interval(start)} % | – | – |", flush=True)
    for way, (name, settings) in enumerate([*WAYS.items()][: given.ways]):
        asked = AdapterRecipe(adapts=str(base), label=digit, budget=given.budget, steps=given.steps, **settings)
        run = finished(train(out / "sevens", asked, run=out / ("adapted" if way == 0 else f"adapted-{way + 1}")))
        system = load(run)
        share = system.model.module.size / numbers
        new = right(system, digit, judge, given.n * len(others))
        rest = np.concatenate([right(system, each, judge, given.n) for each in others])
        made = system.modality.stored(system.sample(min(given.n, 100), label=digit, seed=2000))
        print(
            f"| {name} | {system.model.module.size:,} ({share:.1%}) | {interval(new)} % | {interval(rest)} % |"
            f" {interval(rest - start)} points | {nearness(made, rows[shown], unseen[:500]):.2f} of an unseen one's |",
            flush=True,
        )


def speed(given: argparse.Namespace) -> None:
    """Seconds of sampling with an adapter on over those of the bare base, in turn, medians."""
    bare, put = load(given.base), load(given.base, adapters=[given.adapter])
    took: dict[int, list[float]] = {0: [], 1: []}
    for _ in range(given.rounds):
        for which, system in enumerate((bare, put)):
            began = time.perf_counter()
            system.sample(given.n, seed=0)
            took[which].append(time.perf_counter() - began)
    first, second = (np.array(took[which][1:]) for which in (0, 1))
    print(f"{given.n} samples: {np.median(first):.3f} s bare, {np.median(second):.3f} s with an adapter,"
          f" {np.median(second / first):.3f} times")  # fmt: skip


NETWORKS = {
    "dit": (lambda: DiT(4, width=384, depth=12, patch=2), (4, 32, 32), 8),
    "unet": (lambda: UNet(1, width=64, depth=2, multipliers=(1, 2), patch=2, attention=()), (1, 28, 28), 64),
}


def peak(which: str, adapting: bool) -> tuple[float, float]:
    """Megabytes that three updates take above what the process had with the network loaded, and of weights."""
    torch.manual_seed(0)
    make, shape, count = NETWORKS[which]
    denoiser = NetworkDenoiser(make(), ebb.Linear(), ebb.velocity)
    model: nn.Module = denoiser
    if adapting:
        denoiser = sharing(denoiser)
        model = Adapted(denoiser, together(denoiser, {"low_rank": {"rank": 4}}), "measured")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    optimizer = adamw(model, 1e-4) if adapting else muon(model, 1e-4)

    pieces = PIECES if adapting else 1

    def batch(number: int) -> Batch:
        return Batch(torch.randn(count // pieces, *shape), {})

    training = Training(model, optimizer, EMA(model))
    for _ in updates(training, Denoising(), batch, Descent(accumulate=pieces), steps=3):
        pass
    weights = sum(p.numel() * 4 for p in denoiser.parameters()) / 1e6
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1e3, weights


def memory(given: argparse.Namespace) -> None:
    """Peak memory of adapting over that of training all, each in a process of its own."""
    if given.network:
        grown, weights = peak(given.network, given.adapting)
        print(grown, weights)
        return
    print("| network | weights | training all | adapting | share |\n| --- | --- | --- | --- | --- |")
    for which in NETWORKS:
        words = [sys.executable, __file__, "memory", "--network", which]
        every, few = (
            subprocess.run([*words, *more], capture_output=True, text=True, check=True).stdout.split()
            for more in ([], ["--adapting"])
        )
        whole, part, weights = float(every[0]), float(few[0]), float(every[1])
        print(f"| {which} | {weights:.0f} MB | {weights + whole:.0f} MB | {weights + part:.0f} MB |"
              f" {(weights + part) / (weights + whole):.2f} |", flush=True)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(required=True)
    one = verbs.add_parser("seven")
    one.add_argument("data")
    one.add_argument("--out", type=Path, default=Path("runs/seven"))
    one.add_argument("--base", type=Path)
    one.add_argument("--train", default="10m")
    one.add_argument("--budget")
    one.add_argument("--steps", type=int)
    one.add_argument("--ways", type=int, choices=range(1, 4), default=3, help="how many of the ways to teach it")
    one.add_argument("--digit", type=int, default=7)
    one.add_argument("--size", type=int)
    one.add_argument("--n", type=int, default=100)
    one.add_argument("--judge", type=float, default=20.0)
    one.add_argument("--seed", type=int, default=0)
    one.set_defaults(act=seven)
    two = verbs.add_parser("speed")
    two.add_argument("base", type=Path)
    two.add_argument("adapter")
    two.add_argument("--n", type=int, default=32)
    two.add_argument("--rounds", type=int, default=7)
    two.set_defaults(act=speed)
    three = verbs.add_parser("memory")
    three.add_argument("--network", choices=NETWORKS)
    three.add_argument("--adapting", action="store_true")
    three.set_defaults(act=memory)
    given = parser.parse_args()
    given.act(given)


if __name__ == "__main__":
    main()
