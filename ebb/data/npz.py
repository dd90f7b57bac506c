"""NumPy's files: an .npz of images with their labels and captions, told by their names or else by their shapes, and an
.npy of images."""

from __future__ import annotations

import math
import re
import zipfile
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from io import BufferedIOBase
from pathlib import Path
from typing import IO

import numpy as np

from ebb.data.archive import DAMAGED, Notes, shown
from ebb.data.match import Match
from ebb.data.splits import Arrays, Label, Source
from ebb.data.tables import SPELLINGS
from ebb.errors import DamagedError, DataError
from ebb.store import memory

Opened = IO[bytes] | BufferedIOBase

AGAIN = "copy or download it again"

TRAIN = (
    ("x_train", "y_train"),
    ("train_images", "train_labels"),
    ("images", "labels"),
    ("x", "y"),
    ("data", "target"),
    ("image", "label"),
)
TEST = (("x_test", "y_test"), ("test_images", "test_labels"), ("x_val", "y_val"), ("val_images", "val_labels"))
"""What images and their labels may be called, in letters of either case; the first pair that is there is read."""

LABELS = ("labels", "y", "label", "targets", "target", "classes")
NAMES = ("label_names", "class_names", "classes")

OURS = ("seeds", "numbers", "number_names", "beside", "beside_names")
"""What `ebb sample` saves besides, and is no label."""

SAVED = "np.savez(FILE, images=..., labels=...)"


def holds_arrays(path: Path) -> bool:
    """Whether a zip is an npz: all its members are .npy. The first tells, in its header (PKWARE APPNOTE 4.3.7)."""
    with open(path, "rb") as file:
        start = file.read(30)
        first = file.read(int.from_bytes(start[26:28], "little"))
    if start[:4] == b"PK\3\4" and not first.endswith(b".npy"):
        return False  # without the list of tens of thousands of members
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except DAMAGED:
        return path.suffix == ".npz"
    return bool(names) and all(name.endswith(".npy") for name in names)


@dataclass(frozen=True)
class Header:
    """What an .npy says of itself: its shape and the type of its values."""

    shape: tuple[int, ...]
    dtype: np.dtype

    @property
    def size(self) -> int:
        """Bytes of the values."""
        return math.prod(self.shape) * self.dtype.itemsize

    def is_images(self) -> bool:
        """Whether these may be images: numbers, and with one or three channels, first or last, where they have some."""
        of_colour = len(self.shape) == 3 or (len(self.shape) == 4 and {1, 3} & {self.shape[1], self.shape[3]})
        return self.dtype.kind in "uifb" and bool(of_colour)

    def is_labels_of(self, count: int) -> bool:
        """Whether these may be labels of so many images: one number, word or Python object for each."""
        return self.shape in ((count,), (count, 1)) and self.dtype.kind in "iuUSbO"


@dataclass(frozen=True, eq=False)
class Archive:
    """An open .npz, and the header of every array in it."""

    path: Path
    file: zipfile.ZipFile
    headers: dict[str, Header]

    @classmethod
    def of(cls, path: Path, file: zipfile.ZipFile) -> Archive:
        """The archive, of which only the headers are read."""
        headers = dict[str, Header]()
        for member in file.namelist():
            with file.open(member) as one:
                headers[member.removesuffix(".npy")] = header(one)
        return cls(path, file, headers)

    def called(self, *names: str) -> str | None:
        """The array that has the first of these names that there is, in letters of either case."""
        lower = {name.lower(): name for name in self.headers}
        return next((lower[name] for name in names if name in lower), None)

    def array(self, name: str) -> np.ndarray:
        """One array; see `values` for what is raised."""
        info = self.file.getinfo(f"{name}.npy")
        return values(lambda: self.file.open(info), info.file_size, f"{self.path}: {shown(name)}")

    def empty(self, name: str | None) -> bool:
        """Whether there is no such array, or nothing in it."""
        return name is None or self.headers[name].size == 0


def header(file: Opened) -> Header:
    """The header of an open .npy, which is read to where the values begin."""
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(file)
    return Header(shape, dtype)


def values(opened: Callable[[], Opened], size: int, what: str) -> np.ndarray:
    """An array in an .npy of so many bytes, its header checked first against these and against memory.

    Raises DataError for Python objects, DamagedError for a header that lies and ResourceError for want of memory.
    """
    with opened() as file:
        found = header(file)
        came = size - file.tell()
    if found.dtype.hasobject:
        raise DataError(f"{what} holds Python objects", f"save numbers, or words as np.array(words, str): {SAVED}")
    if found.size != came or any(side < 0 for side in found.shape):
        raise DamagedError(f"{what} claims {found.size} bytes {found.shape}, it has {came}", AGAIN)
    memory.check(found.size, f"{what} {found.dtype} {found.shape}", "save it as uint8, or as a folder of images")
    with opened() as file:
        array: np.ndarray = np.lib.format.read_array(file, allow_pickle=False)
    return array


