"""`shapes`: scenes of one to three coloured shapes with exact captions, made and not collected.

What a scene holds is known, so whether a generated image shows what was asked can be judged. Some pairs of coloured
shapes never meet in the training scenes (`apart`): whether a model has learnt to combine shows on those.

A caption may leave sizes and places open, and says nothing that is not so::

    a red circle and a blue square
    a large green triangle above a small yellow circle
    a white square at the top left, a red circle at the top right and a small blue circle at the bottom left

Some tell a part only, whatever else there may be. Those of several parts hold at once, so they can be composed where
captions of whole scenes contradict each other::

    a scene with a red circle at the top left
    a scene with nothing at the bottom right
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import combinations

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from ebb.data.splits import Arrays, Source
from ebb.errors import UsageError

SHAPES = ("circle", "square", "triangle")
COLOURS: Mapping[str, tuple[int, int, int]] = {
    "red": (230, 30, 30), "green": (30, 180, 60), "blue": (50, 80, 240), "yellow": (250, 220, 40),
    "purple": (190, 60, 220), "white": (245, 245, 245),
}  # fmt: skip
SIZES: Mapping[str, tuple[float, float]] = {"small": (0.45, 0.55), "large": (0.7, 0.8)}
"""The least and the greatest width of a thing, as shares of the side of a quarter of the image."""

PLACES = ("top left", "top right", "bottom left", "bottom right")
RELATIONS: Mapping[str, tuple[int, str]] = {
    "above": (0, "top"), "below": (0, "bottom"), "to the left of": (1, "left"), "to the right of": (1, "right"),
}  # fmt: skip
"""Each with the word of a place that tells it: its number, and what it is for the first of the two things."""

KINDS = len(COLOURS) * len(SHAPES)
"""Coloured shapes; number k is colour k // 3 and shape k % 3."""

PART = "a scene with "
"""What the caption of a part begins with."""

SIDE, FINE = 32, 4
"""Pixels of a side, and the parts of a pixel that edges and places are drawn to."""

TRAIN, HELD_OUT = 20_000, 2_000
"""Scenes of the data set."""


@dataclass(frozen=True)
class Thing:
    """One coloured shape; a size or a place that is None is not said."""

    shape: str
    colour: str
    size: str | None = None
    place: str | None = None

    @property
    def kind(self) -> int:
        """The number of its colour and shape, below KINDS."""
        return list(COLOURS).index(self.colour) * len(SHAPES) + SHAPES.index(self.shape)

    def describes(self, other: Thing) -> bool:
        """Whether all that is said of this holds for `other`."""
        own, its = vars(self), vars(other)
        return all(own[name] in (None, its[name]) for name in own)

    def __str__(self) -> str:
        size, place = f"{self.size} " if self.size else "", f" at the {self.place}" if self.place else ""
        return f"a {size}{self.colour} {self.shape}{place}"


@dataclass(frozen=True)
class Scene:
    """One to three things of different kinds; of two, `relation` may say where the first is, seen from the second.

    A `part` says that these are there among others; with a place that is `empty`, and no thing, that none is there.
    Raises UsageError for another number of things, two of one kind, or a relation of other than two.
    """

    objects: tuple[Thing, ...]
    relation: str | None = None
    part: bool = False
    empty: str | None = None

    def __post_init__(self) -> None:
        kinds = {thing.kind for thing in self.objects}
        if self.part and self.empty and not self.objects and not self.relation:
            return
        if self.empty or not 1 <= len(self.objects) <= 3 or len(kinds) < len(self.objects):
            raise UsageError(f"a scene has one to three things of different kinds, got {list(map(str, self.objects))}")
        if self.relation and len(self.objects) != 2:
            raise UsageError(f"{self.relation!r} relates two things, got {len(self.objects)}")

    @property
    def caption(self) -> str:
        """What is said, in words; `parse` is the inverse."""
        if self.empty:
            return f"{PART}nothing at the {self.empty}"
        *front, last = map(str, self.objects)
        told = f"{', '.join(front)} {self.relation or 'and'} {last}" if front else last
        return PART + told if self.part else told

    @property
    def presence(self) -> NDArray[np.bool_]:
        """Which coloured shapes there are, [KINDS]."""
        return np.isin(np.arange(KINDS), [thing.kind for thing in self.objects])

    @property
    def cells(self) -> NDArray[np.int64]:
        """What is at each of the four PLACES, [4]: 0 for nothing, else 1 + kind, + KINDS where it is large.

        Raises UsageError where a size or place is not said.
        """
        found = np.zeros(len(PLACES), np.int64)
        for thing in self.objects:
            if thing.size is None or thing.place is None:
                raise UsageError(f"expected all of a scene, {str(thing)!r} leaves its size or place open")
            found[PLACES.index(thing.place)] = 1 + thing.kind + KINDS * (thing.size == "large")
        return found

    @property
    def novel(self) -> bool:
        """Whether it has a pair that no training scene has."""
        return any(apart(one.kind, other.kind) for one, other in combinations(self.objects, 2))

    def describes(self, other: Scene) -> bool:
        """Whether all that is said here holds in `other`, whose sizes and places are known.

        Unless this is a part, there is also nothing else. The order of the things does not matter.
        """
        there = {thing.kind: thing for thing in other.objects}
        own = {thing.kind for thing in self.objects}
        if self.empty in {thing.place for thing in other.objects} or not own <= there.keys():
            return False
        if not self.part and own != there.keys():
            return False
        found = [there[thing.kind] for thing in self.objects]
        if self.relation and not holds(self.relation, found[0].place, found[-1].place):
            return False
        return all(thing.describes(its) for thing, its in zip(self.objects, found, strict=True))


