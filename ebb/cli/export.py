"""`ebb export` and `ebb tidy`: what of a run is shared, and what may go."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console

from ebb.cli.output import echo, put_facts, table
from ebb.terminal import command


@dataclass(frozen=True)
class Export:
    """Write a run for others: weights, contract and a card in a folder, or in one .safetensors file."""

    run: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN")]
    """run folder, one of its checkpoints, or what was exported before"""
    out: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="OUT")]
    """a folder, or one file, NAME.safetensors"""
    licence: str | None = None
    """under which others may use it, in your words or as CC-BY-4.0; it stands on the card"""
    without: tuple[str, ...] = ()
    """what is left out: labels, captions, words, columns, paths, figures, samples"""
    json: bool = False
    """what was written as a line of JSON on stdout"""

    def __call__(self, console: Console, given: set[str]) -> None:
        """Write it, and say what of the data is in it."""
        from ebb.run.export import Sharing, export

        made = export(self.run, self.out, Sharing(self.licence, self.without))
        travelling = [(name, said) for name, said in made.carried.items()]
        left = [(name, f"left out: {lost}") for name, lost in made.left_out.items()]
        if self.json:
            put_facts(asdict(made) | {"place": str(made.place)})
        table(console, travelling + left or [("nothing", "but weights and contract")], "of the data it holds")
        echo(console, f"written  {made.place}, {made.bytes / 1e6:.3g} MB")
        echo(console, f"sample   {command('sample', made.place, '--n', 16)}")


@dataclass(frozen=True)
class Tidy:
    """Say what of a run may go, in bytes and what is lost with it, and remove what is asked."""

    run: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN")]
    """run folder"""
    remove: tuple[str, ...] = ()
    """what goes: old, optimiser, raw, extension, samples, sheets, classifier, latents; without it nothing does"""
    json: bool = False
    """what there is, or what went, as a line of JSON on stdout"""

    def __call__(self, console: Console, given: set[str]) -> None:
        """Print what there is, or what went."""
        from ebb.run.tidy import TrainedRun, items, tidied

        found = tidied(self.run, self.remove) if self.remove else items(TrainedRun.of(self.run))
        rows = [(item.name, f"{item.bytes / 1e6:,.2f} MB", item.loses) for item in found]
        title = f"{self.run}: {'removed' if self.remove else 'what may go'}"
        table(console, rows, title, ("", "", "lost with it") if rows else ())
        total = sum(item.bytes for item in found)
        if self.json:
            put_facts({"removed": bool(self.remove), "bytes": total, "items": [*map(asdict, found)]})
        if not rows:
            echo(console, "nothing")
        elif not self.remove:
            echo(console, f"remove   {command('tidy', self.run, '--remove', *(item.name for item in found))}")
        else:
            echo(console, f"in all   {total / 1e6:,.2f} MB")
