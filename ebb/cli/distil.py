"""`ebb distil`."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro
from rich.console import Console

from ebb.cli.length import one_length
from ebb.cli.output import echo, shown
from ebb.recipe.recipe import FewStepRecipe
from ebb.terminal import command


@dataclass(frozen=True)
class Distil:
    """Make a model that samples in one, two or four steps from a run; the same command again resumes."""

    teacher: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN")]
    """the run of a diffusion model; all other options are those of: ebb train DATA --kind few_step --teacher RUN"""
    run: Path | None = None
    """where to keep the new run; without it RUN-few"""
    into: Annotated[Literal["model", "lora", "dora"], tyro.conf.arg(name="as")] = "model"
    """model: a network of its own; lora or dora: an adapter of the run, for ebb sample RUN --adapter"""
    rank: int | None = None
    """lora, dora: rank of the change of every layer; without it 16"""
    method: str | None = None
    """consistency, mean_flow, lagrangian, self_distil, shortcut, progressive, …: docs/few.md"""
    budget: str | None = None
    """wall-clock time, e.g. 2m; without it a fifth of the teacher's"""
    steps: int | None = None
    """updates to make, in place of a budget"""
    batch: int | None = None
    """examples per batch"""
    seed: int = 0
    """seed of the data order and the noise"""
    data: str | None = None
    """where the teacher's data is now, if it was moved; it must be the same"""
    extend: str | None = None
    """go on with a finished one for this long (5m), or for so many updates (500); what is better is kept"""
    fresh: bool = False
    """start anew, replacing a run of the same name"""
    json: bool = False
    """every event as a line of JSON on stdout, and nothing else there: words go to stderr"""

    def __call__(self, console: Console, given: set[str]) -> None:
        """Distil, and say how to sample."""
        began = time.perf_counter()
        one_length(given)
        from ebb.run.distil import asked_of, beside
        from ebb.run.train import train

        asked = FewStepRecipe(
            teacher=str(self.teacher), method=self.method, budget=self.budget, steps=self.steps, batch=self.batch,
            seed=self.seed, adapter=None if self.into == "model" else self.into, rank=self.rank,
        )  # fmt: skip
        data, whole = asked_of(self.teacher, asked, self.data)
        asked = whole if self.extend is None else asked
        place, longer = self.run or beside(self.teacher, self.into), self.extend
        work = train(data, asked, run=place, fresh=self.fresh, began=began, extend=longer)
        folder = shown(work, console, self.json)
        echo(console, f"report   {folder / 'report.html'}")
        echo(console, f"sample   {command('sample', folder, '--n', 64, '--steps', 1, '--out', 'samples.png')}")
        echo(console, f"measure  {command('evaluate', folder)}")
