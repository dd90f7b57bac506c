"""The command line: few verbs, every option a field of the recipe or an argument of the function it calls.

Only the chosen verb imports torch, so that help and mistakes are answered at once.
"""

from __future__ import annotations

import errno
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from pydantic import ValidationError
from rich.console import Console
from rich.text import Text

from ebb.errors import EbbError, ResourceError, UsageError
from ebb.recipe import Recipe, difference, explained, flat, from_yaml, to_yaml, validated
from ebb.terminal import tell


@dataclass(frozen=True)
class Train:
    """Train a diffusion model on a folder of images; the same command again resumes."""

    source: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="DATA")]
    """a folder of images or class folders, imagefolder, .zip of these, idx, .npz, CIFAR-10 binary, or digits"""
    recipe: Annotated[Recipe, tyro.conf.arg(name="")] = Recipe()
    run: Path | None = None
    """where to keep the run; without it runs/ and the name of the data"""
    fresh: bool = False
    """start anew, replacing a run of the same name"""
    base: Path | None = None
    """a recipe or run.yaml to start from; options given here win"""
    dry_run: bool = False
    """make a few updates, a checkpoint and a sample, say what they cost, and keep nothing"""

    def __call__(self, console: Console, given: set[str]) -> None:
        """Train, and say where the results are."""
        if {"steps", "budget"} <= given:
            raise UsageError("--steps and --budget both say how long to train", "give one of them")
        asked = self.recipe
        if self.base is not None:
            asked = overlaid(from_yaml(self.base)[0], self.recipe, given)
        if self.dry_run:
            self.rehearse(asked, console)
            return
        from ebb.run import train

        folder = train(self.source, asked, run=self.run, fresh=self.fresh, console=console)
        tell(console, f"report   {folder / 'report.html'}")
        tell(console, f"sample   ebb sample {folder} --n 16 --out samples.png")
        tell(console, f"measure  ebb evaluate {folder} --n 1000")

    def rehearse(self, asked: Recipe, console: Console) -> None:
        """Measure what training would cost, and print the table."""
        from ebb.machine import seconds_since_start
        from ebb.rehearsal import as_rows, rehearse

        began = time.perf_counter() - (seconds_since_start() or 0.0)
        found = rehearse(self.source, asked, run=self.run, console=console, began=began)
        show(console, as_rows(found), f"{self.source}, rehearsed")
        tell(console, "nothing was kept; without --dry-run the same command trains")


@dataclass(frozen=True)
class How:
    """How to sample; what is not given is the system's own."""

    steps: int | None = None
    """solver steps"""
    guidance: float | None = None
    """classifier-free guidance scale; 1 is off"""
    solver: str | None = None
    """ddpm, ddim, ddim(eta=0.5), euler, heun, dpmpp_2m, …: see docs/sample.md"""
    grid: str | None = None
    """uniform, quadratic, karras, log_snr, trailing or leading"""
    precision: Literal["fp32", "bf16"] | None = None
    """of the network's forward pass"""


@dataclass(frozen=True)
class Sample:
    """Sample new images from a run."""

    run: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN")]
    """run folder, or one of its checkpoints"""
    n: int = 16
    """number of images"""
    label: str | None = None
    """name or number of the label; without it every label in turn"""
    seed: int = 0
    """image i is made from seed + i"""
    out: Path = Path("samples.png")
    """a .png for one grid, a .npz for arrays, or a folder for single .png files"""
    compile: bool = False
    """compile the steps: a minute first, then faster; for thousands of samples"""
    how: Annotated[How, tyro.conf.arg(name="")] = How()

    def __call__(self, console: Console, given: set[str]) -> None:
        """Sample and write."""
        from ebb.samples import sample_to

        how = asdict(self.how)
        sample_to(
            self.run, self.out, self.n, label=self.label, seed=self.seed, compile=self.compile, console=console, **how
        )


