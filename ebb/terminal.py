"""Saying something on a terminal without changing it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.console import Console


def tell(console: Console, text: str) -> None:
    """Print `text` as it is: no markup, no colours, no line breaks of ours, so that paths and YAML survive."""
    console.print(text, markup=False, highlight=False, soft_wrap=True)


def tell_notes(console: Console, notes: Mapping[tuple[str, str], Sequence[object]]) -> None:
    """One line for each (kind, action): the first it was found in, how many more, and what was done."""
    for (kind, action), names in notes.items():
        if names:
            others = f" and {len(names) - 1:,} more" if len(names) > 1 else ""
            tell(console, f"{names[0]}{others}: {kind}, {action}")
