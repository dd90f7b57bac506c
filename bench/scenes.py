"""Do samples of `shapes` show all that was asked: one prompt, prompts composed, a prompt for each quarter.

    ebb train shapes --budget 6m
    python bench/scenes.py runs/shapes --n 400

Prompts are captions of two things, of scenes that were not trained on: half of known pairs, half of pairs that never
met. What is composed are captions of parts ("a scene with a red circle"): those of whole scenes also say that nothing
else is there, and contradict each other. A judge, trained on scenes of its own, reads the quarters of every sample
(`ebb.judge.scene_reader`).
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
from ebb.data.images import to_pixels
from ebb.data.scenes import PLACES, Scene, holds, parse, truth
from ebb.guide.cfg import Guide
from ebb.judge.scene_reader import agreement, judge
from ebb.system.system import System

SEEDS = 21, 22
"""Of the scenes whose captions are asked for: neither the data's nor the judge's."""


def captions(count: int) -> list[str]:
    """Captions of two things: known pairs, then new ones."""
    found: list[str] = []
    for seed, novel in zip(SEEDS, (False, True), strict=True):
        scenes = truth(4 * count, seed, novel=novel)
        found += [caption for caption in scenes.captions if wanted(parse(caption))][: count // 2]
    return found


def wanted(scene: Scene) -> bool:
    """Whether it is two things and nothing else."""
    return len(scene.objects) == 2 and not scene.part


def heard(system: System, texts: list[str]) -> dict[str, Tensor]:
    """The condition of some texts."""
    return {"text": system.conditions({"text": texts}, len(texts))["text"]}


def parts(scene: Scene) -> list[str]:
    """A caption for each thing of a scene, as one among others."""
    return [Scene((thing,), part=True).caption for thing in scene.objects]


def quarters(scene: Scene) -> list[str]:
    """What is at each of the PLACES, a caption of a part for each."""
    told = {thing.place: text for thing, text in zip(scene.objects, parts(scene), strict=True)}
    return [told.get(place) or Scene((), part=True, empty=place).caption for place in PLACES]


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
    scenes, silent = [parse(text) for text in texts], [""] * len(texts)
    single = heard(system, texts)
    things = [heard(system, list(column)) for column in zip(*map(parts, scenes), strict=True)]
    yield "one prompt", texts, None
    yield f"one prompt, guidance {scale:g}", texts, ebb.compose([(scale, single)], null)
    yield "its things composed", silent, ebb.compose([(scale, one) for one in things], null)
    both = [(scale, single), *((scale / 2, one) for one in things)]
    yield "the prompt and its things composed", silent, ebb.compose(both, null)
    columns = zip(*(quarters(placed(scene, rng)) for scene in scenes), strict=True)
    places = [heard(system, list(column)) for column in columns]
    masks = [quarter(place, system.shape[1]) for place in PLACES]
    for strength in (1.0, scale):
        terms = [(strength, mask, one) for mask, one in zip(masks, places, strict=True)]
        yield f"each quarter for itself, guidance {strength:g}", silent, ebb.regions(terms, null)
    whole = [(1.0, torch.ones(()), single), *((scale / 2, m, one) for m, one in zip(masks, places, strict=True))]
    yield "the prompt, and each quarter for itself", silent, ebb.regions(whole, null)


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
        made = ebb.Sampler(system, len(texts))(system.request({"text": asked}, len(texts), steps=given.steps), guide)
        seconds = (time.perf_counter() - began) / len(texts)
        found = agreement(reader, to_pixels(made), texts)
        row = f"{found.share:.1%} | {found.novel:.1%} | {found.things:.1%} | {seconds:.3f}"
        print(f"| {name} | {row} |", flush=True)
        line = {"run": given.run.name, "way": name, "guidance": given.guidance, "seconds": seconds, **asdict(found)}
        with (given.run / "scenes.jsonl").open("a") as file:
            file.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    main()
