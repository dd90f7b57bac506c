"""Tables of numbers and words in text files: .csv and .tsv, with any of the usual separators, with or without names."""

from __future__ import annotations

import csv
import io
import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ebb.errors import DataError

SEPARATORS = ",;\t|"

SAMPLED = 200
"""Lines by which separator and names are told."""

MISSING = frozenset({"", "na", "n/a", "nan", "null", "none", "?", "-", "missing"})
"""Cells, in small letters, that say that there is no number."""

DECIMAL_COMMA = re.compile(r"[+-]?\d+,\d+")

FORMED = "a table has one example a line, its values separated by commas, and at most one line of names at the top"


@dataclass(frozen=True, eq=False)
class Columns:
    """Columns of equal length by name, in the order of the file: float64 [n] where a column holds numbers, else words.

    `titled` is whether the source names its columns; else they are called column 1, column 2, ….
    """

    columns: dict[str, NDArray[np.float64] | tuple[str, ...]]
    titled: bool
    lines: tuple[int, ...] = field(default=(), repr=False)
    """where each row stands in the file, counted from 1"""

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))

    @property
    def numbers(self) -> dict[str, NDArray[np.float64]]:
        """The columns of numbers."""
        return {name: values for name, values in self.columns.items() if isinstance(values, np.ndarray)}

    @property
    def words(self) -> dict[str, tuple[str, ...]]:
        """The columns of words."""
        return {name: values for name, values in self.columns.items() if not isinstance(values, np.ndarray)}


def read_delimited(path: Path) -> Columns:
    """The table in a .csv or .tsv file, UTF-8.

    Raises DataError, with line and column, for what is no table: another encoding, lines of different lengths, a number
    that is missing, not finite or written with a decimal comma, a name that stands twice.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8: {error.reason} at byte {error.start}", "save it as CSV UTF-8") from error
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error
    return parsed(text, str(path))


def parsed(text: str, what: str) -> Columns:
    """The table that a text holds; `what` it is called in errors, which are those of `read_delimited`."""
    if "\0" in text:
        raise DataError(f"{what} is not a text file: it holds zero bytes", FORMED)
    lines, rows = cells(text, what)
    titles = titles_of(rows)
    if titles is not None:
        lines, rows = lines[1:], rows[1:]
    if not rows:
        raise DataError(f"{what} holds no rows", FORMED)
    names = titles or [f"column {at}" for at in range(1, len(rows[0]) + 1)]
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise DataError(f"{what}: two columns are called {twice[0]!r}", "give each its own name in the first line")
    columns = {
        name: column(values, name, lines, what) for name, values in zip(names, zip(*rows, strict=True), strict=True)
    }
    return Columns(columns, titles is not None, tuple(lines))


def cells(text: str, what: str) -> tuple[list[int], list[list[str]]]:
    """(line numbers, cells) of every line that is not blank; DataError where their number changes."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator_of(text), skipinitialspace=True)
    lines, rows = list[int](), list[list[str]]()
    try:
        for row in reader:
            if any(cell.strip() for cell in row) or len(row) > 1:
                lines.append(reader.line_num)
                rows.append([cell.strip() for cell in row])
    except csv.Error as error:
        raise DataError(f"{what}, line {reader.line_num}: {error}", FORMED) from error
    for line, row in zip(lines, rows, strict=True):
        if len(row) != len(rows[0]):
            raise DataError(f"{what}, line {line}: {len(row)} values, where the first line has {len(rows[0])}", FORMED)
    return lines, rows


def separator_of(text: str) -> str:
    """The separator by which the first lines have equally many cells, of which most are numbers, and then the most."""
    some = [line for line in text.splitlines()[:SAMPLED] if line.strip()]
    best, most = ",", (0.0, 1)
    for separator in SEPARATORS:
        rows = list(csv.reader(some, delimiter=separator, skipinitialspace=True))
        if len({len(row) for row in rows}) == 1 and len(rows[0]) > 1:
            read = [number(cell) is not None or bool(DECIMAL_COMMA.fullmatch(cell)) for row in rows for cell in row]
            best, most = max((best, most), (separator, (sum(read) / len(read), len(rows[0]))), key=lambda one: one[1])
    if most[1] > 1 or not some:
        return best
    return max(SEPARATORS, key=lambda separator: sum(line.count(separator) for line in some))


def number(cell: str) -> float | None:
    """The number that a cell holds, None for none; `1_000` is Python's and no number here."""
    try:
        return None if "_" in cell else float(cell)
    except ValueError:
        return None


def titles_of(rows: Sequence[Sequence[str]]) -> list[str] | None:
    """The names in the first row, where it holds names: a word above numbers, or the numbers 0, 1, 2, … or 1, 2, 3, ….

    An empty name becomes that of its place.
    """
    if not rows:
        return None
    first, rest = rows[0], rows[1:SAMPLED]
    if not rest and all(number(cell) is None for cell in first):
        return list(first)
    for at, cell in enumerate(first):
        below = [row[at] for row in rest if row[at].lower() not in MISSING]
        is_word = number(cell) is None and cell.lower() not in MISSING - {""}
        if below and is_word and all(number(one) is not None for one in below):
            break
    else:
        counted = [str(at) for at in range(len(first) + 1)]
        if len(first) < 3 or list(first) not in (counted[:-1], counted[1:]):
            return None
    return [cell or f"column {at}" for at, cell in enumerate(first, 1)]


def column(cells: Sequence[str], name: str, lines: Sequence[int], what: str) -> NDArray[np.float64] | tuple[str, ...]:
    """A column as numbers, or as words where more than half of its cells are no numbers; DataError for neither."""
    values = [number(cell) for cell in cells]
    there = [cell for cell in cells if cell.lower() not in MISSING]
    comma = next((cell for cell in there if DECIMAL_COMMA.fullmatch(cell)), None)
    if comma is not None and all(DECIMAL_COMMA.fullmatch(cell) or number(cell) is not None for cell in there):
        line = lines[list(cells).index(comma)]
        raise DataError(
            f"{what}, line {line}, column {name!r}: {comma} is written with a decimal comma",
            "write decimal points, for example with: sed 's/,/./g' where values are separated by semicolons",
        )
    wrong = [at for at, value in enumerate(values) if value is None or not math.isfinite(value)]
    if not wrong:
        return np.array(values, np.float64)
    words = [cell for cell in there if number(cell) is None]
    if 2 * len(words) > len(there):
        return tuple(cells)
    cell, line = cells[wrong[0]], lines[wrong[0]]
    missing = cell.lower() in MISSING
    more = f", and {len(wrong) - 1:,} more in this column" if len(wrong) > 1 else ""
    fault = "no value" if missing else f"{cell!r} is no finite number"
    raise DataError(
        f"{what}, line {line}, column {name!r}: {fault}{more}",
        "fill such cells, or leave their rows or the column out of the file: what is missing is not guessed",
    )
