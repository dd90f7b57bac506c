"""The part of a run's page that shows which guidance was tried and why one was chosen."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

from ebb.report.figures_section import seen_by
from ebb.report.page import number, table

Facts = Mapping[str, Any]


def guidance(facts: Facts) -> str:
    """Every setting that was tried with its distance and the difference from guidance 1; the chosen one and why."""
    if not facts:
        return ""
    rows = [
        (
            " ".join([f"{attempt['guidance']:g}", *attempt.get("guides", ())]) + (", off" if at == 0 else ""),
            number(attempt["distance"]),
            "" if at == 0 else f"{number(attempt['difference'])} [{number(attempt['low'])}, {number(attempt['high'])}]",
            "" if attempt["accuracy"] is None else f"{attempt['accuracy']:.1%}",
            number(attempt["evaluations"]),
            "chosen" if at == facts["chosen"] else "",
        )
        for at, attempt in enumerate(facts["attempts"])
    ]
    about = facts["about"]
    heads = ("guidance", "distance", "from off, 95 % interval", "show their label", "evaluations", "")
    return (
        f"<p>{escape(str(facts['because']))}.</p>\n"
        + table(heads, rows)
        + f'<p class="soft">{number(about["count"])} samples of each, the same labels and seeds, against real images;'
        f" {number(about['seconds'])} s in all; {escape(seen_by(about))}.</p>\n"
    )
