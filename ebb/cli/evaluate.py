"""`ebb evaluate`, `ebb sweep` and `ebb doctor`: what a run is worth, how to sample it, and what is wrong with it."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro
from rich.console import Console

from ebb.cli.how import How
from ebb.cli.output import Reader, echo, put_facts, shown, table
from ebb.errors import UsageError
from ebb.events import Progress
from ebb.terminal import command

if TYPE_CHECKING:
    from ebb.doctor.finding import Diagnosis
    from ebb.evaluate.evaluate import Measuring
    from ebb.evaluate.references import References
    from ebb.evaluate.sweep import SweepResult


ONE = ".safetensors"
"""What the name of one exported file ends in."""


def in_a_folder(file: Path) -> Path:
    """The folder beside an exported file in which its figures are kept."""
    from ebb.run.export import unpacked

    return unpacked(file)


@dataclass(frozen=True)
class Evaluate:
    """Measure a run: distances to the real images beside their floor, copies, noise levels, likelihood and cost."""

    run: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN")]
    """run folder"""
    n: int = 1000
    """number of samples to draw; the same command goes on where it was interrupted"""
    fresh: bool = False
    """draw all samples anew and train new classifiers, in place of those of earlier measurements"""
    seed: int = 0
    """of the samples and of the split of the real images"""
    features: str | None = None
    """a pretrained network in a local file, inception:FILE or dino:FILE; without it the run's own classifiers, or quick
    ones of a quarter of the work"""
    likelihood: int = 64
    """number of unseen images to find the bits per dimension of; 0 for none"""
    weights: Literal["ema", "model"] = "ema"
    """the averaged weights that one samples from, or the raw ones"""
    data: str | None = None
    """where the run's data is now, if it was moved; it must be the same"""
    against: Annotated[Path | None, tyro.conf.arg(metavar="RUN2")] = None
    """compare with this run instead: same data, seeds and labels, and an interval for each difference"""
    json: bool = False
    """what evaluation.json holds (or against-RUN2.json) as one line on stdout, and nothing else there"""
    how: Annotated[How, tyro.conf.arg(name="")] = How()

    def __call__(self, console: Console, given: set[str]) -> None:
        """Measure, print the verdict and the table, and write both into the run's report."""
        if self.run.suffix == ONE:
            replace(self, run=in_a_folder(self.run))(console, given)
            return
        try:
            facts = self.alone(console) if self.against is None else self.compared(console, self.against)
        except KeyboardInterrupt as stop:
            raise KeyboardInterrupt(self.outlook()) from stop
        if self.json:
            put_facts(facts)
        if (self.run / "report.html").is_file():
            echo(console, f"report   {self.run / 'report.html'}")

    def outlook(self) -> str:
        """What is left of a measurement that was stopped."""
        from ebb.evaluate.drawn import waiting

        count, again = (
            waiting(self.run / "evaluation"),
            "it again without --fresh" if self.fresh else "the same command",
        )
        kept = f"{count:,} samples are kept; {again} goes on with those of its settings"
        return kept if count else "no samples were kept"

    def alone(self, console: Console) -> Mapping[str, Any]:
        """The figures of one run, printed."""
        from ebb.evaluate.evaluate import Measuring, as_table, evaluate
        from ebb.report.verdict import opening

        how = Measuring(self.weights, self.data, self.features, self.fresh)
        work = evaluate(self.run, self.n, how, seed=self.seed, likelihood=self.likelihood, **asdict(self.how))
        found = shown(work, console)
        facts = found.facts()
        echo(console, opening(facts, self.run))
        table(console, as_table(found), str(self.run))
        return facts

    def compared(self, console: Console, other: Path) -> Mapping[str, Any]:
        """The differences of two runs, printed."""
        from ebb.evaluate.compare import against, as_rows
        from ebb.evaluate.evaluate import Measuring

        how = Measuring(self.weights, self.data, self.features, self.fresh)
        work = against(self.run, other, self.n, how, seed=self.seed, **asdict(self.how))
        found = shown(work, console)
        echo(console, found.verdict)
        table(console, as_rows(found), str(self.run), ("", found.run, found.other, "difference", "that is"))
        return found.facts()


