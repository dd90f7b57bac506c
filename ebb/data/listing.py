"""Which files of a folder or an archive are pictures, for training and for edits, and what the others seem to be."""

from __future__ import annotations

import posixpath
from collections.abc import Iterable

from ebb.data.archive import DAMAGED, Files, Notes
from ebb.data.decode import CONVERT, FOREIGN, SUFFIXES, seems

LOOKED_INTO, SMALL = 100, 2**24
"""Files that are no pictures by their names and are looked into, and the bytes of the largest such."""

HOLDING = {
    ".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".zst", ".7z", ".rar", ".npz", ".npy", ".parquet", ".arrow",
    ".tfrecord", ".h5", ".hdf5", ".mdb", ".mat", ".pt", ".pth", ".pkl",
}  # fmt: skip
"""Ends of names of files that may hold many pictures."""

UNPACK = "ignored: unpack what is packed, save arrays and tables as .png files, or name one .zip, .npz or .npy as DATA"
RENAME = "ignored: a picture's name ends in .png, .jpg or the like; rename it"


def suffix(name: str) -> str:
    """The end of a file's name, in small letters: ".png"."""
    return posixpath.splitext(name)[1].lower()


def pictures_in(files: Files) -> list[str]:
    """The names that end as those of pictures do; `Files` has none that is hidden or that an operating system left."""
    return [name for name in files.sizes if suffix(name) in SUFFIXES]


def note_others(files: Files, others: Iterable[str], notes: Notes) -> None:
    """Note files that are not read: pictures in formats that ebb does not open, what looks like pictures, the rest."""
    looks = 0
    for name in sorted(others):
        known = suffix(name) in FOREIGN | HOLDING
        looked = not known and looks < LOOKED_INTO and files.sizes[name] <= SMALL
        looks += looked
        if suffix(name) in FOREIGN:
            notes["in a format that ebb does not open", f"ignored: {CONVERT}"].append(name)
        elif suffix(name) in HOLDING:
            notes["may hold pictures", UNPACK].append(name)
        elif looked and seems(_start(files, name)):
            notes["looks like a picture", RENAME].append(name)
        else:
            notes["not an image", "ignored"].append(name)


def _start(files: Files, name: str) -> bytes:
    try:
        with files.open(name) as file:
            return file.read(16)
    except DAMAGED:
        return b""


def way_out(notes: Notes) -> str:
    """What to do about pictures that were not taken as such; "" where there are none."""
    parts = [action.partition(": ") for (_, action), names in notes.items() if names]
    return "; ".join(dict.fromkeys(way for done, _, way in parts if way and done in ("ignored", "skipped")))
