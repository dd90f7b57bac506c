"""`ebb edit`: pictures of your own given to a run, a verb for each thing that can be done to them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.console import Console

from ebb.cli.how import How
from ebb.cli.output import Reader, echo
from ebb.errors import UsageError
from ebb.events import Progress

Run = Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN", help="run folder, or one of its checkpoints")]
Pictures = Annotated[
    tyro.conf.Positional[tuple[Path, ...]],
    tyro.conf.arg(
        metavar="PICTURE…", help="picture files, or folders of them; made as large as the model's if they are not"
    ),
]

THERE_AND_BACK = 50
"""Steps of the verbs that invert, where none are asked for: sampling does with fewer."""


@dataclass(frozen=True)
class Versions:
    """How many, and from which noise."""

    n: int = 1
    """versions of each picture"""
    seed: int = 0
    """edited picture i is made from seed + i"""


@dataclass(frozen=True)
class Towards:
    """What the pictures become, how, and where they go."""

    label: str | None = None
    """name or number of the label to edit towards; without it none is said"""
    text: str | None = None
    """prompt to edit towards, for a model of captions"""
    out: Path = Path("edited.png")
    """a .png for a sheet of pictures and their edits, a .gif or .webp for a film, a .npz for arrays, or a folder for
    single .png files"""
    how: Annotated[How, tyro.conf.arg(name="")] = How()

    @contextmanager
    def job(self, run: Path, console: Console, steps: int | None = None) -> Iterator[Any]:
        """The `ebb.edit.files.Job` of a run, with `steps` where none are asked for."""
        from ebb.edit.files import Job

        if self.label is not None and self.text is not None:
            raise UsageError("an edit is towards a label or a text, got both", "give one of them")
        how = asdict(self.how)
        how["steps"] = steps if self.how.steps is None else self.how.steps
        with Reader(console) as reader:
            reader.show(Progress("reading the run"))
            yield Job.of(run, self.out, reader.show, label=self.label if self.text is None else self.text, **how)


@dataclass(frozen=True)
class Strength:
    """Image to image: noise pictures and sample on from there; the stronger, the more may change."""

    run: Run
    pictures: Pictures
    strength: float = 0.5
    """share of the steps that are made, the last: 0 gives the picture back, 1 is a new one"""
    versions: Annotated[Versions, tyro.conf.arg(name="")] = Versions()
    towards: Annotated[Towards, tyro.conf.arg(name="")] = Towards()

    def __call__(self, console: Console, given: set[str], edit: str = "strength") -> None:
        """Edit and write."""
        from ebb.edit.files import versions

        with self.towards.job(self.run, console) as job:
            x0, seed = job.read(self.pictures), self.versions.seed
            asked = {"pictures": self.pictures, "strength": self.strength, "n": self.versions.n}
            job.make(
                lambda part, seed: job.editor.strength(part, self.strength, seed),
                versions(x0, self.versions.n),
                x0,
                seed,
                about={"edit": edit} | asked,
            )


@dataclass(frozen=True)
class Vary:
    """Variations of pictures: image to image from several seeds."""

    run: Run
    pictures: Pictures
    strength: float = 0.5
    """share of the steps that are made, the last: 0 gives the picture back, 1 is a new one"""
    versions: Annotated[Versions, tyro.conf.arg(name="")] = Versions(n=8)
    towards: Annotated[Towards, tyro.conf.arg(name="")] = Towards()

    def __call__(self, console: Console, given: set[str]) -> None:
        """Edit and write."""
        Strength(self.run, self.pictures, self.strength, self.versions, self.towards)(console, given, "vary")


@dataclass(frozen=True)
class Inpaint:
    """Make part of pictures anew; the rest stays as it is, bit for bit."""

    run: Run
    pictures: Pictures
    mask: Path
    """picture as large as PICTURE: white, or drawn on nothing, where it is made new; black where it is kept"""
    repeats: int = 5
    """times that each step is made, so that new and old go together; as many times as long"""
    versions: Annotated[Versions, tyro.conf.arg(name="")] = Versions()
    towards: Annotated[Towards, tyro.conf.arg(name="")] = Towards()

    def __call__(self, console: Console, given: set[str]) -> None:
        """Edit and write; a new part is grey in the picture before."""
        from ebb.edit.files import versions

        with self.towards.job(self.run, console) as job:
            (new, x0), seed = job.masked(self.mask, self.pictures), self.versions.seed
            asked = {"pictures": self.pictures, "mask": self.mask, "repeats": self.repeats, "n": self.versions.n}
            job.make(
                lambda part, seed: job.editor.inpaint(part, new, self.repeats, seed),
                versions(x0, self.versions.n),
                x0.masked_fill(new, 0),
                seed,
                about={"edit": "inpaint"} | asked,
            )


@dataclass(frozen=True)
class Outpaint:
    """Make what lies around pictures; they stay as they are, bit for bit."""

    run: Run
    pictures: Pictures
    border: int = 8
    """width of what is new on every side, in pixels"""
    repeats: int = 5
    """times that each step is made, so that new and old go together; as many times as long"""
    versions: Annotated[Versions, tyro.conf.arg(name="")] = Versions()
    towards: Annotated[Towards, tyro.conf.arg(name="")] = Towards()

    def __call__(self, console: Console, given: set[str]) -> None:
        """Edit and write; the border is grey in the picture before."""
        from ebb.edit.files import versions
        from ebb.edit.fill import canvas

        with self.towards.job(self.run, console) as job:
            x0, seed = job.read(self.pictures), self.versions.seed
            around, new = canvas(x0, self.border)
            asked = {"pictures": self.pictures, "border": self.border, "repeats": self.repeats, "n": self.versions.n}
            job.make(
                lambda part, seed: job.editor.outpaint(part, self.border, self.repeats, seed),
                versions(x0, self.versions.n),
                around.masked_fill(new, 0),
                seed,
                about={"edit": "outpaint"} | asked,
            )


@dataclass(frozen=True)
class Interpolate:
    """A film strip from one seed to another, from one label or prompt to another, or both at once."""

    run: Run
    seeds: tuple[int, int] | None = None
    """first and last seed; without it 0 and 1, or 0 alone where two labels are given"""
    labels: tuple[str, ...] = ()
    """one label or prompt, or the first and the last"""
    n: int = 9
    """number of frames"""
    out: Path = Path("strip.png")
    """a .png for the strip, a .gif or .webp for a film, a .npz for arrays, or a folder for single .png files"""
    how: Annotated[How, tyro.conf.arg(name="")] = How()

    def __call__(self, console: Console, given: set[str]) -> None:
        """Sample and write."""
        if len(self.labels) > 2:
            raise UsageError(f"interpolation is between two labels, got {len(self.labels)}", "try --labels FIRST LAST")
        ends = (self.labels[0], self.labels[1]) if len(self.labels) == 2 else None
        seeds = self.seeds or ((0, 0) if ends else (0, 1))
        with Towards(next(iter(self.labels), None), None, self.out, self.how).job(self.run, console) as job:
            made = job.editor.interpolate(seeds, self.n, ends)
            about = {"edit": "interpolate", "seeds": seeds, "labels": self.labels, "n": self.n}
            job.make(lambda part, _: part, made, about=about)


@dataclass(frozen=True)
class Translate:
    """Take pictures back to their noise, and sample them again under another label."""

    run: Run
    pictures: Pictures
    source: str | None = None
    """label, or caption, of the pictures as they are; without it none is said"""
    towards: Annotated[Towards, tyro.conf.arg(name="")] = Towards()

    def __call__(self, console: Console, given: set[str]) -> None:
        """Edit and write."""
        with self.towards.job(self.run, console, THERE_AND_BACK) as job:
            x0 = job.read(self.pictures)
            asked = {"edit": "translate", "pictures": self.pictures, "source": self.source}
            job.make(lambda part, _: job.editor.translate(part, self.source), x0, x0, about=asked)


@dataclass(frozen=True)
class Shift:
    """Latent arithmetic: move pictures from what some have in common towards what others have."""

    run: Run
    pictures: Pictures
    plus: tuple[Path, ...]
    """pictures, or folders of them, with what is wanted"""
    minus: tuple[Path, ...]
    """pictures, or folders of them, without it and else alike"""
    scale: float = 1.0
    """times the difference of their mean noises"""
    towards: Annotated[Towards, tyro.conf.arg(name="")] = Towards()

    def __call__(self, console: Console, given: set[str]) -> None:
        """Edit and write."""
        with self.towards.job(self.run, console, THERE_AND_BACK) as job:
            x0, plus, minus = (job.read(paths) for paths in (self.pictures, self.plus, self.minus))
            added = self.scale * job.editor.direction(plus, minus)
            asked = {"plus": self.plus, "minus": self.minus, "scale": self.scale}
            job.make(
                lambda part, _: job.editor.translate(part, job.editor.label, added),
                x0,
                x0,
                about={"edit": "shift", "pictures": self.pictures} | asked,
            )


@dataclass(frozen=True)
class Upscale:
    """Enlarge small pictures to the model's size: large ones whose block means they are."""

    run: Run
    pictures: Pictures
    error: float = 0.01
    """standard deviation of what is wrong with the picture, of values from -1 to 1"""
    versions: Annotated[Versions, tyro.conf.arg(name="")] = Versions()
    towards: Annotated[Towards, tyro.conf.arg(name="")] = Towards()

    def __call__(self, console: Console, given: set[str]) -> None:
        """Edit, say how well the result agrees with the picture, and write."""
        from ebb.edit.files import versions
        from ebb.guide.operators import downsample

        with self.towards.job(self.run, console) as job:
            y, seed = job.small(self.pictures), self.versions.seed
            factor, many = job.editor.factor(y), versions(y, self.versions.n)
            before = y.repeat_interleave(factor, 2).repeat_interleave(factor, 3)
            asked = {"pictures": self.pictures, "factor": factor, "error": self.error, "n": self.versions.n}
            made = job.make(
                lambda part, seed: job.editor.upscale(part, self.error, seed),
                many,
                before,
                seed,
                about={"edit": "upscale"} | asked,
            )
            agreement(console, "shrunk", downsample(factor), made, many)


