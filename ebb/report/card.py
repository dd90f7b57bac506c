"""The figures of a run in its model card, as Markdown."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ebb.judge.distances import wilson
from ebb.report.effect_section import share
from ebb.report.figures_section import AIM, seen_by
from ebb.report.page import number
from ebb.report.verdict import verdict
from ebb.store.write import replace_text

HEAD, EFFECT, NEXT = "\n## Figures\n", "\n## Effect\n", "\n## "
"""Where the figures of a card begin, and where what follows them does."""


def write_figures(run: Path, facts: Mapping[str, Any]) -> None:
    """Put what evaluation.json holds into card.md, in place of the figures before; a run without a card stays without.
    Raises ResourceError where it cannot be written."""
    put(run / "card.md", HEAD, figures_of(facts))


def write_effect(run: Path, facts: Mapping[str, Any]) -> None:
    """Put what effect.json holds into card.md, as `write_figures`."""
    rows = [(row["name"], row["count"], *map(share, (row["size"], row["gain"]))) for row in facts["rows"]]
    lines = [f"| {name} | {count} | {size} | {gain} |" for name, count, size, gain in rows]
    heads = ["| asked for | examples | answers moved by | error gone |", "| --- | --- | --- | --- |"]
    put(run / "card.md", EFFECT, "\n".join([f"{facts['adapter']}.", "", *heads, *lines, ""]))


def put(card: Path, head: str, text: str) -> None:
    """Put a part under its head, in place of the one before; a run without a card stays without."""
    if card.is_file():
        before, _, after = card.read_text(encoding="utf8").partition(head)
        _, more, rest = after.partition(NEXT)
        replace_text(card, f"{before.rstrip()}\n{head}\n{text}{more}{rest}")


def figures_of(facts: Mapping[str, Any]) -> str:
    """The verdict, a table of the figures, and how they came about."""
    settings, said = facts["settings"], verdict(facts)
    how = ", ".join(f"{name} {number(settings[name])}" for name in ("solver", "steps", "guidance") if name in settings)
    made = (
        f"{facts['n_samples']:,} samples of {settings.get('checkpoint', 'the run')}"
        f" ({settings.get('weights', 'ema')} weights, {how}, seed {settings.get('seed', 0)}), beside"
        f" {facts['n_reference']:,} real ones; {seen_by(facts)}."
    )
    first = [f"{said}.", ""] if said else []
    return "\n".join([*first, *figures_table(facts), "", made, *(f"- {text}" for text in facts["warnings"]), ""])


def figures_table(facts: Mapping[str, Any]) -> list[str]:
    """A line for each figure: of the samples, its interval, what real examples score, and which way is better."""
    lines = [
        f"| {name} | {number(d['value'])} | {number(d['low'])} to {number(d['high'])} | {number(d['floor'])}"
        f" | {AIM[d['better']]} |"
        for name, d in facts["distances"].items()
    ]
    share, real = facts["label_accuracy"], facts["classifier_accuracy"]
    if share is not None:
        low, high = wilson(share, facts["n_samples"])
        ceiling = "" if real is None else f"{real:.1%}"
        lines.append(f"| label accuracy | {share:.1%} | {low:.1%} to {high:.1%} | {ceiling} | {AIM['high']} |")
    return ["| | samples | 95 % interval | real ones score | |", "| --- | --- | --- | --- | --- |", *lines]