@dataclass(frozen=True)
class Evaluate:
    """Measure a run: distances to the real images beside their floor, copies, noise levels, likelihood and cost."""

    run: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN")]
    """run folder"""
    n: int = 1000
    """number of samples to draw; the same command goes on where it was interrupted"""
    seed: int = 0
    """of the samples and of the split of the real images"""
    features: str | None = None
    """a pretrained network in a local file, inception:FILE or dino:FILE; without it the run's own classifier"""
    likelihood: int = 64
    """number of unseen images to find the bits per dimension of; 0 for none"""
    weights: Literal["ema", "model"] = "ema"
    """the averaged weights that one samples from, or the raw ones"""
    against: Annotated[Path | None, tyro.conf.arg(metavar="RUN2")] = None
    """compare with this run instead: same data, seeds and labels, and an interval for each difference"""
    how: Annotated[How, tyro.conf.arg(name="")] = How()

    def __call__(self, console: Console, given: set[str]) -> None:
        """Measure, print the table, and write it into the run's report."""
        options = {"seed": self.seed, "features": self.features, "weights": self.weights, **asdict(self.how)}
        try:
            with saying(console, "reading the run") as say:
                rows, heads = self.alone(say, options) if self.against is None else self.compared(say, options)
        except KeyboardInterrupt:
            tell(console, "stopped; the same command goes on with the samples that were drawn")
            sys.exit(128 + signal.SIGINT)
        show(console, rows, str(self.run), heads)
        tell(console, f"report   {self.run / 'report.html'}")

    def alone(self, say: Say, options: dict[str, Any]) -> Rows:
        """The figures of one run."""
        from ebb.evaluate.run import as_table, evaluate

        return as_table(evaluate(self.run, self.n, likelihood=self.likelihood, say=say, **options)), ()

    def compared(self, say: Say, options: dict[str, Any]) -> Rows:
        """The differences of two runs."""
        from ebb.evaluate.against import against, as_rows

        found = against(self.run, self.against or self.run, self.n, say=say, **options)
        return as_rows(found), ("", found.run, found.other, "difference", "that is")


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


@dataclass(frozen=True)
class Doctor:
    """Look for what is wrong with a run or with data, and say what to do about it."""

    where: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="RUN|DATA")]
    """run folder, or data as `ebb train` takes it"""

    def __call__(self, console: Console, given: set[str]) -> None:
        """Print every finding; exit code 1 if one of them is an error."""
        from ebb.evaluate.doctor.finding import diagnose

        with saying(console, "examining") as say:
            found = diagnose(self.where, say=say)
        tell(console, str(found))
        if found.kind == "run":
            from ebb.evaluate.report.run import write_report

            tell(console, f"report   {write_report(Path(self.where))}")
        if any(finding.severity == "error" for finding in found.findings):
            sys.exit(1)


@dataclass(frozen=True)
class Sweep:
    """Measure solvers, steps and guidance of a run, and keep the cheapest good setting as its default."""

    run: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN")]
    """run folder"""
    solvers: tuple[str, ...] = ("dpmpp_2m", "unipc", "deis")
    """solvers to measure"""
    steps: tuple[int, ...] = (6, 8, 10, 12)
    """numbers of steps to measure"""
    guidance: tuple[float, ...] = ()
    """guidance scales to measure; without it 1 and the run's own"""
    precision: Literal["fp32", "bf16"] | None = None
    """of the network's forward pass"""
    n: int = 1000
    """samples in each cell"""
    seed: int = 0
    """of the samples and of the split of the real images"""
    search: bool = True
    """also search for the best times, for up to 12 steps of deterministic solvers"""

    def __call__(self, console: Console, given: set[str]) -> None:
        """Measure, print the table, and write sweep.json, sweep.html, sweep.png and sampling.json into the run."""
        from ebb.evaluate.sweep import as_rows, sweep

        with saying(console, "reading the run") as say:
            result = sweep(
                self.run,
                self.solvers,
                self.steps,
                self.guidance,
                self.n,
                search=self.search,
                precision=self.precision,
                seed=self.seed,
                say=say,
            )
        heads = ("solver", "times", "steps", "scale", "evals", "ms", "distance", "labels", "")
        show(console, as_rows(result), str(self.run), heads)
        tell(console, f"real images against real images: {result.floor:.4f}")
        tell(console, f"report   {self.run / 'sweep.html'}")
        tell(console, f"sample   ebb sample {self.run}")


