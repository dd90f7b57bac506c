"""From whatever the user has to uint8 images in memory, with a reason for every choice and a list of what was found."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from ebb.data import captions, classes
from ebb.data.archive import Notes, shown
from ebb.data.dataset import DataNote, Dataset, Summary
from ebb.data.decode import Head, Shape, cut_off
from ebb.data.held_out import CHUNK, LEAST, held_back, parted
from ebb.data.listing import way_out
from ebb.data.metadata import Fields, Metadata, checked, metadata_of
from ebb.data.sources import SUPPORTED, locate
from ebb.data.splits import Allocate, Source, Split
from ebb.errors import DataError, UsageError
from ebb.shapes import sides
from ebb.store import memory
from ebb.store.memory import Progress

SIZES = (64, 32, 16, 8)

MUCH = 0.5
"""The share of an image from which it counts as mostly cut off: a crop of 16:9 to a square loses 0.44."""


def read(
    where: str | Path,
    *,
    size: int | tuple[int, int] | None = None,
    channels: int | None = None,
    cache: str | Path | None = None,
    progress: Callable[[str, int, int], None] | None = None,
    hold_back: bool = True,
    numbers: Sequence[str] = (),
    beside: str | Sequence[str] = (),
) -> Dataset:
    """Read a folder, zip, idx, npz, npy, CIFAR-10, `digits` or `shapes`; everything not given is chosen from the data.

    `size` is a side or (height, width) in pixels, `channels` 1 or 3; arrays over half of the available memory go to
    disk under `cache`; `progress(stage, done, total)` is called while reading.

    Where the source has no test set, 1 in 20 images are held back (`ebb.data.held_out`), unless the set is small or
    `hold_back` is False, as for a run that was trained on all of them.

    `numbers` are fields of a metadata.jsonl whose values are numbers, `beside` those that name other pictures of the
    same scene, which are scaled and cropped as the image is (`Dataset.metadata`), and no examples themselves.

    Raises UsageError for a wrong argument, DataError for data that cannot be used, DamagedError for a broken file and
    ResourceError when memory, disk or scikit-learn is missing.
    """
    side = (size, size) if isinstance(size, int) else size
    if side is not None and (len(side) != 2 or min(side) < 1):
        raise UsageError(f"size is a positive side, or (height, width) in pixels; got {size}")
    if channels not in (None, 1, 3):
        raise UsageError(f"channels is 1 (grey) or 3 (colour), got {channels}")
    fields = Fields(tuple(numbers), (beside,) if isinstance(beside, str) else tuple(beside))
    tick = progress or (lambda stage, done, total: None)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what Pillow warns about becomes a finding here
        place = None if cache is None else Path(cache)
        return _read(str(where), fields, side, channels, place, tick, hold_back)


def _read(
    where: str, fields: Fields, side: tuple[int, int] | None, channels: int | None, cache: Path | None, tick: Progress,
    hold_back: bool,
) -> Dataset:  # fmt: skip
    notes: Notes = defaultdict(list)
    allocate = partial(memory.allocate, cache=cache)
    source, heads = _located(where, fields, notes, tick, allocate)
    (height, width), why_size = _size(heads.values(), side)
    depth = channels or (3 if any(head.colour for head in heads.values()) else 1)
    pixels, usable = _pixels(where, source.train, heads, (depth, height, width), notes, tick, allocate)
    why_channels = "asked for" if channels else "some images have colour"
    if not channels and _grey(pixels):
        pixels, why_channels = pixels[:, :1], "no image has colour"
        if not isinstance(pixels, np.memmap):
            pixels = np.ascontiguousarray(pixels)
    _note_grey(source.train, heads, usable, pixels, notes)
    names, why_labels, partly = classes.names_of(source, usable, notes)
    chosen = {"size": f"{sides((height, width))}: {why_size}", "channels": f"{pixels.shape[1]}: {why_channels}"}
    chosen |= source.reasons | {"labels": why_labels}
    if isinstance(pixels, np.memmap):
        chosen["memory"] = f"on disk under {cache}: it is over half of the available memory"
    metadata = metadata_of(fields, where, source.train, usable, heads, (height, width), notes, tick, allocate)
    checked(where, metadata, notes)
    chosen |= metadata.reasons()
    source = replace(source, matches=(*source.matches, *partly, *metadata.matches(notes)))
    source = classes.comparable(source, names, notes)
    if source.held_out is None:
        return _own_split(where, source, pixels, usable, metadata, names, chosen, notes, hold_back)
    chosen.setdefault("held out", f"{len(source.held_out.names):,} images: the test set that comes with the data")
    train = _images(source, source.train, pixels, usable, metadata, names, chosen, notes)
    notes = defaultdict(list)
    heads = classes.known(source.held_out, _heads(where, source.held_out, notes, tick), names, notes)
    pixels, usable = _pixels(where, source.held_out, heads, (pixels.shape[1], height, width), notes, tick, allocate)
    _note_grey(source.held_out, heads, usable, pixels, notes)
    size = height, width
    metadata = metadata_of(fields, where, source.held_out, usable, heads, size, notes, tick, allocate, metadata)
    return replace(train, held_out=_images(source, source.held_out, pixels, usable, metadata, names, chosen, notes))


def _own_split(
    where: str, source: Source, pixels: np.ndarray, usable: list[int], metadata: Metadata, names: tuple[str, ...],
    chosen: dict[str, str], notes: Notes, hold_back: bool,
) -> Dataset:  # fmt: skip
    """The images of a source without a test set, a few of them held back where there are enough."""
    back = held_back(pixels, classes.numbers_of(source.train, usable, names)) if hold_back else []
    some, back = bool(back), metadata.fields.unshown(source.train, usable, back)
    if not back:
        few = len(pixels) < LEAST
        why = "those that could be stand beside others" if some else "no class can spare one"
        why = f"fewer than {LEAST} images" if few else why if hold_back else "not asked for"
        return _images(
            source, source.train, pixels, usable, metadata, names, chosen | {"held out": f"none: {why}"}, notes
        )
    chosen["held out"] = f"{len(back):,} of {len(pixels):,} images, by hash: the data comes without a test set"
    pixels, aside, left = parted(pixels, back)
    own, others = metadata.take(left), metadata.take(back)
    checked(where, own, defaultdict(list))  # what is left may say less
    train = _images(source, source.train, pixels, [usable[at] for at in left], own, names, chosen, notes)
    unseen = _images(source, source.train, aside, [usable[at] for at in back], others, names, chosen, defaultdict(list))
    return replace(train, held_out=unseen)


def _located(
    where: str, fields: Fields, notes: Notes, tick: Progress, allocate: Allocate
) -> tuple[Source, dict[int, Head]]:
    """What is at a place, and the headers of its training images; samples that ebb wrote among others are left out."""
    source = locate(where, notes, allocate, fields)
    fields.check(where, source.train)
    heads = _heads(where, source.train, notes, tick)
    made = [source.train.names[at] for at, head in heads.items() if head.made]
    if len(made) == len(heads):
        notes["made by ebb", "kept: there is nothing else"] += made
    elif made:  # they may have hidden labels and captions: all is looked at anew without them
        notes.clear()
        source = locate(where, notes, allocate, fields, frozenset(made))
        heads = _heads(where, source.train, notes, tick)
        notes["made by ebb", "left out: a folder of nothing else is trained on"] += made
    return source, heads


def _nothing(where: str, notes: Notes) -> DataError:
    found = ", ".join(f"{len(names)} {kind} ({shown(names[0])})" for (kind, _), names in notes.items() if names)
    return DataError(
        f"{where}: expected images, none could be used: {found or 'it is empty'}", way_out(notes) or SUPPORTED
    )


def _heads(where: str, split: Split, notes: Notes, tick: Progress) -> dict[int, Head]:
    """The header of every usable image by its index."""
    heads = {index: head for index, head in enumerate(split.heads(notes, tick)) if head}
    if not heads:
        raise _nothing(where, notes)
    return heads


def _size(heads: Collection[Head], side: tuple[int, int] | None) -> tuple[tuple[int, int], str]:
    """Height and width for all, and why."""
    if side:
        return side, "asked for"
    sizes = {(head.height, head.width) for head in heads}
    if len(sizes) == 1 and max(common := next(iter(sizes))) <= SIZES[0]:
        return common, "all images have it"
    median = float(np.median([min(head.height, head.width) for head in heads]))
    best = next((size for size in SIZES if size <= median), SIZES[-1])
    known = ", ".join(map(str, SIZES[:0:-1]))
    return (best, best), f"the largest of {known} and {SIZES[0]} not above the median short side, {median:g}"


def _pixels(
    where: str, split: Split, heads: dict[int, Head], shape: Shape, notes: Notes, tick: Progress, allocate: Allocate
) -> tuple[np.ndarray, list[int]]:
    """Decode the usable images of a split, and note which of them had another size."""
    pixels, usable = split.pixels(heads, shape, notes, tick, allocate)
    if not usable:
        raise _nothing(where, notes)
    names, sizes = split.names, {at: (head.height, head.width) for at, head in heads.items()}
    kind = "mixed sizes" if len(set(sizes.values())) > 1 else "another size"
    action = f"resized to {sides(shape[1:])} (centre crop)"
    notes[kind, action] += [names[at] for at in usable if sizes[at] != shape[1:]]
    cuts = {at: heads[at].cut(shape) for at in usable}
    if most := [names[at] for at in usable if cuts[at] >= MUCH]:
        notes["mostly cut off", f"kept: resized to {sides(shape[1:])}{cut_off(list(cuts.values()))}"] += most
    return pixels, usable


def _chunks(pixels: np.ndarray) -> Iterator[np.ndarray]:
    return (np.ascontiguousarray(pixels[at : at + CHUNK]) for at in range(0, len(pixels), CHUNK))


def _grey(pixels: np.ndarray) -> bool:
    """Whether the channels of every image are equal."""
    return all(bool((chunk == chunk[:, :1]).all()) for chunk in _chunks(pixels))


def _note_grey(split: Split, heads: dict[int, Head], usable: list[int], pixels: np.ndarray, notes: Notes) -> None:
    if pixels.shape[1] == 3:
        names = split.names
        notes["grey", "repeated to 3 channels"] += [names[at] for at in usable if not heads[at].colour]


def _images(
    source: Source, split: Split, pixels: np.ndarray, usable: list[int], metadata: Metadata, names: tuple[str, ...],
    chosen: dict[str, str], notes: Notes,
) -> Dataset:  # fmt: skip
    """Sum up one split."""
    every = split.names
    called, labels = [every[at] for at in usable], classes.numbers_of(split, usable, names)
    texts = None if split.captions is None else tuple(split.captions[at] for at in usable)
    if texts is not None:
        captions.note(called, texts, notes)
    lengths = [len(text) for text in texts or () if text]
    mean, std, histogram, fingerprint = _look(pixels, labels, names, texts, called, notes)
    counts = {} if labels is None else classes.count_of(labels, names, notes)
    findings = [
        DataNote(kind, len(found), tuple(map(shown, found[:5])), action)
        for (kind, action), found in notes.items()
        if found
    ]
    summary = Summary(
        source.kind, source.name, len(pixels), pixels.shape[1:], counts, len(lengths), mean, std, histogram,
        metadata.fingerprint(fingerprint), chosen, tuple(findings), len({*(texts or ())} - {""}),
        (min(lengths, default=0), max(lengths, default=0)), fingerprint, source.matches,
    )  # fmt: skip
    return Dataset(pixels, labels, names, summary, None, texts, metadata)


def _look(
    pixels: np.ndarray, labels: np.ndarray | None, names: tuple[str, ...], texts: tuple[str, ...] | None,
    called: list[str], notes: Notes,
) -> tuple[list[float], list[float], list[list[int]], str]:  # fmt: skip
    """Mean, standard deviation and histogram per channel, and the fingerprint; notes duplicates and constant images."""
    fingerprint = hashlib.sha256(json.dumps([pixels.shape, names]).encode())
    fingerprint.update(b"" if labels is None else labels.astype("<i8").data)
    fingerprint.update(b"" if texts is None else json.dumps(texts).encode())
    counts = np.zeros((pixels.shape[1], 256), np.int64)
    seen, name = set[bytes](), iter(called)
    for chunk in _chunks(pixels):
        fingerprint.update(chunk.data)
        counts += [Image.fromarray(plane.reshape(len(plane), -1)).histogram() for plane in chunk.swapaxes(0, 1)]
        flat = chunk.reshape(*chunk.shape[:2], -1)
        constant = (flat.min(-1) == flat.max(-1)).all(-1)
        for image, same, image_name in zip(chunk, constant, name, strict=False):
            key = hashlib.blake2b(image, digest_size=16).digest()
            if key in seen:
                notes["exact duplicate", "kept"].append(image_name)
            if same:
                notes["constant", "kept"].append(image_name)
            seen.add(key)
    levels, share = np.arange(256) / 127.5 - 1, counts / counts.sum(1, keepdims=True)
    mean = share @ levels
    std = np.sqrt((share * (levels - mean[:, None]) ** 2).sum(1))
    return mean.tolist(), std.tolist(), counts.reshape(-1, 16, 16).sum(2).tolist(), fingerprint.hexdigest()
