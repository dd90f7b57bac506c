"""The figures of a run in its model card, as Markdown."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ebb.judge.distances import wilson
from ebb.report.figures_section import AIM, seen_by
from ebb.report.page import number
from ebb.report.verdict import verdict
from ebb.store.write import replace_text

HEAD, NEXT = "\n## Figures\n", "\n## "
"""Where the figures of a card begin, and where what follows them does."""


def write_figures(run: Path, facts: Mapping[str, Any]) -> None:
    """Put what evaluation.json holds into card.md, in place of the figures before; a run without a card stays without.
    Raises ResourceError where it cannot be written."""
    card = run / "card.md"
    if card.is_file():
        before, _, after = card.read_text(encoding="utf8").partition(HEAD)
        _, more, rest = after.partition(NEXT)
        replace_text(card, f"{before.rstrip()}\n{HEAD}\n{figures_of(facts)}{more}{rest}")


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
    for row in facts.get("effect", {}).get("rows", ()):
        size = row["size"]
        interval = f"{size['low']:.1%} to {size['high']:.1%}"
        lines.append(f"| answers moved, {row['name']} | {size['value']:.1%} | {interval} | | |")
    share, real = facts["label_accuracy"], facts["classifier_accuracy"]
    if share is not None:
        low, high = wilson(share, facts["n_samples"])
        ceiling = "" if real is None else f"{real:.1%}"
        lines.append(f"| label accuracy | {share:.1%} | {low:.1%} to {high:.1%} | {ceiling} | {AIM['high']} |")
    return ["| | samples | 95 % interval | real ones score | |", "| --- | --- | --- | --- | --- |", *lines]
