"""What a metadata.jsonl says besides labels and captions, of the fields that are asked for: numbers, and pictures."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from ebb.data.archive import Notes, shown
from ebb.data.decode import SUFFIXES, Shape
from ebb.data.held_out import CHUNK
from ebb.data.listing import suffix
from ebb.data.match import Match
from ebb.data.pictures import Pictures
from ebb.data.splits import Decoded, ImageFiles, Scan, Split
from ebb.data.tables import METADATA
from ebb.errors import DataError, UsageError, nearest
from ebb.shapes import sides

LARGEST = 1e100
"""A number at least as large is refused: the deviation of such is not a float64."""


@dataclass(frozen=True)
class Fields:
    """The fields of a metadata.jsonl that are asked for: `numbers`, and those that name pictures `beside` each."""

    numbers: tuple[str, ...] = ()
    beside: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """All of them."""
        return (*self.numbers, *self.beside)

    def __post_init__(self) -> None:
        """Raise UsageError for a field that is asked for twice, or has a meaning of its own."""
        if twice := {name for name in self.names if self.names.count(name) > 1}:
            raise UsageError(f"the field {min(twice)!r} is asked for twice", "name each once")
        if own := {"file_name", "label", "text"} & {*self.names} | {"numbers"} & {*self.beside}:
            raise UsageError(f"the field {min(own)!r} has a meaning of its own", "name another")

    def check(self, where: str, split: Split) -> None:
        """Raise DataError for a field that no row of the metadata has."""
        if self.names and (not isinstance(split, ImageFiles) or split.rows is None):
            raise DataError(
                f"{where}: {', '.join(map(repr, self.names))} would be fields of a {METADATA}, and there is none",
                f'write one beside the images, with lines such as {{"file_name": "a.png", "{self.names[0]}": …}}',
            )
        rows = split.rows if isinstance(split, ImageFiles) else None
        known = list(dict.fromkeys(name for row in rows or () for name in row if name != "file_name"))
        for name in self.names:
            if name not in known:
                raise DataError(f"{where}: no row of {METADATA} has the field {name!r}", nearest(name, known))

    def numbers_of(self, scan: Scan, split: ImageFiles, usable: list[int]) -> NDArray[np.float64]:
        """The numbers [n, k] of the images `usable`, NaN where they are missing; raises DataError for other values."""
        found = np.full((len(usable), len(self.numbers)), np.nan)
        for row, at in zip(found, usable, strict=True):
            for column, name in enumerate(self.numbers):
                value = (split.rows or [])[at].get(name)
                if value is None:
                    scan.notes[f"without {name}", "learnt without numbers"].append(split.names[at])
                    continue
                if type(value) not in (int, float) or not abs(value) < LARGEST:
                    came = json.dumps(value)
                    raise DataError(
                        f"{scan.where}: {name!r} of {shown(split.names[at])} is {came:.60}, not a finite number",
                        "leave it out, or write null, where there is none",
                    )
                row[column] = value
        return found

    def pictures_of(self, name: str, scan: Scan, split: ImageFiles, own: Decoded, channels: int | None) -> Pictures:
        """The picture that the field `name` names beside each of its `own` images, scaled and cropped as that is.

        In grey unless one has colour, where the channels are left open. Raises DataError for one that is not there; one
        that cannot be read is missing.
        """
        usable, notes, aside = own.usable, scan.notes, scan.anew()
        paths = {at: path for at in usable if (path := self.path(name, scan.where, split, at)) is not None}
        files = ImageFiles(split.files, list(dict.fromkeys(paths.values())), [None] * len(set(paths.values())), None)
        heads = {i: head for i, head in enumerate(files.heads(aside)) if head}
        channels = channels or (3 if any(head.colour for head in heads.values()) else 1)
        shape: Shape = (channels, *own.buckets[0].shape[2:])
        none = np.zeros((1, *shape), np.uint8)
        pixels, read = files.pixels(heads, shape, aside) if heads else (none, [])
        for (kind, action), files_of in aside.notes.items():
            notes[f"{name}: {kind}", action.replace("skipped", "learnt without")] += files_of
        place = {files.names[i]: number for number, i in enumerate(read)}
        head = {files.names[i]: one for i, one in heads.items()}
        for at in usable:
            if paths.get(at) not in place:
                notes[f"without {name}", "learnt without it"].append(split.names[at])
            elif own.heads[at].width * head[paths[at]].height != own.heads[at].height * head[paths[at]].width:
                notes[f"{name} of other proportions", "each cropped at its own centre"].append(split.names[at])
        return Pictures(
            pixels if read else none, np.array([place.get(paths.get(at, ""), -1) for at in usable], np.int64)
        )

    def unshown(self, split: Split, usable: list[int], back: list[int]) -> list[int]:
        """Those of `back`, places in `usable`, that stand beside no image that is left: training sees no other."""
        if not self.beside or not isinstance(split, ImageFiles):
            return back
        beside = [[(split.rows or [])[at].get(name) for name in self.beside] for at in usable]
        while True:  # an image that is left after all may have one beside it too
            held = set(back)
            shown_too = {path for at, paths in enumerate(beside) if at not in held for path in paths}
            unseen = [at for at in back if split.names[usable[at]] not in shown_too]
            if len(unseen) == len(back):
                return back
            back = unseen

    def path(self, name: str, where: str, split: ImageFiles, at: int) -> str | None:
        """The picture that the field names beside image number `at`; DataError for what is none."""
        path, image = (split.rows or [])[at].get(name), shown(split.names[at])
        if path in (None, ""):
            return None
        if not isinstance(path, str):
            raise DataError(f"{where}: {name!r} of {image} is {json.dumps(path):.60}, not the name of a picture")
        if path not in split.files.sizes or suffix(path) not in SUFFIXES:
            raise DataError(
                f"{where}: {name!r} of {image} names {shown(path)}, where there is no picture",
                f"name it as it is seen from {METADATA}, or write null where there is none",
            )
        return path


@dataclass(frozen=True, eq=False)
class Metadata:
    """What was read of the `fields`: `numbers` float64 [n, k], NaN where missing (None where none are asked for), and
    the pictures `beside` by their field."""

    fields: Fields = Fields()
    numbers: NDArray[np.float64] | None = None
    beside: Mapping[str, Pictures] = field(default_factory=dict)

    def take(self, rows: Sequence[int] | NDArray[np.int64]) -> Metadata:
        """That of some of the images."""
        index = np.asarray(rows, np.int64)
        numbers = None if self.numbers is None else self.numbers[index]
        return replace(self, numbers=numbers, beside={name: p.take(index) for name, p in self.beside.items()})

    def fingerprint(self, images: str) -> str:
        """sha256 over that of the images and all that is told; where nothing is, that of the images."""
        if not self.fields.names:
            return images
        beside = self.fields.beside
        one = (*beside, None)[0] if len(beside) < 2 else beside  # runs of before there were several keep theirs
        found = hashlib.sha256(json.dumps([images, self.fields.numbers, one]).encode())
        if self.numbers is not None:
            found.update(np.ascontiguousarray(self.numbers, "<f8").data)
        for pictures in self.beside.values():
            pixels, at = pictures.pixels, pictures.at
            found.update(json.dumps(pixels.shape[1:]).encode() + (at < 0).data)
            for first in range(0, len(at), CHUNK):
                some = at[first : first + CHUNK]
                found.update(np.ascontiguousarray(pixels[some[some >= 0]]).data)
        return found.hexdigest()

    def matches(self, notes: Notes) -> Iterator[Match]:
        """How many of the images have each number and a picture, by the `notes` of those without."""
        given = dict.fromkeys(self.fields.numbers, 0 if self.numbers is None else len(self.numbers))
        given |= {name: len(pictures) for name, pictures in self.beside.items()}
        for name, count in given.items():
            without = [each for (kind, _), names in notes.items() if kind == f"without {name}" for each in names]
            what, advice = (
                "images have one",
                f'give each image a row with "{name}"; those without are learnt without it',
            )
            yield Match.of("numbers" if name in self.fields.numbers else "pictures", name, what, count, without, advice)

    def reasons(self) -> dict[str, str]:
        """What is said of it beside the choices of a scan: how many images have each, and its range or size."""
        said = dict[str, str]()
        if self.numbers is not None:
            columns = [column[~np.isnan(column)] for column in self.numbers.T]
            ranges = zip(self.fields.numbers, columns, strict=True)
            said["numbers"] = ", ".join(
                f"{name} from {has.min():g} to {has.max():g} ({len(has):,} images)" for name, has in ranges
            )
        if self.beside:
            said["beside"] = "; ".join(
                f"{name}: {int((p.at >= 0).sum()):,} images have one, {sides(p.pixels.shape[2:])}"
                for name, p in self.beside.items()
            )
        return said


NOTHING = Metadata()


def metadata_of(fields: Fields, scan: Scan, own: Decoded, like: Metadata = NOTHING) -> Metadata:
    """What the fields say of images, pictures with the channels of those `like` which they are; see `Fields` for what
    is raised."""
    split = own.split
    if not fields.names or not isinstance(split, ImageFiles):
        return NOTHING
    numbers = fields.numbers_of(scan, split, own.usable) if fields.numbers else None
    depth = {name: pictures.pixels.shape[1] for name, pictures in like.beside.items()}
    pictures = {name: fields.pictures_of(name, scan, split, own, depth.get(name)) for name in fields.beside}
    return Metadata(fields, numbers, pictures)


def checked(where: str, metadata: Metadata, notes: Notes) -> None:
    """Raise DataError where a field says nothing of any image; note numbers that never change."""
    for name, column in zip(
        metadata.fields.numbers, () if metadata.numbers is None else metadata.numbers.T, strict=True
    ):
        if np.isnan(column).all():
            raise DataError(f"{where}: no image that can be used has a number in {name!r}", "leave it out")
        if np.nanmin(column) == np.nanmax(column):
            notes["numbers that never change", "kept: they say nothing"].append(name)
    for name, pictures in metadata.beside.items():
        if not (pictures.at >= 0).any():
            raise DataError(f"{where}: no image that can be used has a picture in {name!r}", "leave it out")
