"""Saying something on a terminal without changing it."""

from __future__ import annotations

from rich.console import Console


def tell(console: Console, text: str) -> None:
    """Print `text` as it is: no markup, no colours, no line breaks of ours, so that paths and YAML survive."""
    console.print(text, markup=False, highlight=False, soft_wrap=True)
