"""A run: from data to a trained system in a folder that holds all that is needed to repeat it."""

from __future__ import annotations

import json
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from rich.console import Console

from ebb import checkpoint
from ebb.data.scan import Images, read
from ebb.encode.images import grid, save_png, to_pixels
from ebb.errors import EbbError, UsageError
from ebb.evaluate.report import write_report
from ebb.machine import keep_freed_memory
from ebb.plan import GRID_IMAGES, Parts, assemble, autocast_of, names_known, rate_of, resolve
from ebb.progress import Meter
from ebb.recipe import Recipe, difference, from_yaml, resolved
from ebb.record import Log, show_choices, show_data, write_card, write_documents
from ebb.system import System, best_device
from ebb.terminal import tell
from ebb.train.loop import updates

CHECKPOINT_EVERY = 60.0
"""Seconds between checkpoints, and so the most work that a power cut can cost."""


def train(
    data: str,
    asked: Recipe | None = None,
    *,
    run: Path | None = None,
    fresh: bool = False,
    console: Console | None = None,
) -> Path:
    """Train on `data` (see `ebb.data.scan.read` for what it may be) and return the run folder.

    The same call again resumes, bit for bit; a run folder of another recipe or other data is refused with the
    difference unless `fresh`, which starts anew. Ctrl-C saves a checkpoint first.
    """
    asked, console = asked or Recipe(), console or Console()
    names_known(asked)
    keep_freed_memory()
    with console.status("reading the data") as status:
        images = read(
            data,
            size=asked.data.size,
            channels=asked.data.channels,
            cache=run.parent if run else Path("runs"),
            progress=lambda what, done, of: status.update(f"{what}: {done:,} of {of:,}"),
        )
    folder = run or Path("runs") / images.summary.name
    show_data(images, console)
    recipe = resumed(folder, asked, images, fresh)
    if recipe is None:
        recipe = begin(folder, asked, images, data, console)
    else:
        tell(console, f"{folder} is of this recipe: going on with it")
    parts = assemble(recipe, images, best_device())
    last = checkpoint.newest(folder / "checkpoints")
    if last is not None:
        checkpoint.verify(last)
        parts.training.restore({part: checkpoint.read(last, part) for part in ("model", "ema", "optim", "rng")})
    if parts.training.step >= resolved(recipe.steps):
        tell(console, f"finished at step {parts.training.step:,}; --fresh starts anew")
    with Log(folder, parts.training.step) as log:
        follow(folder, recipe, parts, log, console)
        write_card(folder, recipe, parts.system, log.last)
    write_report(folder)
    return folder


def resumed(folder: Path, asked: Recipe, images: Images, fresh: bool) -> Recipe | None:
    """The resolved recipe of a run that was asked for in the same words on the same data; None to start anew.

    Raises UsageError, with the difference, for a run of another recipe or other data.
    """
    if folder.is_file():
        raise UsageError(f"{folder} is a file", "choose another place with --run FOLDER")
    file = folder / "run.yaml"
    if not file.is_file():
        if folder.is_dir() and any(folder.iterdir()):
            raise UsageError(f"{folder} exists and is not a run of ebb", "choose another place with --run FOLDER")
        return None
    if fresh:
        return None
    recipe, rest = from_yaml(file)
    words = json.loads(json.dumps(asked.asked()))
    changes = difference(rest.get("asked", {}), words)
    if rest.get("fingerprint") != images.summary.fingerprint:
        changes.append(f"data: {rest.get('data')} → other images ({images.summary.name})")
    if changes:
        raise UsageError(
            f"{folder} is a run of another recipe:\n    " + "\n    ".join(changes),
            "repeat its own command to resume it, --fresh to replace it, or --run FOLDER to keep both",
        )
    return recipe


def begin(folder: Path, asked: Recipe, images: Images, data: str, console: Console) -> Recipe:
    """Choose what is open, say why, and make the run folder with its documents, in place of an old one.

    The folder is written beside its place and renamed, so an old run goes only when the new one stands.
    """
    recipe, reasons = resolve(asked, images, best_device(), lambda text: tell(console, text))
    show_choices(recipe, reasons, console)
    made = folder.with_name(folder.name + ".new")
    shutil.rmtree(made, ignore_errors=True)
    try:
        write_documents(made, recipe, asked, reasons, images, data)
        if folder.exists():
            shutil.rmtree(folder)
        made.rename(folder)
    except OSError:
        shutil.rmtree(made, ignore_errors=True)
        raise
    return recipe


def follow(folder: Path, recipe: Recipe, parts: Parts, log: Log, console: Console) -> None:
    """Make the updates that are left, with a bar, a log, sample grids and checkpoints."""
    training, steps = parts.training, resolved(recipe.steps)
    grids = grid_steps(resolved(recipe.grids), steps)
    every, saved = max(1, steps // 500), time.monotonic()
    loop = updates(
        training,
        parts.objective,
        parts.loader,
        steps=steps,
        rate=rate_of(recipe),
        seed=recipe.seed,
        accumulate=recipe.optimiser.accumulate,
        clip=recipe.optimiser.clip,
        autocast=autocast_of(recipe),
    )
    with interruptible() as stopped, Meter(console, steps, training.step, log.last.get("seconds", 0.0)) as meter:
        for step in loop:
            meter.note(step)
            signalled = stopped()
            if step.number % every == 0 or step.number == steps or signalled:
                entry = meter.entry(step)
                if not np.isfinite(entry["loss"]):
                    raise EbbError(
                        f"the loss is {entry['loss']} at step {step.number}: training diverged",
                        f"try --optimiser.lr {resolved(recipe.optimiser.lr) / 3:.1g} --fresh",
                    )
                log.write(entry)
                meter.show(entry, next((g for g in grids if g > step.number), steps))
            if step.number in grids:
                draw(folder, parts, step.number)
            if signalled or step.number == steps or time.monotonic() - saved > CHECKPOINT_EVERY:
                checkpoint.save(folder / "checkpoints", step.number, training.state(), parts.system.contract())
                saved = time.monotonic()
            if signalled and step.number < steps:
                raise KeyboardInterrupt(signalled)


@contextmanager
def interruptible() -> Iterator[Callable[[], int]]:
    """Ctrl-C and SIGTERM, once, are a number that the loop reads after the step (0: none); a second acts at once."""
    asked: list[int] = []

    def note(number: int, _: object) -> None:
        asked.append(number)
        signal.signal(number, signal.default_int_handler)

    try:
        before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:  # not the main thread: signals belong to whoever started us
        before = {}
    try:
        yield lambda: asked[0] if asked else 0
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def grid_steps(count: int, steps: int) -> list[int]:
    """The steps after which a grid is drawn: `count` of them, denser at first, where most changes; one at the end."""
    return sorted({max(1, round(steps * (i / count) ** 1.5)) for i in range(1, count + 1)})


def draw(folder: Path, parts: Parts, step: int) -> None:
    """A sample grid from the averaged weights, with the same seeds at every step."""
    averaged = System(parts.training.ema.model, parts.system.shape, parts.system.labels, parts.system.sampling)  # type: ignore[arg-type]
    classes = len(parts.system.labels.names)
    columns = classes if 4 <= classes <= 16 else 6
    made = to_pixels(averaged.sample(columns * round(GRID_IMAGES / columns), seed=0))
    save_png(grid(made, columns), folder / "samples" / f"step-{step:06d}.png", {"step": step, "seed": 0})
