"""From whatever the user has to uint8 images in memory, with a reason for every choice and a list of what was found."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal, cast

import numpy as np
from PIL import Image

from ebb.data import captions, classes
from ebb.data.archive import Notes, shown
from ebb.data.buckets import Size, mean_cut, nearest, planned
from ebb.data.dataset import DataNote, Dataset, Summary, bucketed
from ebb.data.decode import Head, cut_off
from ebb.data.held_out import CHUNK, LEAST
from ebb.data.listing import way_out
from ebb.data.metadata import NOTHING, Fields, Metadata, checked, metadata_of
from ebb.data.originals import Originals
from ebb.data.sources import SUPPORTED, locate
from ebb.data.splits import Decoded, Scan, Source, Split
from ebb.errors import DataError, UsageError
from ebb.recipe.groups import DataRecipe
from ebb.shapes import sides

SIZES = (64, 32, 16, 8)

MUCH = 0.5
"""The share of an image from which it counts as mostly cut off: a crop of 16:9 to a square loses 0.44."""


def read(
    where: str | Path,
    *,
    size: int | tuple[int, int] | None = None,
    channels: int | None = None,
    cache: str | Path | None = None,
    fields: Fields = NOTHING.fields,
    hold_back: bool = True,
) -> Dataset:
    """Read a folder, zip, idx, npz, npy, CIFAR-10, `digits` or `shapes`; everything not given is chosen from the data.

    `size` is a side or (height, width) in pixels, `channels` 1 or 3; arrays over half of the available memory go to
    disk under `cache`.

    Where the source has no test set, 1 in 20 images are held back (`ebb.data.held_out`), unless the set is small or
    `hold_back` is False, as for a run that was trained on all of them.

    `fields` of a metadata.jsonl are numbers, or name other pictures of the same scene, which are scaled and cropped as
    the image is (`ebb.data.dataset.Dataset.metadata`), and no examples themselves.

    Raises UsageError for a wrong argument, DataError for data that cannot be used, DamagedError for a broken file and
    ResourceError when memory, disk or scikit-learn is missing.
    """
    length = 2 if isinstance(size, int) or size is None else len(size)
    if length != 2 or (size is not None and np.min(size) < 1):
        raise UsageError(f"size is a positive side, or (height, width) in pixels; got {size}")
    if channels not in (None, 1, 3):
        raise UsageError(f"channels is 1 (grey) or 3 (colour), got {channels}")
    written = f"{size[1]}x{size[0]}" if isinstance(size, tuple) else size
    how = DataRecipe(size=written, channels=cast("Literal[1, 3] | None", channels))
    return scanned(Scan(str(where), None if cache is None else Path(cache)), how, fields, hold_back=hold_back)


def scanned(scan: Scan, how: DataRecipe, fields: Fields, *, hold_back: bool) -> Dataset:
    """`read`, by a scan whose progress is heard of, as a recipe says; in buckets by shape where it asks for these."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what Pillow warns about becomes a finding here
        return _read(scan, fields, how, hold_back)


def _read(scan: Scan, fields: Fields, how: DataRecipe, hold_back: bool) -> Dataset:
    notes = scan.notes
    source, heads = _located(scan, fields)
    shapes, square, why_size = _shapes(heads.values(), how)
    depth = how.channels or (3 if any(head.colour for head in heads.values()) else 1)
    train = replace(_decoded(scan, source.train, heads, depth, shapes), square=square)
    why_channels = "some images have colour"
    if not how.channels and _grey(train.buckets):
        grey, why_channels = [pixels[:, :1] for pixels in train.buckets], "no image has colour"
        train = replace(train, buckets=tuple(p if isinstance(p, np.memmap) else np.ascontiguousarray(p) for p in grey))
    _note_grey(train, notes)
    names, why_labels, partly = classes.names_of(source, train.usable, notes)
    why_channels = "asked for" if how.channels else why_channels
    reasons = {"size": why_size, "channels": f"{len(train.buckets[0][0])}: {why_channels}"}
    if facts := train.facts():
        squares = np.mean([heads[at].cut((1, 1, 1)) for at in train.usable])
        cut = f"{mean_cut(facts):.1%} of the area cut off on average, {squares:.1%} as squares"
        reasons["buckets"] = f"{', '.join(map(str, facts))}; {cut}"
    reasons |= source.reasons | {"labels": why_labels}
    if any(isinstance(pixels, np.memmap) for pixels in train.buckets):
        reasons["memory"] = f"on disk under {scan.cache}: it is over half of the available memory"
    metadata = metadata_of(fields, scan, train)
    checked(scan.where, metadata, notes)
    matches = (*source.matches, *partly, *metadata.matches(notes))
    source = replace(source, reasons=reasons | metadata.reasons(), matches=matches)
    source = classes.comparable(source, names, notes)
    if source.held_out is None:
        return _own_split(scan, source, train, metadata, names, hold_back)
    source.reasons.setdefault(
        "held out", f"{len(source.held_out.names):,} images: the test set that comes with the data"
    )
    found = _summed(source, train, metadata, names, notes)
    scan = scan.anew()
    heads = classes.known(source.held_out, _heads(scan, source.held_out), names, scan.notes)
    unseen = _decoded(scan, source.held_out, heads, found.rows.shape[1], [p.shape[2:] for p in train.buckets])
    _note_grey(unseen, scan.notes)
    metadata = metadata_of(fields, scan, unseen, metadata)
    return _with_unseen(found, _summed(source, unseen, metadata, names, scan.notes))


