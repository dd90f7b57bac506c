"""`ebb show`."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.console import Console

from ebb.cli.output import echo, table


@dataclass(frozen=True)
class ShowVerb:
    """Show how a picture was made, as it says itself."""

    picture: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="PICTURE")]
    """a .png, .gif or .webp that ebb wrote"""

    def __call__(self, console: Console, given: set[str]) -> None:
        """Print it."""
        from ebb.data.images import settings_of
        from ebb.store.provenance import KEY, Provenance, short
        from ebb.terminal import command

        settings = settings_of(self.picture)
        made = Provenance.read(settings, self.picture)
        rows = [*rows_of({name: value for name, value in settings.items() if name != KEY})]
        if made is not None:
            rows.append(("weights", f"sha256 {short(made.weights)}"))
            rows += [(name, f"sha256 {short(hashed)}") for name, hashed in made.files.items()]
            rows.append(("made by", ", ".join(f"{name} {value}" for name, value in made.maker.items())))
            if made.number is not None:
                rows.append(("which", f"number {made.number} of {made.count}, from 0"))
        table(console, rows, str(self.picture))
        if made is not None:
            echo(console, f"command  {made.line()}")
            echo(console, f"again    {command('sample', '--from', self.picture)}")


def rows_of(settings: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Settings in words, those that say nothing left out."""
    for name, value in settings.items():
        if value not in (None, [], {}):
            yield name.replace("_", " "), value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
