"""One new word alone: scenes in which triangles have no name, then ten pictures of "sks", and what is drawn for it.

    make bench-concept

The base is trained on scenes whose captions call a triangle a thing, and circles and squares as well seven times in
ten: it draws triangles, and has no word for them. Ten pictures with captions that say sks teach it one, as a row of the
table of its pieces and nothing else. Then "a red sks at the top left" is asked for in every colour and place, from the
same noise without the word, with it, and with the word for a circle in its place, and a judge reads what is there.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from dataclasses import dataclass
from itertools import cycle, islice, product
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

import ebb
from ebb.data.images import save_png, sheet, to_pixels
from ebb.data.scenes import COLOURS, KINDS, PLACES, SHAPES, Scene, draw, numbered
from ebb.judge.distances import wilson
from ebb.judge.features import ImageClassifier
from ebb.judge.scene_reader import cells_of, judge

WORD, HIDDEN = "sks", "triangle"
"""The new word, and the shape that no caption of the base names."""

SIDE, SCENES, SHOWN = 24, 6000, 10
"""Pixels of a side, scenes of the base, and pictures of the word."""

UNNAMED = 0.7
"""The share of the other shapes that are called things too."""


def scene(rng: np.random.Generator, shape: str | None = None) -> Scene:
    """One thing, of a shape or any."""
    place, large = PLACES[rng.integers(len(PLACES))], bool(rng.integers(2))
    while True:
        thing = numbered(int(rng.integers(KINDS)), large, place)
        if shape in (None, thing.shape):
            return Scene((thing,))


def said(found: Scene, rng: np.random.Generator, noun: str | None = None) -> str:
    """What a caption says of a scene: colour, what it is called, and half of the places."""
    [thing] = found.objects
    called = "thing" if thing.shape == HIDDEN or rng.random() < UNNAMED else thing.shape
    place = f" at the {thing.place}" if rng.random() < 0.5 else ""
    return f"a {thing.colour} {noun or called}{place}"


def write(folder: Path, count: int, seed: int, shape: str | None = None, noun: str | None = None) -> Path:
    """Scenes as pictures with their captions; of one shape alone, called by a noun."""
    rng, lines = np.random.default_rng(seed), []
    folder.mkdir(parents=True, exist_ok=True)
    for at in range(count):
        one = scene(rng, shape)
        Image.fromarray(draw(one, rng, SIDE).transpose(1, 2, 0)).save(folder / f"{at:05d}.png")
        lines.append(json.dumps({"file_name": f"{at:05d}.png", "text": said(one, rng, noun)}))
    (folder / "metadata.jsonl").write_text("\n".join(lines))
    return folder


@dataclass(frozen=True)
class Read:
    """Of samples that were asked for in a colour at a place: the share that have the shape, and all of it."""

    shape: float
    whole: float
    count: int

    def __str__(self) -> str:
        low, high = wilson(self.shape, self.count)
        return f"{self.shape:.1%} [{low:.1%}, {high:.1%}] | {self.whole:.1%}"


def read(cells: NDArray[np.int64], asked: list[tuple[str, str]]) -> Read:
    """What the judge sees where it was asked for, or anywhere."""
    shaped = whole = 0
    for row, (colour, place) in zip(cells, asked, strict=True):
        kinds = [(int(cell) - 1) % KINDS for cell in row if cell]
        shaped += any(SHAPES[kind % len(SHAPES)] == HIDDEN for kind in kinds)
        here = int(row[PLACES.index(place)])
        whole += here > 0 and (here - 1) % KINDS == list(COLOURS).index(colour) * len(SHAPES) + SHAPES.index(HIDDEN)
    return Read(shaped / len(asked), whole / len(asked), len(asked))


def asked_for(n: int, noun: str) -> tuple[list[tuple[str, str]], list[str]]:
    """Colours and places in turn, and the texts that ask for them."""
    each = [*islice(cycle(product(COLOURS, PLACES)), n)]
    return each, [f"a {colour} {noun} at the {place}" for colour, place in each]


def row(name: str, system: ebb.System, noun: str, n: int, reader: ImageClassifier) -> tuple[str, NDArray[np.uint8]]:
    """A line of the table: samples of a noun in every colour and place, from the same noise each time."""
    asked, texts = asked_for(n, noun)
    pixels = to_pixels(ebb.Sampler(system, 64)(system.request({"text": texts}, n, steps=16, guidance=2.0)))
    return f"| {name} | {read(cells_of(reader, pixels), asked)} |", pixels


def command(*words: object) -> None:
    """A command of ebb, which goes on where it was stopped."""
    subprocess.run([str(Path(sys.executable).with_name("ebb")), *map(str, words)], check=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--base-steps", type=int, default=1500)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--n", type=int, default=240)
    given = parser.parse_args()
    home, base, taught = given.folder, given.folder / "base", given.folder / "word"
    if not (home / "scenes").is_dir():
        write(home / "scenes", SCENES, 0)
        write(home / WORD, SHOWN, 1, HIDDEN, WORD)
    size = ("--network.width", 32, "--batch", 64, "--precision", "fp32", "--sheets", 1)
    times = ("--times", "logit_normal(mean=1.0)")
    command("train", home / "scenes", "--run", base, "--steps", given.base_steps, *size, *times)
    command("adapt", base, home / WORD, "--run", taught, "--concept", WORD, "--steps", given.steps)
    reader = judge(SIDE)
    print("| asked for | show a triangle, 95 % interval | in that colour at that place |\n| --- | --- | --- |")
    sheets = []
    for name, run, noun in (
        (f"the base: a red {WORD} at the top left", base, WORD),
        ("the base: a red thing at the top left", base, "thing"),
        (f"with the word: a red {WORD} at the top left", taught, WORD),
        ("with the word: a red circle at the top left", taught, "circle"),
    ):
        line, pixels = row(name, ebb.load(run), noun, given.n, reader)
        print(line, flush=True)
        sheets.append(pixels[:12])
    save_png(sheet(np.concatenate(sheets), 12), home / "concept.png", {})
    print(f"pictures: {home / 'concept.png'}, a row each")


if __name__ == "__main__":
    main()
