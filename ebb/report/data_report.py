"""Data before training as one page: whether it is fit to train on, what it looks like, what is suspect."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from html import escape
from pathlib import Path

from ebb.data.images import PICTURES
from ebb.data.sources import COME, named
from ebb.doctor.data_subject import DataSubject
from ebb.doctor.finding import Diagnosis
from ebb.errors import ResourceError, UsageError
from ebb.report.data_crops import captions, crops
from ebb.report.data_examples import at_random, balance, suspects
from ebb.report.data_values import columns, levels
from ebb.report.findings_section import findings, noticed
from ebb.report.page import MADE, page, section
from ebb.report.samples_section import Album
from ebb.store.place import beside_something, expanded, room_for, room_in
from ebb.store.write import replace_text

HOME = Path("runs")
"""Where runs are made, and pages about data unless another place is named."""


def place_of(where: str, out: Path | None = None) -> Path:
    """The file of the page about data: `out`, else runs/NAME-data.html; where that would lie within the data, or cannot
    be written, in the folder of temporary files.

    Raises UsageError for an `out` that is no .html or is there and no page of ebb's, ResourceError for one that cannot
    be written.
    """
    if out is not None:
        if out.suffix.lower() not in (".html", ".htm"):
            raise UsageError(f"a page is written as .html, got --out {out}", f"--out {out.with_suffix('.html')}")
        beside_something(out.parent)
        room_for(out)
        if out.is_file() and MADE.encode() not in out.read_bytes()[:400]:
            raise UsageError(f"{out} is there and was not made by ebb: it would be lost", "name another with --out")
        return out
    name, data = f"{named(where)}-data.html", expanded(where).resolve()
    inside = where not in COME and (data == Path.cwd() or data in Path.cwd().parents)
    try:
        if not inside:
            room_in(HOME)
            return HOME / name
    except ResourceError:
        pass
    return Path(tempfile.gettempdir()) / name


def write_data_report(data: DataSubject, diagnosis: Diagnosis, target: Path) -> Path:
    """Write the page into the file `target`, and return its path. Raises ResourceError where it cannot be written."""
    os.makedirs(target.parent, exist_ok=True)
    replace_text(target, page(f"{data.name}: data", body(data, diagnosis)))
    return target


def body(data: DataSubject, diagnosis: Diagnosis) -> str:
    """The page's head and its parts; those of pictures, or of tables and series."""
    album, dataset = Album(), data.read
    pictures = dataset.modality == PICTURES
    parts: list[tuple[str, Callable[[], str]]] = [
        (f"{dataset.modality.things.capitalize()}", lambda: at_random(dataset, album)),
        ("What the doctor found", lambda: findings(asdict(diagnosis), lambda f: suspects(data, album, f))),
        ("Values", lambda: levels(dataset) if pictures else columns(dataset)),
        ("Classes", lambda: balance(dataset)),
        ("Cropped away", lambda: crops(data, album)),
        ("Captions and labels", lambda: captions(dataset, album)),
        ("Noticed while reading", lambda: noticed(asdict(dataset.summary))),
    ]
    drawn = "".join(section(title, draw()) for title, draw in parts)
    small = f'<p class="soft">Too large for this page: {album.omitted} more pictures.</p>\n' if album.omitted else ""
    return head(data, diagnosis) + drawn + small


def head(data: DataSubject, diagnosis: Diagnosis) -> str:
    """The name of the data, the verdict, and what there is."""
    answer, _, because = diagnosis.verdict.partition(", ")
    facts = "".join(f"<p>{escape(fact)}</p>" for fact in diagnosis.facts)
    return (
        f"<header><h1>{escape(data.name)}</h1>"
        f'<p class="verdict"><b>{escape(answer)}</b>, {escape(because)}</p>{facts}</header>\n'
    )
