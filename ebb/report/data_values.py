"""The part of a page about data that shows its values: 256 levels of each channel, or the numbers of each column."""

from __future__ import annotations

from html import escape

import numpy as np
from numpy.typing import NDArray

from ebb.data.dataset import Dataset
from ebb.doctor.data_checks import CLIPPED_SHARE, NEIGHBOURS, SPIKE
from ebb.report.page import number
from ebb.report.plot import histogram

CHANNELS = {1: (("brightness", "var(--mark)"),), 3: (("red", "#c8553d"), ("green", "#4f9d69"), ("blue", "#4a7fc1"))}
"""The name and colour of each channel of grey and colour pictures."""

BINS = 64
"""Bins of a column's histogram."""

COLUMNS = 40
"""Columns whose values are shown."""

AT_ONCE = 4096


def levels_of(pixels: NDArray[np.uint8]) -> NDArray[np.int64]:
    """How often each of 256 levels occurs in each channel of images [n, c, h, w], [c, 256]."""
    counts = np.zeros((pixels.shape[1], 256), np.int64)
    for start in range(0, len(pixels), AT_ONCE):
        planes = np.ascontiguousarray(pixels[start : start + AT_ONCE].swapaxes(0, 1)).reshape(len(counts), -1)
        counts += np.stack([np.bincount(plane, minlength=256) for plane in planes])
    return counts


def clipped_ends(counts: NDArray[np.int64]) -> tuple[bool, bool]:
    """Whether levels 0 and 255 stand out of [256] counts: a share of CLIPPED_SHARE, SPIKE times that of each of the
    NEIGHBOURS levels beside it. Clipped, or a background: what is pure black or white."""
    share = counts / max(1, counts.sum())
    near = share[1 : 1 + NEIGHBOURS].mean(), share[255 - NEIGHBOURS : 255].mean()
    low, high = (
        bool(share[at] >= CLIPPED_SHARE and share[at] >= SPIKE * beside)
        for at, beside in zip((0, 255), near, strict=True)
    )
    return low, high


def levels(dataset: Dataset) -> str:
    """A histogram of each channel, with a red line at an end that stands out, and the share that lies there."""
    found, drawn = levels_of(dataset.rows), []
    for (name, colour), counts in zip(CHANNELS[len(found)], found, strict=True):
        share, ends = counts / max(1, counts.sum()), clipped_ends(counts)
        marks = [place for place, stands_out in zip((0.003, 0.997), ends, strict=True) if stands_out]
        words = f"{share[0]:.2%} at 0, black", f"{share[255]:.2%} at 255, white"
        inner = np.minimum(counts, counts[1:255].max())  # or a white ground would leave nothing else to see
        drawn.append(histogram([("", colour, inner.tolist())], f"{name}, 256 levels", words, marks))
    said = "Counts by their square root. "
    said += "A red line marks an end that stands out: values were cut off there, or it is the background."
    return f'<div class="grid values">{"".join(drawn)}</div>\n<p class="soft">{escape(said)}</p>\n'


def columns(dataset: Dataset) -> str:
    """A histogram of each column of a table, or channel of series, in its own units; of constant ones their value."""
    scale = getattr(dataset.modality, "scale", None)
    if scale is None:
        return ""
    drawn = list[str]()
    for at, name in list(enumerate(scale.names))[:COLUMNS]:
        values = dataset.rows[:, at].ravel()
        low, high = float(values.min()), float(values.max())
        if low == high:
            drawn.append(f"<div><h3>{escape(name)}</h3><p>constant: {number(low)}</p></div>")
            continue
        counts, _ = np.histogram(values, BINS, (low, high))
        caption = f"{name}: mean {number(float(values.mean()))}, deviation {number(float(values.std()))}"
        drawn.append(histogram([("", "var(--mark)", counts.tolist())], caption, (number(low), number(high))))
    left = len(scale.names) - COLUMNS
    more = f'<p class="soft">and {left:,} more columns</p>\n' if left > 0 else ""
    missing = '<p class="soft">Counts by their square root. No value is missing: such data is refused.</p>\n'
    return f'<div class="grid values">{"".join(drawn)}</div>\n{more}{missing}'
