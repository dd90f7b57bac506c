"""A run folder as one page: a pure function of its files, with no script and no request to anywhere."""

from __future__ import annotations

import base64
import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from ebb.errors import UsageError
from ebb.evaluate.page import fold, log_ticks, number, page, section, short, table, ticks

Facts = Mapping[str, Any]
Points = list[tuple[float, float]]

CURVES = {  # key in log.jsonl → title, unit
    "loss": ("Loss", ""),
    "grad_norm": ("Gradient norm", ""),
    "lr": ("Learning rate", ""),
    "images_per_second": ("Speed", "images/s"),
    "memory_mb": ("Memory", "MB"),
}
IMAGE_BYTES = 2_000_000  # of embedded images; base64 makes it 2.7 MB, and the page stays below 3
STRIP = 6
BARS = 30


def write_report(run: Path) -> Path:
    """Write `report.html` into the run folder from what lies in it, and return its path.

    Read are run.yaml, env.json, data.json, choices.json, log.jsonl, samples/*.png and evaluation.json; what is absent
    is not shown, and what cannot be read is named on the page. Raises UsageError if `run` is not a folder.
    """
    if not run.is_dir():
        raise UsageError(f"expected the folder of a run, got {run}", "give the folder that holds run.yaml")
    config = _text(run / "run.yaml")
    damaged: list[str] = []
    data, choices, env, evaluation = (
        _json(run / name, damaged) for name in ("data.json", "choices.json", "env.json", "evaluation.json")
    )
    log = _log(run / "log.jsonl")
    parts = [
        _head(run, config, data, log, damaged),
        section("Samples", _images(run / "samples")),
        section("Figures", _figures(evaluation)),
        section("Training", _curves(log)),
        section("Data", _data(data)),
        section("How to repeat it", _repeat(config, choices, env)),
    ]
    document = page(run.resolve().name, "".join(parts))
    target, partial = run / "report.html", run / "report.html.tmp"
    partial.write_text(document, encoding="utf-8")
    partial.replace(target)
    return target


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""


def _json(path: Path, damaged: list[str]) -> Facts:
    """The object in a file; {} if the file is absent or, then named in `damaged`, not a JSON object."""
    if not path.is_file():
        return {}
    try:
        found = json.loads(_text(path))
    except ValueError:
        found = None
    if isinstance(found, dict):
        return found
    damaged.append(path.name)
    return {}


def _log(path: Path) -> list[Facts]:
    """The lines of the log by step; a cut-off line is skipped, and a step run again after a resume replaces the old."""
    found: dict[int, Facts] = {}
    for line in _text(path).splitlines():
        try:
            entry = json.loads(line)
            found[int(entry["step"])] = entry
        except (ValueError, TypeError, KeyError):
            continue
    return [found[step] for step in sorted(found)]


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    return f"{seconds:.0f} s" if seconds < 90 else f"{minutes} min" if minutes < 90 else f"{seconds / 3600:.1f} h"


def _head(run: Path, config: str, data: Facts, log: list[Facts], damaged: list[str]) -> str:
    facts = [str(data["name"])] if "name" in data else []
    if log:
        last = log[-1]
        facts.append(f"{number(last['step'])} steps")
        facts += [f"{number(last['images'])} images seen"] if "images" in last else []
        facts += [_duration(float(last["seconds"]))] if "seconds" in last else []
    command = re.search(r"^command:[ ]*(.+(?:\n[ ]+.+)*)", config, re.MULTILINE)
    line = " ".join(command[1].split()).strip("'\"") if command else ""
    return (
        f"<header><h1>{escape(run.resolve().name)}</h1>"
        + (f'<p class="soft">{escape(" · ".join(facts))}</p>' if facts else "")
        + (f"<pre>{escape(line)}</pre>" if line else "")
        + "".join(f'<p class="warn">{escape(name)} could not be read; its part is left out.</p>' for name in damaged)
        + "</header>\n"
    )


def _picture(path: Path, caption: str) -> str:
    code = base64.b64encode(path.read_bytes()).decode("ascii")
    text = escape(caption)
    return f'<figure><img alt="{text}" src="data:image/png;base64,{code}"><figcaption>{text}</figcaption></figure>'


