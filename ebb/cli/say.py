"""What a verb says while it works, and the tables it ends with."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.text import Text

from ebb.terminal import tell

Say = Callable[[str], None]
Rows = tuple[Sequence[Sequence[str]], Sequence[str]]
"""The rows of a table, and its heads if it has any."""

QUIET = 15.0
"""Seconds between two lines of progress where there is no terminal to write one line anew."""


@contextmanager
def saying(console: Console, first: str) -> Iterator[Say]:
    """Something to report progress to: one line that changes in a terminal, a line now and then elsewhere."""
    spoke = time.monotonic()

    def say(text: str) -> None:
        nonlocal spoke
        status.update(Text(text))
        if not console.is_terminal and time.monotonic() - spoke > QUIET:
            spoke = time.monotonic()
            tell(console, text)

    with console.status(Text(first)) as status:
        yield say


def show(console: Console, rows: Sequence[Sequence[str]], title: str, heads: Sequence[str] = ()) -> None:
    """Print a table of plain text, with its head if it has one."""
    from rich.markup import escape
    from rich.table import Table

    table = Table(title=escape(title), title_justify="left", box=None, padding=(0, 2, 0, 0), show_header=bool(heads))
    for head in heads:
        table.add_column(escape(head))
    for row in rows:
        table.add_row(*map(escape, row))
    console.print(table)
