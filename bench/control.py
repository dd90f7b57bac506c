"""Do samples follow the edges that are asked for: a control of a model of `shapes`, on scenes that it has not seen.

    python bench/control.py follow runs/bench-control --base 6m --budget 5m
    python bench/control.py follow runs/bench-control --base 900 --budget 700 --shares 0.01 0.1   # by counts of updates
    python bench/control.py start runs/bench-control/shapes       # layers of zeros, and of small weights
    python bench/control.py cost                                  # numbers, seconds and memory of training each

Edges are asked for that are those of held-out scenes, and found again in the samples by the same extractor. F1 is of
the places that are within a pixel of one another: precision of those drawn, recall of those asked. Beside it stand F1
with the hints of other samples (chance), of samples without a hint, at half the scale, and with hints that were blurred
or to which noise was added; and with `--shares` controls that saw less of the data.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from ebb.adapt.addition import Adapted, sharing
from ebb.adapt.additions import together
from ebb.adapt.control import rescaled_by
from ebb.adapt.controlled import CONTROLS
from ebb.data.extractors import Edges
from ebb.data.images import PICTURES, to_pixels
from ebb.data.loader import Batch
from ebb.data.scenes import truth
from ebb.events import finished
from ebb.networks.dit import DiT
from ebb.networks.unet import UNet
from ebb.process.denoiser import NetworkDenoiser
from ebb.process.path import Linear
from ebb.process.predict import velocity
from ebb.recipe.few_numbers import PIECES
from ebb.recipe.groups import ControlRecipe
from ebb.recipe.recipe import AdapterRecipe, DiffusionRecipe
from ebb.run.complete import USED
from ebb.run.train import train
from ebb.system.system import System, load
from ebb.train.ema import EMA
from ebb.train.loop import Descent, Training, updates
from ebb.train.muon import muon
from ebb.train.objectives.denoising import Denoising

SEED = 31
"""Of the scenes whose edges are asked for: neither the data's nor a judge's."""

BLURS, NOISES = (0.5, 1.0, 2.0), (0.25, 0.5, 1.0)
"""Pixels of a blur of the hint, and the deviation of noise added to it, black to white being 2."""


def near(lines: Tensor) -> Tensor:
    """Places within a pixel of a line [n, 1, h, w]."""
    return F.max_pool2d(lines, 3, 1, 1)


def f1(asked: NDArray[np.uint8], drawn: NDArray[np.uint8]) -> float:
    """F1 of the edges of some pictures [n, 1, h, w], of all their places together, within a pixel."""
    a, b = (torch.from_numpy(lines > 0).float() for lines in (asked, drawn))
    precision = float((b * near(a)).sum() / b.sum().clamp(min=1))
    recall = float((a * near(b)).sum() / a.sum().clamp(min=1))
    return 2 * precision * recall / max(precision + recall, 1e-9)


def length(text: str) -> dict[str, Any]:
    """A budget, such as 5m, or a number of updates."""
    return {"steps": int(text)} if text.isdigit() else {"budget": text}


def based(place: Path, how: dict[str, Any]) -> Path:
    """A model of scenes without words, trained so long."""
    asked = DiffusionRecipe(
        **how, times="logit_normal(mean=1.0)", precision="fp32", sheets=1,
        network={"width": 32}, text={"captions": "ignored"},  # type: ignore[arg-type]
    )  # fmt: skip
    return finished(train("shapes", asked, run=place / "shapes"))


def controlled(base: Path, data: str, how: dict[str, Any], name: str, form: str) -> Path:
    """A control of it by edges, trained so long."""
    asked = AdapterRecipe(
        **how, adapts=str(base), precision="fp32", sheets=1,
        addition=ControlRecipe(form=form, extractor="edges"),
    )  # fmt: skip
    return finished(train(data, asked, run=base.with_name(f"{base.name}-{name}")))


def drawn(system: System, hints: Tensor | None, count: int) -> NDArray[np.uint8]:
    """Edges found in samples of some hints."""
    given = {} if hints is None else {"edges": hints}
    return Edges()(to_pixels(system.sample(count, seed=0, given=given)))


def rows(run: Path, edges: NDArray[np.uint8]) -> Iterator[tuple[str, float]]:
    """(what was asked, F1 of what was drawn)."""
    system, count = load(run), len(edges)
    hints = torch.from_numpy(edges) / 127.5 - 1
    own = drawn(system, hints, count)
    yield "the hint", f1(edges, own)
    yield "another sample's hint", f1(np.roll(edges, 1, 0), own)
    yield "no hint: the base", f1(edges, drawn(system, None, count))
    for sigma in BLURS:
        yield f"the hint, blurred by {sigma:g} pixels", f1(edges, drawn(system, blurred(hints, sigma), count))
    for share in NOISES:
        noise = torch.randn(hints.shape, generator=torch.Generator().manual_seed(0))
        yield (
            f"the hint, with noise of {share:g}",
            f1(edges, drawn(system, (hints + share * noise).clamp(-1, 1), count)),
        )
    rescaled_by(system.denoiser.network, 0.5)
    yield "the hint, at half the scale", f1(edges, drawn(system, hints, count))


def sheet(run: Path, edges: NDArray[np.uint8]) -> Image.Image:
    """Hints, the samples of them, and the edges found in these, three times as large, a column each."""
    hints = torch.from_numpy(edges) / 127.5 - 1
    made = to_pixels(load(run).sample(len(edges), seed=0, given={"edges": hints}))
    found = np.concatenate([np.repeat(edges, 3, 1), made, np.repeat(Edges()(made), 3, 1)])
    return PICTURES.sheet(np.kron(found, np.ones((1, 1, 3, 3), np.uint8)), len(edges))


def blurred(hints: Tensor, sigma: float) -> Tensor:
    """Hints [n, 1, h, w] after a Gaussian blur."""
    at = torch.arange(-6, 7.0)
    blur = torch.exp(-(at**2) / (2 * sigma**2))
    blur = blur / blur.sum()
    wide = F.pad(hints, [6] * 4, mode="replicate")
    return F.conv2d(F.conv2d(wide, blur.view(1, 1, -1, 1)), blur.view(1, 1, 1, -1)).clamp(-1, 1)


def part(place: Path, share: float) -> str:
    """A file of the first scenes of `shapes`, so many of them."""
    file = place / f"shapes-{share:g}.npz"
    np.savez(file, images=truth(round(share * 20_000), 0).pixels)
    return str(file)


def speeds(run: Path) -> float:
    """Images a second in the median of a run's log."""
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return float(np.median([line["images_per_second"] for line in lines if "images_per_second" in line]))


