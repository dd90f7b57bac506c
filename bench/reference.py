"""Is a picture followed that is given as a prompt: its colour, its shape, its place, without a word of text.

    python bench/reference.py runs/concept --steps 400     # after: make bench-concept, whose base it is put on

The base draws scenes of one thing by their captions. A reference is learnt from some of its own pictures, and pictures
of scenes that neither has seen are asked for, without a text. Of what is drawn a judge reads colour, shape and place,
and the mean colour of the thing is compared: with the picture that was asked for, with another one (chance), and
without any reference.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from concept import SIDE, command, scene
from numpy.typing import NDArray

import ebb
from ebb.adapt.reference import REFERENCE
from ebb.data.images import save_png, sheet, to_pixels
from ebb.data.scenes import KINDS, SHAPES, draw
from ebb.judge.distances import wilson
from ebb.judge.features import ImageClassifier
from ebb.judge.scene_reader import cells_of, judge

SEED, LIT = 5, 60
"""Of the scenes that are asked for; and the level of a channel from which on a pixel is of the thing."""


def asked(count: int) -> NDArray[np.uint8]:
    """Scenes that nobody has seen, uint8 [n, 3, side, side]."""
    rng = np.random.default_rng(SEED)
    return np.stack([draw(scene(rng), rng, SIDE) for _ in range(count)])


def colours(pixels: NDArray[np.uint8]) -> NDArray[np.float64]:
    """The mean colour of what is lit, in levels [n, 3]; black where nothing is."""
    lit = pixels.max(1, keepdims=True) > LIT
    mean: NDArray[np.float64] = (pixels * lit).sum((2, 3)) / np.maximum(lit.sum((2, 3)), 1)
    return mean


def apart(one: NDArray[np.uint8], other: NDArray[np.uint8]) -> float:
    """The mean distance of the colours of pictures, in levels."""
    return float(np.linalg.norm(colours(one) - colours(other), axis=1).mean())


def shares(reader: ImageClassifier, wanted: NDArray[np.uint8], made: NDArray[np.uint8]) -> str:
    """How many have the colour, the shape, and the place of what was wanted, and all three."""
    one, other = (first(cells_of(reader, pixels)) for pixels in (wanted, made))
    same = one == other
    every = [*same.T[:3], same[:, :3].all(1)]
    return " | ".join(share(column) for column in every)


def share(right: NDArray[np.bool_]) -> str:
    """A share with its 95 % interval."""
    low, high = wilson(float(right.mean()), len(right))
    return f"{right.mean():.0%} [{low:.0%}, {high:.0%}]"


def first(cells: NDArray[np.int64]) -> NDArray[np.int64]:
    """Colour, shape and place of the first thing of each picture [n, 3], −1 where there is none."""
    found = []
    for row in cells:
        there = np.flatnonzero(row)
        kind = (int(row[there[0]]) - 1) % KINDS if len(there) else -1
        found.append((*divmod(kind, len(SHAPES)), int(there[0])) if len(there) else (-1, -1, -1))
    return np.array(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--n", type=int, default=120)
    given = parser.parse_args()
    base, run = given.folder / "base", given.folder / f"like-{given.steps}"
    command("adapt", base, given.folder / "scenes", "--run", run, "--reference", "--steps", given.steps)
    system, wanted, reader = ebb.load(run), asked(given.n), judge(SIDE)
    shown = torch.from_numpy(wanted) / 127.5 - 1
    blank = [None] * given.n

    def drawn(reference: torch.Tensor | None) -> NDArray[np.uint8]:
        asks = {"text": blank} | ({} if reference is None else {REFERENCE: reference})
        values = system.given(given.n, asks)
        return to_pixels(ebb.Sampler(system, 60)(system.request(values, given.n, steps=16, guidance=2.0)))

    made, bare = drawn(shown), drawn(None)
    rows = (
        ("the picture asked for", wanted, made),
        ("another one", np.roll(wanted, 1, 0), made),
        ("the picture asked for, and nothing was shown", wanted, bare),
    )
    print("| drawn beside | colours apart, levels | colour | shape | place | all three |")
    print("| --- | --- | --- | --- | --- | --- |")
    for name, one, other in rows:
        print(f"| {name} | {apart(one, other):.0f} | {shares(reader, one, other)} |", flush=True)
    save_png(sheet(np.concatenate([wanted[:12], made[:12]]), 12), given.folder / "reference.png", {})
    print(f"pictures: {given.folder / 'reference.png'}: asked for, and drawn")


if __name__ == "__main__":
    main()
