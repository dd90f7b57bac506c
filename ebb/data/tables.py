"""What a table beside the pictures says of each: the rows of a metadata.jsonl, metadata.csv or metadata.json."""

from __future__ import annotations

import csv
import io
import json
import posixpath
import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from ebb.data.archive import DAMAGED, Files, Notes, Place, decoded, shown
from ebb.data.match import Condition, Match, Names
from ebb.errors import DamagedError, DataError

METADATA = "metadata.jsonl"
TABLES = ("metadata.json", "metadata.csv", METADATA)
"""The tables that are read; of two in one folder the later goes before the other."""

SPELLINGS = {
    "file_name": ("filename", "file", "filepath", "path", "image", "imagepath", "imagename", "img"),
    "text": ("text", "texts", "caption", "captions", "prompt", "prompts", "description"),
    "label": ("label", "class", "classname", "category"),
}
"""What a field may be called, in the order in which it is looked for, as `bare` leaves it."""

ROW = 'each row is such as {"file_name": "a.png", "text": "a caption", "label": "a class"}, in UTF-8'

Row = dict[str, Any]
Raw = tuple[str, Any]
"""Where a row stands, and what stands there: a ValueError where that cannot be read."""


@dataclass(frozen=True)
class Tables:
    """The tables in `files`, and the row of each picture that has one: its fields file_name, text and label under these
    names, whatever the table calls them.

    `texts` and `labels` say which tables have such; `alone` are the paths that rows name where no picture is, by table;
    `reasons` say how names were read, and `matches` how many of the rows were of use.
    """

    files: tuple[str, ...] = ()
    rows: dict[str, Row] = field(default_factory=dict)
    texts: str = ""
    labels: str = ""
    alone: dict[str, list[str]] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)
    matches: tuple[Match, ...] = ()


@dataclass(frozen=True)
class Table:
    """One table: its rows, how it spells the fields that it has, and what is wrong with each row that was left out."""

    member: str
    rows: list[Row]
    spelt: dict[str, str]
    broken: list[str]

    @property
    def name(self) -> str:
        """What the file is called."""
        return posixpath.basename(self.member)

    def origin(self, what: str) -> str:
        """Where a field comes from, in words."""
        return self.name if self.spelt[what] == what else f'"{self.spelt[what]}" in {self.name}'


def read_tables(
    files: Files, place: Place, pictures: Collection[str], asked: Sequence[str], beside: Sequence[str], notes: Notes
) -> Tables:
    """Every table among `files`, which lie at `place`; fields that are `asked` for keep their names, and those in
    `beside` name pictures too.

    A row that cannot be read is noted and skipped. Raises DataError for a metadata.jsonl of which no row can be read,
    and DamagedError for a table that cannot be opened.
    """
    order = {name: rank for rank, name in enumerate(TABLES)}
    found = [member for member in files.sizes if posixpath.basename(member).lower() in order]
    found.sort(key=lambda member: (posixpath.dirname(member), order[posixpath.basename(member).lower()]))
    every, alone, matches = dict[str, Row](), dict[str, list[str]](), list[Match]()
    origins, loose, said = dict[str, list[str]](text=[], label=[]), list[str](), dict[str, str]()
    for member in found:
        table = _read(files, place.given, member, asked, notes)
        for what, tables in origins.items():
            tables += [table.origin(what)] if what in table.spelt else []
        if (called := table.spelt.get("file_name", "file_name")) != "file_name":
            said["images"] = f'named by "{called}" in {table.name}'
        named = [row["file_name"] for row in table.rows]
        meant = Names(pictures, posixpath.dirname(member), place.path, named)
        unmatched, other = _joined(every, table.rows, meant, beside, notes)
        loose += other
        alone.setdefault(table.name, []).extend(unmatched)
        matches += _matches(table, unmatched, pictures, asked)
    if loose:
        said["metadata"] = f"{len(loose):,} names read otherwise than written, such as {loose[0]}"
    texts, labels = (" and ".join(dict.fromkeys(names)) for names in origins.values())
    return Tables(tuple(found), every, texts, labels, alone, said, tuple(matches))


