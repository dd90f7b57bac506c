"""`ebb config`: recipes shown, checked and compared."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console

from ebb.cli.output import echo, put_facts
from ebb.errors import UsageError
from ebb.recipe.document import from_yaml, to_yaml
from ebb.recipe.recipe import DiffusionRecipe, Recipe, difference, flat


@dataclass(frozen=True)
class Show:
    """Print the resolved recipe of a run, or of a recipe file; without one, all fields with their defaults."""

    what: tyro.conf.Positional[Path | None] = None
    """run folder or recipe file"""
    json: bool = False
    """one line of JSON in place of YAML"""

    def __call__(self, console: Console, given: set[str]) -> None:
        """Print it."""
        recipe = recipe_of(self.what) if self.what else DiffusionRecipe()
        if self.json:
            put_facts({"recipe": recipe.model_dump(mode="json")})
        else:
            echo(console, to_yaml(recipe).rstrip())


@dataclass(frozen=True)
class Validate:
    """Check a recipe file and say what is wrong with it."""

    file: tyro.conf.Positional[Path]
    """recipe file or run folder"""

    def __call__(self, console: Console, given: set[str]) -> None:
        """Print that it is valid, or end with the reason."""
        from ebb.run.build import names_known

        names_known(recipe_of(self.file))
        echo(console, f"{self.file} is a valid recipe")


@dataclass(frozen=True)
class Diff:
    """Print how two recipes differ."""

    a: tyro.conf.Positional[Path]
    """run folder or recipe file"""
    b: tyro.conf.Positional[Path]
    """run folder or recipe file"""
    json: bool = False
    """one line of JSON in place of lines of text"""

    def __call__(self, console: Console, given: set[str]) -> None:
        """One line for each field that differs."""
        old, new = (flat(recipe_of(path).model_dump()) for path in (self.a, self.b))
        if self.json:
            names = sorted(name for name in old.keys() | new.keys() if old.get(name) != new.get(name))
            put_facts({"differences": {name: {"a": old.get(name), "b": new.get(name)} for name in names}})
            return
        for line in difference(old, new) or ["no difference"]:
            echo(console, line)


Config = Annotated[
    Annotated[Show, tyro.conf.subcommand("show")]
    | Annotated[Validate, tyro.conf.subcommand("validate")]
    | Annotated[Diff, tyro.conf.subcommand("diff")],
    tyro.conf.arg(name=""),
]


@dataclass(frozen=True)
class ConfigVerb:
    """Show, validate or compare recipes."""

    verb: Config

    def __call__(self, console: Console, given: set[str]) -> None:
        """Do it."""
        self.verb(console, given)


def recipe_of(path: Path) -> Recipe:
    """The recipe of a run folder or of a YAML file."""
    if (path / "system.json").is_file():
        raise UsageError(f"{path} was exported, and holds no recipe", "name the run, or a recipe file")
    return from_yaml(path / "run.yaml" if path.is_dir() else path)[0]