def beside(denoiser: NetworkDenoiser, form: str, rate: float) -> Training:
    """A control by edges of a denoiser, about to be trained."""
    torch.manual_seed(0)
    made = together(denoiser, {"control": {"control": "edges", "channels": 1, "form": form}})
    model = Adapted(denoiser, made, "measured")
    return Training(model, muon(model, rate), EMA(model))


@dataclass(frozen=True, eq=False)
class Shown:
    """Scenes, and their edges."""

    x0: Tensor
    edges: Tensor

    @classmethod
    def of(cls, seed: int, count: int) -> Shown:
        """So many, of a seed."""
        pixels = truth(count, seed).pixels
        return cls(*(torch.from_numpy(each) / 127.5 - 1 for each in (pixels, Edges()(pixels))))

    def batch(self, number: int, size: int) -> Batch:
        """Some of them in turn."""
        at = torch.arange(number * size, (number + 1) * size) % len(self.x0)
        return Batch(self.x0[at], {"edges": self.edges[at]})

    def use(self, model: nn.Module) -> float:
        """How much higher the loss at these is with the edges of others: at equal noise."""
        losses = []
        for edges in (self.edges, self.edges.roll(1, 0)):
            with torch.no_grad():
                drawn = torch.Generator().manual_seed(0)
                losses.append(float(Denoising()(model, Batch(self.x0, {"edges": edges}), drawn).value))
        return losses[1] / losses[0] - 1


def reached(model: nn.Module, batch: Batch) -> float:
    """The share of what is trained that has a gradient."""
    parameters = [*model.parameters()]
    loss = Denoising()(model, batch, torch.Generator().manual_seed(0))
    gradients = torch.autograd.grad(loss.value, parameters, allow_unused=True)
    moved = sum(int((gradient != 0).sum()) for gradient in gradients if gradient is not None)
    return moved / sum(parameter.numel() for parameter in parameters)


WARM, EVERY = 20, 5
"""Updates until the rate is whole, and between two looks at how much the hint is used."""


def start(given: argparse.Namespace) -> None:
    """Layers of zeros against layers of small weights: what learns at first, and when the hint begins to be used."""
    base, seen, asked = load(given.base), Shown.of(0, 2000), Shown.of(SEED, 64)
    x, t = asked.x0[:16], torch.full((16,), 0.5)
    before = base.denoiser(x, t, {})
    print("| form | answers moved at first | numbers with a gradient at update 1, 2, 3 | hint used from | in the end |")
    print("| --- | --- | --- | --- | --- |")
    for form in given.form:
        training = beside(sharing(base.denoiser), form, given.lr)
        with torch.no_grad():
            moved = float((training.model(x, t, {"edges": asked.edges[:16]}) - before).norm() / before.norm())
        reach, uses = [reached(training.model, seen.batch(0, given.batch))], list[tuple[int, float]]()
        batches, rate = partial(seen.batch, size=given.batch), lambda step: given.lr * min(1, (step + 1) / WARM)
        for step in updates(training, Denoising(), batches, steps=given.steps, rate=rate):
            if step.number < 3:
                reach.append(reached(training.model, seen.batch(step.number, given.batch)))
            if step.number % EVERY == 0:
                uses.append((step.number, asked.use(training.model)))
        unused = [at for at, use in uses if use < USED]
        first = next((f"update {at}" for at, _ in uses if not unused or at > unused[-1]), "not yet")
        shares = ", ".join(f"{share:.1%}" for share in reach)
        print(f"| {form} | {moved:.2g} | {shares} | {first} | {1 + uses[-1][1]:.2f} × |", flush=True)


NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], int]] = {
    "U-Net": (lambda: UNet(3, width=64, depth=2, multipliers=(1, 2), patch=2, attention=()), (3, 32, 32), 32),
    "DiT": (lambda: DiT(4, width=384, depth=12, patch=2), (4, 32, 32), 8),
}
"""What is controlled, the shape of x and a batch."""


def spent(which: str, form: str) -> tuple[float, float, float]:
    """Numbers that are trained, seconds of one core an update, and megabytes in all but for what Python is."""
    torch.manual_seed(0)
    make, shape, count = NETWORKS[which]
    denoiser = NetworkDenoiser(make(), Linear(), velocity)
    empty = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - 4 * sum(p.numel() for p in denoiser.parameters()) / 1e3
    whole = form == "all"
    training = Training(denoiser, muon(denoiser, 1e-4), EMA(denoiser)) if whole else beside(denoiser, form, 1e-4)
    pieces = 1 if whole else PIECES
    x0, edges = torch.randn(count // pieces, *shape), torch.randn(count // pieces, 1, *shape[1:])
    batch, took = Batch(x0, {} if whole else {"edges": edges}), list[float]()
    began = time.process_time()
    for _ in updates(training, Denoising(), lambda number: batch, Descent(accumulate=pieces), steps=4):
        took.append(time.process_time() - began)
        began = time.process_time()
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - empty) / 1e3
    return sum(p.numel() for p in training.model.parameters()), float(np.median(took[1:])), grown


def cost(given: argparse.Namespace) -> None:
    """Training a control against training all, each in a process of its own."""
    if given.network:
        print(*spent(given.network, given.form))
        return
    print("| network | trained | numbers | seconds of a core an update | memory |\n| --- | --- | --- | --- | --- |")
    for which in NETWORKS:
        rows = dict[str, list[float]]()
        for form in ("all", *CONTROLS):
            words = [sys.executable, __file__, "cost", "--network", which, "--form", form]
            done = subprocess.run(words, capture_output=True, text=True, check=True).stdout.split()
            rows[form] = [float(each) for each in done]
            of = [own / whole for own, whole in zip(rows[form], rows["all"], strict=True)]
            numbers, seconds, megabytes = rows[form]
            print(f"| {which} | {form} | {numbers:,.0f} ({of[0]:.2f}) | {seconds:.2f} ({of[1]:.2f}) |"
                  f" {megabytes:.0f} MB ({of[2]:.2f}) |", flush=True)  # fmt: skip


def follow(given: argparse.Namespace) -> None:
    """A9: F1 of edges asked for and drawn."""
    given.place.mkdir(parents=True, exist_ok=True)
    base, edges = based(given.place, length(given.base) | {"batch": given.batch}), Edges()(truth(given.n, SEED).pixels)
    cases = [(form, "shapes", form) for form in given.form]
    cases += [(f"{share:.0%} of the data", part(given.place, share), given.form[0]) for share in given.shares]
    print("| control | asked | F1 |\n| --- | --- | --- |")
    for name, data, form in cases:
        began = time.perf_counter()
        run = controlled(
            base, data, length(given.budget) | {"batch": given.batch}, name.replace("% of the data", "-percent"), form
        )
        seconds = time.perf_counter() - began
        sheet(run, edges[:12]).save(given.place / f"{run.name}.png")
        for asked, score in rows(run, edges):
            print(f"| {name} | {asked} | {score:.3f} |", flush=True)
            line = {"control": name, "asked": asked, "f1": score, "seconds": seconds, "speed": speeds(run)}
            with (given.place / "control.jsonl").open("a") as file:
                file.write(json.dumps(line) + "\n")
        print(f"| {name} | seconds, and images/s (the base: {speeds(base):.0f}) | {seconds:.0f}, {speeds(run):.0f} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(required=True)
    one = verbs.add_parser("follow")
    one.add_argument("place", type=Path)
    one.add_argument("--base", default="6m")
    one.add_argument("--budget", default="5m")
    one.add_argument("--batch", type=int, default=64)
    one.add_argument("--n", type=int, default=128)
    one.add_argument("--form", nargs="*", default=[*CONTROLS])
    one.add_argument("--shares", nargs="*", type=float, default=[])
    one.set_defaults(act=follow)
    two = verbs.add_parser("start")
    two.add_argument("base", type=Path)
    two.add_argument("--form", nargs="*", default=["controlnet", "controlnet(start=0.001)", "controlnet(start=0.01)"])
    two.add_argument("--steps", type=int, default=100)
    two.add_argument("--batch", type=int, default=32)
    two.add_argument("--lr", type=float, default=6e-3)
    two.set_defaults(act=start)
    three = verbs.add_parser("cost")
    three.add_argument("--network", choices=NETWORKS)
    three.add_argument("--form", default="all")
    three.set_defaults(act=cost)
    given = parser.parse_args()
    given.act(given)


if __name__ == "__main__":
    main()
