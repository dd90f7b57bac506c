"""Images of one split before they have a common shape: files to decode, or an array."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol, TypeVar, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ebb.data.archive import DAMAGED, MEMBER_LIMIT, Files, Notes
from ebb.data.buckets import Bucket, counted
from ebb.data.decode import MIN_SIDE, Head, Shape, UnusableError, decode, fit, head
from ebb.data.held_out import held_back, parted
from ebb.data.listing import suffix
from ebb.data.match import Match
from ebb.store import memory
from ebb.store.memory import Progress

SMALL = 16 * 1024
"""Bytes of a file on average below which one thread reads all."""

SMALL_PICTURE, EARLY = 64 * 64, 2**28
"""Pixels of a picture that is decoded with its header, where all such take at most so many bytes."""

Label = int | str | None
Allocate = Callable[[tuple[int, ...]], np.ndarray]
T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True, eq=False)
class Scan:
    """One scan of a place: where arrays go that crowd the memory, whom it tells how far it is, and what it notes."""

    where: str
    cache: Path | None = None
    tick: Progress = lambda stage, done, total: None
    notes: Notes = field(default_factory=lambda: defaultdict(list))

    def allocate(self, shape: tuple[int, ...]) -> np.ndarray:
        """Room for pixels (`ebb.store.memory.allocate`)."""
        return memory.allocate(shape, cache=self.cache)

    def anew(self) -> Scan:
        """The same with nothing noted."""
        return replace(self, notes=defaultdict(list))


@runtime_checkable
class Split(Protocol):
    """What a scan needs to know of the images of one split."""

    @property
    def names(self) -> Sequence[str]:
        """What each image is called in messages."""

    @property
    def labels(self) -> Sequence[Label]:
        """The label of each image, None where it has none."""

    @property
    def captions(self) -> Sequence[str] | None:
        """The text of each image, "" where it has none; None where no image of the source has one."""

    def heads(self, scan: Scan) -> list[Head | None]:
        """The size of each image; None for one that has to be left out."""

    def pixels(self, heads: Mapping[int, Head], shape: Shape, scan: Scan) -> tuple[np.ndarray, list[int]]:
        """The images with these heads as uint8 [n, c, h, w], `shape` each, and those that could be decoded."""


@dataclass(frozen=True, eq=False)
class Decoded:
    """The images of a split that could be used: which they are, all headers, and the images, uint8 [n, c, h, w], an
    array of those of each shape, in the order of `usable`."""

    split: Split
    heads: Mapping[int, Head]
    usable: list[int]
    buckets: tuple[np.ndarray, ...]
    square: int | None = None
    """the side of the square about which the shapes were chosen; None where one was"""

    def facts(self) -> tuple[Bucket, ...]:
        """Its buckets in figures, where it was asked for these."""
        sizes = np.array([(self.heads[at].height, self.heads[at].width) for at in self.usable], np.int64)
        return counted(sizes, [pixels.shape[2:] for pixels in self.buckets]) if self.square else ()

    def held_back(self, labels: NDArray[np.int64] | None) -> list[int]:
        """The places among `usable` of those to hold back, some of each bucket (`ebb.data.held_out`)."""
        chosen, first = list[int](), 0
        for pixels in self.buckets:
            own = None if labels is None else labels[first : first + len(pixels)]
            chosen += [first + at for at in held_back(pixels, own, len(self.usable))]
            first += len(pixels)
        return chosen

    def parted(self, chosen: Sequence[int]) -> tuple[Decoded, Decoded, list[int]]:
        """(those that are left, those at places `chosen`, the places of the former); the former move up within their
        arrays."""
        rest, aside, left, first = list[np.ndarray](), list[np.ndarray](), list[int](), 0
        for pixels in self.buckets:
            mine = [at - first for at in chosen if first <= at < first + len(pixels)]
            few, some, places = parted(pixels, mine)
            rest, aside, left = [*rest, few], [*aside, some], [*left, *(first + at for at in places)]
            first += len(pixels)
        return self.part(left, rest), self.part(chosen, aside), left

    def part(self, places: Sequence[int], buckets: Sequence[np.ndarray]) -> Decoded:
        """Those at some places among them, with their pixels in `buckets`."""
        return replace(self, usable=[self.usable[at] for at in places], buckets=tuple(buckets))


@dataclass(frozen=True)
class Source:
    """What was found at a place: its kind, a short name, its images, its test split, why it was read so, and how much
    of what is given beside the images could be used."""

    kind: str
    name: str
    train: Split
    held_out: Split | None = None
    reasons: dict[str, str] = field(default_factory=dict)
    matches: tuple[Match, ...] = ()


@dataclass(frozen=True)
class Arrays:
    """A split that is already uint8 [n, c, h, w]."""

    array: np.ndarray
    labels: Sequence[Label]
    captions: Sequence[str] | None = None

    @property
    def names(self) -> Sequence[str]:
        """The images are known by their number."""
        return [f"#{index}" for index in range(len(self.array))]

    def heads(self, scan: Scan) -> list[Head | None]:
        """The same for all."""
        channels, height, width = self.array.shape[1:]
        if min(height, width) < MIN_SIDE:
            scan.notes["tiny", "skipped"] += self.names
            return [None] * len(self.array)
        return [Head(height, width, channels == 3)] * len(self.array)

    def pixels(self, heads: Mapping[int, Head], shape: Shape, scan: Scan) -> tuple[np.ndarray, list[int]]:
        """The array itself, unless another shape is asked for."""
        if self.array.shape[1:] == shape:
            return (self.array if len(heads) == len(self.array) else self.array[list(heads)]), list(heads)
        out = scan.allocate((len(heads), *shape))
        for row, index in enumerate(heads):
            image = self.array[index]
            out[row] = fit(Image.fromarray(image[0] if len(image) == 1 else image.transpose(1, 2, 0)), shape)
        scan.tick("images", len(heads), len(heads))
        return out, list(heads)


@dataclass(frozen=True)
class ImageFiles:
    """A split whose images are files."""

    files: Files
    names: Sequence[str]
    labels: Sequence[Label]
    captions: Sequence[str] | None
    rows: Sequence[Mapping[str, Any]] | None = None
    """what a metadata.jsonl says of each; None where there is none"""

    @property
    def threads(self) -> int:
        """How many read at once: one where files are small, of which most is Python's work and threads only contend."""
        mean = sum(self.files.sizes[name] for name in self.names) / max(1, len(self.names))
        return 1 if mean < SMALL else min(8, os.cpu_count() or 1)

    def heads(self, scan: Scan) -> list[Head | None]:
        """Read every header, and decode what is small."""
        small = min(SMALL_PICTURE, EARLY // (3 * max(1, len(self.names))))

        def one(name: str) -> Head | UnusableError:
            if not 0 < self.files.sizes[name] <= MEMBER_LIMIT:
                return UnusableError("too large" if self.files.sizes[name] else "empty file")
            try:
                with self.files.open(name) as file:
                    return head(file, suffix(name), small)
            except UnusableError as reason:
                return reason
            except DAMAGED:
                return UnusableError("unreadable")

        found: list[Head | None] = []
        results = _each(one, self.names, "headers", scan.tick, self.threads)
        for name, result in zip(self.names, results, strict=True):
            if isinstance(result, UnusableError):
                scan.notes[result.note].append(name)
            found.append(None if isinstance(result, UnusableError) else result)
        return found

    def pixels(self, heads: Mapping[int, Head], shape: Shape, scan: Scan) -> tuple[np.ndarray, list[int]]:
        """Decode the images that are not decoded yet."""

        def one(index: int) -> tuple[np.ndarray, Sequence[tuple[str, str]]] | UnusableError:
            name, early = self.names[index], heads[index].fitted(shape)
            if early is not None:
                return early, heads[index].done
            try:
                with self.files.open(name) as file:
                    return decode(file, suffix(name), shape)
            except UnusableError as reason:
                return reason
            except DAMAGED:
                return UnusableError("unreadable")

        out, kept = scan.allocate((len(heads), *shape)), list[int]()
        results = _each(one, list(heads), "images", scan.tick, self.threads)
        for index, result in zip(heads, results, strict=True):
            if isinstance(result, UnusableError):
                scan.notes[result.note].append(self.names[index])
                continue
            out[len(kept)], done = result
            kept.append(index)
            for note in done:
                scan.notes[note].append(self.names[index])
        return out[: len(kept)], kept


def _each(function: Callable[[T], R], items: Sequence[T], stage: str, progress: Progress, threads: int) -> Iterator[R]:
    """`map` in some threads, in order; Pillow and zlib let go of the interpreter while they work."""
    step = 64  # images per task: the small ones cost less than handing them to a thread
    with ThreadPoolExecutor(threads) as pool:
        do = pool.map if threads > 1 else map
        for start in range(0, len(items), 16 * step):  # a bounded number of results wait for the reader
            stop = min(start + 16 * step, len(items))
            runs = [items[at : min(at + step, stop)] for at in range(start, stop, step)]
            for results in do(lambda run: [function(item) for item in run], runs):
                yield from results
            progress(stage, stop, len(items))