def _joined(
    every: dict[str, Row], rows: list[Row], names: Names, beside: Sequence[str], notes: Notes
) -> tuple[list[str], list[str]]:
    """Put each of the `rows` to its picture in `every`; the paths that name none, and names that were read loosely.

    A picture that a row names exactly is not meant by another that only resembles it.
    """
    exact = [names.exactly(row["file_name"]) for row in rows]
    taken, unmatched, other = {*exact}, list[str](), list[str]()
    for row, path in zip(rows, exact, strict=True):
        name, found = row["file_name"], path
        if found is None and (found := names.loosely(name)) in taken:
            found = None
        if found is None:
            unmatched.append(names.path(name))
            continue
        if path is None:
            other.append(f"{shown(name)} as {shown(found)}")
        for key in beside:
            if row.get(key) and isinstance(row[key], str):
                row[key] = names.exactly(row[key]) or names.loosely(row[key]) or names.path(row[key])
        old, new = every.get(found, {}), {key: value for key, value in row.items() if value is not None}
        if any(old[key] != new[key] for key in old.keys() & new.keys() - {"file_name"}):
            notes["several rows for one image", "the last is used"].append(found)
        every[found] = {**dict.fromkeys(row), **old, **new}
    return unmatched, other


def _matches(table: Table, unmatched: list[str], pictures: Collection[str], asked: Collection[str]) -> Iterator[Match]:
    """How many rows of a table could be read, how many of these name a picture, and that nothing is read of them."""
    rows, spelt, name = table.rows, table.spelt, shown(table.member)
    other: Condition = "labels" if "label" in spelt else "numbers" if rows else "captions"
    condition: Condition = "captions" if "text" in spelt else other
    count = len(rows) + len(table.broken)
    if not count:
        yield Match("captions", f"{name}, which is empty", 0, len(pictures), "images have a row", (), ROW)
    yield Match.of(condition, name, "rows can be read", count, table.broken, ROW)
    example = shown(posixpath.relpath(min(pictures), posixpath.dirname(table.member) or "."))
    advice = f"name each picture as it is seen from {table.name}, such as {example}"
    yield Match.of(condition, name, "rows name a picture that is here", len(rows), unmatched, advice)
    fields = list(dict.fromkeys(key for row in rows for key in row if key != "file_name"))
    if fields and not {"text", "label", *asked} & {*fields}:
        source = f"{name} with the fields {shown(', '.join(map(str, fields[:5])))}"
        advice = 'captions are read from "text", labels from "label", and numbers from the fields that --numbers names'
        yield Match("captions", source, 0, len(rows), "rows have a caption or a label", (), advice)


def _read(files: Files, where: str, member: str, asked: Sequence[str], notes: Notes) -> Table:
    """One table; the rows that cannot be read are noted."""
    try:
        text = _text(files.read(member))
    except DAMAGED as error:
        raise DamagedError(f"{where}: {shown(member)} cannot be read: {error}", "copy or download it again") from error
    kind = posixpath.splitext(member)[1].lower()
    raw = [*(_csv(text) if kind == ".csv" else _json(text) if kind == ".json" else _lines(text))]
    table = Table(member, [], dict(_spelt([value for _, value in raw if isinstance(value, dict)], asked)), [])
    for at, value in raw:
        try:
            table.rows.append(_checked(value, table.spelt, notes))
        except ValueError as error:
            table.broken.append(f"{shown(member)}, {at} {error}")
    if table.broken and not table.rows and kind == ".jsonl":
        raise DataError(f"{where}: {table.broken[0]}", ROW)
    notes["broken row", "skipped"] += table.broken
    return table


def _text(data: bytes) -> str:
    """The text of a table; bytes of an encoding that is not known become halves of characters."""
    try:
        return decoded(data)
    except UnicodeDecodeError:
        return data.decode("utf-8-sig", "surrogateescape")


def bare(name: object) -> str:
    """The letters and digits of a field's name, in small letters: "filename" of "file_name" and "File Name"."""
    return re.sub(r"[\W_]+", "", str(name)).lower()


def _lines(text: str) -> Iterator[Raw]:
    """A JSON object a line; or one list of them."""
    if text.lstrip().startswith("["):
        try:
            yield from _rows(json.loads(text))
            return
        except (ValueError, RecursionError):
            pass  # then the lines that can be read are better than none
    for number, line in enumerate(re.split(r"\r\n?|\n", text), 1):
        if line.strip():
            yield f"line {number}", _parsed(line.strip().removesuffix(","))


def _json(text: str) -> Iterator[Raw]:
    """A list of objects, or an object that gives each name a caption or further fields; else as lines."""
    found = _parsed(text)
    if isinstance(found, ValueError) or (isinstance(found, dict) and not _by_name(found)):
        yield from _lines(text)
    else:
        yield from _rows(found)


