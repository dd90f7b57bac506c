"""A sweep as one page and one picture."""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

from ebb.data.images import save_png
from ebb.report.figures_section import seen_by
from ebb.report.page import log_ticks, page, section, short, table
from ebb.store.write import replace_text

Facts = Mapping[str, Any]

WORDS = 330
"""Width in pixels of the words left of a row of samples."""

HUES = (205, 25, 145, 285, 55, 340, 100, 250)


def write_page(run: Path, facts: Facts, strips: Sequence[Image.Image]) -> None:
    """sweep.html and sweep.png in the folder `run`, of what sweep.json holds and the first samples of each cell."""
    cells, about = facts["cells"], facts["about"]
    sheet = picture(cells, strips)
    save_png(sheet, run / "sweep.png", dict(about))
    data = base64.b64encode((run / "sweep.png").read_bytes()).decode()
    best, chosen = cells[facts["best"]], cells[facts["chosen"]]
    low, high = facts["interval"]
    role = "The default from now on" if about.get("kept", True) else "Measured only, and not kept"
    lead = (
        f"<header><h1>Sweep of {escape(about['run'])}</h1>"
        f'<p class="soft">{len(cells)} settings · {about["count"]:,} samples each · {escape(about["checkpoint"])} ·'
        f" {about['minutes']} min on {about['threads']} threads · {escape(seen_by(about))}</p></header>"
        f"<p>Smallest Fréchet distance {best['distance']:.4f} [{low:.4f}, {high:.4f}] with {escape(name(best))}; real"
        f" {about.get('things', 'images')} score {facts['floor']:.4f}. {role}, the fewest evaluations within"
        f" 5 % of it: <b>{escape(name(chosen))}</b> at {chosen['distance']:.4f}.</p>"
        + "".join(f'<p class="warn">{escape(text)}</p>' for text in about["warnings"])
    )
    head = ("solver", "times", "steps", "guidance", "evaluations", "ms each", "distance", "label accuracy")
    rows = [
        (
            c["solver"],
            times(c),
            c["steps"],
            f"{c['guidance']:g}",
            f"{c['evaluations']:.0f}",
            f"{1000 * c['seconds']:.1f}",
            f"{c['distance']:.4f}",
            "" if c["accuracy"] is None else f"{c['accuracy']:.1%}",
        )
        for c in cells
    ]
    body = (
        lead
        + section("Distance by cost", chart(cells))
        + section("Every setting", table(head, rows))
        + section("The same seeds", f'<img alt="a row of samples for each setting" src="data:image/png;base64,{data}">')
    )
    replace_text(run / "sweep.html", page(f"Sweep of {about['run']}", body))


def times(cell: Facts) -> str:
    """The grid in a word."""
    return "searched" if cell["grid"].startswith("given") else str(cell["grid"])


def name(cell: Facts) -> str:
    """A setting in a line."""
    return f"{cell['solver']}, {times(cell)} times, {cell['steps']} steps, guidance {cell['guidance']:g}"


def picture(cells: Sequence[Facts], strips: Sequence[Image.Image]) -> Image.Image:
    """One row for each cell: its settings in words, then its samples, the same seeds in every row."""
    wide, tall = WORDS + max(s.width for s in strips), max(s.height for s in strips)
    sheet = Image.new(strips[0].mode, (wide, tall * len(strips)), "white")
    pen = ImageDraw.Draw(sheet)
    for row, (cell, strip) in enumerate(zip(cells, strips, strict=True)):
        sheet.paste(strip, (WORDS, row * tall))
        cost = f"{cell['evaluations']:.0f} evaluations, distance {cell['distance']:.4f}"
        pen.text((8, row * tall + tall // 2 - 14), name(cell), fill="black")
        pen.text((8, row * tall + tall // 2 + 2), cost, fill="gray")
    return sheet


def chart(cells: Sequence[Facts]) -> str:
    """An SVG of distance against evaluations, both logarithmic: a line for each solver, times and guidance."""
    lines: dict[tuple[str, str, float], list[tuple[float, float]]] = {}
    for c in cells:
        point = (math.log10(c["evaluations"]), math.log10(max(c["distance"], 1e-6)))
        lines.setdefault((c["solver"], times(c), c["guidance"]), []).append(point)
    xs, ys = zip(*(point for line in lines.values() for point in line), strict=True)
    left, right, bottom, top = min(xs) - 0.03, max(xs) + 0.03, min(ys) - 0.05, max(ys) + 0.05

    def place(x: float, y: float) -> tuple[float, float]:
        return 56 + 430 * (x - left) / (right - left), 20 + 260 * (top - y) / (top - bottom)

    marks = []
    for tick in log_ticks(bottom, top):
        y = place(left, math.log10(tick))[1]
        marks.append(f'<path d="M56 {y:.1f}H486" stroke="var(--line)"/>')
        marks.append(f'<text x="50" y="{y:.1f}" dy="4" text-anchor="end">{short(tick)}</text>')
    for count in sorted({c["evaluations"] for c in cells}):
        x = place(math.log10(count), bottom)[0]
        marks.append(f'<text x="{x:.1f}" y="296" text-anchor="middle">{count:.0f}</text>')
    hues = {solver: HUES[i % len(HUES)] for i, solver in enumerate(sorted({key[0] for key in lines}))}
    for i, ((solver, grid_name, scale), points) in enumerate(lines.items()):
        colour = f"hsl({hues[solver]} 55% {40 if scale == 1 else 60}%)"
        dash = ' stroke-dasharray="5 3"' if grid_name == "searched" else ""
        drawn = [place(*p) for p in sorted(points)]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in drawn)
        marks.append(f'<polyline fill="none" stroke="{colour}" stroke-width="1.6"{dash} points="{path}"/>')
        marks += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.6" fill="{colour}"/>' for x, y in drawn]
        y = 28 + 14 * i
        marks.append(f'<path d="M500 {y - 4}h18" stroke="{colour}" stroke-width="2"{dash}/>')
        marks.append(f'<text x="523" y="{y}">{escape(solver)} {grid_name}, g {scale:g}</text>')
    tall = max(320, 40 + 14 * len(lines))
    return (
        f'<svg viewBox="0 0 720 {tall}" role="img" aria-label="distance by evaluations">{"".join(marks)}'
        '<text x="486" y="314" text-anchor="end">network evaluations for each sample</text>'
        '<text x="0" y="10" style="fill:var(--ink)">Fréchet distance (both axes logarithmic)</text></svg>'
    )
