"""The part of a run's page that has its own way of sampling beside those of most tables."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

from ebb.report.figures_section import seen_by
from ebb.report.page import number, table

Facts = Mapping[str, Any]


def references(facts: Facts) -> str:
    """A row for each way: kind, steps, time, distance, its difference from the run's own, and what it is best for."""
    if not facts:
        return ""
    about = facts["about"]
    rows = [
        (
            one["name"],
            one["kind"],
            number(one["sampling"]["steps"]),
            number(one["seconds"]),
            f"{one['distance']:.4f}",
            "" if one["difference"] is None else "{:+.4f} [{:+.4f}, {:+.4f}]".format(*one["difference"]),
            one["interpolates"],
            one["best_for"],
        )
        for one in facts["ways"]
    ]
    head = ("", "kind", "steps", "s for 1,000", "Fréchet distance", "less the run's own", "interpolates", "best for")
    return (
        table(head, rows)
        + f'<p class="soft">{number(about["count"])} samples each of {escape(about["checkpoint"])}, the same seeds and'
        f" labels; real images score {facts['floor']:.4f}; {escape(seen_by(about))};"
        f" {about['threads']} threads. A start decides a share of what tells two samples apart: the rest is drawn"
        " on the way, and has to turn too for samples to lie between two others.</p>\n"
        + "".join(f'<p class="warn">{escape(str(text))}</p>\n' for text in about["warnings"])
    )