def _by_name(parsed: dict[str, Any]) -> bool:
    """Whether an object is a table by name, and no row itself."""
    return bool(parsed) and not {*SPELLINGS["file_name"]} & {*map(bare, parsed)}


def _rows(parsed: Any) -> Iterator[Raw]:
    if isinstance(parsed, dict):
        for name, value in parsed.items():
            yield f"{shown(name)}", {"file_name": name} | (value if isinstance(value, dict) else {"text": value})
    else:
        for number, value in enumerate(parsed if isinstance(parsed, list) else (), 1):
            yield f"row {number}", value


def _parsed(text: str) -> Any:
    """What a JSON text says, or the ValueError that says why it cannot be read."""
    if _surrogates(text):
        return ValueError("is not UTF-8")
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        return ValueError(f"is not JSON: {error}")


def _csv(text: str) -> Iterator[Raw]:
    """A head of names and a row a picture, parted by commas, semicolons, tabs or bars; empty cells say nothing."""
    text = re.sub(r"\Asep=.\r?\n", "", text)  # what Excel writes above the head
    head = text.partition("\n")[0]
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=max(",;\t|", key=head.count), strict=True)
    names, at = list[str](), "line 1"
    try:
        for cells in reader:
            at = f"line {reader.line_num}"
            if not names:
                names = [cell.strip() for cell in cells]
            elif len(cells) > len(names):
                yield at, ValueError(f"has {len(cells)} cells, expected {len(names)}: put quotes around the caption")
            elif any(map(_surrogates, cells)):
                yield at, ValueError("is not UTF-8")
            elif cells:
                yield at, {name: _cell(name, cell) for name, cell in zip(names, cells, strict=False)}
    except csv.Error as error:
        yield at, ValueError(f"is no CSV: {error}")


def _cell(name: str, cell: str) -> Any:
    """A cell as the number that it writes; a name and a caption stay as they are."""
    if not cell.strip():
        return None
    if bare(name) in (*SPELLINGS["file_name"], *SPELLINGS["text"]):
        return cell
    for kind in (int, float):
        try:
            number = kind(cell)
        except ValueError:
            continue
        return number if kind is float or str(number) == cell.strip() else cell
    return cell


def _spelt(rows: Iterable[Row], asked: Collection[str]) -> Iterator[tuple[str, str]]:
    """(field, how a table spells it) of the fields in SPELLINGS that some row fills, or at least has."""
    filled, has = set[str](), set[str]()
    for row in rows:
        has |= row.keys()
        filled |= {name for name, value in row.items() if value not in (None, "", [])}
    for field_name, spellings in SPELLINGS.items():
        for names in (filled - {*asked}, has - {*asked}):
            called = {bare(name): name for name in sorted(names)}
            if known := [called[spelling] for spelling in spellings if spelling in called]:
                yield field_name, known[0]
                break


def _checked(raw: Any, spelt: dict[str, str], notes: Notes) -> Row:
    """A row with its fields under their own names; raises ValueError saying what is wrong with it."""
    if isinstance(raw, ValueError):
        raise raw
    own = {name: raw[spelling] for name, spelling in spelt.items() if spelling in raw} if isinstance(raw, dict) else {}
    name, label, text = own.get("file_name"), own.get("label"), own.get("text")
    if not isinstance(name, str) or not name.strip() or "\0" in name:
        raise ValueError(f'is not such as {{"file_name": "...", ...}}: {json.dumps(raw, default=str)[:60]}')
    if isinstance(label, float) and label.is_integer():
        label = own["label"] = int(label)
    if isinstance(label, str) and not label.strip():
        label = own["label"] = None
    if type(label) not in (int, str, type(None)):
        raise ValueError(f"has no integer or string as label: {label!r:.60}")
    if isinstance(text, list) and all(isinstance(one, str) for one in text):
        if len(text) > 1:
            notes["several captions", "the first is used"].append(name)
        text = own["text"] = next((one for one in text if one.strip()), None)
    if not isinstance(text, str | None):
        raise ValueError(f"has no string as caption: {text!r:.60}")
    if text and _surrogates(text):
        raise ValueError(f"has half a character in its caption: {text!r:.60}")
    return {key: value for key, value in raw.items() if key not in spelt.values()} | own


def _surrogates(text: str) -> bool:
    """Whether a text holds halves of characters, as bytes that are no UTF-8 are read."""
    return not text.isascii() and any("\ud800" <= character <= "\udfff" for character in text)
