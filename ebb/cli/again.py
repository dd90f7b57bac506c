"""A picture made again: the command that it carries, given once more, and what comes of it compared with it."""

from __future__ import annotations

import tempfile
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageSequence
from rich.console import Console

from ebb.cli.output import echo
from ebb.cli.parse import verb
from ebb.data.images import save_png, settings_of, writable
from ebb.errors import DamagedError, UsageError
from ebb.shapes import sides
from ebb.store.checkpoint import finished
from ebb.store.provenance import Provenance, short, weights_of
from ebb.store.write import replace_bytes
from ebb.system.system import locate
from ebb.terminal import command

T = TypeVar("T")


def again(picture: Path, run: Path | None, out: Path | None, console: Console) -> None:
    """Make a picture of ebb again into `out`, or NAME-again here, by the run that it names or by `run`, and say whether
    it is the same, or else in what it differs and why.

    Raises UsageError for one that does not say how it was made, and where no run with its weights is there, unless
    `run` names another.
    """
    out = out or Path(f"{picture.stem}-again{picture.suffix}")
    then = provenance_of(picture)
    if out.suffix.lower() != picture.suffix.lower():
        raise UsageError(f"{picture} is made again as the kind of file that it is", f"end --out in {picture.suffix}")
    if out.exists() and out.samefile(picture):
        raise UsageError(f"{out} would take the place of what it is compared with", "name another with --out")
    writable(out)
    place = run_of(then, picture, run)
    with tempfile.TemporaryDirectory(prefix="ebb-") as folder, console.status(f"making {picture} again"):
        made = repeated(then, place, Path(folder), out.name)
        lines, causes = apart(frames_of(picture), frames_of(made)), then.differences(provenance_of(made))
        if not lines and not causes and made.suffix == ".png":  # where the run lies is no difference
            save_png(Image.open(made), made, settings_of(picture))
        if not lines and not same_bytes(made, picture):
            lines, causes = ["the same pixels"], causes or ["the place of the run"]
        out.parent.mkdir(exist_ok=True)
        replace_bytes(out, made.read_bytes())
    if not lines:
        echo(console, f"{out} is {picture} again, byte for byte")
        return
    echo(console, f"{out} is {picture} again, but for this: {'; '.join([*lines, *causes])}")


def provenance_of(picture: Path) -> Provenance:
    """What made a picture, as it says; UsageError where it does not."""
    made = Provenance.read(settings_of(picture), picture)
    if made is None:
        raise UsageError(
            f"{picture} does not say by which command it was made, as those of ebb sample and ebb edit do now",
            f"what it says: {command('show', picture)}",
        )
    return made


def run_of(then: Provenance, picture: Path, run: Path | None) -> Path:
    """The run, or the one of its checkpoints, that has the weights which made a picture; `run` itself where it has not.

    It is looked for where the picture says, from here and from beside the picture, and in runs/.
    """
    named = Path(then.run)
    places = [named, picture.parent / named, Path("runs") / named.name] if run is None else [run]
    there = [place for place in places if holds_weights(place)]
    for place in there:
        newest = locate(place)
        for checkpoint in [newest, *reversed(finished(place / "checkpoints"))]:
            if weights_of(checkpoint) == then.weights:
                return place if checkpoint == newest else checkpoint
    if run is not None:
        return run
    if there:
        now = short(weights_of(locate(there[0])))
        raise UsageError(
            f"{there[0]} has no longer the weights that made {picture}: they were {short(then.weights)}, now {now}",
            f"the same of what is there now: {command('sample', there[0], '--from', picture)}",
        )
    raise UsageError(
        f"the run that made {picture} is not here: {then.run}", f"name it: ebb sample RUN --from {picture}"
    )


def holds_weights(place: Path) -> bool:
    """Whether a place is a run with a checkpoint, a checkpoint, or what was exported."""
    return place.is_file() or (place / "manifest.json").is_file() or bool(finished(place / "checkpoints"))


def repeated(then: Provenance, run: Path, folder: Path, name: str) -> Path:
    """The file that the command makes, in `folder`; of several the one that is meant. DamagedError for no command."""
    try:
        asked = verb(then.words(run))
    except SystemExit as error:
        raise DamagedError(f"this ebb has no command {then.line()}") from error
    out, quiet = folder / (name if then.number is None else "made"), Console(quiet=True)
    if then.verb == "sample":
        redirected(asked, out).make(quiet, then.number)
    else:
        redirected(asked, out)(quiet, set())
    if then.number is None:
        return out
    return next(file for file in out.rglob("*.png") if provenance_of(file).number == then.number)


def redirected(asked: T, out: Path) -> T:
    """A verb with another place to write to."""
    changes: dict[str, Any] = {}
    for field in fields(asked):  # type: ignore[arg-type]  # it is one
        value = getattr(asked, field.name)
        if field.name == "out":
            changes["out"] = out
        elif is_dataclass(value):
            changes[field.name] = redirected(value, out)
    return replace(asked, **changes)  # type: ignore[type-var]


def frames_of(picture: Path) -> NDArray[np.uint8]:
    """The pixels of every frame, [frames, height, width, 3]."""
    with Image.open(picture) as image:
        return np.stack([np.asarray(frame.convert("RGB")) for frame in ImageSequence.Iterator(image)])


def apart(was: NDArray[np.uint8], now: NDArray[np.uint8]) -> list[str]:
    """In what the pixels of two pictures differ, in words; nothing where they do not."""
    if was.shape != now.shape:
        sizes = [f"{len(one)} of {sides(one.shape[1:3])}" for one in (now, was)]
        return [f"frames, of pixels: {sizes[0]}, then {sizes[1]}"]
    differ = np.abs(was.astype(int) - now)
    return [f"{(differ > 0).any(-1).mean():.0%} of its pixels differ, by {differ.max()} of 255 at most"] * bool(
        differ.any()
    )


def same_bytes(one: Path, other: Path) -> bool:
    """Whether two files are the same."""
    return one.read_bytes() == other.read_bytes()