def one_array(path: Path, name: str, notes: Notes) -> Source:
    """The images of an .npy. Raises DataError for what is none, DamagedError, ResourceError."""
    try:
        raw = values(lambda: path.open("rb"), path.stat().st_size, str(path))
    except DAMAGED as error:
        raise DamagedError(f"{path} cannot be read: {error}", AGAIN) from error
    images = to_bytes(channels_first(raw, str(path)), str(path), notes)
    reasons = {"labels": f"none: an .npy holds images alone; with labels: {SAVED}"}
    return Source("npy", name, Arrays(images, [None] * len(images)), reasons=reasons)


def arrays(path: Path, name: str, notes: Notes) -> Source:
    """The images of an .npz with their labels and captions, told by their names, or by their shapes where these are
    NumPy's own arr_0, arr_1, ….

    Raises DataError for images or labels that are none, DamagedError, and ResourceError before memory is taken.
    """
    try:
        with zipfile.ZipFile(path) as file:
            archive = Archive.of(path, file)
            images, labels = _paired(archive, TRAIN) or _by_shape(archive)
            labels, test = labels or archive.called(*LABELS), _paired(archive, TEST)
            texts = archive.called(*SPELLINGS["text"])
            train, matches = _split(archive, images, labels, notes), list[Match]()
            if texts is not None and not archive.empty(texts):
                captions = _captions(archive, texts, len(train.array))
                train, matches = replace(train, captions=captions), [*_lost_captions(archive, texts, captions)]
            held_out = _split(archive, *test, notes) if test else None
            given = {images, labels, texts, *(test or ()), _names(archive, str(labels), len(train.array))}
            others = {name: one for name, one in archive.headers.items() if name not in given}
            notes["array that is not read", "ignored"] += others
            without = {
                len(one.array) for one, name in ((train, labels), (held_out, test and test[1])) if one and not name
            }
            matches += _unnamed(others, without)
            return Source("npz", name, train, held_out, matches=tuple(matches))
    except DAMAGED as error:
        raise DamagedError(f"{path} cannot be read: {error}", AGAIN) from error


def _paired(archive: Archive, pairs: Sequence[tuple[str, str]]) -> tuple[str, str | None] | None:
    """The first pair of images and labels whose images are there."""
    found = ((archive.called(images), archive.called(labels)) for images, labels in pairs)
    return next(((images, labels) for images, labels in found if images is not None), None)


def _by_shape(archive: Archive) -> tuple[str, str | None]:
    """The one array of NumPy's own names that can be images, and the one that can be their labels."""
    came = ", ".join(f"{shown(name)} {one.dtype} {list(one.shape)}" for name, one in archive.headers.items())
    images = [name for name, one in archive.headers.items() if re.fullmatch(r"arr_\d+", name) and one.is_images()]
    if len(images) != 1:
        raise DataError(f"{archive.path}: expected images under images, x, x_train or arr_0; found {came}", SAVED)
    count = archive.headers[images[0]].shape[0]
    others = [name for name, one in archive.headers.items() if one.shape[:1] == (count,) and name != images[0]]
    labels = [
        name
        for name in others
        if archive.headers[name].is_labels_of(count) or _one_hot(archive, name) or _counts(archive, name)
    ]
    return images[0], labels[0] if len(labels) == 1 else None


def _split(archive: Archive, x: str, y: str | None, notes: Notes) -> Arrays:
    """The images under `x`, with the labels under `y` where there are some."""
    what = f"{archive.path}: {shown(x)}"
    images = to_bytes(channels_first(archive.array(x), what), what, notes)
    named = y is not None and not archive.empty(y)
    return Arrays(images, _labels(archive, x, str(y), len(images)) if named else [None] * len(images))


def _unnamed(others: Mapping[str, Header], counts: Collection[int]) -> Iterator[Match]:
    """The arrays that can be labels by their shape of so many images without, where no name says so."""
    found = [name for name, one in others.items() if name not in OURS and any(map(one.is_labels_of, counts))]
    if found:
        advice = f"call the labels so: {SAVED}"
        yield Match.of("labels", "arrays that can be labels", "are called so", len(found), found, advice)


def _labels(archive: Archive, x: str, y: str, count: int) -> Sequence[Label]:
    """A number or word for each image: as such, as floats that are whole, or as a row of zeros and a one; by the names
    that the archive gives the numbers, where −1 stands for none."""
    labels = archive.array(y)
    one_hot = labels.ndim == 2 and labels.shape[1] > 1 and _is_one_hot(labels)
    labels = labels.argmax(1) if one_hot else labels[:, 0] if labels.ndim == 2 and labels.shape[1] == 1 else labels
    if labels.dtype.kind == "f" and np.array_equal(labels, np.rint(labels)):
        labels = labels.astype(np.int64)
    labels = _words(labels)
    if labels.ndim != 1 or labels.dtype.kind not in "iuUb":
        raise DataError(
            f"{archive.path}: {y} should be one integer or string per image, got {labels.dtype} {labels.shape}", SAVED
        )
    if len(labels) != count:
        raise DataError(f"{archive.path}: {count} images under {x}, {len(labels)} labels under {y}")
    named = _names(archive, y, count)
    if archive.empty(named) or labels.dtype.kind == "U":
        return list((labels.astype(np.int64) if labels.dtype.kind == "b" else labels).tolist())
    names: list[Label] = [_number(str(name)) for name in _words(archive.array(str(named))).tolist()]
    if not -1 <= labels.min() <= labels.max() < len(names):
        raise DataError(
            f"{archive.path}: {y} go from {labels.min()} to {labels.max()}, and {named} names {len(names)} of them"
        )
    return [*map([*names, None].__getitem__, labels.tolist())]


