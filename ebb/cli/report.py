"""`ebb report`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console

from ebb.cli.output import echo
from ebb.errors import UsageError
from ebb.terminal import command


@dataclass(frozen=True)
class Report:
    """Write the page about a run anew, or print it as text: all that was measured, found and chosen."""

    run: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN")]
    """run folder"""
    text: bool = False
    """print it as plain text, and write nothing"""

    def __call__(self, console: Console, given: set[str]) -> None:
        """Write RUN/report.html and say where it is; or print."""
        if not any((self.run / file).is_file() for file in ("run.yaml", "evaluation.json")):
            hint = f"train one: {command('train', 'DATA')}; of data, a page is written by {command('doctor', self.run)}"
            raise UsageError(f"expected the folder of a run, which holds run.yaml, got {self.run}", hint)
        from ebb.report.plain import plain
        from ebb.report.run_report import drawn, write_report

        if self.text:
            echo(console, plain(drawn(self.run)).rstrip())
        else:
            echo(console, f"report   {write_report(self.run)}")
