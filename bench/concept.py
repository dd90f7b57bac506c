"""One new word alone: ten pictures of large red triangles called "sks", and what is drawn where that is asked for.

    make bench-concept

A word alone can mean what its base has places for in its space of texts, and nothing else. The base learns scenes of
one thing whose captions leave out colour, size, place or the name of the shape as it falls, so that each stands for
itself. The row of the new word, the only numbers that are trained, has to say in one word what takes the base three.
Then "a sks at the top left" is asked for in every place, from the same noise without the word, with it, and as the base
would say it; a judge reads what is there; nearest pictures say whether the ten were copied, and the other captions of
the base are drawn again, with the word and without, and compared bit for bit.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

import ebb
from ebb.data.images import save_png, sheet, to_pixels
from ebb.data.scenes import KINDS, PLACES, Scene, Thing, draw, numbered
from ebb.judge.distances import wilson
from ebb.judge.features import ImageClassifier
from ebb.judge.scene_reader import cells_of, judge

WORD, CONCEPT = "sks", Thing("triangle", "red", "large")
"""The new word, and what it is to mean."""

SIDE, SCENES, SHOWN, UNSEEN = 24, 6000, 10, 100
"""Pixels of a side, scenes of the base, pictures of the word, and others of the same to compare copies with."""

NAMED = {"colour": 0.7, "size": 0.5, "shape": 0.7, "place": 0.5}
"""The shares of captions that say each."""

OTHERS = ("a small blue square", "a yellow circle at the bottom left", "a large red triangle", "a white thing", "")
"""Captions of the base without the word."""


def scene(rng: np.random.Generator, of: Thing | None = None) -> Scene:
    """One thing at some place, of any kind and size or of that of another."""
    kind, large = int(rng.integers(KINDS)), bool(rng.integers(2))
    place = PLACES[rng.integers(len(PLACES))]
    return Scene((numbered(of.kind, of.size == "large", place) if of else numbered(kind, large, place),))


def said(found: Scene, rng: np.random.Generator, noun: str | None = None) -> str:
    """What a caption says of a scene: its size, colour, shape and place as it falls, or a noun and its place."""
    [thing] = found.objects
    says = {name: bool(rng.random() < share) for name, share in NAMED.items()}
    words = [thing.size] * says["size"] + [thing.colour] * says["colour"] + [thing.shape if says["shape"] else "thing"]
    place = f" at the {thing.place}" if says["place"] else ""
    return f"a {noun or ' '.join(map(str, words))}{place}"


def write(folder: Path, count: int, seed: int, of: Thing | None = None, noun: str | None = None) -> Path:
    """Scenes as pictures with their captions; of one thing alone, called by a noun."""
    rng, lines = np.random.default_rng(seed), []
    folder.mkdir(parents=True, exist_ok=True)
    for at in range(count):
        one = scene(rng, of)
        Image.fromarray(draw(one, rng, SIDE).transpose(1, 2, 0)).save(folder / f"{at:05d}.png")
        lines.append(json.dumps({"file_name": f"{at:05d}.png", "text": said(one, rng, noun)}))
    (folder / "metadata.jsonl").write_text("\n".join(lines))
    return folder


def pictures(folder: Path) -> NDArray[np.uint8]:
    """The pictures of a folder, uint8 [n, 3, side, side]."""
    return np.stack([np.asarray(Image.open(file)).transpose(2, 0, 1) for file in sorted(folder.glob("*.png"))])


@dataclass(frozen=True)
class Read:
    """Of samples that were asked for at a place: the share that have the shape and colour of the concept anywhere, and
    those that have its size too, there."""

    shown: float
    whole: float
    count: int

    def __str__(self) -> str:
        low, high = wilson(self.shown, self.count)
        return f"{self.shown:.1%} [{low:.1%}, {high:.1%}] | {self.whole:.1%}"


def read(cells: NDArray[np.int64], places: list[str]) -> Read:
    """What the judge sees in samples, [n, 4] as `ebb.judge.scene_reader.cells_of`."""
    shown = whole = 0
    for row, place in zip(cells, places, strict=True):
        shown += any((int(cell) - 1) % KINDS == CONCEPT.kind for cell in row if cell)
        whole += int(row[PLACES.index(place)]) == 1 + CONCEPT.kind + KINDS
    return Read(shown / len(places), whole / len(places), len(places))


def drawn(system: ebb.System, texts: list[str]) -> NDArray[np.uint8]:
    """Samples of texts, from the same noise each time."""
    return to_pixels(ebb.Sampler(system, 64)(system.request({"text": texts}, len(texts), steps=16, guidance=2.0)))


def row(name: str, system: ebb.System, noun: str, n: int, reader: ImageClassifier) -> tuple[str, NDArray[np.uint8]]:
    """A line of the table: samples of a noun at every place in turn."""
    places = [*islice(cycle(PLACES), n)]
    pixels = drawn(system, [f"a {noun} at the {place}" for place in places])
    return f"| {name} | {read(cells_of(reader, pixels), places)} |", pixels


def nearest(made: NDArray[np.uint8], shown: NDArray[np.uint8]) -> float:
    """The median root mean square distance, in levels, of pictures to the nearest of those that were shown."""
    one, other = (torch.from_numpy(pixels).float().flatten(1) for pixels in (made, shown))
    return float(torch.cdist(one, other).min(1).values.median()) / one.shape[1] ** 0.5


def command(*words: object) -> None:
    """A command of ebb, which goes on where it was stopped."""
    subprocess.run([str(Path(sys.executable).with_name("ebb")), *map(str, words)], check=True)


def table(base: ebb.System, taught: ebb.System, n: int) -> tuple[list[NDArray[np.uint8]], NDArray[np.uint8]]:
    """Print what each way of asking shows; the first samples of each, and all that were asked for by the word."""
    reader, sheets, own = judge(SIDE), list[NDArray[np.uint8]](), np.empty(0, np.uint8)
    print("| asked for | show a red triangle, 95 % interval | large, at that place |\n| --- | --- | --- |")
    for name, system, noun in (
        (f"the base: a {WORD} at the top left", base, WORD),
        ("the base: a thing at the top left", base, "thing"),
        (f"with the word: a {WORD} at the top left", taught, WORD),
        (f"the base: a {CONCEPT.size} {CONCEPT.colour} {CONCEPT.shape} at the top left", base, str(CONCEPT)[2:]),
    ):
        line, pixels = row(name, system, noun, n, reader)
        print(line, flush=True)
        sheets.append(pixels[:12])
        own = pixels if system is taught else own
    return sheets, own


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--base-steps", type=int, default=700)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--n", type=int, default=240)
    given = parser.parse_args()
    home, base, taught = given.folder, given.folder / "base", given.folder / "word"
    if not (home / "scenes").is_dir():
        write(home / "scenes", SCENES, 0)
        write(home / WORD, SHOWN, 1, CONCEPT, WORD)
        write(home / "unseen", UNSEEN, 2, CONCEPT, WORD)
    size = ("--network.width", 32, "--batch", 64, "--precision", "fp32", "--sheets", 1)
    times = ("--times", "logit_normal(mean=1.0)")
    command("train", home / "scenes", "--run", base, "--steps", given.base_steps, *size, *times)
    command("adapt", base, home / WORD, "--run", taught, "--concept", WORD, "--steps", given.steps)
    one, other = ebb.load(base), ebb.load(taught)
    sheets, made = table(one, other, given.n)
    save_png(sheet(np.concatenate(sheets), 12), home / "concept.png", {})
    print(f"pictures: {home / 'concept.png'}, a row each")
    far = {name: nearest(pixels, pictures(home / WORD)) for name, pixels in
           (("samples", made), ("other pictures of it", pictures(home / "unseen")))}  # fmt: skip
    print(f"to the nearest of the {SHOWN}: " + ", ".join(f"{name} {level:.1f} levels" for name, level in far.items()))
    same = sum(np.array_equal(*(drawn(system, [text] * 8) for system in (one, other))) for text in OTHERS)
    print(f"captions without the word that are drawn as before, to the bit: {same} of {len(OTHERS)}")


if __name__ == "__main__":
    main()