def _own_split(
    scan: Scan, source: Source, all_of_it: Decoded, metadata: Metadata, names: tuple[str, ...], hold_back: bool
) -> Dataset:
    """The images of a source without a test set, a few of them held back where there are enough."""
    split, usable = all_of_it.split, all_of_it.usable
    back = all_of_it.held_back(classes.numbers_of(split, usable, names)) if hold_back else []
    some, back = bool(back), metadata.fields.unshown(split, usable, back)
    if not back:
        few = len(usable) < LEAST
        why = "those that could be stand beside others" if some else "no class can spare one"
        why = f"fewer than {LEAST} images" if few else why if hold_back else "not asked for"
        source.reasons["held out"] = f"none: {why}"
        return _summed(source, all_of_it, metadata, names, scan.notes)
    source.reasons["held out"] = f"{len(back):,} of {len(usable):,} images, by hash: the data comes without a test set"
    train, aside, left = all_of_it.parted(back)
    own, others = metadata.take(left), metadata.take(back)
    checked(scan.where, own, defaultdict(list))  # what is left may say less
    found = _summed(source, train, own, names, scan.notes)
    return _with_unseen(found, _summed(source, aside, others, names, defaultdict(list)))


def _with_unseen(train: Dataset, unseen: Dataset) -> Dataset:
    """The training images with those that are held out; with none where these have other shapes than most."""
    if unseen.rows.shape[1:] == train.rows.shape[1:]:
        return replace(train, held_out=unseen)
    train.summary.chosen["held out"] = f"none: no image of the test set is in the bucket {sides(train.rows.shape[2:])}"
    return train


def _located(scan: Scan, fields: Fields) -> tuple[Source, dict[int, Head]]:
    """What is at a place, and the headers of its training images; samples that ebb wrote among others are left out."""
    where, notes = scan.where, scan.notes
    source = locate(where, notes, scan.allocate, fields)
    fields.check(where, source.train)
    heads = _heads(scan, source.train)
    made = [source.train.names[at] for at, head in heads.items() if head.made]
    if len(made) == len(heads):
        notes["made by ebb", "kept: there is nothing else"] += made
    elif made:  # they may have hidden labels and captions: all is looked at anew without them
        notes.clear()
        source = locate(where, notes, scan.allocate, fields, frozenset(made))
        heads = _heads(scan, source.train)
        notes["made by ebb", "left out: a folder of nothing else is trained on"] += made
    return source, heads


def _nothing(scan: Scan) -> DataError:
    noted = ", ".join(f"{len(names)} {kind} ({shown(names[0])})" for (kind, _), names in scan.notes.items() if names)
    return DataError(
        f"{scan.where}: expected images, none could be used: {noted or 'it is empty'}",
        way_out(scan.notes) or SUPPORTED,
    )


def _heads(scan: Scan, split: Split) -> dict[int, Head]:
    """The header of every usable image by its index."""
    heads = {index: head for index, head in enumerate(split.heads(scan)) if head}
    if not heads:
        raise _nothing(scan)
    return heads


def _shapes(heads: Collection[Head], how: DataRecipe) -> tuple[list[Size], int | None, str]:
    """Height and width of the images of each bucket, of most of them first, the side of the square about which buckets
    lie (None where all have one shape), and why."""
    sizes = np.array([(head.height, head.width) for head in heads], np.int64)
    common, lengths = tuple(sizes[0].tolist()), np.sqrt(sizes.prod(1))
    one = bool((sizes == common).all()) and max(common) <= SIZES[0]
    if how.buckets:
        best, why = _largest(float(np.median(lengths)), "side of a square of as many pixels")
        best, why = (round(lengths[0]), "all images have so many pixels") if one else (best, why)
        best, why = (how.sides[0], "asked for") if how.sides else (best, why)
        return planned(sizes, best), best, f"buckets of about {best}×{best} pixels: {why}"
    best, why = _largest(float(np.median(sizes.min(1))), "short side")
    size, why = (common, "all images have it") if one else ((best, best), why)
    size, why = (how.sides, "asked for") if how.sides else (size, why)
    return [size], None, f"{sides(size)}: {why}"


def _largest(median: float, what: str) -> tuple[int, str]:
    """The largest side of SIZES that is not above a median, that of what is named, and why."""
    known = ", ".join(map(str, SIZES[:0:-1]))
    best = next((size for size in SIZES if size <= median), SIZES[-1])
    return best, f"the largest of {known} and {SIZES[0]} not above the median {what}, {round(median, 1):g}"


