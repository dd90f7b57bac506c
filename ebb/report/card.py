"""The figures of a run in its model card."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ebb.judge.distances import wilson
from ebb.report.figures_section import seen_by
from ebb.report.page import number
from ebb.report.verdict import verdict
from ebb.store.write import replace_text

HEAD = "\n## Figures\n\n"
"""Where the figures begin; they are the end of a card."""


def write_figures(run: Path, facts: Mapping[str, Any]) -> None:
    """Put what evaluation.json holds into the run's card.md in place of the figures before; a run without a card stays
    without. Raises ResourceError where it cannot be written."""
    card = run / "card.md"
    if card.is_file():
        text = card.read_text(encoding="utf8").partition(HEAD)[0]
        replace_text(card, text + HEAD + figures_of(facts))


def figures_of(facts: Mapping[str, Any]) -> str:
    """The verdict, a table of the figures with what real examples score, and how they came about, as Markdown."""
    rows = [(name, d["value"], d["low"], d["high"], d["floor"]) for name, d in facts["distances"].items()]
    if (share := facts["label_accuracy"]) is not None:
        rows.append(("label accuracy", share, *wilson(share, facts["n_samples"]), facts["classifier_accuracy"]))
    lines = [
        f"| {name} | {number(value)} | {number(low)} to {number(high)} | {'' if real is None else number(real)} |"
        for name, value, low, high, real in rows
    ]
    table = ["| | samples | 95 % interval | real ones score |", "| --- | --- | --- | --- |", *lines, ""] if rows else []
    settings = facts["settings"]
    how = ", ".join(f"{name} {number(settings[name])}" for name in ("solver", "steps", "guidance") if name in settings)
    made = (
        f"{facts['n_samples']:,} samples of {settings.get('checkpoint', 'the run')}"
        f" ({settings.get('weights', 'ema')} weights, {how}, seed {settings.get('seed', 0)}), beside"
        f" {facts['n_reference']:,} real ones; {seen_by(facts)}."
    )
    said, notes = verdict(facts), [f"- {text}" for text in facts["warnings"]]
    return "\n".join([*([f"{said}.", ""] if said else []), *table, made, *([""] if notes else []), *notes, ""])
