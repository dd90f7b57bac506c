"""Do samples of `shapes` show all that was asked: one prompt, prompts composed, a prompt for each region.

    ebb train shapes --budget 6m
    python bench/scenes.py runs/shapes --n 400

Prompts are captions of two things, of scenes that were not trained on: half of known pairs, half of pairs that never
met. A judge, trained on scenes of its own, reads the quarters of every sample (`ebb.evaluate.scenes`).
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

import ebb
from ebb.data.scenes import PLACES, Scene, holds, parse, truth
from ebb.encode.conditioner import Wishes
from ebb.encode.images import to_pixels
from ebb.evaluate.scenes import judge, obeyed
from ebb.guide.cfg import Guide
from ebb.system import System

SEEDS = 21, 22
"""Of the scenes whose captions are asked for: neither the data's nor the judge's."""


def captions(count: int) -> list[str]:
    """Captions of two things: known pairs, then new ones."""
    found: list[str] = []
    for seed, novel in zip(SEEDS, (False, True), strict=True):
        scenes = truth(4 * count, seed, novel=novel)
        found += [caption for caption in scenes.captions if len(parse(caption).objects) == 2][: count // 2]
    return found


def heard(system: System, texts: list[str]) -> dict[str, Tensor]:
    """The condition of some texts."""
    return {"text": system.conditions(Wishes((0,) * len(texts), tuple(texts)))["text"]}


def placed(scene: Scene, rng: np.random.Generator) -> Scene:
    """The scene with a place for each thing, such that all that is said holds."""
    while True:
        places = rng.permutation(PLACES)[: len(scene.objects)].tolist()
        things = tuple(replace(t, place=t.place or place) for t, place in zip(scene.objects, places, strict=True))
        apart = len({thing.place for thing in things}) == len(things)
        if apart and (not scene.relation or holds(scene.relation, things[0].place, things[1].place)):
            return Scene(things, None)


def quarter(place: str, side: int) -> Tensor:
    """1 in one quarter of a picture, 0 elsewhere."""
    mask, half = torch.zeros(side, side), side // 2
    row, column = divmod(PLACES.index(place), 2)
    mask[row * half : (row + 1) * half, column * half : (column + 1) * half] = 1
    return mask


def ways(system: System, texts: list[str], scale: float) -> Iterator[tuple[str, list[str], Guide | None]]:
    """(what it is, the texts that the samples are asked for, the guide around them)."""
    null, rng = {"text": system.null()["text"]}, np.random.default_rng(0)
    scenes = [parse(text) for text in texts]
    single, each = heard(system, texts), [heard(system, [str(s.objects[i]) for s in scenes]) for i in (0, 1)]
    silent = [""] * len(texts)
    yield "one prompt", texts, None
    yield f"one prompt, guidance {scale:g}", texts, ebb.compose([(scale, single)], null)
    yield "the things composed", silent, ebb.compose([(scale, one) for one in each], null)
    both = [(scale, single), *((scale / 2, one) for one in each)]
    yield "the prompt and its things composed", silent, ebb.compose(both, null)
    where = [placed(scene, rng) for scene in scenes]
    side = system.shape[1]
    masks = [torch.stack([quarter(s.objects[i].place, side) for s in where])[:, None] for i in (0, 1)]
    told = [heard(system, [str(s.objects[i]) for s in where]) for i in (0, 1)]
    terms = [(scale, mask, one) for mask, one in zip(masks, told, strict=True)]
    yield "each thing in its region", silent, ebb.regions(terms, null)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--n", type=int, default=400)
    parser.add_argument("--guidance", type=float, default=2.0)
    parser.add_argument("--steps", type=int, default=16)
    given = parser.parse_args()
    system, texts, reader = ebb.load(given.run), captions(given.n), judge()
    print("| asked for by | all right | of new pairs | things there | s a sample |\n| --- | --- | --- | --- | --- |")
    for name, asked, guide in ways(system, texts, given.guidance):
        began = time.perf_counter()
        wishes = Wishes((0,) * len(texts), tuple(asked))
        made = system.make(wishes, seed=0, batch=len(texts), steps=given.steps, guide=guide)
        seconds = (time.perf_counter() - began) / len(texts)
        found = obeyed(reader, to_pixels(made), texts)
        row = f"{found.share:.1%} | {found.novel:.1%} | {found.things:.1%} | {seconds:.3f}"
        print(f"| {name} | {row} |", flush=True)
        line = {"run": given.run.name, "way": name, "guidance": given.guidance, "seconds": seconds, **asdict(found)}
        with (given.run / "scenes.jsonl").open("a") as file:
            file.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    main()