@dataclass(frozen=True)
class Sweep:
    """Measure solvers, steps and guidance of a run, and keep the cheapest good setting as its default."""

    run: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN")]
    """run folder"""
    solvers: tuple[str, ...] = ("dpmpp_2m", "unipc", "deis")
    """solvers to measure"""
    references: bool = False
    """in place of those, measure 50 steps of DDIM and 1,000 of DDPM beside the run's own settings"""
    steps: tuple[int, ...] = (6, 8, 10, 12)
    """numbers of solver steps to measure"""
    guidance: tuple[float, ...] = ()
    """guidance scales to measure; without it 1 and the run's own"""
    precision: Literal["fp32", "bf16"] | None = None
    """of the network's forward pass"""
    n: int = 1000
    """samples in each cell"""
    seed: int = 0
    """of the samples and of the split of the real images"""
    features: str | None = None
    """what distances are measured in, as ebb evaluate takes it: quick is a quarter of the work"""
    data: str | None = None
    """where the run's data is now, if it was moved; it must be the same"""
    search: bool = True
    """also search for the best times, for up to 12 steps of deterministic solvers"""
    keep: bool = True
    """keep the cheapest good setting as the run's default; --no-keep measures only, with any number of samples"""
    json: bool = False
    """what sweep.json holds (or references.json) as one line on stdout, and nothing else there"""

    def __call__(self, console: Console, given: set[str]) -> None:
        """Measure, print table and notes, and write sweep.json, .html and .png and sampling.json into the run."""
        from ebb.evaluate.sweep import Candidates, as_rows, sweep

        if self.run.suffix == ONE:
            replace(self, run=in_a_folder(self.run))(console, given)
            return
        if self.references:
            self.beside(console)
            return
        candidates = Candidates(self.solvers, self.steps, self.guidance, self.search, self.precision)
        work = sweep(self.run, candidates, self.n, self.eyes, keep=self.keep, seed=self.seed)
        result = shown(work, console)
        heads = ("solver", "times", "steps", "scale", "evals", "ms", "distance", "labels", "")
        table(console, as_rows(result), str(self.run), heads)
        self.beneath(console, result)
        echo(console, f"report   {self.run / 'sweep.html'}")
        echo(console, f"sample   {command('sample', self.run)}")

    @property
    def eyes(self) -> Measuring:
        """By what, and beside which data, it is measured."""
        from ebb.evaluate.evaluate import Measuring

        return Measuring(data=self.data, features=self.features)

    def beside(self, console: Console) -> None:
        """Measure the references, print their table, and write them into the run's report."""
        from ebb.evaluate.references import HEADS, as_rows, references

        work = references(self.run, self.n, self.eyes, precision=self.precision, seed=self.seed)
        result = shown(work, console)
        table(console, as_rows(result), str(self.run), HEADS)
        for way in result.ways:
            echo(console, way.says)
        self.beneath(console, result)
        echo(console, f"report   {self.run / 'report.html'}")

    def beneath(self, console: Console, result: SweepResult | References) -> None:
        """What stands below either table: what real examples score, by which judge, and notes; and all as JSON."""
        echo(console, f"real ones score {result.floor:.4f}")
        if result.about["judge"] is not None:
            echo(console, f"judge    {result.about['judge']['says']}")
        for warning in result.about["warnings"]:
            echo(console, f"note     {warning}")
        if self.json:
            put_facts(result.facts())


@dataclass(frozen=True)
class Doctor:
    """Look for what is wrong with a run or with data, and say what to do about it."""

    where: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="RUN|DATA")]
    """run folder, or data as `ebb train` takes it"""
    data: str | None = None
    """where the data of a run is now, if it was moved; it must be the same"""
    out: Path | None = None
    """the page about data, an .html; without it runs/NAME-data.html"""
    json: bool = False
    """what doctor.json holds of a run, and of data the same, as one line on stdout, and nothing else there"""

    def __call__(self, console: Console, given: set[str]) -> None:
        """Print every finding; the exit code tells errors, and checks that could not be made (`Diagnosis.code`)."""
        from ebb.doctor.diagnose import names_data

        found = self.of_data(console) if self.data is None and names_data(self.where) else self.of_model(console)
        if self.json:
            put_facts(asdict(found) | {"verdict": found.verdict})
        if found.code:
            sys.exit(found.code)

    def of_data(self, console: Console) -> Diagnosis:
        """Examine data, and write the page about it."""
        from ebb.doctor.diagnose import examined
        from ebb.report.data_report import place_of, write_data_report

        target = place_of(self.where, self.out)
        with Reader(console) as reader:
            found, data = examined(self.where, reader.show)
            if data is not None:
                reader.show(Progress("drawing the page"))
                write_data_report(data, found, target)
        echo(console, str(found))
        if data is not None:
            echo(console, f"page     {target}")
        return found

    def of_model(self, console: Console) -> Diagnosis:
        """Examine a run or a checkpoint, and show what was found in the run's report."""
        from ebb.doctor.diagnose import diagnose

        if self.out is not None:
            raise UsageError("--out names a page about data; that of a run is RUN/report.html", "leave --out out")
        with Reader(console) as reader:
            reader.show(Progress("examining"))
            found = diagnose(self.where, data=self.data, progress=reader.show)
        echo(console, str(found))
        if found.kind == "run" and not found.unkept:
            from ebb.report.run_report import write_report

            echo(console, f"report   {write_report(Path(self.where))}")
        return found
