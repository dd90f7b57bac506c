"""What a source is, told from its content, and how file names say splits and labels."""

from __future__ import annotations

import os
import posixpath
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ebb.data import formats, scenes
from ebb.data.captions import METADATA, captions, rows
from ebb.data.files import Files, Notes, folder, shown, tarred, zipped
from ebb.data.listing import note_others, pictures_in, way_out
from ebb.data.splits import Allocate, ImageFiles, Label, Source
from ebb.errors import DataError

SUPPORTED = (
    "ebb train FOLDER, with .png, .jpg, .webp, .gif, .bmp or .tiff files in it; or a zip of such a folder, "
    "a folder of idx files, an .npz, CIFAR-10's binary version, or the words digits or shapes"
)


def locate(
    where: str, notes: Notes, allocate: Allocate, beside: str | None = None, without: frozenset[str] = frozenset()
) -> Source:
    """Find out what `where` is, by content; pictures that the field `beside` names are no examples, and files `without`
    which it is looked at are not there.

    Raises DataError, DamagedError, ResourceError.
    """
    path = Path(os.path.expanduser(where))
    if not os.path.exists(path):
        if where in (words := {"digits": formats.digits, "shapes": scenes.source}):
            return words[where]()
        raise DataError(f"{where} does not exist", SUPPORTED)
    bare = re.sub(r"(\.(tar|tgz|zip|npz|gz))+$", "", path.resolve().name)
    name = re.sub(r"[^\w.-]+", "-", bare).strip("-.") or "data"
    if path.is_dir():
        return _in_files(folder(path, notes).less(without), where, name, notes, allocate, beside)
    if not path.is_file():
        raise DataError(f"{where} is neither a folder nor a file", SUPPORTED)
    try:
        with open(path, "rb") as file:
            start = file.read(6)
    except OSError as error:
        raise DataError(f"{where} cannot be read: {error.strerror}", SUPPORTED) from error
    if start[:2] == b"PK" or path.suffix in (".zip", ".npz"):
        if formats.holds_arrays(path):
            return formats.npz(path, name, notes)
        return _in_files(zipped(path, notes).less(without), where, name, notes, allocate, beside)
    if formats.IDX.match(path.name):
        return formats.idx(_with_labels(path), name, allocate)
    if path.name.endswith((".tar.gz", ".tgz", ".tar")):
        return _in_files(tarred(path), where, name, notes, allocate, beside)
    array = start == b"\x93NUMPY"
    hint = "save it with np.savez(FILE, images=..., labels=...), then ebb train FILE.npz" if array else SUPPORTED
    raise DataError(f"{where} is {'one array' if array else 'not a file'} that ebb reads images from", hint)


def _with_labels(path: Path) -> Files:
    """One idx images file and the labels beside it, packed or not."""
    partner = path.name.replace("images", "labels").replace("idx3", "idx1").removesuffix(".gz")
    near = {name: path.parent / name for name in (path.name, partner, f"{partner}.gz")}
    sizes = {name: file.stat().st_size for name, file in near.items() if file.is_file()}
    return Files("", sizes, lambda name: open(near[name], "rb"))


def _in_files(files: Files, where: str, name: str, notes: Notes, allocate: Allocate, beside: str | None) -> Source:
    """A folder or an archive, by what lies in it."""
    bases = [posixpath.basename(member) for member in files.sizes]
    if any(map(formats.CIFAR.match, bases)):
        return formats.cifar10(files, name, allocate)
    if any(map(formats.IDX.match, bases)):
        return formats.idx(files, name, allocate)
    images = pictures_in(files)
    if not images:
        note_others(files, files.sizes, notes)
        found = [f"{len(names)} x {kind}" for (kind, _), names in notes.items() if kind != "not an image"]
        found += map(shown, bases[:5])
        pickled = "data_batch_1" in bases
        hint = "get CIFAR-10's binary version: the Python version is pickle, which ebb does not open" if pickled else ""
        raise DataError(
            f"{where}: expected images, found {', '.join(found) or 'nothing'}", hint or way_out(notes) or SUPPORTED
        )
    if files.kind == "tar of ":
        raise DataError(f"{where}: a tar of images is slow to read one by one", "unpack it, then ebb train FOLDER")
    return _image_files(files, where, name, images, notes, beside)


