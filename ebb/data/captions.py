"""What is said of images beside them: the rows of a metadata.jsonl, and NAME.txt beside NAME.png."""

from __future__ import annotations

import json
import posixpath
from collections.abc import Sequence
from typing import Any

from ebb.data.files import DAMAGED, Files, Notes, shown
from ebb.errors import DamagedError, DataError

METADATA = "metadata.jsonl"
LARGEST = 2**20
"""Bytes of a .txt above which it is no caption."""

LONG = 1000
"""Characters above which a caption is noted: CLIP reads about 300."""


def decoded(files: Files, where: str, name: str) -> str:
    """The text of a file. Raises DataError, naming the line, where it is not UTF-8, and DamagedError."""
    data = b""
    try:
        data = files.read(name)
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise DataError(f"{where}: {shown(name)}, line {line} is not UTF-8", "save the file as UTF-8") from error
    except DAMAGED as error:
        raise DamagedError(f"{where}: {shown(name)} cannot be read: {error}", "copy or download it again") from error


def rows(files: Files, where: str, table: str, beside: str | None = None) -> dict[str, dict[str, Any]]:
    """The rows of a metadata.jsonl by the path of their file; what the field `beside` names is made a path too.

    Raises DataError naming the line.
    """
    found = {}
    for number, line in enumerate(decoded(files, where, table).split("\n"), 1):
        at = f"{where}: {table}, line {number}"
        try:
            row = json.loads(line) if line.strip() else None
        except (ValueError, RecursionError) as error:
            raise DataError(f"{at} is not JSON: {error}") from error
        if row is None:
            continue
        if not isinstance(row, dict) or not isinstance(row.get("file_name"), str):
            raise DataError(f'{at}: expected {{"file_name": "...", ...}}, got {line[:60]}')
        if type(row.get("label")) not in (int, str, type(None)):
            raise DataError(f"{at}: a label is an integer or a string, got {row['label']!r}")
        text = row.get("text")
        if not isinstance(text, str | None):
            raise DataError(f"{at}: a caption is a string, got {text!r:.60}", 'write it as "text": "..."')
        if text and not text.isascii() and any("\ud800" <= character <= "\udfff" for character in text):
            raise DataError(f"{at}: the caption holds half a character, {text!r:.60}", "write it as UTF-8")
        if beside is not None and row.get(beside) and isinstance(row[beside], str):
            row[beside] = _seen_from(table, row[beside])
        found[_seen_from(table, row["file_name"])] = row
    return found


def _seen_from(table: str, name: str) -> str:
    """The path of a file that a table names."""
    return posixpath.normpath(posixpath.join(posixpath.dirname(table), name))


def captions(
    files: Files, where: str, images: list[str], table: dict[str, dict[str, Any]]
) -> tuple[dict[str, str] | None, str, set[str]]:
    """(the caption of every image, None where no image has one; where they come from; the .txt files they are in).

    The "text" of a metadata.jsonl goes before NAME.txt beside NAME.png. White space around a caption is dropped, and
    what is inside stays as it is. Raises DataError and DamagedError naming the file.
    """
    found = {image: (table.get(image, {}).get("text") or "").strip() for image in images}
    named = any(found.values())
    beside = {image: text for image in images if (text := posixpath.splitext(image)[0] + ".txt") in files.sizes}
    for image in (image for image in beside if not found[image]):
        if files.sizes[beside[image]] > LARGEST:
            came = f"{files.sizes[beside[image]]:,} bytes"
            raise DataError(
                f"{where}: {shown(beside[image])} has {came}, a caption at most {LARGEST:,}", "move it away"
            )
        found[image] = decoded(files, where, beside[image]).strip()
    told = [METADATA] * named + ["the .txt beside each image"] * bool(beside)
    if not any(found.values()):
        return None, "", set(beside.values())
    return found, f"from {' and '.join(told)}", set(beside.values())


def note(names: Sequence[str], texts: Sequence[str], notes: Notes) -> None:
    """Note which of the images `names` have a caption worth a look."""
    for name, text in zip(names, texts, strict=True):
        if not text:
            notes["without a caption", "kept with an empty one"].append(name)
        if len(text) > LONG:
            notes["long caption", f"kept: over {LONG:,} characters, of which a model reads the first"].append(name)
        if "\ufffd" in text or any(character < " " and character not in "\t\n\r" for character in text):
            notes["odd characters in a caption", "kept: it was probably written in another encoding"].append(name)
