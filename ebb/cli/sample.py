"""`ebb sample`."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro
from rich.console import Console

from ebb.cli.how import How
from ebb.cli.output import Reader, shown
from ebb.errors import UsageError
from ebb.terminal import command


@dataclass(frozen=True)
class Sample:
    """Sample new examples from a run."""

    run: Annotated[tyro.conf.Positional[Path | None], tyro.conf.arg(metavar="RUN")] = None
    """run folder, or one of its checkpoints; with --from the one that the picture names"""
    n: int = 16
    """number of samples"""
    label: str | None = None
    """name or number of the label; without it every label in turn"""
    text: tuple[str, ...] = ()
    """prompts, in turn, for a model of captions; without it some captions of the data"""
    numbers: tuple[str, ...] = ()
    """NAME=VALUE of every number that the model hears, or NAME=VALUE,VALUE,… in turn"""
    beside: tuple[Path, ...] = ()
    """FILE, or NAME=FILE of each picture that the model hears, to stand beside the samples; several in turn"""
    adapter: tuple[str, ...] = ()
    """runs of ebb adapt, or files of LoRA, to be put on, as PATH or PATH:AMOUNT: 1 as it was trained, 0 nothing"""
    reference: tuple[str, ...] = ()
    """FILE, or FILE:SCALE, of pictures that samples are to be like, in turn, where what is put on hears them; scale 0
    is without"""
    control: tuple[str, ...] = ()
    """NAME=FILE of each control of the run: a picture of which the edges, or whatever it is, are found; NAME=map:FILE
    where it shows them itself; several in turn"""
    control_scale: float = 1.0
    """how much all controls count: 1 as they were trained, 0 nothing"""
    together: bool = False
    """ask for all prompts at once, each pulling at the scale of guidance"""
    regions: tuple[str, ...] = ()
    """for each prompt where it is asked for: words of top, bottom, left, right, or a picture that is white there"""
    seed: int = 0
    """image i is made from seed + i"""
    out: Path = Path("samples.png")
    """a .png for one sheet, a .gif or .webp for a film of the denoising, a .npz for arrays, a folder for single .png
    files, which goes on where it was stopped; of a table a .csv"""
    by: Literal["label"] | None = None
    """label: as many of each, at least --n in all, in a folder for each, which ebb train reads"""
    size: str | None = None
    """WIDTHxHEIGHT, such as 96x64, of a model that was trained on several (--data.buckets); else that of most images"""
    again: Annotated[Path | None, tyro.conf.arg(name="from")] = None
    """a picture of ebb to make again, by what it says of itself; nothing else is asked for then but RUN and --out"""
    compile: bool = False
    """compile the steps: a minute first, then faster; for thousands of samples"""
    explain: bool = False
    """also show what the samples of each prompt listen to: for each word how evenly, and a map"""
    how: Annotated[How, tyro.conf.arg(name="")] = How()

    def __call__(self, console: Console, given: set[str]) -> None:
        """Sample and write, or make again what a picture says."""
        if self.again is None:
            self.make(console)
            return
        from ebb.cli.again import again

        if others := sorted(given - {"from", "out"}):
            raise UsageError(
                f"--{others[0].replace('_', '-')} stands beside --from, and {self.again} says how it was made",
                f"for another, change its command, which is shown by: {command('show', self.again)}",
            )
        again(self.again, self.run, self.out if "out" in given else None, console)

    def make(self, console: Console, only: int | None = None) -> None:
        """Sample and write; `only` one of them, into a folder."""
        from ebb.edit.samples import Prompt, sample_to

        if self.run is None:
            raise UsageError("there is nothing to sample from", "name a run: ebb sample RUN, or a picture: --from FILE")
        if self.explain:
            from ebb.evaluate.explain import explained

            shown(explained(self.run, self.text, self.out, self.n, self.seed, **asdict(self.how)), console)
        asked = (self.label, self.text, self.numbers, self.beside, self.together, self.regions, self.by == "label")
        more = (self.adapter, self.reference, self.size, self.control, self.control_scale)
        prompt, how = Prompt(self.n, self.seed, *asked, *more), asdict(self.how)
        with Reader(console) as reader:
            sample_to(self.run, self.out, prompt, progress=reader.show, compile=self.compile, only=only, **how)
