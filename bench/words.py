"""Which remedy brings what a prompt asked for and a sample does not show: scenes of `shapes`, read by a judge.

    make bench-words          # trains a small run of scenes first

Captions of two things are asked for with guidance, and of each thing a judge says whether it is there. Then the same
captions, from the same noise, with each remedy: the guidance scaled up or down, the embedding of the text louder (its
rows times a factor, in the network), and a scale of its own for the prompt of each thing that was missing. Counted are
missing things that appear and things that go.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scenes import captions, heard, parts
from torch import Tensor, nn

import ebb
from ebb.data.images import to_pixels
from ebb.data.scenes import parse
from ebb.guide.cfg import Guide
from ebb.judge.distances import wilson
from ebb.judge.scene_reader import agrees, cells_of, judge, things_there
from ebb.networks.text_encoder import TextEncoder, TextRows
from ebb.system.system import System

There = NDArray[np.bool_]
"""[n, 2]: whether each of the two things of a caption is in its sample."""


@dataclass(frozen=True)
class Remedy:
    """What is done, and the guide that does it, given what was there before; `louder` multiplies the text's rows."""

    name: str
    guide: Callable[[There], Guide]
    louder: float = 1.0


@contextmanager
def louder(network: nn.Module, factor: float) -> Iterator[None]:
    """While it lasts the rows of a text are `factor` times as large, but for the network's own first one."""

    def scaled(_module: nn.Module, _inputs: Any, read: TextRows) -> TextRows:
        return read._replace(rows=torch.cat([read.rows[:, :1], factor * read.rows[:, 1:]], 1))

    hooks = [module.register_forward_hook(scaled) for module in network.modules() if isinstance(module, TextEncoder)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def remedies(system: System, texts: list[str], scale: float) -> list[Remedy]:
    """All of them; the first is what is to be mended."""
    null, single = {"text": system.null()["text"]}, heard(system, texts)
    things = [heard(system, list(column)) for column in zip(*(parts(parse(text)) for text in texts), strict=True)]

    def whole(by: float) -> Callable[[There], Guide]:
        return lambda _: ebb.compose([(by, single)], null)

    def missing(by: float) -> Callable[[There], Guide]:
        """The prompt, and where a thing was missing that thing's own prompt too."""

        def guide(there: There) -> Guide:
            terms = [(scale, single)]
            for column, thing in enumerate(things):
                absent = torch.from_numpy(~there[:, column])[:, None]
                terms.append((by, {"text": torch.where(absent, thing["text"], null["text"].expand_as(thing["text"]))}))
            return ebb.compose(terms, null)

        return guide

    return [
        Remedy(f"guidance {scale:g}, to be mended", whole(scale)),
        Remedy(f"scale up: guidance {2 * scale:g}", whole(2 * scale)),
        Remedy(f"scale up: guidance {3.75 * scale:g}", whole(3.75 * scale)),
        Remedy("scale down: guidance 1", whole(1.0)),
        Remedy("louder embedding, × 1.5", whole(scale), 1.5),
        Remedy("louder embedding, × 3", whole(scale), 3.0),
        Remedy("a scale for each prompt: + 1 for what was missing", missing(1.0)),
        Remedy(f"a scale for each prompt: + {scale:g} for what was missing", missing(scale)),
    ]


def sampled(system: System, texts: list[str], remedy: Remedy, there: There, steps: int) -> Tensor:
    """Samples of the texts by a remedy, from the same noise each time."""
    silent = system.request({"text": [""] * len(texts)}, len(texts), steps=steps, guidance=1.0)
    with louder(system.denoiser.network, remedy.louder) if remedy.louder != 1 else nullcontext():
        return ebb.Sampler(system, len(texts))(silent, remedy.guide(there))


def share(cases: There) -> str:
    """A share of cases with its 95 % interval."""
    if not cases.size:
        return "–"
    low, high = wilson(float(cases.mean()), cases.size)
    return f"{cases.mean():.1%} [{low:.1%}, {high:.1%}]"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--n", type=int, default=400)
    parser.add_argument("--guidance", type=float, default=2.0)
    parser.add_argument("--steps", type=int, default=16)
    given = parser.parse_args()
    system, texts = ebb.load(given.run), captions(given.n)
    scenes, reader = [parse(text) for text in texts], judge(system.shape[1])
    print("| | missing things that appear | things that go | all right | s a sample |\n| --- | --- | --- | --- | --- |")
    first = np.ones((len(texts), 2), bool)
    for number, remedy in enumerate(remedies(system, texts, given.guidance)):
        began = time.perf_counter()
        cells = cells_of(reader, to_pixels(sampled(system, texts, remedy, first, given.steps)))
        seconds = (time.perf_counter() - began) / len(texts)
        there = np.array([things_there(row, scene) for row, scene in zip(cells, scenes, strict=True)])
        right = np.array([agrees(row, scene) for row, scene in zip(cells, scenes, strict=True)])
        first = there if number == 0 else first
        gone = f"{(~there).sum()} of {there.size} are missing" if number == 0 else share(there[~first])
        lost = "" if number == 0 else share(~there[first])
        print(f"| {remedy.name} | {gone} | {lost} | {share(right)} | {seconds:.3f} |", flush=True)


if __name__ == "__main__":
    main()