def _images(folder: Path) -> str:
    """The last grid large with the real images beside it, and evenly spaced earlier ones, as far as the size allows."""
    grids = {int(m[1]): path for path in folder.glob("step-*.png") if (m := re.fullmatch(r"step-(\d+)", path.stem))}
    steps, room = sorted(grids), IMAGE_BYTES
    earlier = [steps[round(i * (len(steps) - 1) / STRIP)] for i in range(STRIP)] if len(steps) > STRIP else steps[:-1]
    wanted = [(grids[s], f"samples at step {s:,}") for s in steps[-1:]] + [(folder / "data-grid.png", "real images")]
    large: list[str] = []
    small: list[str] = []
    omitted = 0
    for path, caption in wanted + [(grids[s], f"step {s:,}") for s in earlier]:
        size = path.stat().st_size if path.is_file() else 0
        if size > room:
            omitted += 1
        elif size:
            room -= size
            (small if caption.startswith("step") else large).append(_picture(path, caption))
    return (
        (f'<div class="pair">{"".join(large)}</div>\n' if large else "")
        + (f'<div class="strip">{"".join(small)}</div>\n' if small else "")
        + (f'<p class="soft">Too large for this page: {omitted} more in samples/.</p>' if omitted else "")
    )


def _figures(evaluation: Facts) -> str:
    """The distances with their floors, label accuracy, warnings, and how to read them."""
    if not evaluation:
        return ""
    rows = [
        (name, number(d["value"]), f"{number(d['low'])} … {number(d['high'])}", number(d["floor"]))
        for name, d in evaluation.get("distances", {}).items()
    ]
    accuracy, ceiling = evaluation.get("label_accuracy"), evaluation.get("classifier_accuracy")
    if accuracy is not None:
        rows.append(("label accuracy", f"{accuracy:.1%}", "", "" if ceiling is None else f"{ceiling:.1%}"))
    counts = (
        f"{number(evaluation.get('n_samples'))} samples against {number(evaluation.get('n_reference'))} real images"
    )
    classes = {name: (share, f"{share:.0%}") for name, share in evaluation.get("per_class", {}).items()}
    settings = [(key, number(value)) for key, value in evaluation.get("settings", {}).items()]
    return (
        table(("", "samples", "95 % interval", "real images"), rows)
        + "<p>Smaller distances are better. The last column is the same figure for real images the model is compared "
        "with: a model that cannot be told from the data would reach it.</p>\n"
        + f'<p class="soft">{escape(counts)}; features: {escape(str(evaluation.get("features")))}.</p>\n'
        + "".join(f'<p class="warn">{escape(str(text))}</p>\n' for text in evaluation.get("warnings", []))
        + fold("Label accuracy by class", _bars(classes))
        + fold("Settings of the samples", table(("setting", "value"), settings))
    )


def _curves(log: list[Facts]) -> str:
    drawn = []
    for key, (title, unit) in CURVES.items():
        points = [(float(e["step"]), float(e[key])) for e in log if isinstance(e.get(key), int | float)]
        points = [p for p in points if math.isfinite(p[1])]
        if len(points) > 1:
            drawn.append(f"<figure>{curve(points, title, unit, log_scale=key == 'loss')}</figure>")
    return f'<div class="grid">{"".join(drawn)}</div>\n' if drawn else ""


