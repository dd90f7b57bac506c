"""The part of a run's page that shows whether samples show what their captions say."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ebb.report.page import number, table
from ebb.report.samples_section import Album

Facts = Mapping[str, Any]


def captions(facts: Facts, run: Path, album: Album) -> str:
    """What a judge reads in samples of scenes, or how often a matcher finds a caption's sample, and some of them."""
    rows = list[tuple[str, str]]()
    if seen := facts.get("agreement", facts.get("obeyed")):  # "obeyed" in former evaluations
        rows += [
            ("samples that show all that was asked", f"{seen['share']:.1%}"),
            ("things asked for that are there", f"{seen['things']:.1%}"),
            ("real scenes that the judge reads right", f"{seen['ceiling']:.1%}"),
        ]
        rows += [] if seen["novel"] is None else [("of pairs that never met in training", f"{seen['novel']:.1%}")]
    for name, what in (("matched", "trained captions"), ("matched_unseen", "unseen captions")):
        if one := facts.get(name):
            rows += [
                (f"{number(one['count'])} {what} that find their sample among {one['among']}", f"{one['share']:.1%}")
            ]
            rows += [] if one["ceiling"] is None else [("of their real pictures", f"{one['ceiling']:.1%}")]
    if not rows:
        return ""
    sheet = album.picture(run / "evaluation" / "captions.png", "Pictures that were not trained on, and below samples")
    return table(("", ""), rows) + f"{sheet}\n"
