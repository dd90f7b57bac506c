"""What a source is, told from its content, and how file names say splits and labels."""

from __future__ import annotations

import os
import posixpath
from collections.abc import Sequence
from pathlib import Path

from ebb.data import formats, npz, scenes
from ebb.data.archive import Files, Notes, Place, folder, shown, tarred, zipped
from ebb.data.captions import captions
from ebb.data.classes import common_depth, folder_at, labelled
from ebb.data.listing import note_others, pictures_in, way_out
from ebb.data.metadata import NOTHING, Fields
from ebb.data.splits import Allocate, ImageFiles, Source
from ebb.data.tables import METADATA, Tables, read_tables
from ebb.errors import DataError
from ebb.store.place import expanded

SUPPORTED = (
    "ebb train FOLDER, with .png, .jpg, .webp, .gif, .bmp or .tiff files in it; or a zip of such a folder, "
    "a folder of idx files, an .npz or .npy, CIFAR-10's binary version, a .csv of numbers, or digits, shapes or iris"
)


MADE = {"digits": formats.digits, "shapes": scenes.source}
"""Pictures that come with a word and lie nowhere."""

COME = {*MADE, *formats.BUNDLED}
"""All data that comes with a word."""


def named(where: str) -> str:
    """A short name for data, by which its runs are called. Raises DataError where there is none."""
    path = expanded(where)
    if not where:  # Path would take it for the folder that one is in
        raise DataError("expected data, got an empty name", f'{SUPPORTED}; a shell makes "" of a name that is not set')
    if not os.path.exists(path):
        if where in COME:
            return where
        raise DataError(f"{where} does not exist", SUPPORTED)
    return Place.of(where, path).name


def locate(
    where: str,
    notes: Notes,
    allocate: Allocate,
    fields: Fields = NOTHING.fields,
    without: frozenset[str] = frozenset(),
) -> Source:
    """Find out what `where` is, by content; of `fields`, pictures that stand beside others are no examples, and files
    `without` which it is looked at are not there.

    Raises DataError, DamagedError, ResourceError.
    """
    name, path = named(where), expanded(where)
    if not os.path.exists(path):
        return MADE[name]()
    place = Place.of(where, path)
    if path.is_dir():
        return _in_files(folder(path, notes).less(without), place, notes, allocate, fields)
    if not path.is_file():
        raise DataError(f"{where} is neither a folder nor a file", SUPPORTED)
    try:
        with open(path, "rb") as file:
            start = file.read(6)
    except OSError as error:
        raise DataError(f"{where} cannot be read: {error.strerror}", SUPPORTED) from error
    if start == b"\x93NUMPY":
        return npz.one_array(path, place.name, notes)
    if start[:2] == b"PK" or path.suffix in (".zip", ".npz"):
        if npz.holds_arrays(path):
            return npz.arrays(path, place.name, notes)
        return _in_files(zipped(path, notes).less(without), place, notes, allocate, fields)
    if formats.IDX.match(path.name):
        return formats.idx(_with_labels(path), place.name, allocate)
    if path.name.endswith((".tar.gz", ".tgz", ".tar")):
        return _in_files(tarred(path), place, notes, allocate, fields)
    raise DataError(f"{where} is not a file that ebb reads images from", SUPPORTED)


def _with_labels(path: Path) -> Files:
    """One idx images file and the labels beside it, packed or not."""
    partner = path.name.replace("images", "labels").replace("idx3", "idx1").removesuffix(".gz")
    near = {name: path.parent / name for name in (path.name, partner, f"{partner}.gz")}
    sizes = {name: file.stat().st_size for name, file in near.items() if file.is_file()}
    return Files("", sizes, lambda name: open(near[name], "rb"))


def _in_files(files: Files, place: Place, notes: Notes, allocate: Allocate, fields: Fields) -> Source:
    """A folder or an archive, by what lies in it."""
    bases = [posixpath.basename(member) for member in files.sizes]
    if any(map(formats.CIFAR.match, bases)):
        return formats.cifar10(files, place.name, allocate)
    if any(map(formats.IDX.match, bases)):
        return formats.idx(files, place.name, allocate)
    images = pictures_in(files)
    if not images:
        note_others(files, files.sizes, notes)
        found = [f"{len(names)} x {kind}" for (kind, _), names in notes.items() if kind != "not an image"]
        found += map(shown, bases[:5])
        pickled = "data_batch_1" in bases
        hint = "get CIFAR-10's binary version: the Python version is pickle, which ebb does not open" if pickled else ""
        raise DataError(
            f"{place.given}: expected images, found {', '.join(found) or 'nothing'}",
            hint or way_out(notes) or SUPPORTED,
        )
    if files.kind == "tar of ":
        raise DataError(
            f"{place.given}: a tar of images is slow to read one by one", "unpack it, then ebb train FOLDER"
        )
    return _image_files(files, place, images, notes, fields)


def _image_files(files: Files, place: Place, images: list[str], notes: Notes, fields: Fields) -> Source:
    """Images in folders: a split if the first level says so, labels by a table or else by folder."""
    tables, every = read_tables(files, place, images, fields.names, fields.beside, notes), images
    if fields.beside and tables.files:
        images = _examples(tables, images, fields.beside, place.given, notes)
    depth = common_depth([*images, *tables.files])
    level = {folder.lower(): folder for folder in sorted({folder_at(member, depth) for member in images})}
    trains = [level[key] for key in ("train", "training") if key in level]
    tests = [level[key] for key in ("test", "testing") if key in level]
    tests += [folder for key, folder in level.items() if key.startswith("val")]
    train, test, reasons = images, list[str](), dict(tables.reasons)
    if trains and tests:
        train = [member for member in images if folder_at(member, depth) == trains[0]]
        test = [member for member in images if folder_at(member, depth) == tests[0]]
        reasons["held out"] = f"{tests[0]}: the folder beside {trains[0]}"
        depth = common_depth(train)
    classes, said = labelled(tables, images, train, depth, notes), captions(files, images, tables, notes)
    reasons["labels"] = classes.origin
    ignored = {
        "outside the split": set(images) - {*train, *test},
        **{f"in {table} only": names for table, names in tables.alone.items()},
    }
    note_others(files, files.sizes.keys() - {*every, *tables.files, *said.files}, notes)
    for what, names in ignored.items():
        notes[what, "ignored"] += sorted(names)
    if said.origin:
        reasons["captions"] = said.origin
    kind = files.kind + ("imagefolder" if tables.files else "class folders" if classes.labels else "folder")

    def split(members: list[str]) -> ImageFiles:
        members = [member for member in members if member not in classes.strays]
        texts = None if said.texts is None else [said.texts[member] for member in members]
        rows = [tables.rows.get(member, {}) for member in members] if tables.files else None
        return ImageFiles(files, members, [classes.labels.get(member) for member in members], texts, rows)

    matches = (*tables.matches, *said.matches, *classes.matches)
    return Source(kind, place.name, split(train), split(test) if test else None, reasons, matches)


def _examples(tables: Tables, images: list[str], beside: Sequence[str], where: str, notes: Notes) -> list[str]:
    """The images that have a row of their own: where some stand beside others, one that no row names may as well."""
    named = {str(row.get(field)) for row in tables.rows.values() for field in beside}
    notes["no row names it", f"ignored: it may be a {' or '.join(beside)}"] += sorted(
        {*images} - named - tables.rows.keys()
    )
    found = [image for image in images if image in tables.rows]
    if not found:
        raise DataError(f"{where}: no image has a row in {METADATA}", 'write {"file_name": "a.png", …}, one a line')
    return found