def _names(archive: Archive, y: str, count: int) -> str | None:
    """The array of the names of the labels `y`; "classes" may also be those of so many images."""
    found = archive.called(*NAMES)
    if found is not None and (
        found == y or (found.lower() == "classes" and archive.headers[found].is_labels_of(count))
    ):
        return None
    return found


def _words(array: np.ndarray) -> np.ndarray:
    """The array, of bytes as the words that they spell in UTF-8."""
    words: np.ndarray = np.char.decode(array, "utf-8", "replace") if array.dtype.kind == "S" else array
    return words


def _number(name: str) -> Label:
    """A name as the number that it writes: numbers are put in order by their value."""
    return int(name) if name.isdecimal() and str(int(name)) == name else name


def _one_hot(archive: Archive, name: str) -> bool:
    one = archive.headers[name]
    return len(one.shape) == 2 and one.shape[1] > 1 and one.dtype.kind in "uifb" and _is_one_hot(archive.array(name))


def _counts(archive: Archive, name: str) -> bool:
    """Whether an array is of floats, one for each image, that are whole, as text files of numbers are read."""
    one = archive.headers[name]
    return len(one.shape) == 1 and one.dtype.kind == "f" and bool((archive.array(name) % 1 == 0).all())


def _is_one_hot(rows: np.ndarray) -> bool:
    """Whether each row is a single one among zeros."""
    return rows.dtype.kind in "uifb" and bool(((rows == 0) | (rows == 1)).all() and (rows.sum(1) == 1).all())


def _captions(archive: Archive, name: str, count: int) -> list[str] | None:
    """The text of every image; None where the array is not of words, one for each."""
    if archive.headers[name].shape != (count,) or archive.headers[name].dtype.kind not in "US":
        return None
    return [str(text).strip() for text in _words(archive.array(name)).tolist()]


def _lost_captions(archive: Archive, name: str, captions: Sequence[str] | None) -> Iterator[Match]:
    """That an array of captions cannot be read as such, or that some are empty."""
    one = archive.headers[name]
    if captions is None:
        came, advice = (
            f"{shown(name)}, {one.dtype} {list(one.shape)}",
            f"save a string for each image: {name}=np.array(texts, str)",
        )
        yield Match("captions", came, 0, math.prod(one.shape[:1]), "are read", (), advice)
    else:
        without = [f"#{at}" for at, text in enumerate(captions) if not text]
        yield Match.of("captions", shown(name), "images have one", len(captions), without, "give each image a text")


def channels_first(array: np.ndarray, what: str) -> np.ndarray:
    """[n, h, w], [n, h, w, c] or [n, c, h, w] as the last of them."""
    if array.ndim == 3:
        return array[:, None]
    if array.ndim == 4 and array.shape[3] in (1, 3):
        return array.transpose(0, 3, 1, 2)
    if array.ndim == 4 and array.shape[1] in (1, 3):
        return array
    raise DataError(f"{what}: expected [n, h, w], [n, h, w, c] or [n, c, h, w] with 1 or 3 channels, got {array.shape}")


def to_bytes(array: np.ndarray, what: str, notes: Notes) -> np.ndarray:
    """Values as uint8; floats are taken to be in [0, 1] or [-1, 1], whichever they fit, within a thousandth."""
    if array.dtype == np.uint8 or not array.size:
        return np.ascontiguousarray(array)
    ranges = {"f": [(0, 1), (-1, 1)], "b": [(0, 1)], "u": [(0, 255)], "i": [(0, 255)]}.get(array.dtype.kind, [])
    low, high = (float(array.min()), float(array.max())) if ranges else (math.nan, math.nan)
    for bottom, top in ranges:
        if low >= bottom - 1e-3 and high <= top + 1e-3:
            break
    else:
        raise DataError(
            f"{what}: expected bytes 0…255 or floats in [0, 1] or [-1, 1], got {array.dtype} {low:g}…{high:g}"
        )
    notes[f"{array.dtype} values", f"[{bottom}, {top}] scaled to 0…255"].append(what)
    if low < bottom or high > top:
        notes["values out of range", "clipped"].append(what)
    out = np.empty(array.shape, np.uint8)
    for index, image in enumerate(array):  # one at a time: the whole set as float64 would be eight times its bytes
        out[index] = np.rint((image.astype(np.float64).clip(bottom, top) - bottom) * (255 / (top - bottom)))
    return out