def _decoded(scan: Scan, split: Split, heads: dict[int, Head], depth: int, shapes: Sequence[Size]) -> Decoded:
    """The usable images of a split, each in the shape that cuts least off; it is noted which had another size."""
    sizes = {at: (head.height, head.width) for at, head in heads.items()}
    own = dict(zip(sizes, nearest(np.array([*sizes.values()]), shapes).tolist(), strict=True))
    buckets, usable = list[np.ndarray](), list[int]()
    for number, shape in enumerate(shapes):
        mine = {at: heads[at] for at in heads if own[at] == number}
        pixels, read = split.pixels(mine, (depth, *shape), scan)
        buckets, usable = [*buckets, pixels] if read else buckets, [*usable, *read]
    if not usable:
        raise _nothing(scan)
    names, into = split.names, "the nearest of " * (len(shapes) > 1) + ", ".join(map(sides, shapes))
    kind = "mixed sizes" if len(set(sizes.values())) > 1 else "another size"
    scan.notes[kind, f"resized to {into} (centre crop)"] += [names[at] for at in usable if sizes[at] != shapes[own[at]]]
    cuts = {at: heads[at].cut((depth, *shapes[own[at]])) for at in usable}
    if most := [names[at] for at in usable if cuts[at] >= MUCH]:
        scan.notes["mostly cut off", f"kept: resized to {into}{cut_off(list(cuts.values()))}"] += most
    return Decoded(split, heads, usable, tuple(buckets))


def _chunks(buckets: Sequence[np.ndarray]) -> Iterator[np.ndarray]:
    """Images of one shape, CHUNK at most together, in order."""
    return (np.ascontiguousarray(pixels[at : at + CHUNK]) for pixels in buckets for at in range(0, len(pixels), CHUNK))


def _grey(buckets: Sequence[np.ndarray]) -> bool:
    """Whether the channels of every image are equal."""
    return all(bool((chunk == chunk[:, :1]).all()) for chunk in _chunks(buckets))


def _note_grey(part: Decoded, notes: Notes) -> None:
    if part.buckets[0].shape[1] == 3:
        names = part.split.names
        notes["grey", "repeated to 3 channels"] += [names[at] for at in part.usable if not part.heads[at].colour]


def _summed(source: Source, part: Decoded, metadata: Metadata, names: tuple[str, ...], notes: Notes) -> Dataset:
    """Sum up the images of one split."""
    split, usable, buckets = part.split, part.usable, [pixels for pixels in part.buckets if len(pixels)]
    every = split.names
    called, labels = [every[at] for at in usable], classes.numbers_of(split, usable, names)
    texts = None if split.captions is None else tuple(split.captions[at] for at in usable)
    if texts is not None:
        captions.note(called, texts, notes)
    lengths = [len(text) for text in texts or () if text]
    mean, std, histogram, fingerprint = _look(buckets, labels, names, texts, called, notes)
    counts = {} if labels is None else classes.count_of(labels, names, notes)
    findings = [
        DataNote(kind, len(found), tuple(map(shown, found[:5])), action)
        for (kind, action), found in notes.items()
        if found
    ]
    summary = Summary(
        kind=source.kind,
        name=source.name,
        count=len(usable),
        shape=buckets[0].shape[1:],
        classes=counts,
        captions=len(lengths),
        mean=mean,
        std=std,
        histogram=histogram,
        fingerprint=metadata.fingerprint(fingerprint),
        chosen=source.reasons,
        findings=tuple(findings),
        captions_distinct=len({*(texts or ())} - {""}),
        caption_lengths=(min(lengths, default=0), max(lengths, default=0)),
        examples=fingerprint,
        matches=source.matches,
        buckets=part.facts(),
        square=part.square,
    )
    originals = Originals.of(split, part.heads, usable)
    whole = Dataset(buckets[0], labels, names, summary, None, texts, metadata, originals=originals)
    return whole if len(buckets) == 1 else bucketed(whole, buckets)


def _look(
    buckets: Sequence[np.ndarray],
    labels: np.ndarray | None,
    names: tuple[str, ...],
    texts: tuple[str, ...] | None,
    called: list[str],
    notes: Notes,
) -> tuple[list[float], list[float], list[list[int]], str]:
    """Mean, standard deviation and histogram per channel, and the fingerprint; notes duplicates and constant images."""
    shapes = buckets[0].shape if len(buckets) == 1 else [pixels.shape for pixels in buckets]
    fingerprint = hashlib.sha256(json.dumps([shapes, names]).encode())
    fingerprint.update(b"" if labels is None else labels.astype("<i8").data)
    fingerprint.update(b"" if texts is None else json.dumps(texts).encode())
    counts = np.zeros((buckets[0].shape[1], 256), np.int64)
    seen, name = set[bytes](), iter(called)
    for chunk in _chunks(buckets):
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
