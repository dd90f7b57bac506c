"""A run folder as one page: a pure function of its files, with no script and no request to anywhere."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from ebb.data.modality import in_terms
from ebb.errors import UsageError
from ebb.report.captions_section import captions
from ebb.report.effect_section import FILE, effect
from ebb.report.figures_section import cost, figures, glance, likelihood
from ebb.report.findings_section import findings, noticed
from ebb.report.guidance_section import guidance
from ebb.report.page import fold, number, page, section, table
from ebb.report.plot import bars, histogram
from ebb.report.reconstruction_section import reconstruction
from ebb.report.references_section import references
from ebb.report.samples_section import Album, memorisation, samples
from ebb.report.steps_section import steps
from ebb.report.training_section import noise_levels, training
from ebb.report.way_section import way
from ebb.shapes import sides
from ebb.store.write import replace_text

Facts = Mapping[str, Any]


def write_report(run: str | Path) -> Path:
    """Write `report.html` into the run folder from what lies in it, and return its path; the errors are those of
    `drawn`."""
    target = Path(run) / "report.html"
    replace_text(target, drawn(run))
    return target


def drawn(run: str | Path) -> str:
    """The page about a run, of what lies in its folder.

    Read are run.yaml, env.json, data.json, choices.json, log.jsonl, guard.json, samples/*.png, evaluation.json,
    against-*.json, references.json, doctor.json, guidance.json and evaluation/closest.png; what is absent is not shown,
    and what cannot be read is named on the page. Raises UsageError if `run` is not a folder.
    """
    run = Path(run)
    if not run.is_dir():
        raise UsageError(f"expected the folder of a run, got {run}", "give the folder that holds run.yaml")
    return page(run.resolve().name, body(run))


def body(run: Path) -> str:
    """The page's head and its parts, each a title and what draws it."""
    damaged: list[str] = []
    config = _text(run / "run.yaml")
    names = ("data", "choices", "env", "evaluation", "doctor", "references", "guidance")
    data, choices, env, evaluation, doctor, beside, tried = (_object(run / f"{name}.json", damaged) for name in names)
    guard = _read(run / "guard.json", list, damaged) or []
    against = [found for path in sorted(run.glob("against-*.json")) if (found := _object(path, damaged))]
    log, album = _log(run / "log.jsonl"), Album()
    find = evaluation.get
    parts: list[tuple[str, Callable[[], str]]] = [
        ("What the doctor found", lambda: findings(doctor)),
        ("Samples", lambda: samples(run / "samples", album)),
        ("Figures", lambda: figures(evaluation, against)),
        ("Effect", lambda: effect(_object(run / FILE, damaged), log, run, album)),
        ("Steps", lambda: steps(find("steps", {}))),
        ("Guidance", lambda: guidance(tried)),
        ("Captions", lambda: captions(evaluation, run, album)),
        ("Reconstruction", lambda: reconstruction(find("reconstruction", {}), run, album)),
        ("Noise levels", lambda: noise_levels(find("levels", {}))),
        ("Training", lambda: training(log, guard)),
        ("Memorisation", lambda: memorisation(find("memorisation", {}), run, album)),
        ("Likelihood", lambda: likelihood(find("likelihood", {}), find("bound", {}))),
        ("Ways of sampling", lambda: references(beside)),
        ("The way of a sample", lambda: way(doctor.get("way") or {}, run, album)),
        ("Cost of a sample", lambda: cost(find("cost", {}))),
        ("Data", lambda: _data(data)),
        ("How to repeat it", lambda: _repeat(config, choices, env)),
    ]
    top = _head(run, config, data, log, damaged, _drawn("The head", lambda: glance(evaluation, run)))
    whole = top + "".join(section(title, _drawn(title, draw)) for title, draw in parts)
    return re.sub(r">[^<>]+<", lambda words: in_terms(words[0], things_of(data)), whole)


def things_of(data: Facts) -> str:
    """What the examples of a run are called; by their axes where its data.json is of before that was written."""
    axes = {1: "rows", 2: "series"}
    return str(data.get("things") or axes.get(len(data.get("shape", ())), "images"))


def _drawn(title: str, draw: Callable[[], str]) -> str:
    """A part of the page, or a line that its file does not hold what it should: the other parts are still shown."""
    try:
        return draw()
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        reason = escape(f"{title} could not be drawn: {type(error).__name__}: {error}")
        return f'<p class="warn">{reason}</p>\n'


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""


def _read(path: Path, kind: type, damaged: list[str]) -> Any:
    """What a JSON file holds; None if the file is absent or, then named in `damaged`, not JSON of this kind."""
    if not path.is_file():
        return None
    try:
        found = json.loads(_text(path))
    except ValueError:
        found = None
    if isinstance(found, kind):
        return found
    damaged.append(path.name)
    return None


def _object(path: Path, damaged: list[str]) -> Facts:
    """The object in a file; {} if there is none."""
    return _read(path, dict, damaged) or {}


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


def _head(run: Path, config: str, data: Facts, log: list[Facts], damaged: list[str], glanced: str) -> str:
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
        + glanced
        + (f"<pre>{escape(line)}</pre>" if line else "")
        + "".join(f'<p class="warn">{escape(name)} could not be read; its part is left out.</p>' for name in damaged)
        + "</header>\n"
    )


def _brightness(channels: Sequence[Sequence[float]]) -> str:
    """The histogram of the data, an outline a channel."""
    colours = ("#c8553d", "#4f9d69", "#4a7fc1") if len(channels) == 3 else ("var(--mark)",) * len(channels)
    outlines = [("", colour, bins) for colour, bins in zip(colours, channels, strict=True)]
    return histogram(outlines, "How often each brightness occurs (square-root scale)", ("dark", "bright"))


def _data(data: Facts) -> str:
    if not data:
        return ""
    shape = sides(data.get("shape", ())[1:])
    facts = f"{data.get('kind', 'data')}: {number(data.get('count', '?'))} images" + (f" of {shape}" if shape else "")
    counts = {name: (float(n), number(n)) for name, n in (data.get("classes") or {}).items()}
    drawn = [f"<div>{bars(counts)}</div>"] if counts else []
    drawn += [_brightness(data["histogram"])] if data.get("histogram") else []
    fingerprint = data.get("fingerprint")
    return (
        f"<p>{escape(facts)}"
        + (f" <small>fingerprint <code>{escape(str(fingerprint)[:16])}</code></small>" if fingerprint else "")
        + "</p>\n"
        + (f'<div class="grid">{"".join(drawn)}</div>\n' if drawn else "")
        + noticed(data)
    )


def _repeat(config: str, choices: Facts, env: Facts) -> str:
    chosen = [(name, number(c["value"]), c["reason"]) for name, c in choices.items()]
    machine = [(name, str(value)) for name, value in env.items()]
    return (
        fold("Options chosen for this run", table(("option", "value", "because"), chosen))
        + fold("The whole recipe, run.yaml", f"<pre>{escape(config)}</pre>" if config else "")
        + fold("Machine and versions", table(("what", "value"), machine))
    )
