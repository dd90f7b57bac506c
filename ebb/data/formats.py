"""Data sets that are arrays in files: MNIST's idx, NumPy's npz, CIFAR-10's binary version, scikit-learn's digits."""

from __future__ import annotations

import gzip
import math
import posixpath
import re
import struct
import zipfile
from collections.abc import Iterable
from importlib.util import find_spec
from io import BufferedIOBase
from pathlib import Path

import numpy as np

from ebb.data import memory
from ebb.data.files import DAMAGED, Files, Notes
from ebb.data.splits import Allocate, Arrays, Label, Source
from ebb.errors import DamagedError, DataError, ResourceError

AGAIN = "copy or download it again"
IDX = re.compile(r"(.*)[-.]idx(\d)-ubyte(\.gz)?$")
CIFAR = re.compile(r"data_batch_\d+\.bin$")
_CIFAR_RECORD = 1 + 3 * 32 * 32


def idx_array(files: Files, name: str, axes: int, allocate: Allocate) -> np.ndarray:
    """One idx file as uint8 with `axes` axes; the header is checked against the file before memory is taken.

    Raises DamagedError with what was expected and what came.
    """
    packed = name.endswith(".gz")
    try:
        with files.open(name) as raw, gzip.open(raw) if packed else raw as file:
            start = file.read(4)
            if start[:3] != b"\0\0\x08" or len(start) < 4 or start[3] != axes:
                expected = bytes([0, 0, 8, axes])
                raise DamagedError(f"{name}: expected the header {expected.hex()}, got {start.hex()}", AGAIN)
            shape = struct.unpack(f">{axes}I", file.read(4 * axes))
            size, most = math.prod(shape), files.sizes[name] * (1032 if packed else 1)  # 1032: all gzip can do
            if size > most:
                raise DamagedError(f"{name}: its header claims {size} bytes {shape}, it can hold {most}", AGAIN)
            array = allocate(shape)
            got = _fill(array, file)
            if got < size or file.read(1):
                came = "more" if got == size else str(got)
                raise DamagedError(f"{name}: expected {size} bytes for {shape}, got {came}", AGAIN)
            return array
    except DAMAGED as error:
        raise DamagedError(f"{name} cannot be read: {error}", AGAIN) from error


def _fill(array: np.ndarray, file: BufferedIOBase) -> int:
    """Read into an array until it is full or the file ends; returns the number of bytes."""
    flat, got = array.reshape(-1), 0
    while got < len(flat) and (block := file.read(min(len(flat) - got, 2**24))):
        flat[got : got + len(block)] = np.frombuffer(block, np.uint8)
        got += len(block)
    return got


def idx(files: Files, name: str, allocate: Allocate) -> Source:
    """MNIST's layout: images and labels of a training set, a test set or both."""
    found: dict[tuple[str, str], str] = {}
    for member in files.sizes:  # an unpacked file and its .gz are the same set
        if match := IDX.match(posixpath.basename(member)):
            found.setdefault((match[1], match[2]), member)

    def split(stem: str, member: str) -> Arrays:
        images = idx_array(files, member, 3, allocate)[:, None]
        partner = found.get((stem.replace("images", "labels"), "1"))
        if partner is None:
            return Arrays(images, [None] * len(images))
        labels = idx_array(files, partner, 1, allocate)
        if len(labels) != len(images):
            raise DamagedError(f"{member} has {len(images)} images, {partner} has {len(labels)} labels", AGAIN)
        return Arrays(images, labels.tolist())

    images = {stem: member for (stem, axes), member in found.items() if axes == "3"}
    test = [stem for stem in images if stem.startswith(("t10k", "test"))] if len(images) == 2 else []
    train = [stem for stem in images if stem not in test]
    if len(train) != 1:
        held = ", ".join(images.values()) or "labels only"
        raise DataError(
            f"{name}: expected one idx3 images file, or a train and a t10k one; found {held}", "give one images file"
        )
    held_out = split(test[0], images[test[0]]) if test else None
    return Source("idx", name, split(train[0], images[train[0]]), held_out)


