"""Tables and series in files, told by what they hold: .csv and .tsv, .npy and .npz, and those of scikit-learn."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ebb.data import npz
from ebb.data.archive import DAMAGED
from ebb.data.delimited import Columns, read_delimited
from ebb.data.formats import BUNDLED, bundled
from ebb.errors import DamagedError, DataError
from ebb.store.place import expanded

DELIMITED = (".csv", ".tsv")

ROWS, SERIES = ("rows", "data", "x", "x_train", "values", "arr_0"), ("series",)
"""What an .npz may call rows of numbers [n, k] and series [n, channel, time], in letters of either case."""


@dataclass(frozen=True, eq=False)
class Stored:
    """A table or series at a place: what kind of file it is, and its columns, or series [n, channel, time]."""

    kind: str
    table: Columns | None
    series: NDArray[np.float64] | None = None
    labels: tuple[str, ...] = ()
    """of the series"""


def tabled(where: str) -> Stored | None:
    """The numbers at a place: a .csv, a .tsv, an .npy or .npz of rows or series, or one of the BUNDLED tables; None
    where it is none of these.

    Raises DataError for what is a table and cannot be read, DamagedError and ResourceError for arrays.
    """
    path = expanded(where)
    if not path.exists():
        return Stored("table", bundled(where)) if where in BUNDLED else None
    if path.suffix.lower() in DELIMITED and path.is_file():
        return Stored(path.suffix[1:].lower(), read_delimited(path))
    try:
        if path.suffix.lower() == ".npy" and path.is_file():
            return _of_npy(path)
        if path.suffix.lower() == ".npz" and path.is_file() and npz.holds_arrays(path):
            return _of_npz(path)
    except DAMAGED as error:
        raise DamagedError(f"{path} cannot be read: {error}", npz.AGAIN) from error
    return None


def _of_npy(path: Path) -> Stored | None:
    with path.open("rb") as file:
        if len(npz.header(file).shape) != 2:
            return None
    return Stored("npy", _rows(npz.values(lambda: path.open("rb"), path.stat().st_size, str(path)), (), None, path))


def _of_npz(path: Path) -> Stored | None:
    with zipfile.ZipFile(path) as file:
        archive = npz.Archive.of(path, file)
        rows, series = archive.called(*ROWS), archive.called(*SERIES)
        labels, names = archive.called(*npz.LABELS), archive.called("names", "columns", "feature_names")
        words = archive.called("label_names", "class_names")
        given = None if labels is None or archive.empty(labels) else archive.array(labels)
        if given is not None and words is not None and given.dtype.kind in "iu":
            given = archive.array(words)[given]
        if series is not None and len(archive.headers[series].shape) == 3:
            values = _finite(archive.array(series), path)
            return Stored("npz", None, values, () if given is None else tuple(map(str, given.ravel())))
        if rows is None or len(archive.headers[rows].shape) != 2:
            return None
        called = () if names is None else tuple(map(str, archive.array(names).ravel()))
        return Stored("npz", _rows(archive.array(rows), called, given, path))


def _rows(array: NDArray[np.generic], names: Sequence[str], labels: NDArray[np.generic] | None, path: Path) -> Columns:
    """An array [n, k] with its labels as a table."""
    values = _finite(array, path)
    if names and len(names) != values.shape[1]:
        raise DataError(f"{path}: {len(names)} names for {values.shape[1]} columns", "give one for each")
    called = names or [f"column {at}" for at in range(1, values.shape[1] + 1)]
    columns: dict[str, NDArray[np.float64] | tuple[str, ...]] = dict(zip(called, values.T, strict=True))
    if labels is not None:
        if labels.size != len(values):
            raise DataError(f"{path}: {labels.size} labels for {len(values)} rows", "give one for each")
        columns["label"] = tuple(map(str, labels.ravel()))
    return Columns(columns, titled=bool(names) or labels is not None)


def _finite(array: NDArray[np.generic], path: Path) -> NDArray[np.float64]:
    """Values as float64; DataError, with the place, for one that is not finite."""
    if array.dtype.kind not in "uifb":
        raise DataError(f"{path} holds {array.dtype}, no numbers", "save numbers: np.savez(FILE, rows=..., labels=...)")
    values = array.astype(np.float64)
    wrong = np.argwhere(~np.isfinite(values))
    if len(wrong):
        at = ", ".join(map(str, wrong[0]))
        raise DataError(
            f"{path}: the value at [{at}] is not finite, and {len(wrong) - 1:,} more", "leave such rows out"
        )
    return values