def holds(relation: str, one: str | None, other: str | None) -> bool:
    """Whether a thing at a place stands so to a thing at another; one at the diagonal is both above and beside."""
    at, word = RELATIONS[relation]
    return one is not None and other is not None and one.split()[at] == word != other.split()[at]


def apart(one: int, other: int) -> bool:
    """Whether two kinds never meet in a training scene: those whose numbers add up to a multiple of 5, one in five."""
    return (one + other) % 5 == 0


def numbered(kind: int, large: bool, place: str) -> Thing:
    """The thing of a kind, with its size and place."""
    colour, shape = list(COLOURS)[kind // len(SHAPES)], SHAPES[kind % len(SHAPES)]
    return Thing(shape, colour, "large" if large else "small", place)


def seen(cells: Sequence[int] | NDArray[np.int64]) -> Scene | None:
    """The scene with these `cells` [4], as a judge reads them from an image; None where no scene has them."""
    filled = [(place, *divmod(int(cell) - 1, KINDS)) for place, cell in zip(PLACES, cells, strict=True) if cell]
    things = tuple(numbered(kind, bool(large), place) for place, large, kind in filled)
    possible = 1 <= len(things) <= 3 and len({thing.kind for thing in things}) == len(things)
    return Scene(things) if possible else None


_THING = re.compile(
    rf"a(?: ({'|'.join(SIZES)}))? ({'|'.join(COLOURS)}) ({'|'.join(SHAPES)})(?: at the ({'|'.join(PLACES)}))?"
)
_EMPTY = re.compile(rf"{PART}nothing at the ({'|'.join(PLACES)})")
_JOINT = re.compile(rf"(,| and| {'| '.join(RELATIONS)}) (?=a )")


def parse(caption: str) -> Scene:
    """The scene that a caption describes, with None for what it leaves open. Raises UsageError for other words."""
    words = " ".join(caption.lower().split())
    if found := _EMPTY.fullmatch(words):
        return Scene((), part=True, empty=found[1])
    parts = _JOINT.split(words.removeprefix(PART))
    told, joints = [_THING.fullmatch(part) for part in parts[::2]], [joint.strip() for joint in parts[1::2]]
    usual = joints in ([], [",", "and"]) or (len(joints) == 1 and joints != [","])
    if None in told or not usual:
        raise UsageError(
            f"expected a caption of shapes, got {caption!r:.120}",
            f"such as 'a large red circle above a blue square'; colours: {', '.join(COLOURS)};"
            f" shapes: {', '.join(SHAPES)}; places: {', '.join(PLACES)}",
        )
    things = tuple(Thing(match[3], match[2], match[1], match[4]) for match in told if match)
    return Scene(things, joints[0] if len(joints) == 1 and joints != ["and"] else None, words.startswith(PART))


def whole(rng: np.random.Generator, novel: bool) -> Scene:
    """A scene with all sizes and places, drawn from `rng`; one, two and three things in 2, 5 and 3 of ten.

    Where it is to be `novel` it has a pair of kinds that are `apart`, so never one thing alone, and none where not.
    """
    count = 1 + int(np.searchsorted((0.2, 0.7), rng.uniform(0.2 * novel, 1), side="right"))
    while True:
        kinds, places = rng.permutation(KINDS)[:count].tolist(), rng.permutation(len(PLACES))[:count].tolist()
        large = (rng.random(count) < 0.5).tolist()
        things = [numbered(*each) for each in zip(kinds, large, map(PLACES.__getitem__, places), strict=True)]
        if (found := Scene(tuple(things))).novel == novel:
            return found


def mentioned(scene: Scene, rng: np.random.Generator) -> Scene:
    """What a caption says of a whole scene: half of the sizes, and all places, a relation or neither.

    Four in ten tell a part: mostly one of the things, with its place seven times in ten, or else a place that is empty.
    """
    if rng.random() < 0.4:
        return part_of(scene, rng)
    places = [thing.place for thing in scene.objects]
    turn, sizes = rng.random(), rng.random(len(places))
    relations = [one for one in RELATIONS if holds(one, places[0], places[-1])] if 0.3 <= turn < 0.7 else []
    things = tuple(
        replace(thing, size=thing.size if size < 0.5 else None, place=thing.place if turn < 0.3 else None)
        for thing, size in zip(scene.objects, sizes, strict=True)
    )
    relation = relations[int(rng.integers(len(relations)))] if relations and len(things) == 2 else None
    return Scene(things, relation)


def part_of(scene: Scene, rng: np.random.Generator) -> Scene:
    """One thing of a whole scene or, three times in ten, one of its empty places."""
    thing = scene.objects[int(rng.integers(len(scene.objects)))]
    free = [place for place in PLACES if place not in {one.place for one in scene.objects}]
    empty, size, place = rng.random(3) < (0.3, 0.5, 0.7)
    if empty:
        return Scene((), part=True, empty=free[int(rng.integers(len(free)))])
    told = replace(thing, size=thing.size if size else None, place=thing.place if place else None)
    return Scene((told,), part=True)


@cache  # a few thousand of half a kilobyte
def tile(shape: str, colour: str, width: int, right: int, down: int) -> NDArray[np.uint8]:
    """A thing on black [3, h, w], `width` parts of a pixel wide, and so many parts from the left and upper edge."""
    fine = Image.new("L", (-(-(right + width) // FINE) * FINE, -(-(down + width) // FINE) * FINE))
    pen, low, high = ImageDraw.Draw(fine), (right, down), (right + width - 1, down + width - 1)
    if shape == "circle":
        pen.ellipse((low, high), fill=255)
    elif shape == "square":
        pen.rectangle((low, high), fill=255)
    else:
        pen.polygon([(low[0], high[1]), high, (low[0] + (width - 1) / 2, low[1])], fill=255)
    cover = np.asarray(fine.reduce(FINE), np.float64) / 255
    pixels: NDArray[np.uint8] = np.rint(np.array(COLOURS[colour])[:, None, None] * cover).astype(np.uint8)
    return pixels


def draw(scene: Scene, rng: np.random.Generator, side: int = SIDE) -> NDArray[np.uint8]:
    """A whole scene on black, uint8 [3, side, side], each thing somewhere in its quarter and of a width of its size.

    Edges are smooth. Things never overlap: each leaves a pixel at least to the edges of its quarter.
    """
    pixels, quarter = np.zeros((3, side, side), np.uint8), side // 2 * FINE
    for thing in scene.objects:
        row, column = divmod(PLACES.index(str(thing.place)), 2)
        least, most = SIZES[str(thing.size)]
        width = int(rng.integers(round(least * quarter), round(most * quarter) + 1))
        down, right = rng.integers(FINE, quarter - width - FINE + 1, 2).tolist()
        (top, down), (left, right) = divmod(down + row * quarter, FINE), divmod(right + column * quarter, FINE)
        found = tile(thing.shape, thing.colour, width, right, down)
        pixels[:, top : top + found.shape[1], left : left + found.shape[2]] = found
    return pixels


@dataclass(frozen=True, eq=False)
class Scenes:
    """Scenes as images `pixels` uint8 [n, 3, side, side], what is in them, and their captions."""

    pixels: NDArray[np.uint8]
    scenes: tuple[Scene, ...]
    captions: tuple[str, ...]

    @property
    def presence(self) -> NDArray[np.bool_]:
        """Which kinds each has, [n, KINDS]."""
        return np.stack([scene.presence for scene in self.scenes])

    @property
    def cells(self) -> NDArray[np.int64]:
        """What each has at the four PLACES, [n, 4] of 1 + 2·KINDS classes: what a judge learns to read."""
        return np.stack([scene.cells for scene in self.scenes])


def truth(count: int, seed: int, *, novel: bool = False, side: int = SIDE) -> Scenes:
    """`count` scenes, a function of the arguments; fewer of the same seed are the first of them.

    `novel` ones all have a pair that is `apart`. The data set `shapes` is seeds 0, 1 and 2: take another for a judge.
    Raises UsageError for no scenes, or a side that is odd or below 24.
    """
    if count < 1 or side < 24 or side % 2:
        raise UsageError(f"expected a positive count and an even side of at least 24, got {count} and {side}")
    rng, pixels = np.random.default_rng(seed), np.empty((count, 3, side, side), np.uint8)
    scenes, captions = list[Scene](), list[str]()
    for at in range(count):
        scenes.append(whole(rng, novel))
        captions.append(mentioned(scenes[-1], rng).caption)
        pixels[at] = draw(scenes[-1], rng, side)
    return Scenes(pixels, tuple(scenes), tuple(captions))


def source() -> Source:
    """The data set `shapes`: TRAIN scenes, and HELD_OUT ones of which the second half is `novel`."""
    train, known, new = truth(TRAIN, 0), truth(HELD_OUT // 2, 1), truth(HELD_OUT // 2, 2, novel=True)
    reasons = {
        "held out": f"{HELD_OUT:,} scenes, half of them with a pair of coloured shapes that no training scene has",
        "captions": "what was drawn",
    }
    held_out = Arrays(np.concatenate([known.pixels, new.pixels]), [None] * HELD_OUT, known.captions + new.captions)
    return Source("shapes", "shapes", Arrays(train.pixels, [None] * TRAIN, train.captions), held_out, reasons)
