"""A run: from data to a trained system in a folder that holds all that is needed to repeat it."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

from ebb.data.changed import changed
from ebb.data.dataset import Dataset
from ebb.data.reading import as_asked
from ebb.data.sources import named
from ebb.errors import UsageError
from ebb.events import Done, Event, Message, Progress, Work, streamed
from ebb.machine import best_device, ready
from ebb.recipe.document import from_yaml
from ebb.recipe.recipe import DiffusionRecipe, Recipe, difference, flat, resolved
from ebb.run.build import build, names_known
from ebb.run.complete import completed
from ebb.run.extend import Extension, adopted, extended, gone
from ebb.run.folder import chosen_for, data_overview, origins_of, write_documents
from ebb.run.inherited import inherited
from ebb.run.plan import resolve, timed
from ebb.run.prepare import prepared
from ebb.run.supervise import restore
from ebb.store import checkpoint
from ebb.store.exchange import exchanged, foreign, pending, recover
from ebb.store.lock import MEASURED, TRAINED, held
from ebb.store.origin import Origin, unchanged
from ebb.store.owned import claimable, is_run, spared
from ebb.store.place import beside_something, by_name, expanded, room_in


def train(
    data: str | Path,
    asked: Recipe | None = None,
    *,
    run: str | Path | None = None,
    fresh: bool = False,
    began: float | None = None,
    extend: str | None = None,
) -> Work[Path]:
    """Train on `data` (see `ebb.data.scan.read` for what it may be); the result is the run folder.

    The same call again resumes, bit for bit; a run folder of another recipe or other data is refused with the
    difference unless `fresh`, which starts anew. Ctrl-C saves a checkpoint first, and so does closing this generator
    at an update that it reported. The budget counts from `began`, a `time.perf_counter()`, without it from the first
    event that is asked for.

    With `extend` a finished run goes on for that long ("30m", or "500" updates), `ebb.run.extend.extended`.

    Raises ResourceError where another process trains the run, and for what the system does not let be written;
    UsageError for a `run` in a folder that is not there, unless that is called runs.
    """
    length = None if extend is None else Extension.of(extend)
    if length is not None and fresh:
        raise UsageError("--extend goes on with a run, and --fresh replaces it", "give one of them")
    began = time.perf_counter() if began is None else began
    data, run = str(data), None if run is None else Path(run)
    asked = inherited(asked or DiffusionRecipe())
    names_known(asked)
    ready()
    folder = by_name(run or Path("runs") / named(data))
    if not pending(folder):
        claimable(folder)
    beside_something(folder.parent if folder.parent.name == "runs" else folder)
    room_in(folder if folder.exists() else folder.parent)
    with held(folder, TRAINED, instead="choose another place with --run FOLDER") as notes:
        yield from notes
        if repaired := recover(folder):
            yield Message(f"{folder}: an interrupted --fresh was found, {repaired}")
        if fresh and is_run(folder):
            spared(folder, sources(data, asked))
        if length is None:
            yield from adopted(folder)
            yield from trained(folder, data, asked, fresh, began)
        else:
            yield from extended(folder, data, asked, length, began)
    yield Done(str(folder))
    return folder


def sources(data: str, asked: Recipe) -> dict[str, Path]:
    """The files and folders that a run reads, by what they are."""
    named = {"the data": (data,)} | asked.reads()
    return {what: expanded(path) for what, paths in named.items() for path in paths}


def trained(folder: Path, data: str, asked: Recipe, fresh: bool, began: float) -> Work[None]:
    """What `train` does in a folder that is nobody else's."""
    dataset = yield from looked_at(data, asked, folder.parent)
    recipe, device = resumed(folder, asked, dataset, fresh), best_device()
    learnt = yield from prepared(recipe or asked, dataset, device, folder.parent)
    settling = recipe is None and asked.steps is None
    last = None if recipe is None else checkpoint.newest(folder / "checkpoints")
    if recipe is None:
        recipe, reasons = yield from resolve(asked, learnt, device, began)
        yield chosen_for(recipe, reasons, folder)
        parts = build(recipe, learnt, device)
        if asked.steps is not None and checkpoint.newest(folder / "checkpoints") is not None:
            next(timed(recipe, build(recipe, learnt, device)))  # what cannot be trained fails before an old run goes
        yield from begin(folder, recipe, asked, reasons, dataset, data)
    else:
        where = "from the beginning: it has no checkpoint yet" if last is None else f"on from {last.name}"
        yield Message(f"{folder} is of this recipe: going {where}")
        parts = build(recipe, learnt, device)
    if last is not None:
        if not checkpoint.resumable(last):
            raise UsageError(*gone(folder, last))
        restore(parts, last)
    if parts.training.step >= resolved(recipe.steps):
        yield Message(f"finished at step {parts.training.step:,}; --extend 10m goes on from there, --fresh starts anew")
    yield from completed(folder, recipe, parts, began if settling else None)


def looked_at(data: str, asked: Recipe, cache: Path) -> Work[Dataset]:
    """The examples of `data` as they are asked for, read and reported; large ones are kept in `cache`."""
    yield Progress("reading the data")
    dataset = yield from streamed(
        lambda progress: as_asked(
            data, asked, cache, progress=lambda what, done, of: progress(Progress(what, done, of))
        )
    )
    yield from data_overview(dataset, captions=asked.captioned())
    return dataset


def resumed(folder: Path, asked: Recipe, dataset: Dataset, fresh: bool) -> Recipe | None:
    """The resolved recipe of a run that was asked for in the same words on the same data; None to start anew.

    The engine alone may differ, since what is learnt does not depend on it, and is that which is asked for now.

    Raises UsageError, with the difference, for a run of another recipe or other data, or that stood on another run.
    """
    if fresh or not is_run(folder):
        return None
    recipe, rest = from_yaml(folder / "run.yaml")
    words = json.loads(json.dumps(asked.asked()))
    before = {name: value for name, value in rest.get("asked", {}).items() if name in flat(recipe.model_dump())}
    changes = [line for line in difference(before, words) if not line.startswith("engine:")]
    if rest.get("fingerprint") != dataset.summary.fingerprint:
        where = str(rest.get("data"))
        changes.append(
            f"data: {where} → other {dataset.modality.things} ({dataset.summary.name}):"
            f" {changed(folder, dataset.summary, where)}"
        )
    if changes:
        raise UsageError(
            f"{folder} is a run of another recipe:\n    " + "\n    ".join(changes),
            "repeat its own command to resume it, --fresh to replace it, or --run FOLDER to keep both",
        )
    unchanged(map(Origin.read, rest.get("origins", ())), origins_of(recipe))
    return recipe if asked.runs is None else recipe.running(asked.runs)


def begin(
    folder: Path, recipe: Recipe, asked: Recipe, reasons: dict[str, str], dataset: Dataset, data: str
) -> Iterator[Event]:
    """Write the run's documents, in the place of an old run, which goes only when the new one stands."""
    with held(folder, MEASURED) as notes, exchanged(folder) as made:
        yield from notes
        write_documents(made, recipe, asked, reasons, dataset, data)
    if left := foreign(folder):
        more = f" and {len(left) - 5} more" if len(left) > 5 else ""
        yield Message(f"kept in {folder}, for ebb did not make them: {', '.join(left[:5])}{more}")
