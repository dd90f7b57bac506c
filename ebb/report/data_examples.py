"""The parts of a page about data that show examples: some at random, some of each class, and suspects."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import numpy as np
from PIL import Image

from ebb.data.dataset import Dataset
from ebb.data.images import PICTURES
from ebb.doctor.data_subject import DataSubject
from ebb.report.page import table
from ebb.report.plot import bars
from ebb.report.samples_section import Album

Facts = Mapping[str, Any]

SHOWN, COLUMNS = 25, 5
"""Examples that are shown at random, and in a row of them."""

IN_A_ROW, CLASSES = 10, 30
"""Examples of a class that are shown, at most, and classes."""

WIDE = 680
"""Pixels of a row of a class: fewer examples are shown where each is wide, as a curve is."""

MOST_SUSPECTS = 24
"""Suspects of one finding that are shown."""

SHORT = 40
"""Letters of a caption below an example."""


def chosen(dataset: Dataset, rows: Sequence[int], columns: int, captions: Sequence[str] = ()) -> Image.Image:
    """Some examples side by side, as their modality shows them."""
    return dataset.modality.sheet(dataset.rows[np.asarray(rows, np.int64)], columns, captions)


def called(dataset: Dataset, row: int) -> str:
    """What stands below an example: its class, else the beginning of its caption."""
    if dataset.labels is not None:
        return str(dataset.names[dataset.labels[row]])
    text = "" if dataset.captions is None else dataset.captions[row]
    return text if len(text) <= SHORT else text[:SHORT].rsplit(" ", 1)[0] + " …"


def at_random(dataset: Dataset, album: Album) -> str:
    """SHOWN examples, with the name of their class or their caption, and a row of each class beside them."""
    some = np.sort(np.random.default_rng(0).permutation(len(dataset.rows))[:SHOWN]).tolist()
    names = [called(dataset, row) for row in some]
    sheet = chosen(dataset, some, COLUMNS, names if any(names) else ())
    grid = album.drawn(sheet, f"{len(some)} of them at random")
    drawn = "" if dataset.modality == PICTURES else " smooth"
    return f'<div class="pair{drawn}">{grid}<div>{by_class(dataset, album)}</div></div>\n'


def by_class(dataset: Dataset, album: Album) -> str:
    """Up to IN_A_ROW examples of each class in a row, for at most CLASSES of them."""
    if dataset.labels is None:
        return ""
    parts, count = [], max(1, min(IN_A_ROW, WIDE // chosen(dataset, [0], 1).width))
    for label, name in enumerate(dataset.names[:CLASSES]):
        rows = np.flatnonzero(dataset.labels == label)
        some = np.sort(np.random.default_rng(label).permutation(rows)[:count]).tolist()
        if some:
            parts.append(f"<span>{escape(name)}</span>{album.drawn(chosen(dataset, some, count), name)}")
    left = len(dataset.names) - CLASSES
    more = f'<p class="soft">and {left:,} more classes</p>' if left > 0 else ""
    return f'<div class="classes">{"".join(parts)}</div>{more}'


def balance(dataset: Dataset) -> str:
    """How many examples each class has, as bars."""
    counts = dataset.summary.classes
    if len(counts) < 2:
        return ""
    even = sum(counts.values()) / len(counts)
    largest_first = sorted(counts.items(), key=lambda one: -one[1])
    return bars({name: (float(count), f"{count:,} ({count / even:.2f} of even)") for name, count in largest_first})


def suspects(data: DataSubject, album: Album, finding: Facts) -> str:
    """The suspects of a finding: pictures of them, or where examples are rows of a table their values."""
    some = finding.get("suspects", ())[:MOST_SUSPECTS]
    dataset = data.read
    if not some:
        return ""
    if "table" in dataset.modality.forms and len(dataset.modality.axes) == 1:
        return as_rows(data, some)
    shown = [album.drawn(chosen(dataset, s["rows"], len(s["rows"])), captioned(data, s)) for s in some]
    left = len(finding["suspects"]) - len(some)
    more = f'<p class="soft">and {left:,} more</p>' if left > 0 else ""
    return f'<div class="suspects">{"".join(shown)}</div>{more}'


def captioned(data: DataSubject, suspect: Facts) -> str:
    """The names of suspects, and why they are."""
    return f"{' and '.join(data.names[row] for row in suspect['rows'])}: {suspect['why']}"


def as_rows(data: DataSubject, some: Sequence[Facts]) -> str:
    """Suspects as lines of a table, with the values of all columns."""
    dataset = data.read
    names = getattr(getattr(dataset.modality, "scale", None), "names", ())
    rows = [
        (data.names[row], *(f"{value:.6g}" for value in dataset.rows[row]), suspect["why"])
        for suspect in some
        for row in suspect["rows"]
    ]
    return table(("row", *names, ""), rows)
