"""The labels of images: from tables or folders, which of them training knows, and their places in the list of all."""

from __future__ import annotations

import posixpath
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ebb.data.archive import Notes, shown
from ebb.data.decode import Head
from ebb.data.match import Match, folded
from ebb.data.splits import Label, Source, Split
from ebb.data.tables import Tables

IMBALANCE, FEW = 5, 10

STRAYS, STRAY_SHARE, LABELLED_EACH = 5, 100, 4
"""Up to STRAYS images, or one in STRAY_SHARE, beside class folders are left out, where those in them are at least
LABELLED_EACH times as many."""


def folder_at(member: str, depth: int) -> str:
    """The folder at a depth of a path, "" where the path is shorter."""
    parts = member.split("/")
    return parts[depth] if len(parts) > depth + 1 else ""


def common_depth(members: Iterable[str]) -> int:
    """How many folders the paths have in common."""
    common = posixpath.commonpath([posixpath.dirname(member) for member in members])
    return len(common.split("/")) if common else 0


@dataclass(frozen=True)
class Labelled:
    """The labels of images by name, where they come from, the images that are left out for want of one, and how many
    of those that were given could be used."""

    labels: dict[str, Label]
    origin: str
    strays: frozenset[str] = frozenset()
    matches: tuple[Match, ...] = ()


def labelled(tables: Tables, images: Sequence[str], train: Sequence[str], depth: int, notes: Notes) -> Labelled:
    """The labels that tables give the `images`, or else the folders at `depth` that those of `train` lie in."""
    given = {image: label for image in images if (label := tables.rows.get(image, {}).get("label")) is not None}
    if given:
        return Labelled(given, f"from {tables.labels}")
    classes = {folder_at(member, depth) for member in train}
    if len(classes) < 2:
        return Labelled({}, "none: all images are in one folder")
    strays = [member for member in train if not folder_at(member, depth)]
    inside = len(train) - len(strays)
    if not strays or (len(classes) > 2 and few(len(strays), inside)):
        notes["beside the class folders", "left out: they have no class"] += strays
        labels: dict[str, Label] = {member: folder_at(member, depth) or None for member in images}
        return Labelled(labels, f"the names of {len(classes - {''})} folders", frozenset(strays))
    matches = list[Match]()
    if len(classes) > 2:
        notes["beside the class folders", "kept: so the names of the folders are no labels"] += strays
        source = f"the names of {len(classes) - 1} folders, beside which lie {len(strays):,} images such as"
        advice = "move these images into the folder of their class, or away, and the name of each folder is a label"
        what = "images have the name of their folder as label"
        matches = [Match("labels", f"{source} {shown(strays[0])}", 0, inside, what, (), advice)]
    return Labelled({}, "none: there are images both beside and in the folders", matches=tuple(matches))


def few(strays: int, inside: int) -> bool:
    """Whether so many images beside class folders are left out for the sake of those inside."""
    return strays <= max(STRAYS, inside // STRAY_SHARE) and strays * LABELLED_EACH <= inside


def names_of(source: Source, usable: Sequence[int], notes: Notes) -> tuple[tuple[str, ...], str, tuple[Match, ...]]:
    """The labels of the training images `usable` in order, integers by value and strings by the alphabet; where they
    come from; and how many images have one where some have none, since then no label is used."""
    called, every = source.train.names, source.train.labels
    given = {every[at] for at in usable} - {None}
    origin = source.reasons.get("labels", f"{len(given)} classes, stored with the images")
    if not given:
        return (), source.reasons.get("labels", "none: the images come without"), ()
    if without := [called[at] for at in usable if every[at] is None]:
        notes["without a label", "the labels of the others not used"] += without
        advice = "give every image a label, or take those without away: labels are used where all images have one"
        some = Match.of("labels", f"labels, {origin}", "images have one", len(usable), without, advice)
        return (), "none: some images have no label", (replace(some, used=0),)
    if gone := {shown(str(label)) for label in {*every} - given - {None}}:
        notes["class without an image", "no label: none of its files can be used"] += sorted(gone)
        origin += f", but for {len(gone)} without an image that can be used"
    numbers = [label for label in given if isinstance(label, int)]
    ordered = (
        map(str, sorted(numbers)) if len(numbers) == len(given) else sorted({shown(str(label)) for label in given})
    )
    names, alike = tuple(ordered), defaultdict[str, list[str]](list)
    for name in names:
        alike[" ".join(folded(name).split())].append(f'"{name}"')
    notes["classes of like names", "kept apart"] += [name for like in alike.values() if len(like) > 1 for name in like]
    return names, origin, ()


def numbers_of(split: Split, usable: Sequence[int], names: Sequence[str]) -> np.ndarray | None:
    """The labels of the images `usable` as places in `names`; None unless all have one."""
    given = [split.labels[at] for at in usable]
    if not names or None in given:
        return None
    numbers = {name: number for number, name in enumerate(names)}
    return np.array([numbers[shown(str(label))] for label in given], np.int64)


def comparable(source: Source, names: Sequence[str], notes: Notes) -> Source:
    """The source, without its test set where every image of that has a label which no training image has."""
    held_out = source.held_out
    if (
        held_out is None
        or not names
        or {None, *names} & {None if label is None else shown(str(label)) for label in held_out.labels}
    ):
        return source
    notes["held out, of classes that no training image has", "left out"] += held_out.names
    return replace(source, held_out=None)


def known(split: Split, heads: Mapping[int, Head], names: Sequence[str], notes: Notes) -> dict[int, Head]:
    """The held-out images without those whose label no training image has; notes these, and images without a label."""
    labels = {at: split.labels[at] for at in heads} if names else {}
    notes["without a label", "no label of the held-out images used"] += [
        split.names[at] for at, label in labels.items() if label is None
    ]
    unknown = {at for at, label in labels.items() if label is not None and shown(str(label)) not in names}
    notes["of a class that no training image has", "left out"] += [split.names[at] for at in sorted(unknown)]
    return {at: head for at, head in heads.items() if at not in unknown}


def count_of(labels: np.ndarray, names: tuple[str, ...], notes: Notes) -> dict[str, int]:
    """Images per class; notes which classes are few."""
    classes = dict(zip(names, np.bincount(labels, minlength=len(names)).tolist(), strict=True))
    largest = max(classes.values())
    rare = [name for name, count in classes.items() if count * IMBALANCE < largest]
    notes["class imbalance", f"kept: less than 1/{IMBALANCE} of the largest class"] += rare
    notes["small class", f"kept: fewer than {FEW} images"] += [name for name, count in classes.items() if count < FEW]
    return classes
