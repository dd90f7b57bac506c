"""Data sets of a format of their own: MNIST's idx, CIFAR-10's binary version, scikit-learn's digits."""

from __future__ import annotations

import gzip
import math
import posixpath
import re
import struct
from importlib.util import find_spec
from io import BufferedIOBase
from pathlib import Path

import numpy as np

from ebb.data.archive import DAMAGED, Files
from ebb.data.delimited import Columns
from ebb.data.match import Match
from ebb.data.splits import Allocate, Arrays, Label, Source
from ebb.errors import DamagedError, DataError, ResourceError

AGAIN = "copy or download it again"
IDX = re.compile(r"(.*)[-.]idx(\d)-ubyte(\.gz)?$")
TEST = re.compile(r"(^|[^a-z])(t10k|test)", re.IGNORECASE)
"""Where the name of an idx file says that it is of a test set."""

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
    images = {stem: member for (stem, axes), member in found.items() if axes == "3"}
    test = [stem for stem in images if TEST.search(stem)] if len(images) == 2 else []
    train = [stem for stem in images if stem not in test]
    if len(train) != 1:
        held = ", ".join(images.values()) or "labels only"
        raise DataError(
            f"{name}: expected one idx3 images file, or a train and a t10k one; found {held}", "give one images file"
        )
    labels = {stem: member for (stem, axes), member in found.items() if axes == "1"}
    matches = list[Match]()

    def split(stem: str) -> Arrays:
        array, wanted = idx_array(files, images[stem], 3, allocate)[:, None], stem.replace("images", "labels")
        partner = labels.get(wanted) or (next(iter(labels.values())) if len(labels) == len(images) == 1 else None)
        if partner is None:
            others = ", ".join(labels.values()) or "no file of labels"
            source = f"{images[stem]} without {wanted}-idx1-ubyte beside it, where there is {others}"
            advice = f"call the labels {wanted}-idx1-ubyte, in the same folder"
            matches.append(Match("labels", source, 0, len(array), "images have a label", (), advice))
            return Arrays(array, [None] * len(array))
        given = idx_array(files, partner, 1, allocate)
        if len(given) != len(array):
            raise DamagedError(f"{images[stem]} has {len(array)} images, {partner} has {len(given)} labels", AGAIN)
        return Arrays(array, given.tolist())

    own, held_out = split(train[0]), split(test[0]) if test else None
    return Source("idx", name, own, held_out, matches=tuple(matches))


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
    said = {} if words else {"labels": "numbers: batches.meta.txt, which names them, is not there"}
    return Source("cifar10 binary", name, split(batches), test, said)


BUNDLED = ("iris", "wine", "breast_cancer", "diabetes")
"""The tables that come with scikit-learn."""


def bundled(name: str) -> Columns:
    """One of the BUNDLED tables, with its labels by name, or with its target where that is a number.

    Raises ResourceError when scikit-learn is missing.
    """
    if find_spec("sklearn") is None:
        raise ResourceError(f"the table {name} comes with scikit-learn", "pip install 'ebb[demo]'")
    from sklearn import datasets

    found = getattr(datasets, f"load_{name}")()
    columns: dict[str, np.ndarray | tuple[str, ...]] = dict(zip(found.feature_names, found.data.T, strict=True))
    names = getattr(found, "target_names", None)
    columns["target"] = found.target if names is None else tuple(str(names[at]) for at in found.target)
    return Columns(columns, titled=True)


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
