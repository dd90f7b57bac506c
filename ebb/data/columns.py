"""Which columns of a table are values, which is the label, and which say nothing; each with a reason."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ebb.data.delimited import Columns
from ebb.errors import DataError

CALLED = ("label", "labels", "class", "classes", "target", "y", "category", "species")
"""What a column of labels may be called, in small letters."""

KINDS = 100
"""The most different labels."""

EACH = 2
"""Rows that there are at least for each label, on average."""

TIMES = ("time", "date", "datetime", "timestamp", "t", "index")
"""What a column may be called that says when a row was."""


@dataclass(frozen=True, eq=False)
class Roles:
    """The values of a table [n, k] with their columns, and a label for each row where a column holds some."""

    values: NDArray[np.float64]
    names: tuple[str, ...]
    label: str | None
    labels: tuple[str, ...]
    reason: str
    """why the label is this column, or none is"""
    counters: tuple[str, ...]
    """columns left out, that only count the rows or tell their time"""
    texts: tuple[str, ...]
    """columns of words that are left out"""


def roles(table: Columns, what: str) -> Roles:
    """What each column is for; DataError where none holds values."""
    label, reason = label_of(table)
    counters = tuple(name for name in table.numbers if name != label and counts(table, name))
    texts = tuple(name for name in table.words if name != label)
    names = tuple(name for name in table.numbers if name not in (label, *counters))
    if not names:
        raise DataError(
            f"{what} has no column of numbers to learn: {', '.join(table.columns)}", "each row needs some numbers"
        )
    labels = () if label is None else tuple(map(spelled, table.columns[label]))
    values = np.stack([table.numbers[name] for name in names], 1)
    return Roles(values, names, label, labels, reason, counters, texts)


def spelled(value: object) -> str:
    """A label as text; whole numbers without a point."""
    return f"{value:g}" if isinstance(value, float) else str(value)


def label_of(table: Columns) -> tuple[str | None, str]:
    """The column of labels and why: by its name, else the only column of words, else whole numbers at an edge."""
    few = [name for name, values in table.columns.items() if 1 < len({*values}) <= min(KINDS, len(table) // EACH)]
    for name in few:
        if name.lower() in CALLED and (name in table.words or whole(table.numbers[name])):
            return name, f"{name!r} by its name, {len({*table.columns[name]})} different ones"
    worded = [name for name in few if name in table.words]
    if len(worded) == 1:
        return worded[0], f"{worded[0]!r}: the only column of words, {len({*table.columns[worded[0]]})} different ones"
    if not table.titled and len(table.columns) > 2:
        names = list(table.columns)
        inside = [values for name, values in table.numbers.items() if name not in (names[0], names[-1])]
        for name in (names[-1], names[0]):
            own = table.numbers.get(name)
            if name in few and own is not None and whole(own) and not all(map(whole, inside)):
                return name, f"{name}: whole numbers of {len({*own})} kinds, where the other columns hold fractions"
    return None, "none: no column of few different values is called label, class or target"


def whole(values: NDArray[np.float64]) -> bool:
    """Whether all values are whole numbers."""
    return bool((values == np.rint(values)).all())


def counts(table: Columns, name: str) -> bool:
    """Whether a column only counts the rows, or tells their time in equal steps: unnamed, or named so."""
    values = table.numbers[name]
    if not table.titled or len(values) < 3 or not (name.lower() in TIMES or name.startswith(("column ", "Unnamed"))):
        return False
    steps = np.diff(values)
    return bool(steps[0] > 0 and np.allclose(steps, steps[0], rtol=1e-3))
