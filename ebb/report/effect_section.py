"""The part of a run's page that shows what an adapter changed, and what it left alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from ebb.report.page import number, table
from ebb.report.plot import Line, plot
from ebb.report.samples_section import Album

Facts = Mapping[str, Any]

FILE, PICTURE = "effect.json", "with-and-without.png"
"""In a run: what was found, and samples of what was taught without the adapter, below with it, then of the rest."""


def effect(facts: Facts, log: Sequence[Facts], run: Path, album: Album) -> str:
    """A row for each probe, samples without the adapter and with it from the same noise, and how the rest drifted while
    it was trained."""
    drift = [Line("", [(entry["step"], entry["drift"]) for entry in log if "drift" in entry])]
    moved = plot(drift, "How far answers for the rest moved, as a share of their size")
    if not facts:
        return f'<div class="grid">{moved}</div>' if moved else ""
    heads = ("asked for", "examples", "answers moved by", "error gone")
    rows = [(row["name"], number(row["count"]), share(row["size"]), share(row["gain"])) for row in facts["rows"]]
    return (
        f"<p>{escape(facts['adapter'])}.</p>\n"
        + table(heads, rows)
        + '<p class="soft">The root mean square of x̂0 with the adapter less x̂0 without, over that of x̂0 without, at ten'
        " noise levels, the same noise for both; and how much of the mean of |x̂0 − x0|² is gone. What it was taught is"
        " asked for as something else too, as a control: an adapter that heeds what is asked gains less there. The rest"
        " is the base's own samples, as what they were asked for. 95 % intervals over examples.</p>\n"
        + album.picture(
            run / PICTURE,
            "rows: what it was taught, without and with; the rest, without and with; the same noise in a column",
        )
        + (f'<div class="grid">{moved}</div>\n' if moved else "")
    )


def share(estimate: Facts) -> str:
    """A share with its interval."""
    return f"{estimate['value']:.1%} [{estimate['low']:.1%}, {estimate['high']:.1%}]"