def curve(points: Points, title: str, unit: str, *, log_scale: bool = False) -> str:
    """An SVG of a value by step: the raw line faint, its running mean in front; log axis if asked and over a decade."""
    xs, ys = [x for x, _ in points], [y for _, y in points]
    log_scale = log_scale and min(ys) > 0 and max(ys) > 10 * min(ys)
    height: Callable[[float], float] = math.log10 if log_scale else float
    bottom, top = height(min(ys)), height(max(ys))
    if bottom == top:
        bottom, top = bottom - 0.5 * abs(bottom or 1), top + 0.5 * abs(top or 1)
    first, last = xs[0], xs[-1]

    def place(x: float, y: float) -> str:
        return f"{48 + 340 * (x - first) / (last - first):.1f},{24 + 150 * (top - y) / (top - bottom):.1f}"

    def line(values: Points, style: str) -> str:
        thin = values[:: max(1, len(values) // 500)] + values[-1:]
        return f'<polyline fill="none" stroke="var(--mark)" {style} points="{" ".join(place(*p) for p in thin)}"/>'

    raw = [(x, height(y)) for x, y in points]
    marks = []
    for tick in log_ticks(bottom, top) if log_scale else ticks(bottom, top):
        y = place(first, height(tick)).split(",")[1]
        marks.append(f'<path d="M48 {y}H388" stroke="var(--line)"/><text x="42" y="{y}" dy="4" ')
        marks.append(f'text-anchor="end">{short(tick)}</text>')
    for tick in ticks(first, last):
        x = place(tick, bottom).split(",")[0]
        marks.append(f'<text x="{x}" y="190" text-anchor="middle">{short(tick)}</text>')
    label = escape(title + (f", {unit}" if unit else "") + (" (log scale)" if log_scale else ""))
    lines = line(raw, 'stroke-opacity=".3"') + line(_smooth(raw), 'stroke-width="1.8"')
    return (
        f'<svg viewBox="0 0 400 208" role="img" aria-label="{label}"><text x="0" y="12" style="fill:var(--ink)">{label}'
        f'</text>{"".join(marks)}<text x="388" y="205" text-anchor="end">step</text>{lines}</svg>'
    )


def _smooth(points: Points) -> Points:
    """The running mean over a twenty-fifth of the points around each, in the units they are drawn in."""
    reach, sums = max(1, len(points) // 50), [0.0]
    for _, y in points:
        sums.append(sums[-1] + y)
    windows = ((max(0, i - reach), min(len(points), i + reach + 1)) for i in range(len(points)))
    return [(x, (sums[b] - sums[a]) / (b - a)) for (x, _), (a, b) in zip(points, windows, strict=True)]


def _bars(values: Mapping[str, tuple[float, str]]) -> str:
    """One bar a name, value → (length, text); only the first thirty."""
    longest = max((length for length, _ in values.values()), default=0) or 1
    rows = "".join(
        f'<span>{escape(name)}</span><i style="width:{100 * length / longest:.1f}%"></i><b>{escape(text)}</b>'
        for name, (length, text) in list(values.items())[:BARS]
    )
    more = f'<p class="soft">and {len(values) - BARS} more</p>' if len(values) > BARS else ""
    return f'<div class="bars">{rows}</div>{more}' if rows else ""


def _histogram(channels: Sequence[Sequence[float]]) -> str:
    """How often each brightness occurs, by its root so that rare ones show; an outline a channel."""
    colours = ("#c8553d", "#4f9d69", "#4a7fc1") if len(channels) == 3 else ("var(--mark)",)
    highest = max((max(bins, default=0) for bins in channels), default=0) or 1
    outlines = []
    for bins, colour in zip(channels, colours * len(channels), strict=False):
        path = "".join(
            f"V{100 - 88 * math.sqrt(n / highest):.1f}H{400 * (i + 1) / len(bins):.1f}" for i, n in enumerate(bins)
        )
        outlines.append(f'<path d="M0 100{path}V100" fill="{colour}" fill-opacity=".15" stroke="{colour}"/>')
    return (
        '<figure><svg viewBox="0 0 400 118" role="img" aria-label="Brightness">'
        + "".join(outlines)
        + '<text x="0" y="114">'
        'dark</text><text x="400" y="114" text-anchor="end">bright</text></svg>'
        "<figcaption>How often each brightness occurs (square-root scale)</figcaption></figure>"
    )


def _data(data: Facts) -> str:
    if not data:
        return ""
    shape = "×".join(str(n) for n in data.get("shape", ()))
    facts = f"{data.get('kind', 'data')}: {number(data.get('count', '?'))} images" + (f" of {shape}" if shape else "")
    counts = {name: (float(n), number(n)) for name, n in (data.get("classes") or {}).items()}
    findings = [
        (f["kind"], number(f["count"]), f["action"], ", ".join(map(str, f.get("examples", ()))))
        for f in data.get("findings", ())
    ]
    drawn = [f"<div>{_bars(counts)}</div>"] if counts else []
    drawn += [_histogram(data["histogram"])] if data.get("histogram") else []
    fingerprint = data.get("fingerprint")
    return (
        f"<p>{escape(facts)}"
        + (f" <small>fingerprint <code>{escape(str(fingerprint)[:16])}</code></small>" if fingerprint else "")
        + "</p>\n"
        + (f'<div class="grid">{"".join(drawn)}</div>\n' if drawn else "")
        + table(("found", "count", "what was done", "examples"), findings)
        + fold("Chosen while reading", table(("what", "because"), list((data.get("chosen") or {}).items())))
    )


def _repeat(config: str, choices: Facts, env: Facts) -> str:
    chosen = [(name, number(c["value"]), c["reason"]) for name, c in choices.items()]
    machine = [(name, str(value)) for name, value in env.items()]
    return (
        fold("Options chosen for this run", table(("option", "value", "because"), chosen))
        + fold("The whole recipe, run.yaml", f"<pre>{escape(config)}</pre>" if config else "")
        + fold("Machine and versions", table(("what", "value"), machine))
    )
