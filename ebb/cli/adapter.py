"""`ebb adapter`: files of adapters looked at, merged, joined, extracted, converted, brought to another rank."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro
from rich.console import Console

from ebb.cli.output import echo, put_facts, table
from ebb.terminal import command

if TYPE_CHECKING:
    from ebb.adapt.approximate import Approximation
    from ebb.run.adapters import AdapterFile

Form = Literal["ebb", "peft", "diffusers", "kohya"]
Place = Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="ADAPTER")]


@dataclass(frozen=True)
class ShowAdapter:
    """Show what an adapter is: format, ranks, scale, base, size of each change, and what becomes of every key."""

    adapter: Place
    """an adapter's file, or PEFT's folder"""
    run: Path | None = None
    """run whose network it is for: layers are matched with it then, and the sizes are shares of its weights"""
    scale: float | None = None
    """s of a file that has none"""
    json: bool = False
    """one line of JSON"""

    def __call__(self, console: Console, given: set[str]) -> None:
        """Print it."""
        from ebb.run.adapters import looked_at

        found = looked_at(self.adapter, self.run, self.scale)
        if self.json:
            put_facts({"facts": dict(found.facts()), "layers": found.layers(), "keys": dict(found.account.rows())})
            return
        table(console, found.facts(), str(self.adapter))
        table(console, found.layers(), "layers", ("", "weight", "rank", "scale", "‖ΔW‖"))
        table(console, found.account.rows(), "keys")


@dataclass(frozen=True)
class MergeAdapter:
    """Write a run with adapters in its weights, for any verb that samples; the run itself stays as it is."""

    run: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN")]
    """run folder, one of its checkpoints, or what was exported"""
    adapters: Annotated[tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="ADAPTER[:AMOUNT]")]
    """one or more, each with how much of it; their sum is exact"""
    out: Path
    """a folder, or one file, NAME.safetensors"""
    precision: Literal["fp32", "bf16"] = "fp32"
    """of the weights that are written; bf16 forgets small changes, and less than 95 % left is refused"""

    def __call__(self, console: Console, given: set[str]) -> None:
        """Write it, and say what is left of the adapters."""
        from ebb.run.adapters import merged

        done = merged(self.run, self.adapters, self.out, self.precision)
        rows = [(name, f"× {amount:g}") for name, amount in done.amounts.items()]
        table(console, [*rows, ("survives", f"{done.predicted:.1%} of the changes in {self.precision}")], "merged")
        echo(console, f"written  {done.made.place}, {done.made.bytes / 1e6:.3g} MB")
        echo(console, f"sample   {command('sample', done.made.place, '--n', 16)}")


@dataclass(frozen=True)
class JoinAdapter:
    """Write several adapters as one, whose changes are exactly the sum of theirs: their ranks add up."""

    adapters: Annotated[tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="ADAPTER[:AMOUNT]")]
    """files, PEFT's folders or runs of ebb adapt, each with how much of it"""
    out: Path
    """an adapter's file, NAME.safetensors, or PEFT's folder"""
    rank: int | None = None
    """bring the sum to this rank, with its exact error; without it nothing is left out"""
    to: Form = "ebb"
    """the format that is written"""
    run: Path | None = None
    """run whose network they are for; kohya's names need it"""

    def __call__(self, console: Console, given: set[str]) -> None:
        """Say what adds up to what, and write it."""
        from ebb.adapt.approximate import resized
        from ebb.run.adapters import joined_files, save

        found = joined_files(self.adapters, self.out, self.run)
        table(console, found.rows(), "joined")
        adapter = found.adapter
        if self.rank is not None:
            near = resized(adapter, self.rank)
            shown_by_rank(console, near, self.rank)
            adapter = near.adapter
        echo(console, f"written  {save(adapter, self.to, self.out)}")


