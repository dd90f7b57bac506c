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

STYLE = """
:root{color-scheme:light dark;--ink:#1d1f23;--soft:#666b74;--line:#e2e3e6;--page:#fcfcfb;--card:#f4f4f2;--mark:#2f6690;
--warn:#a15c07}
@media(prefers-color-scheme:dark){:root{--ink:#e4e5e7;--soft:#9a9fa8;--line:#33363b;--page:#16181b;--card:#1f2226;
--mark:#7fb2d9;--warn:#e0a458}}
*{box-sizing:border-box}body{margin:0 auto;max-width:60rem;padding:2.5rem 1.25rem 4rem;background:var(--page);
color:var(--ink);font:16px/1.55 system-ui,sans-serif}
h1{font-size:1.6rem;font-weight:600;margin:0;overflow-wrap:anywhere}
h2{font-size:1.05rem;font-weight:600;margin:2.75rem 0 .75rem;padding-top:1rem;border-top:1px solid var(--line)}
p{margin:.4rem 0}.soft,figcaption,small{color:var(--soft)}figcaption,small{font-size:.85rem}.warn{color:var(--warn)}
pre,code{font:.85rem/1.5 ui-monospace,monospace}pre{background:var(--card);padding:.75rem 1rem;border-radius:6px;
overflow-x:auto;white-space:pre-wrap;overflow-wrap:anywhere}
.wide{overflow-x:auto}table{border-collapse:collapse;font-variant-numeric:tabular-nums;width:100%}
th,td{text-align:left;padding:.35rem 1.25rem .35rem 0;border-bottom:1px solid var(--line);vertical-align:top}
th{font-weight:500;color:var(--soft);font-size:.85rem}
figure{margin:0}.pair,.grid{display:grid;gap:1.5rem;grid-template-columns:repeat(auto-fit,minmax(min(100%,19rem),1fr))}
.strip{display:grid;gap:.75rem;grid-template-columns:repeat(6,1fr);margin-top:1rem}
img{width:100%;display:block;border-radius:4px;image-rendering:pixelated}svg{width:100%;height:auto;display:block}
svg text{font-size:11px;fill:var(--soft)}.bars{display:grid;grid-template-columns:minmax(3rem,max-content) 1fr auto;
gap:.2rem .75rem;align-items:center;font-size:.9rem}.bars span{overflow-wrap:anywhere}
.bars i{height:.6rem;background:var(--mark);border-radius:2px;min-width:1px}
.bars b{font-weight:400;color:var(--soft);font-variant-numeric:tabular-nums;text-align:right}
details{margin:.5rem 0}summary{cursor:pointer;color:var(--soft)}
"""


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
        _section("Samples", _images(run / "samples")),
        _section("Figures", _figures(evaluation)),
        _section("Training", _curves(log)),
        _section("Data", _data(data)),
        _section("How to repeat it", _repeat(config, choices, env)),
    ]
    title = escape(run.resolve().name)
    page = (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{title}</title><style>{STYLE}</style></head><body>\n{''.join(parts)}</body></html>\n"
    )
    target, partial = run / "report.html", run / "report.html.tmp"
    partial.write_text(page, encoding="utf-8")
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


def _section(title: str, body: str) -> str:
    return f"<section><h2>{title}</h2>\n{body}</section>\n" if body else ""


def _table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A table with every cell escaped; an empty string without rows."""
    if not rows:
        return ""
    top = "".join(f"<th>{escape(cell)}</th>" for cell in head)
    body = "".join("<tr>" + "".join(f"<td>{escape(str(cell))}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<div class="wide"><table><tr>{top}</tr>{body}</table></div>\n'


def _fold(title: str, body: str) -> str:
    return f"<details><summary>{escape(title)}</summary>{body}</details>\n" if body else ""


def _number(value: object) -> str:
    """A number for reading, 12,500 or 0.0312; anything else as text."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:.3g}"


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    return f"{seconds:.0f} s" if seconds < 90 else f"{minutes} min" if minutes < 90 else f"{seconds / 3600:.1f} h"


