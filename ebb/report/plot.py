"""Drawings of a page as SVG: lines by step or noise level, bars, histograms, and a figure beside its floor."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape

from ebb.report.page import log_ticks, short, ticks

Points = list[tuple[float, float]]

LEFT, RIGHT, TOP, BOTTOM = 48, 388, 24, 174
"""The frame of a plot, within 400 × 208."""

MOST = 400
"""Points of a line that are drawn."""

BARS = 30


@dataclass(frozen=True)
class Line:
    """A line of a plot: its name in the key ("" for none), its points, and how it is drawn."""

    name: str
    points: Points
    colour: str = "var(--mark)"
    style: str = 'stroke-width="1.8"'


def plot(
    lines: Sequence[Line],
    title: str,
    unit: str = "",
    *,
    across: str = "step",
    log_scale: bool = False,
    marks: Sequence[float] = (),
) -> str:
    """An SVG figure of several lines over a common axis named `across`, with a key; "" for fewer than two places.

    `log_scale` makes the upright axis logarithmic where the values are above 0 and range over more than three; `marks`
    are places on the level axis that get an upright tick. Values that are not finite are left out.
    """
    lines = [Line(a.name, [p for p in a.points if math.isfinite(p[1])], a.colour, a.style) for a in lines]
    lines = [line for line in lines if line.points]
    xs, ys = [x for a in lines for x, _ in a.points], [y for a in lines for _, y in a.points]
    if len(set(xs)) < 2:
        return ""
    log_scale = log_scale and min(ys) > 0 and max(ys) > 3 * min(ys)
    height: Callable[[float], float] = math.log10 if log_scale else float
    bottom, top, first, last = height(min(ys)), height(max(ys)), min(xs), max(xs)
    if bottom == top:
        bottom, top = bottom - 0.5 * abs(bottom or 1), top + 0.5 * abs(top or 1)

    def place(x: float, y: float) -> str:
        across = LEFT + (RIGHT - LEFT) * (x - first) / (last - first)
        return f"{across:.1f},{TOP + (BOTTOM - TOP) * (top - height(y)) / (top - bottom):.1f}"

    drawn = []
    for tick in log_ticks(bottom, top) if log_scale else ticks(bottom, top):
        y = place(first, tick).split(",")[1]
        drawn.append(f'<path d="M{LEFT} {y}H{RIGHT}" stroke="var(--line)"/><text x="{LEFT - 6}" y="{y}" dy="4" ')
        drawn.append(f'text-anchor="end">{short(tick)}</text>')
    for tick in ticks(first, last):
        x = place(tick, ys[0]).split(",")[0]
        drawn.append(f'<text x="{x}" y="190" text-anchor="middle">{short(tick)}</text>')
    for mark in (m for m in marks if first <= m <= last):
        x = place(mark, ys[0]).split(",")[0]
        drawn.append(f'<path d="M{x} {TOP}V{BOTTOM}" stroke="var(--warn)" stroke-opacity=".55"/>')
    for a in lines:
        thin = a.points[:: max(1, len(a.points) // MOST)] + a.points[-1:]
        path = " ".join(place(*p) for p in thin)
        drawn.append(f'<polyline fill="none" stroke="{a.colour}" stroke-linejoin="round" {a.style} points="{path}"/>')
    label = escape(title + (f", {unit}" if unit else "") + (" (log scale)" if log_scale else ""))
    return (
        f'<figure><svg viewBox="0 0 400 208" role="img" aria-label="{label}"><text x="0" y="12" class="title">{label}'
        f'</text>{"".join(drawn)}<text x="{RIGHT}" y="205" text-anchor="end">{escape(across)}</text></svg>'
        f"{key([(a.name, a.colour) for a in lines if a.name])}</figure>"
    )


def key(names: Sequence[tuple[str, str]]) -> str:
    """Which colour is what, below a drawing; "" for no names."""
    entries = "".join(f'<span><i style="background:{colour}"></i>{escape(name)}</span>' for name, colour in names)
    return f'<figcaption class="key">{entries}</figcaption>' if entries else ""


def curve(points: Points, title: str, unit: str = "", *, log_scale: bool = False) -> str:
    """A plot of a value by step: the raw line faint, its running mean in front."""
    points = [p for p in points if math.isfinite(p[1])]
    lines = [Line("", points, style='stroke-opacity=".3"'), Line("", smooth(points, log_scale))]
    return plot(lines, title, unit, log_scale=log_scale)


def smooth(points: Points, log_scale: bool = False) -> Points:
    """The running mean over a twenty-fifth of the points around each; of logarithms if asked and all are above 0."""
    log_scale = log_scale and all(y > 0 for _, y in points)
    reach, sums = max(1, len(points) // 50), [0.0]
    for _, y in points:
        sums.append(sums[-1] + (math.log(y) if log_scale else y))
    windows = ((max(0, i - reach), min(len(points), i + reach + 1)) for i in range(len(points)))
    means = [(sums[b] - sums[a]) / (b - a) for a, b in windows]
    return [(x, math.exp(mean) if log_scale else mean) for (x, _), mean in zip(points, means, strict=True)]


def bars(values: Mapping[str, tuple[float, str]]) -> str:
    """One bar a name, value → (length, text); only the first thirty."""
    longest = max((length for length, _ in values.values()), default=0) or 1
    rows = "".join(
        f'<span>{escape(name)}</span><i style="width:{100 * max(length, 0) / longest:.1f}%"></i><b>{escape(text)}</b>'
        for name, (length, text) in list(values.items())[:BARS]
    )
    more = f'<p class="soft">and {len(values) - BARS} more</p>' if len(values) > BARS else ""
    return f'<div class="bars">{rows}</div>{more}' if rows else ""


def columns(points: Points, title: str, across: str) -> str:
    """An SVG of one upright bar for each place, rising from 0; "" for fewer than two places."""
    points = sorted(p for p in points if math.isfinite(p[1]))
    if len(points) < 2:
        return ""
    first, last = points[0][0], points[-1][0]
    highest = max(y for _, y in points) or 1
    step = (RIGHT - LEFT) / len(points)
    drawn = []
    for tick in ticks(0, highest) if highest > 0 else []:
        y = BOTTOM - (BOTTOM - TOP) * tick / highest
        drawn.append(f'<path d="M{LEFT} {y:.1f}H{RIGHT}" stroke="var(--line)"/>')
        drawn.append(f'<text x="{LEFT - 6}" y="{y:.1f}" dy="4" text-anchor="end">{short(tick)}</text>')
    for i, (_, y) in enumerate(points):
        tall = (BOTTOM - TOP) * max(y, 0) / highest
        drawn.append(f'<rect x="{LEFT + (i + 0.1) * step:.1f}" y="{BOTTOM - tall:.1f}" width="{0.8 * step:.1f}" ')
        drawn.append(f'height="{tall:.1f}" fill="var(--mark)"/>')
    for at, x in ((LEFT + step / 2, first), (RIGHT - step / 2, last)):
        drawn.append(f'<text x="{at:.1f}" y="190" text-anchor="middle">{short(x)}</text>')
    return (
        f'<figure><svg viewBox="0 0 400 208" role="img" aria-label="{escape(title)}"><text x="0" y="12" class="title">'
        f'{escape(title)}</text>{"".join(drawn)}<text x="{RIGHT}" y="205" text-anchor="end">{escape(across)}</text>'
        "</svg></figure>"
    )


def histogram(
    outlines: Sequence[tuple[str, str, Sequence[float]]],
    caption: str,
    ends: tuple[str, str],
    marks: Sequence[float] = (),
) -> str:
    """How often values fall into equal bins, by the root so that rare ones show; `outlines` are (name, colour, counts).

    `ends` say what is on the left and on the right; `marks` are places in [0, 1] that get an upright line.
    """
    highest = max((max(bins, default=0) for _, _, bins in outlines), default=0) or 1
    drawn = []
    for _, colour, bins in outlines:
        path = "".join(
            f"V{100 - 88 * math.sqrt(n / highest):.1f}H{400 * (i + 1) / len(bins):.1f}" for i, n in enumerate(bins)
        )
        drawn.append(f'<path d="M0 100{path}V100" fill="{colour}" fill-opacity=".15" stroke="{colour}"/>')
    drawn += [f'<path d="M{400 * mark:.1f} 4V100" stroke="var(--bad)" stroke-width="3"/>' for mark in marks]
    return (
        f'<figure><svg viewBox="0 0 400 118" role="img" aria-label="{escape(caption)}">{"".join(drawn)}'
        f'<text x="0" y="114">{escape(ends[0])}</text><text x="400" y="114" text-anchor="end">{escape(ends[1])}</text>'
        f"</svg>{key([(name, colour) for name, colour, _ in outlines if name])}"
        f"<figcaption>{escape(caption)}</figcaption></figure>"
    )


def beside(value: float, low: float, high: float, floor: float | None) -> str:
    """A figure as a dot in its interval, with an upright line where real images are, on a scale of its own."""
    known = [x for x in (value, low, high, floor) if x is not None]
    least, most = min(known), max(known)
    if not all(map(math.isfinite, known)) or least == most:
        return ""

    def at(x: float) -> str:
        return f"{4 + 132 * (x - least) / (most - least):.1f}"

    upright = "" if floor is None else f'<path d="M{at(floor)} 2V16" stroke="var(--two)" stroke-width="2"/>'
    return (
        '<svg class="beside" viewBox="0 0 140 18" aria-hidden="true"><path d="M4 9H136" stroke="var(--line)"/>'
        f'{upright}<path d="M{at(low)} 9H{at(high)}" stroke="var(--mark)" stroke-width="3" stroke-opacity=".45"/>'
        f'<circle cx="{at(value)}" cy="9" r="3.6" fill="var(--mark)"/></svg>'
    )
