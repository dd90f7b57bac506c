"""The verbs, and what `ebb --help` shows: each in the words of its docstring, which is read and not imported.

It looks as tyro draws the help of a verb; tyro's import alone would take longer than all that is done here.
"""

from __future__ import annotations

import ast
import os
import shutil
import sys
from dataclasses import dataclass
from importlib.machinery import ModuleSpec, SourceFileLoader
from importlib.util import find_spec
from textwrap import wrap
from typing import cast

from ebb.errors import EbbError

VERBS = {
    "train": "ebb.cli.train.Train",
    "distil": "ebb.cli.distil.Distil",
    "adapt": "ebb.cli.adapt.Adapt",
    "adapter": "ebb.cli.adapter.AdapterVerb",
    "sample": "ebb.cli.sample.Sample",
    "show": "ebb.cli.show.ShowVerb",
    "edit": "ebb.cli.edit.EditVerb",
    "evaluate": "ebb.cli.evaluate.Evaluate",
    "doctor": "ebb.cli.evaluate.Doctor",
    "sweep": "ebb.cli.evaluate.Sweep",
    "report": "ebb.cli.report.Report",
    "export": "ebb.cli.export.Export",
    "tidy": "ebb.cli.export.Tidy",
    "config": "ebb.cli.config.ConfigVerb",
}
"""Where the class of each verb is."""

JSON = "--json"
"""The option by which stdout has JSON and nothing else, errors too."""

DESCRIPTION = "Train, sample, measure and diagnose diffusion models."

OPTIONS = {"-h, --help": "show this help message and exit", "--version": "show the version and exit"}

BULLET = "  • "

BOLD, BOLD_RED, DIM, FRAME, REQUIRED = "1", "1;31", "2", "37;2", "91"
"""Styles, as terminals number them."""


@dataclass(frozen=True)
class Look:
    """How text is drawn: in how many columns, with frames or without, with styles or without."""

    columns: int
    frames: bool
    styles: bool

    @staticmethod
    def here(errors: bool = False) -> Look:
        """As stdout can show it, or stderr."""
        stream = sys.stderr if errors else sys.stdout
        styles = stream.isatty() and os.environ.get("TERM") not in (None, "dumb") and not os.environ.get("NO_COLOR")
        return Look(shutil.get_terminal_size().columns, stream.encoding.lower() == "utf-8", styles)

    def styled(self, text: str, style: str) -> str:
        """`text` in a style, where there are styles."""
        return f"\033[{style}m{text}\033[0m" if self.styles else text

    def panel(self, title: str, lines: list[str], inner: int) -> list[str]:
        """Lines, each of `inner` characters as it is shown, in a frame with a title."""
        if not self.frames:
            rule = self.styled("-" * (inner + 2), FRAME)
            return [f" {self.styled(title, FRAME)}", f" {rule}", *(f"  {line}".rstrip() for line in lines), ""]
        side = self.styled("│", FRAME)
        top = f"{self.styled('─' * (inner - 1 - len(title)) + '╮', FRAME)}"
        return [
            f"{self.styled('╭─', FRAME)} {self.styled(title, FRAME)} {top}",
            *(f"{side} {line} {side}" for line in lines),
            self.styled(f"╰{'─' * (inner + 2)}╯", FRAME),
        ]


def overview(look: Look) -> str:
    """The help of the root."""
    about = {verb: docstring(place) for verb, place in VERBS.items()}
    left = max(len(BULLET) + max(map(len, VERBS)), *map(len, OPTIONS)) + 2
    inner = min(look.columns - 4, left + max(map(len, about.values())))
    room = max(inner - left, 1)

    def entry(bullet: str, name: str, text: str) -> list[str]:
        first, *others = (look.styled(line.ljust(room), DIM) for line in wrap(text, room))
        head = look.styled(bullet, DIM) + name.ljust(left - len(bullet))
        return [head + first, *(" " * left + line for line in others)]

    options = [line for name, text in OPTIONS.items() for line in entry("", name, text)]
    listed = [line for name, text in about.items() for line in entry(BULLET, name, text)]
    required = look.styled("(required)".ljust(inner), REQUIRED)
    lines = [
        f"{look.styled('usage:', BOLD)} ebb [-h] [--version] {{{','.join(VERBS)}}}\n\n{DESCRIPTION}\n",
        *look.panel("options", options, inner),
        *look.panel("subcommands", [required, *listed], inner),
    ]
    return "\n".join(lines)


def docstring(place: str) -> str:
    """What a class says of itself, as one line; its module's source is read and not run."""
    module, _, name = place.rpartition(".")
    loader = cast(SourceFileLoader, cast(ModuleSpec, find_spec(module)).loader)
    classes = ast.parse(loader.get_source(module) or "").body
    of_that_name = next(node for node in classes if isinstance(node, ast.ClassDef) and node.name == name)
    return " ".join((ast.get_docstring(of_that_name) or "").split())


def complaint(error: EbbError, look: Look) -> str:
    """An error as it is printed."""
    return f"{look.styled('error', BOLD_RED)} {error}"