@dataclass(frozen=True)
class Deblur:
    """Sharpen blurred pictures: sharp ones that are the same when blurred."""

    run: Run
    pictures: Pictures
    sigma: float = 1.5
    """standard deviation of the Gaussian that blurred them, in pixels"""
    error: float = 0.01
    """standard deviation of what else is wrong with the picture, of values from -1 to 1"""
    versions: Annotated[Versions, tyro.conf.arg(name="")] = Versions()
    towards: Annotated[Towards, tyro.conf.arg(name="")] = Towards()

    def __call__(self, console: Console, given: set[str]) -> None:
        """Edit, say how well the result agrees with the picture, and write."""
        from ebb.edit.files import versions
        from ebb.edit.restore import softened

        with self.towards.job(self.run, console) as job:
            y, seed = job.read(self.pictures), self.versions.seed
            many = versions(y, self.versions.n)
            asked = {"pictures": self.pictures, "sigma": self.sigma, "error": self.error, "n": self.versions.n}
            made = job.make(
                lambda part, seed: job.editor.deblur(part, self.sigma, self.error, seed),
                many,
                y,
                seed,
                about={"edit": "deblur"} | asked,
            )
            agreement(console, "blurred", softened(self.sigma), made, many)


def agreement(console: Console, how: str, operator: Any, made: Any, y: Any) -> None:
    """Say how far what was made is from the picture when the operator is applied to it, in grey levels."""
    from ebb.edit.restore import disagreement

    echo(
        console,
        f"{how} again, they differ from the pictures by {127.5 * disagreement(operator, made, y):.1f} of 255 (rms)",
    )


Edit = Annotated[
    Annotated[Strength, tyro.conf.subcommand("strength")]
    | Annotated[Vary, tyro.conf.subcommand("vary")]
    | Annotated[Inpaint, tyro.conf.subcommand("inpaint")]
    | Annotated[Outpaint, tyro.conf.subcommand("outpaint")]
    | Annotated[Interpolate, tyro.conf.subcommand("interpolate")]
    | Annotated[Translate, tyro.conf.subcommand("translate")]
    | Annotated[Shift, tyro.conf.subcommand("shift")]
    | Annotated[Upscale, tyro.conf.subcommand("upscale")]
    | Annotated[Deblur, tyro.conf.subcommand("deblur")],
    tyro.conf.arg(name=""),
]


@dataclass(frozen=True)
class EditVerb:
    """Edit pictures: image to image, inpainting, outpainting, interpolation, arithmetic, enlarging, sharpening."""

    verb: Edit

    def __call__(self, console: Console, given: set[str]) -> None:
        """Do it."""
        self.verb(console, given)