def _head(run: Path, config: str, data: Facts, log: list[Facts], damaged: list[str]) -> str:
    facts = [str(data["name"])] if "name" in data else []
    if log:
        last = log[-1]
        facts.append(f"{_number(last['step'])} steps")
        facts += [f"{_number(last['images'])} images seen"] if "images" in last else []
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
        (name, _number(d["value"]), f"{_number(d['low'])} … {_number(d['high'])}", _number(d["floor"]))
        for name, d in evaluation.get("distances", {}).items()
    ]
    accuracy, ceiling = evaluation.get("label_accuracy"), evaluation.get("classifier_accuracy")
    if accuracy is not None:
        rows.append(("label accuracy", f"{accuracy:.1%}", "", "" if ceiling is None else f"{ceiling:.1%}"))
    counts = (
        f"{_number(evaluation.get('n_samples'))} samples against {_number(evaluation.get('n_reference'))} real images"
    )
    classes = {name: (share, f"{share:.0%}") for name, share in evaluation.get("per_class", {}).items()}
    settings = [(key, _number(value)) for key, value in evaluation.get("settings", {}).items()]
    return (
        _table(("", "samples", "95 % interval", "real images"), rows)
        + "<p>Smaller distances are better. The last column is the same figure for real images the model is compared "
        "with: a model that cannot be told from the data would reach it.</p>\n"
        + f'<p class="soft">{escape(counts)}; features: {escape(str(evaluation.get("features")))}.</p>\n'
        + "".join(f'<p class="warn">{escape(str(text))}</p>\n' for text in evaluation.get("warnings", []))
        + _fold("Label accuracy by class", _bars(classes))
        + _fold("Settings of the samples", _table(("setting", "value"), settings))
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
    for tick in _log_ticks(bottom, top) if log_scale else _ticks(bottom, top):
        y = place(first, height(tick)).split(",")[1]
        marks.append(f'<path d="M48 {y}H388" stroke="var(--line)"/><text x="42" y="{y}" dy="4" ')
        marks.append(f'text-anchor="end">{_short(tick)}</text>')
    for tick in _ticks(first, last):
        x = place(tick, bottom).split(",")[0]
        marks.append(f'<text x="{x}" y="190" text-anchor="middle">{_short(tick)}</text>')
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


def _ticks(low: float, high: float) -> list[float]:
    """Round numbers within the range, about five of them, 1, 2 or 5 times a power of ten apart."""
    rough = (high - low) / 6
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(m for m in (1, 2, 5, 10) if m * power >= rough * 0.999) * power
    return [i * step for i in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]


def _log_ticks(low: float, high: float) -> list[float]:
    """Powers of ten within the exponents, and 2 and 5 times them below three decades."""
    factors = (1, 2, 5) if high - low < 3 else (1,)
    every = [m * 10.0**k for k in range(math.floor(low), math.ceil(high) + 1) for m in factors]
    return [tick for tick in every if low <= math.log10(tick) <= high]


def _short(value: float) -> str:
    """A tick: 20k, 1.5M, 0.02, 1e-05."""
    for size, letter in ((1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.4g}{letter}"
    return f"{value:.3g}"


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
    facts = f"{data.get('kind', 'data')}: {_number(data.get('count', '?'))} images" + (f" of {shape}" if shape else "")
    counts = {name: (float(n), _number(n)) for name, n in (data.get("classes") or {}).items()}
    findings = [
        (f["kind"], _number(f["count"]), f["action"], ", ".join(map(str, f.get("examples", ()))))
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
        + _table(("found", "count", "what was done", "examples"), findings)
        + _fold("Chosen while reading", _table(("what", "because"), list((data.get("chosen") or {}).items())))
    )


def _repeat(config: str, choices: Facts, env: Facts) -> str:
    chosen = [(name, _number(c["value"]), c["reason"]) for name, c in choices.items()]
    machine = [(name, str(value)) for name, value in env.items()]
    return (
        _fold("Options chosen for this run", _table(("option", "value", "because"), chosen))
        + _fold("The whole recipe, run.yaml", f"<pre>{escape(config)}</pre>" if config else "")
        + _fold("Machine and versions", _table(("what", "value"), machine))
    )