def _folder(member: str, depth: int) -> str:
    """The folder at a depth of a path, "" where the path is shorter."""
    parts = member.split("/")
    return parts[depth] if len(parts) > depth + 1 else ""


def _common_depth(members: Iterable[str]) -> int:
    common = posixpath.commonpath([posixpath.dirname(member) for member in members])
    return len(common.split("/")) if common else 0


def _image_files(files: Files, where: str, name: str, images: list[str], notes: Notes, beside: str | None) -> Source:
    """Images in folders: a split if the first level says so, labels by metadata or else by folder."""
    tables = [member for member in files.sizes if posixpath.basename(member) == METADATA]
    found = {key: row for table in tables for key, row in rows(files, where, table, beside).items()}
    every = images
    if beside is not None and tables:
        images = _examples(found, images, beside, where, notes)
    depth = _common_depth([*images, *tables])
    level = {folder.lower(): folder for folder in sorted({_folder(member, depth) for member in images})}
    tests = [folder for key, folder in level.items() if key == "test"]
    tests += [folder for key, folder in level.items() if key.startswith("val")]
    train, test, reasons = images, list[str](), dict[str, str]()
    if "train" in level and tests:
        train = [member for member in images if _folder(member, depth) == level["train"]]
        test = [member for member in images if _folder(member, depth) == tests[0]]
        reasons["held out"] = f"{tests[0]}: the folder beside {level['train']}"
        depth = _common_depth(train)
    labels, reasons["labels"] = _labels(found, images, train, depth)
    texts, why, sidecars = captions(files, where, images, found)
    ignored = {
        "outside the split": set(images) - {*train, *test},
        f"in {METADATA} only": found.keys() - set(images),
    }
    note_others(files, files.sizes.keys() - {*every, *tables, *sidecars}, notes)
    for what, names in ignored.items():
        notes[what, "ignored"] += sorted(names)
    if texts is not None:
        reasons["captions"] = why
    kind = files.kind + ("imagefolder" if tables else "class folders" if labels else "folder")

    def split(members: list[str]) -> ImageFiles:
        said = None if texts is None else [texts[member] for member in members]
        table = [found.get(member, {}) for member in members] if tables else None
        return ImageFiles(files, members, [labels.get(member) for member in members], said, table)

    return Source(kind, name, split(train), split(test) if test else None, reasons)


def _examples(rows: dict[str, dict[str, Any]], images: list[str], beside: str, where: str, notes: Notes) -> list[str]:
    """The images that have a row of their own: where some stand beside others, one that no row names may as well."""
    named = {str(row.get(beside)) for row in rows.values()}
    notes["no row names it", f"ignored: it may be a {beside}"] += sorted({*images} - named - rows.keys())
    found = [image for image in images if image in rows]
    if not found:
        raise DataError(f"{where}: no image has a row in {METADATA}", 'write {"file_name": "a.png", …}, one a line')
    return found


def _labels(
    rows: dict[str, dict[str, Any]], images: list[str], train: list[str], depth: int
) -> tuple[dict[str, Label], str]:
    """The label of every image that has one, and where the labels come from."""
    if labels := {member: row["label"] for member, row in rows.items() if row.get("label") is not None}:
        return labels, f"from {METADATA}"
    classes = {_folder(member, depth) for member in train}
    if len(classes) < 2:
        return {}, "none: all images are in one folder"
    if "" in classes:
        return {}, "none: there are images both beside and in the folders"
    return {member: _folder(member, depth) for member in images}, f"the names of {len(classes)} folders"