@dataclass(frozen=True)
class Show:
    """Print the resolved recipe of a run, or of a recipe file; without one, all fields with their defaults."""

    what: tyro.conf.Positional[Path | None] = None
    """run folder or recipe file"""

    def __call__(self, console: Console, given: set[str]) -> None:
        """Print YAML."""
        tell(console, to_yaml(recipe_of(self.what) if self.what else Recipe()).rstrip())


@dataclass(frozen=True)
class Validate:
    """Check a recipe file and say what is wrong with it."""

    file: tyro.conf.Positional[Path]
    """recipe file or run folder"""

    def __call__(self, console: Console, given: set[str]) -> None:
        """Print that it is valid, or end with the reason."""
        from ebb.plan import names_known

        names_known(recipe_of(self.file))
        tell(console, f"{self.file} is a valid recipe")


@dataclass(frozen=True)
class Diff:
    """Print how two recipes differ."""

    a: tyro.conf.Positional[Path]
    """run folder or recipe file"""
    b: tyro.conf.Positional[Path]
    """run folder or recipe file"""

    def __call__(self, console: Console, given: set[str]) -> None:
        """One line for each field that differs."""
        old, new = (flat(recipe_of(path).model_dump()) for path in (self.a, self.b))
        for line in difference(old, new) or ["no difference"]:
            tell(console, line)


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


Verbs = (
    Annotated[Train, tyro.conf.subcommand("train")]
    | Annotated[Sample, tyro.conf.subcommand("sample")]
    | Annotated[Evaluate, tyro.conf.subcommand("evaluate")]
    | Annotated[Doctor, tyro.conf.subcommand("doctor")]
    | Annotated[Sweep, tyro.conf.subcommand("sweep")]
    | Annotated[ConfigVerb, tyro.conf.subcommand("config")]
)


def recipe_of(path: Path) -> Recipe:
    """The recipe of a run folder or of a YAML file."""
    return from_yaml(path / "run.yaml" if path.is_dir() else path)[0]


def given_in(arguments: list[str]) -> set[str]:
    """The dotted names of the options that were given, also where the value is the default: {"seed", "data.flip"}."""
    names = (word[2:].split("=")[0] for word in arguments if word.startswith("--"))
    return {name.replace(".no-", ".").replace("-", "_") for name in names}


def overlaid(base: Recipe, asked: Recipe, given: set[str]) -> Recipe:
    """`base` with the fields that were given on the command line; steps and budget replace each other."""
    tree, options = base.model_dump(), flat(asked.model_dump())
    for name in given & options.keys():
        *groups, leaf = name.split(".")
        part = tree
        for group in groups:
            part = part[group]
        part[leaf] = options[name]
    if given & {"steps", "budget"}:
        tree["budget" if "steps" in given else "steps"] = None
    return validated(tree, "the command line")


def main(arguments: list[str] | None = None) -> None:
    """Run one verb; a mistake ends with one short message and its exit code, never a traceback."""
    console, errors = Console(), Console(stderr=True)
    try:
        verb = tyro.cli(
            Verbs, args=arguments, prog="ebb", description="Train, sample, measure and diagnose diffusion models."
        )
        verb(console, given_in(sys.argv[1:] if arguments is None else arguments))
    except EbbError as error:
        fail(errors, error)
    except ValidationError as error:
        fail(errors, explained(error, "the command line"))
    except BrokenPipeError:  # the reader of our output, such as `head`, has seen enough
        os._exit(0)
    except OSError as error:
        if error.filename is None and error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        what = f"{error.filename or 'a file'}: {error.strerror}"
        fail(errors, ResourceError(what, "free space, or choose another place"))
    except (MemoryError, RuntimeError) as error:
        if not isinstance(error, MemoryError) and "memory" not in str(error):
            raise
        fail(errors, ResourceError("out of memory", "try a smaller --batch, --network.width or --data.size"))
    except KeyboardInterrupt as stop:
        saved = "; the same command resumes from the last checkpoint" if stop.args else ""
        errors.print(f"stopped{saved}", soft_wrap=True)
        sys.exit(128 + (stop.args[0] if stop.args else signal.SIGINT))


def fail(console: Console, error: EbbError) -> None:
    """Print the message and end with its code."""
    console.print("[bold red]error[/] ", end="")
    tell(console, str(error))
    sys.exit(error.code)
