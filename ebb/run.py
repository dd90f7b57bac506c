"""A run: from data to a trained system in a folder that holds all that is needed to repeat it."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path

from rich.console import Console

from ebb import checkpoint
from ebb.assemble import assemble, names_known
from ebb.course import follow, restore
from ebb.data.scan import Images, read
from ebb.errors import UsageError
from ebb.evaluate.report.run import write_report
from ebb.machine import best_device, keep_freed_memory
from ebb.plan import resolve, timed
from ebb.prepare import prepared
from ebb.recipe import Recipe, difference, from_yaml, resolved
from ebb.record import Log, show_choices, show_data, write_card, write_documents
from ebb.reflow import inherited
from ebb.terminal import screen, tell


def train(
    data: str | Path,
    asked: Recipe | None = None,
    *,
    run: str | Path | None = None,
    fresh: bool = False,
    console: Console | None = None,
    began: float | None = None,
) -> Path:
    """Train on `data` (see `ebb.data.scan.read` for what it may be) and return the run folder.

    The same call again resumes, bit for bit; a run folder of another recipe or other data is refused with the
    difference unless `fresh`, which starts anew. Ctrl-C saves a checkpoint first. The budget counts from `began`, a
    `time.perf_counter()`, without it from the call.
    """
    began = time.perf_counter() if began is None else began
    data, run = str(data), None if run is None else Path(run)
    asked, console = inherited(asked or Recipe()), screen(console)
    names_known(asked)
    keep_freed_memory()
    images = looked_at(data, asked, run.parent if run else Path("runs"), console)
    folder = run or Path("runs") / images.summary.name
    recipe, device = resumed(folder, asked, images, fresh), best_device()
    learnt = prepared(recipe or asked, images, device, folder.parent, lambda text: tell(console, text))
    settling = recipe is None and asked.steps is None
    if recipe is None:
        recipe, reasons = resolve(asked, learnt, device, lambda text: tell(console, text), began)
        show_choices(recipe, reasons, console)
        parts = assemble(recipe, learnt, device)
        if asked.steps is not None and checkpoint.newest(folder / "checkpoints") is not None:
            next(timed(recipe, assemble(recipe, learnt, device)))  # what cannot be trained fails before an old run goes
        begin(folder, recipe, asked, reasons, images, data)
    else:
        tell(console, f"{folder} is of this recipe: going on with it")
        parts = assemble(recipe, learnt, device)
    last = checkpoint.newest(folder / "checkpoints")
    if last is not None:
        restore(parts, last)
    if parts.training.step >= resolved(recipe.steps):
        tell(console, f"finished at step {parts.training.step:,}; --fresh starts anew")
    with Log(folder, parts.training.step) as log:
        follow(folder, recipe, parts, log, console, began if settling else None)
        write_card(folder, recipe, parts.system, log.last)
    write_report(folder)
    return folder


def looked_at(data: str, asked: Recipe, cache: Path, console: Console) -> Images:
    """The images of `data` as they are asked for, read and shown; large ones are kept in `cache`."""
    with console.status("reading the data") as status:
        images = read(
            data,
            size=asked.data.size,
            channels=asked.data.channels,
            numbers=asked.numbers,
            beside=asked.beside,
            cache=cache,
            progress=lambda what, done, of: status.update(f"{what}: {done:,} of {of:,}"),
        )
    show_data(images, console)
    return images


def resumed(folder: Path, asked: Recipe, images: Images, fresh: bool) -> Recipe | None:
    """The resolved recipe of a run that was asked for in the same words on the same data; None to start anew.

    The engine alone may differ, since what is learnt does not depend on it, and is that which is asked for now.

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
    changes = [line for line in difference(rest.get("asked", {}), words) if not line.startswith("engine:")]
    if rest.get("fingerprint") != images.summary.fingerprint:
        changes.append(f"data: {rest.get('data')} → other images ({images.summary.name})")
    if changes:
        raise UsageError(
            f"{folder} is a run of another recipe:\n    " + "\n    ".join(changes),
            "repeat its own command to resume it, --fresh to replace it, or --run FOLDER to keep both",
        )
    return recipe if asked.engine is None else recipe.model_copy(update={"engine": asked.engine})


def begin(folder: Path, recipe: Recipe, asked: Recipe, reasons: dict[str, str], images: Images, data: str) -> None:
    """Make the run folder with its documents, in place of an old one.

    The folder is written beside its place and renamed, so an old run goes only when the new one stands.
    """
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
