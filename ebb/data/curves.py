"""Series as curves and rows of numbers as points, drawn side by side."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

WIDE, TALL, GAP, LINE = 150, 90, 8, 12
"""Pixels of a panel, between panels, and of a line of words."""

FINE = 2
"""Drawn so many times as large and made smaller, which smooths the lines."""

INKS = ("#4a7fc1", "#c8553d", "#4f9d69", "#8a5fb0", "#b58a2d", "#3f9aa6")


def curves(series: NDArray[np.float64], columns: int | None = None, captions: Sequence[str] = ()) -> Image.Image:
    """Series [n, channels, time], each in a panel of its own and each channel in a colour, on one scale for all.

    Each channel is scaled by its own extremes over all panels.
    """
    low, high = series.min((0, 2), keepdims=True), series.max((0, 2), keepdims=True)
    heights = (series - low) / np.where(high > low, high - low, 1)
    heights[:, (high == low)[0, :, 0]] = 0.5
    across = np.linspace(0, 1, max(2, series.shape[2]))[: series.shape[2]]
    sheet, places, pen = panels(len(series), columns, captions)
    for (left, top), one in zip(places, heights, strict=True):
        for channel, line in enumerate(one):
            ink = INKS[channel % len(INKS)]
            points = [
                (left + FINE * (WIDE - 1) * x, top + FINE * (TALL - 1) * (1 - y))
                for x, y in zip(across, line, strict=True)
            ]
            if len(points) == 1:
                dot(pen, points[0], ink)
            else:
                pen.line(points, fill=ink, width=FINE, joint="curve")
    return sheet.resize((sheet.width // FINE, sheet.height // FINE), Image.Resampling.LANCZOS)


MOST_PANELS = 9


def scatters(rows: NDArray[np.float64], names: Sequence[str]) -> Image.Image:
    """Rows [n, k] as points: each of the first columns against the next, in a panel named by both; of one column its
    values in order."""
    pairs = [(at, at + 1) for at in range(min(len(names) - 1, MOST_PANELS))]
    titles = [f"{names[a]} / {names[b]}"[: WIDE // 6] for a, b in pairs] or [names[0][: WIDE // 6]]
    sheet, places, pen = panels(len(titles), None, titles)
    ranked = np.stack([np.sort(rows[:, 0]), np.arange(len(rows))], 1)
    drawn = [rows[:, pair] for pair in pairs] or [ranked]
    for (left, top), points in zip(places, drawn, strict=True):
        low, high = points.min(0), points.max(0)
        shares = np.where(high > low, (points - low) / np.where(high > low, high - low, 1), 0.5)
        for x, y in shares:
            dot(pen, (left + FINE * (WIDE - 1) * x, top + FINE * (TALL - 1) * (1 - y)), INKS[0])
    return sheet.resize((sheet.width // FINE, sheet.height // FINE), Image.Resampling.LANCZOS)


def dot(pen: ImageDraw.ImageDraw, at: tuple[float, float], ink: str) -> None:
    """A small disc."""
    pen.ellipse((at[0] - FINE, at[1] - FINE, at[0] + FINE, at[1] + FINE), fill=ink)


def panels(
    count: int, columns: int | None, captions: Sequence[str]
) -> tuple[Image.Image, list[tuple[int, int]], ImageDraw.ImageDraw]:
    """An empty sheet, FINE times as large as it will be, the corners of its panels, and a pen."""
    columns = columns or math.ceil(math.sqrt(count))
    wide, tall = WIDE + GAP, TALL + GAP + (LINE if captions else 0)
    size = (FINE * (columns * wide + GAP), FINE * (math.ceil(count / columns) * tall + GAP))
    sheet = Image.new("RGB", size, "white")
    pen = ImageDraw.Draw(sheet)
    places = [(FINE * (GAP + at % columns * wide), FINE * (GAP + at // columns * tall)) for at in range(count)]
    for at, (left, top) in enumerate(places):
        pen.rectangle((left, top, left + FINE * WIDE, top + FINE * TALL), outline="#dddddd")
        if captions:
            pen.text((left, top + FINE * (TALL + 1)), captions[at][: WIDE // 6], fill="black", font_size=FINE * 10)
    return sheet, places, pen
