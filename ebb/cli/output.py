"""Events on a terminal, the tables that a verb ends with, and what it gives to programs, as lines of JSON.

With `--json` stdout has JSON and nothing else: the console of a verb, and so all that it says in words, is stderr.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping, Sequence
from functools import singledispatchmethod
from typing import Any, TypeVar

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars
from rich.status import Status
from rich.table import Table as Grid
from rich.text import Text

from ebb.events import Event, Message, Overview, Progress, RolledBack, Skipped, Update, Work, finished, strict, to_json
from ebb.terminal import LENIENT

T = TypeVar("T")

QUIET = 15.0
"""Seconds between two lines of progress where there is no terminal to write one line anew."""


def screen(console: Console | None = None, stderr: bool = False) -> Console:
    """The console, or one on stdout or stderr, that prints what it can of any text and never fails for its encoding."""
    console = console or Console(stderr=stderr)
    stream = console.file
    if hasattr(stream, "reconfigure"):
        stream.reconfigure(errors=LENIENT)
    return console


def echo(console: Console, text: str) -> None:
    """Print `text` as it is: no markup, no colours, no line breaks of ours, so that paths and YAML survive."""
    console.print(text, markup=False, highlight=False, soft_wrap=True)


def table(console: Console, rows: Sequence[Sequence[str]], title: str, heads: Sequence[str] = ()) -> None:
    """Print a table of plain text, with its head if it has one."""
    grid = Grid(title=escape(title), title_justify="left", box=None, padding=(0, 2, 0, 0), show_header=bool(heads))
    for head in heads:
        grid.add_column(escape(head))
    for row in rows:
        grid.add_row(*map(escape, row))
    console.print(grid)


def shown(work: Work[T], console: Console, as_json: bool = False) -> T:
    """The result of `work`, whose events are printed; `as_json`, each is a line of JSON on stdout as well."""

    def show(event: Event) -> None:
        if as_json:
            put(to_json(event))
        reader.show(event)

    with Reader(screen(console)) as reader:
        return finished(work, show)


def put_facts(facts: Mapping[str, Any]) -> None:
    """Facts as one line of JSON on stdout; a number that is not finite is null."""
    put(json.dumps(strict(facts)))


def put(line: str) -> None:
    """A line on stdout, at once."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


class Reader:
    """Prints events: what passes in one line that changes, updates as a bar; elsewhere than in a terminal a line of
    either now and then."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.passing: Status | None = None
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        self.bar = Bars(*columns, console=console, disable=not console.is_terminal)
        self.spoke = time.monotonic()
        self.smooth: float | None = None

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, *_: object) -> None:
        self.settle()
        self.bar.stop()

    def settle(self) -> None:
        """Nothing passes any more."""
        if self.passing is not None:
            self.passing.stop()
        self.passing = None

    def now_and_then(self, text: str) -> None:
        """Print a line where no line can change, unless the last one was just now."""
        if not self.console.is_terminal and time.monotonic() - self.spoke > QUIET:
            self.spoke = time.monotonic()
            echo(self.console, text)

    @singledispatchmethod
    def show(self, event: Event) -> None:
        """Print an event; those of which there is no more to say than that they were are for other readers."""

    @show.register
    def _(self, event: Message) -> None:
        self.settle()
        if event.warning:
            self.console.print("[bold yellow]warning[/] ", end="")
        echo(self.console, event.text)

    @show.register
    def _(self, event: Overview) -> None:
        self.settle()
        heads = [escape(head) for head in event.heads]
        grid = Grid(*heads, title=escape(event.title), title_justify="left", show_header=bool(heads))
        for row in event.rows:
            grid.add_row(*map(escape, row))
        self.console.print(grid)

    @show.register
    def _(self, event: Progress) -> None:
        text = event.what + (f": {event.done:,} of {event.of:,}" if event.of else "")
        text += f", {event.left:,.0f} s left" if event.left else ""
        if self.passing is None:
            self.passing = self.console.status(Text(text))
            self.passing.start()
        self.passing.update(Text(text))
        self.now_and_then(text)

    @show.register
    def _(self, event: Update) -> None:
        self.settle()
        figures = event.figures
        self.smooth = figures["loss"] if self.smooth is None else 0.9 * self.smooth + 0.1 * figures["loss"]
        text = (
            f"loss {self.smooth:.4f}  {figures['images_per_second']:,.0f} images/s  {figures['memory_mb']:,} MB"
            f"  next sheet at {event.preview:,}"
        )
        if not self.bar.tasks:
            self.bar.add_task(text, total=event.of, completed=event.step)
            self.bar.start()
        self.bar.update(self.bar.tasks[0].id, completed=event.step, total=event.of, description=text)
        self.now_and_then(f"step {event.step:,}/{event.of:,}  {text}  {event.left:,.0f} s left")

    @show.register
    def _(self, event: Skipped) -> None:
        steps = (
            f"step {event.steps[0]:,}"
            if len(event.steps) == 1
            else f"{len(event.steps)} steps up to {event.steps[-1]:,}"
        )
        echo(self.console, f"skipped {steps}: {event.cause}")

    @show.register
    def _(self, event: RolledBack) -> None:
        echo(self.console, f"step {event.step:,}: {event.cause}")
        echo(self.console, f"back to step {event.to:,}, with another order and {event.share:g} of the learning rate")