@dataclass(frozen=True)
class ExtractAdapter:
    """Write the LoRA that leads from one run to another of the same network, with its exact error."""

    first: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="BASE")]
    """the run that it is put on"""
    second: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN")]
    """the run that it comes near to"""
    rank: int
    """of each layer's change"""
    out: Path
    """an adapter's file, NAME.safetensors, or PEFT's folder"""
    to: Form = "ebb"
    """the format that is written"""

    def __call__(self, console: Console, given: set[str]) -> None:
        """Print the error by rank, and write it."""
        from ebb.run.adapters import save, taken

        found = taken(self.first, self.second, self.rank)
        shown_by_rank(console, found, self.rank)
        if found.besides:
            names = ", ".join(list(found.besides)[:4]) + (", …" if len(found.besides) > 4 else "")
            echo(console, f"besides  {found.beyond():.1%} of the whole difference is where no adapter reaches: {names}")
        echo(console, f"written  {save(found.adapter, self.to, self.out)}")


@dataclass(frozen=True)
class ConvertAdapter:
    """Write an adapter in another format; every key is accounted for, and the change stays to the bit."""

    adapter: Place
    """an adapter's file, or PEFT's folder"""
    out: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="OUT")]
    """a new file, NAME.safetensors, or PEFT's folder"""
    to: Form = "ebb"
    """the format that is written"""
    run: Path | None = None
    """run whose network it is for; kohya's names need it"""
    scale: float | None = None
    """s of a file that has none"""

    def __call__(self, console: Console, given: set[str]) -> None:
        """Write it."""
        from ebb.run.adapters import respelt, save

        found = respelt(self.adapter, self.to, self.run, self.scale)
        table(console, found.account.rows(), f"{self.adapter}, {found.spelling.name}")
        left_out(console, found)
        echo(console, f"written  {save(found.adapter, self.to, self.out)}, {self.to}")


@dataclass(frozen=True)
class ResizeAdapter:
    """Write the nearest adapter of another rank, with its exact error."""

    adapter: Place
    """an adapter's file, or PEFT's folder"""
    out: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="OUT")]
    """a new file, NAME.safetensors, or PEFT's folder"""
    rank: int
    """of each layer's change"""
    to: Form = "ebb"
    """the format that is written"""

    def __call__(self, console: Console, given: set[str]) -> None:
        """Print the error by rank, and write it."""
        from ebb.adapt.approximate import resized
        from ebb.run.adapters import respelt, save

        file = respelt(self.adapter, "ebb")
        left_out(console, file)
        found = resized(file.adapter, self.rank)
        shown_by_rank(console, found, self.rank)
        echo(console, f"written  {save(found.adapter, self.to, self.out)}")


def left_out(console: Console, file: AdapterFile) -> None:
    """What a run has besides changes of weights, for which a file has no place."""
    for each in file.besides:
        echo(console, f"left out {each}: an adapter's file has changes of weights alone")


def shown_by_rank(console: Console, near: Approximation, rank: int) -> None:
    """What each rank leaves out."""
    table(console, near.rows(rank), f"{near.adapter.name}: what a rank leaves out of ‖ΔW‖")


Adapters = Annotated[
    Annotated[ShowAdapter, tyro.conf.subcommand("show")]
    | Annotated[MergeAdapter, tyro.conf.subcommand("merge")]
    | Annotated[JoinAdapter, tyro.conf.subcommand("join")]
    | Annotated[ExtractAdapter, tyro.conf.subcommand("extract")]
    | Annotated[ConvertAdapter, tyro.conf.subcommand("convert")]
    | Annotated[ResizeAdapter, tyro.conf.subcommand("resize")],
    tyro.conf.arg(name=""),
]


@dataclass(frozen=True)
class AdapterVerb:
    """Look at adapters, merge and join them, extract, convert and resize them."""

    verb: Adapters

    def __call__(self, console: Console, given: set[str]) -> None:
        """Do it."""
        self.verb(console, given)
