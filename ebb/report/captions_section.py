"""The part of a run's page that shows whether samples show what their captions say, and how words are looked at."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import Any

from ebb.report.page import Markup, number, table
from ebb.report.samples_section import Album
from ebb.understand.concepts import EVEN

Facts = Mapping[str, Any]


def captions(facts: Facts, run: Path, album: Album) -> str:
    """What a judge reads in samples of scenes, or how often a matcher finds a caption's sample, and some of them."""
    rows = list[tuple[str, str, str, str]]()
    if seen := facts.get("agreement", facts.get("obeyed")):  # "obeyed" in former evaluations
        rows += [
            ("samples that show all that was asked", f"{seen['share']:.1%}", "", f"{seen['ceiling']:.1%}"),
            ("things asked for that are there", f"{seen['things']:.1%}", "", ""),
        ]
        new = seen["novel"]
        rows += [] if new is None else [("of pairs that never met in training", f"{new:.1%}", "", "")]
    for name, what in (("matched", "trained captions"), ("matched_unseen", "unseen captions")):
        if one := facts.get(name):
            line = f"{number(one['count'])} {what} that find their sample among {one['among']}"
            real = "" if one["ceiling"] is None else f"{one['ceiling']:.1%}"
            rows.append((line, f"{one['share']:.1%}", f"{1 / one['among']:.1%}", real))
    if not rows:
        return words(facts.get("words", {}))
    sheet = album.picture(run / "evaluation" / "captions.png", "Pictures that were not trained on, and below samples")
    return table(("", "samples", "by chance", "real images"), rows) + f"{sheet}\n" + words(facts.get("words", {}))


def words(facts: Facts) -> str:
    """The words of some captions with the entropy of the attention to each, those marked that say nothing of places."""
    if not facts:
        return ""
    rows = [
        (one["words"], Markup(meter(one["entropy"])), "from everywhere alike" * (one["entropy"] > EVEN))
        for one in facts["concepts"]
    ]
    return (
        "<h3>How evenly each word is looked at</h3>\n"
        + table(("word", f"entropy over places; the line is at {EVEN:g} of the largest", ""), rows)
        + f'<p class="soft">Of {number(facts["prompts"])} captions. Over places: 1 where a word is looked at from'
        " everywhere alike, 0 where from one place. The other axis, over the pieces of a caption for each place:"
        f" {facts['over_words']:.2f}, 1 where a place looks at all alike.</p>\n"
    )


def meter(share: float) -> str:
    """A bar from 0 to 1 with a line at EVEN, and its figure."""
    return (
        f'<svg class="beside" viewBox="0 0 140 12" role="img" aria-label="{escape(f"{share:.3f}")}">'
        '<rect y="3" width="100" height="6" fill="var(--line)"/>'
        f'<rect y="3" width="{100 * min(max(share, 0), 1):.1f}" height="6" fill="var(--mark)"/>'
        f'<path d="M{100 * EVEN:.0f} 0V12" stroke="var(--ink)"/><text x="106" y="10">{share:.3f}</text></svg>'
    )
