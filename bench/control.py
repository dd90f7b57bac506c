"""Do samples follow the edges that are asked for: a control of a model of `shapes`, on scenes that it has not seen.

    python bench/control.py runs/bench-control --base 6m --budget 5m
    python bench/control.py runs/bench-control --base 900 --budget 700 --shares 0.01 0.1     # by counts of updates

Edges are asked for that are those of held-out scenes, and found again in the samples by the same extractor. F1 is of
the places that are within a pixel of one another: precision of those drawn, recall of those asked. Beside it stand F1
with the hints of other samples (chance), of samples without a hint, at half the scale, and with hints that were blurred
or to which noise was added; and with `--shares` controls that saw less of the data.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from ebb.adapt.control import rescaled_by
from ebb.data.extractors import Edges
from ebb.data.images import PICTURES, to_pixels
from ebb.data.scenes import truth
from ebb.events import finished
from ebb.recipe.groups import ControlRecipe
from ebb.recipe.recipe import AdapterRecipe, DiffusionRecipe
from ebb.run.train import train
from ebb.system.system import System, load

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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("place", type=Path)
    parser.add_argument("--base", default="6m")
    parser.add_argument("--budget", default="5m")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--n", type=int, default=128)
    parser.add_argument("--form", nargs="*", default=["controlnet", "two_way"])
    parser.add_argument("--shares", nargs="*", type=float, default=[])
    given = parser.parse_args()
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


if __name__ == "__main__":
    main()