def cifar10(files: Files, name: str, allocate: Allocate) -> Source:
    """CIFAR-10's binary version: records of a label byte and 3 x 32 x 32 bytes, labels named by batches.meta.txt."""
    members = {posixpath.basename(member): member for member in files.sizes}
    try:
        words = files.read(members["batches.meta.txt"]).decode().split() if "batches.meta.txt" in members else []
    except DAMAGED as error:
        raise DamagedError(f"batches.meta.txt cannot be read: {error}", AGAIN) from error

    def split(batches: list[str]) -> Arrays:
        for batch in batches:
            if not files.sizes[batch] or files.sizes[batch] % _CIFAR_RECORD:
                came = files.sizes[batch]
                raise DamagedError(f"{batch}: expected a multiple of {_CIFAR_RECORD} bytes, got {came}", AGAIN)
        records = allocate((sum(files.sizes[batch] for batch in batches) // _CIFAR_RECORD, _CIFAR_RECORD))
        at = 0
        for batch in batches:
            count = files.sizes[batch] // _CIFAR_RECORD
            try:
                with files.open(batch) as file:
                    got = _fill(records[at : at + count], file)
            except DAMAGED as error:
                raise DamagedError(f"{batch} cannot be read: {error}", AGAIN) from error
            if got != count * _CIFAR_RECORD:
                raise DamagedError(f"{batch}: expected {count * _CIFAR_RECORD} bytes, got {got}", AGAIN)
            at += count
        numbers = records[:, 0].tolist()
        if max(numbers) >= (len(words) or 10):
            raise DamagedError(f"{name}: expected labels below {len(words) or 10}, got {max(numbers)}", AGAIN)
        labels: list[Label] = [words[number] for number in numbers] if words else numbers
        return Arrays(records[:, 1:].reshape(-1, 3, 32, 32), labels)

    batches = [member for base, member in sorted(members.items()) if CIFAR.match(base)]
    test = split([members["test_batch.bin"]]) if "test_batch.bin" in members else None
    return Source("cifar10 binary", name, split(batches), test)


def digits() -> Source:
    """scikit-learn's 1,797 handwritten digits, grey 8x8. Raises ResourceError when scikit-learn is missing.

    Read from its own file, since importing scikit-learn takes a second.
    """
    found = find_spec("sklearn")
    file = Path(str(found and found.origin)).parent / "datasets" / "data" / "digits.csv.gz"
    if not file.is_file():
        raise ResourceError("the data set digits comes with scikit-learn", "pip install 'ebb[demo]'")
    table = np.loadtxt(file, delimiter=",")  # 64 values from 0 to 16 and the label
    pixels = np.rint(table[:, :-1] * (255 / 16)).astype(np.uint8).reshape(-1, 1, 8, 8)
    return Source("digits", "digits", Arrays(pixels, table[:, -1].astype(int).tolist()))


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


def npz(path: Path, name: str, notes: Notes) -> Source:
    """Arrays under the usual keys. Raises DataError, DamagedError, ResourceError before taking memory."""
    try:
        with zipfile.ZipFile(path) as archive:
            keys = [member.removesuffix(".npy") for member in archive.namelist()]
            images = _first(keys, ("x_train", "images", "x", "arr_0"))
            if images is None:
                raise DataError(f"{path}: expected images under images, x, x_train or arr_0; found {', '.join(keys)}")
            train = _npz_split(path, archive, images, _first(keys, ("y_train", "labels", "y")), notes)
            test = _first(keys, ("x_test",))
            held_out = _npz_split(path, archive, test, _first(keys, ("y_test",)), notes) if test else None
            return Source("npz", name, train, held_out)
    except DAMAGED as error:
        raise DamagedError(f"{path} cannot be read: {error}", AGAIN) from error


def _first(keys: Iterable[str], wanted: Iterable[str]) -> str | None:
    return next((key for key in wanted if key in keys), None)


def _npz_split(path: Path, archive: zipfile.ZipFile, x: str, y: str | None, notes: Notes) -> Arrays:
    raw = _npz_array(path, archive, x)
    images = _to_bytes(_channels_first(raw, f"{path}: {x}"), f"{path}: {x}", notes)
    if y is None:
        return Arrays(images, [None] * len(images))
    labels = _npz_array(path, archive, y)
    labels = labels[:, 0] if labels.ndim == 2 and labels.shape[1] == 1 else labels
    if labels.ndim != 1 or labels.dtype.kind not in "iuU":
        raise DataError(f"{path}: {y} should be one integer or string per image, got {labels.dtype} {labels.shape}")
    if len(labels) != len(images):
        raise DataError(f"{path}: {len(images)} images under {x}, {len(labels)} labels under {y}")
    return Arrays(images, labels.tolist())


def _npz_array(path: Path, archive: zipfile.ZipFile, key: str) -> np.ndarray:
    """One array, its header checked first against the member's size and against memory."""
    info = archive.getinfo(f"{key}.npy")
    with archive.open(info) as file:
        version = np.lib.format.read_magic(file)
        header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = header(file)
        if dtype.hasobject:
            raise DataError(f"{path}: {key} holds Python objects", "save it as numbers: np.savez(FILE, images=...)")
        size, came = math.prod(shape) * dtype.itemsize, info.file_size - file.tell()
        if size != came or any(side < 0 for side in shape):
            raise DamagedError(f"{path}: {key} claims {size} bytes {shape}, the archive declares {came}", AGAIN)
    memory.check(size, f"{path}: {key} {dtype} {shape}", "save it as uint8, or as a folder of images")
    with archive.open(info) as file:
        array: np.ndarray = np.lib.format.read_array(file, allow_pickle=False)
    return array


def _channels_first(array: np.ndarray, what: str) -> np.ndarray:
    """[n, h, w], [n, h, w, c] or [n, c, h, w] as the last of them."""
    if array.ndim == 3:
        return array[:, None]
    if array.ndim == 4 and array.shape[3] in (1, 3):
        return array.transpose(0, 3, 1, 2)
    if array.ndim == 4 and array.shape[1] in (1, 3):
        return array
    raise DataError(f"{what}: expected [n, h, w], [n, h, w, c] or [n, c, h, w] with 1 or 3 channels, got {array.shape}")


def _to_bytes(array: np.ndarray, what: str, notes: Notes) -> np.ndarray:
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
