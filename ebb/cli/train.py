"""`ebb train`."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro
from pydantic import BaseModel
from rich.console import Console

from ebb.cli.config import recipe_of
from ebb.cli.form import Form
from ebb.cli.length import one_length
from ebb.cli.output import echo, shown, table
from ebb.errors import UsageError
from ebb.recipe.document import fitting, validated
from ebb.recipe.recipe import Recipe, flat
from ebb.terminal import command


@dataclass(frozen=True)
class Train:
    """Train a diffusion model on a folder of images, or a table of numbers; the same command again resumes."""

    source: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="DATA")]
    """a folder of images or class folders, imagefolder, .zip of these, idx, .npz, CIFAR-10 binary, a .csv, or the word
    digits, shapes or iris"""
    recipe: Annotated[Form, tyro.conf.arg(name="")] = Form()  # type: ignore[valid-type]
    run: Path | None = None
    """where to keep the run; without it runs/ and the name of the data"""
    fresh: bool = False
    """start anew, replacing a run of the same name"""
    base: Path | None = None
    """a run or a recipe file to start from; options given here win"""
    extend: str | None = None
    """go on with a finished run for this long (30m), or for so many updates (500); what is better is kept"""
    dry_run: bool = False
    """make a few updates, a checkpoint and a sample, say what they cost, and keep nothing"""
    json: bool = False
    """every event as a line of JSON on stdout, and nothing else there: words go to stderr"""

    def __call__(self, console: Console, given: set[str]) -> None:
        """Train, and say where the results are."""
        began = time.perf_counter()
        one_length(given)
        asked = overlaid(None if self.base is None else recipe_of(self.base), self.recipe, given)
        if self.dry_run and self.extend is not None:
            raise UsageError(
                "--dry-run measures a run from its beginning, and --extend goes on", "leave one of them out"
            )
        if self.dry_run:
            self.rehearse(asked, console, began)
            return
        from ebb.verbs import learn

        work = learn(self.source, asked, run=self.run, fresh=self.fresh, began=began, extend=self.extend)
        folder = shown(work, console, self.json)
        echo(console, f"report   {folder / 'report.html'}")
        echo(console, f"sample   {command('sample', folder, '--n', 16, '--out', 'samples.png')}")
        echo(console, advice(folder))

    def rehearse(self, asked: Recipe, console: Console, began: float) -> None:
        """Measure what training would cost, and print the table."""
        from ebb.machine import seconds_since_start
        from ebb.run.rehearse import as_rows, rehearse

        started = time.perf_counter() - (seconds_since_start() or 0.0)
        work = rehearse(self.source, asked, run=self.run, began=began, started=started)
        found = shown(work, console, self.json)
        table(console, as_rows(found), f"{self.source}, rehearsed")
        echo(console, "nothing was kept; without --dry-run the same command trains")


def advice(folder: Path) -> str:
    """The command that measures a run with as many samples as its data bears; where it bears none, what else to do."""
    from ebb.evaluate.enough import worthwhile

    data = json.loads((folder / "data.json").read_text(encoding="utf8"))
    samples = worthwhile((data.get("buckets") or [data])[0]["count"])  # those of one shape are compared
    return (
        f"examine  {command('doctor', folder)}; there is too little data to measure by"
        if samples is None
        else f"measure  {command('evaluate', folder, '--n', samples)}"
    )


def overlaid(base: Recipe | None, form: BaseModel, given: set[str]) -> Recipe:
    """The recipe of the fields of a form that were given on the command line, over those of `base`, where one is.

    Steps and budget replace each other, and what another kind has goes with it. Raises UsageError for what no recipe of
    its kind has.
    """
    values = {name: value for name, value in flat(form.model_dump()).items() if name in given}
    tree = {} if base is None else base.model_dump()
    if given & {"steps", "budget"}:
        tree["budget" if "steps" in given else "steps"] = None
    kinds = {name: value for name, value in values.items() if name.rpartition(".")[2] == "kind"}
    return validated(entered(fitting(entered(tree, kinds)), values), "the command line")


def entered(tree: dict[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """A nested mapping with values in place by their dotted names."""
    made = dict(tree)
    for name, value in values.items():
        group, _, leaf = name.rpartition(".")
        if group:
            made[group] = {**made.get(group, {}), leaf: value}
        else:
            made[leaf] = value
    return made
