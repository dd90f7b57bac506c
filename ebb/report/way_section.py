"""The part of a run's page that shows how its samples come about: where they stray, bad steps, temperatures."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ebb.report.page import number, table
from ebb.report.plot import columns
from ebb.report.samples_section import Album

Facts = Mapping[str, Any]


def way(facts: Facts, run: Path, album: Album) -> str:
    """Where noise equals signal, the first strays by step, the ends after a bad step, and ranges by temperature."""
    if not facts:
        return ""
    middle, strayed, ranges = facts["crossing"], facts["strayed"], facts["ranges"]
    names = list(facts["bad"][0]["ends"]) if facts["bad"] else []
    moved = [
        (number(one["steps"]), f"{one['log_snr']:+.1f}", *(f"{one['ends'][name]:.1%}" for name in names))
        for one in facts["bad"]
    ]
    spread = [(name, *(f"{each[key]:.2f}" for key in ("low", "high", "deviation"))) for name, each in ranges.items()]
    drawn, ranges_table = "", table(("", "lowest value", "highest", "standard deviation"), spread)
    if strayed is not None:
        drawn = leaving({int(step): count for step, count in strayed.items()}, facts)
    return (
        f"<p>In {middle['of']} steps; noise equals signal (log-SNR 0) at t = {middle['time']:.3g}, in step"
        f" {middle['step']}.</p>\n"
        + f'<div class="pair"><div>{drawn}</div><div>{ranges_table}</div></div>\n'
        + table(("x off by a tenth after step", "log-SNR", *names), moved)
        + '<p class="soft">How far the end moves, in distances between two samples: an ODE carries an error to the'
        " end, noise on the way makes up for some of it.</p>\n"
        + album.picture(run / "evaluation" / "temperatures.png", "the same seeds at τ = 0.5, 1 and 1.5, a row each")
    )


def leaving(strayed: Mapping[int, int], facts: Facts) -> str:
    """When samples first leave the data's range, as a histogram over steps."""
    total, of = sum(strayed.values()), facts["crossing"]["of"]
    line = f"<p>Values leave the data's range in {number(total)} of {number(facts['samples'])} samples.</p>\n"
    if not total:
        return line
    bars = [(float(step), float(strayed.get(step, 0))) for step in range(1, of + 1)]
    return line + columns(bars, "Samples that first leave the data's range, by step", "step")
