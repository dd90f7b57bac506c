"""What a run would cost, measured before it: a few updates, a checkpoint and a sample, none of which is kept."""

from __future__ import annotations

import shutil
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from pathlib import Path

import torch

from ebb.data.dataset import Dataset
from ebb.data.sources import named
from ebb.errors import ResourceError, memory_is_full
from ebb.events import Figure, Work
from ebb.machine import best_device, matrix_rate, ready
from ebb.recipe.recipe import DiffusionRecipe, Recipe, resolved, seconds
from ebb.run.build import Built, build, names_known, updates_of
from ebb.run.folder import chosen_for, write_documents
from ebb.run.inherited import inherited
from ebb.run.meter import peak_memory_mb
from ebb.run.plan import GRID_SAMPLES, rate_of, resolve
from ebb.run.prepare import prepared
from ebb.run.train import looked_at
from ebb.store import checkpoint
from ebb.store.place import by_name
from ebb.system.families.family import autocast_of
from ebb.terminal import duration
from ebb.understand.cost import gflop

SPEND = 3.0
"""Seconds of updates that the speed is a median of."""

SAMPLES = 8
"""Examples drawn in the one sample."""

COPIES = 3
"""Checkpoints on the disk at once: the two that a run keeps, and the one that is being written."""


@dataclass(frozen=True)
class Rehearsal:
    """What `rehearse` measured."""

    precision: str
    batch: int
    """examples in an update, those of all its accumulated batches"""
    steps: int
    """updates the run would make"""
    budget: str | None
    """wall-clock time of the run; None where the updates were asked for by number"""
    passes: float
    """over the data, in `steps` updates"""
    seconds: float
    """of the whole run: its budget, or what its updates and sheets of samples take at the speed that was measured"""
    first_update: float
    """seconds from the start of the command until the first update was made"""
    timed: int
    """updates that the speed is a median of, the first left out"""
    examples_per_second: float
    """of whole updates: batch, forward, backward, clipping, optimiser, average"""
    peak_mb: float
    """10^6 bytes, the most until the sample was drawn: of the GPU where there is one, else resident in this process"""
    save: float
    """seconds to save a checkpoint, on the disk and with its hashes"""
    checkpoint_mb: float
    """10^6 bytes in the files of a checkpoint"""
    sample: float
    """seconds to sample one with the run's own settings, `sampled` at once"""
    sampled: int
    forward_gflop: float
    """of one example, a multiply-add being 2 (`ebb.understand.cost.gflop`)"""
    training_gflops: float
    """10^9 FLOP/s of updates, counted as 3 forward passes: the backward pass makes two products for each of theirs"""
    matrix_gflops: float
    """10^9 FLOP/s of a matrix product in the run's precision (`ebb.machine.matrix_rate`)"""
    share: float
    """training_gflops / matrix_gflops"""
    things: str
    """what examples are called"""
    device: str
    threads: int


def rehearse(
    data: str | Path,
    asked: Recipe | None = None,
    *,
    run: str | Path | None = None,
    began: float | None = None,
    started: float | None = None,
) -> Work[Rehearsal]:
    """Do once what `ebb.run.train.train` with the same arguments does from the beginning, and measure it.

    The recipe is chosen and reported as for the run; two updates and as many more as fit in 3 seconds are made, a
    checkpoint is saved beside the place of the run, and a few samples are drawn. A run that is there is not looked
    at, and nothing is left. The budget counts from `began` and the first update from `started`, both a
    `time.perf_counter()`, without them that of the call.

    Raises UsageError for a budget in which no update fits, ResourceError where memory or disk would not do.
    """
    called = time.perf_counter()
    began, started = called if began is None else began, called if started is None else started
    asked = inherited(asked or DiffusionRecipe())
    names_known(asked)
    ready()
    device = best_device()
    data = str(data)
    with workshop(by_name(Path(run)).parent if run else Path("runs")) as folder, enough_memory(asked):
        dataset = yield from looked_at(data, asked, folder)
        learnt = yield from prepared(asked, dataset, device, folder)
        recipe, reasons = yield from resolve(asked, learnt, device, began)
        yield chosen_for(recipe, reasons, by_name(Path(run or Path("runs") / named(data))))
        with enough_memory(recipe):
            write_documents(folder / "run", recipe, asked, reasons, dataset, data)
            parts = build(recipe, learnt, device)
            found = measured(recipe, dataset, parts, folder / "run", started)
            timed = asked.steps is None
            found = replace(found, seconds=seconds(resolved(recipe.budget))) if timed else replace(found, budget=None)
            yield Figure("rehearsal", asdict(found))
            return found


def measured(recipe: Recipe, dataset: Dataset, parts: Built, folder: Path, started: float) -> Rehearsal:
    """The figures of `recipe`: updates first, then what is done beside them, then what they are compared with."""
    made = made_updates(recipe, parts)
    took = [later - sooner for sooner, later in pairwise(made)]
    update, batch = statistics.median(took), resolved(recipe.batch) * recipe.optimiser.accumulate
    saving = time.perf_counter()
    size = saved(parts, folder)
    sampling = time.perf_counter()
    parts.averaged().sample(SAMPLES, seed=0)
    sampled = time.perf_counter()
    peak, device = peak_memory_mb(), parts.loader.device
    forward, speed, steps = forward_gflop(parts), batch / update, resolved(recipe.steps)
    matrix = matrix_rate(autocast_of(recipe) or torch.float32, device) / 1e9
    return Rehearsal(
        precision=resolved(recipe.precision),
        batch=batch,
        steps=steps,
        budget=recipe.budget,
        passes=steps * batch / dataset.summary.count,
        seconds=made[0]
        - started
        + (steps - 1) * update
        + resolved(recipe.sheets) * GRID_SAMPLES * (sampled - sampling) / SAMPLES
        + sampling
        - saving,
        first_update=made[0] - started,
        timed=len(took),
        examples_per_second=speed,
        peak_mb=peak,
        save=sampling - saving,
        checkpoint_mb=size / 1e6,
        sample=(sampled - sampling) / SAMPLES,
        sampled=SAMPLES,
        forward_gflop=forward,
        training_gflops=3 * forward * speed,
        matrix_gflops=matrix,
        share=3 * forward * speed / matrix,
        things=dataset.modality.things,
        device=torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU",
        threads=torch.get_num_threads(),
    )


def made_updates(recipe: Recipe, parts: Built) -> list[float]:
    """When each update was made: two at least, and as many more as fit in SPEND seconds after the first."""
    made = list[float]()
    for step in updates_of(recipe, parts, rate=rate_of(recipe)):
        step.loss.item()  # waits for the device
        made.append(time.perf_counter())
        if len(made) >= 2 and made[-1] - made[0] > SPEND:
            break
    return made


def saved(parts: Built, folder: Path) -> int:
    """Save a checkpoint; the bytes of its files. ResourceError if the disk has no room for all that a run holds."""
    made = checkpoint.save(folder / "checkpoints", parts.training.step, parts.state(), parts.averaged().contract())
    size = sum(file.stat().st_size for file in made.iterdir())
    free = shutil.disk_usage(folder).free + size
    if free < COPIES * size:
        raise ResourceError(
            f"a run holds {COPIES} checkpoints of {size / 1e6:.0f} MB, and {folder.parent.parent} has"
            f" {free / 1e6:.0f} MB free",
            "free some space, or choose another place with --run FOLDER",
        )
    return size


def forward_gflop(parts: Built) -> float:
    """The arithmetic of the network for one example."""
    batch = parts.loader(0)
    x, cond = batch.x0[:1], {name: value[:1] for name, value in batch.cond.items()}
    with torch.no_grad():
        return gflop(lambda: parts.system.model.forward(x, cond))


@contextmanager
def workshop(parent: Path) -> Iterator[Path]:
    """A new folder in `parent` that goes with all that is in it, and so does every folder that was made to hold it."""
    made = [folder for folder in (parent, *parent.parents) if not folder.exists()]
    parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="rehearsal-", dir=parent))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        for empty in made:
            if not any(empty.iterdir()):
                empty.rmdir()


@contextmanager
def enough_memory(recipe: Recipe) -> Iterator[None]:
    """A failure of the machine's memory or the GPU's as the ResourceError that says what to make smaller."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not memory_is_full(error):
            raise
        size = f", such as --batch {recipe.batch // 2}" if recipe.batch and recipe.batch > 1 else ""
        raise ResourceError("a run would need more memory than there is", f"try a smaller --batch{size}") from error


def as_rows(cost: Rehearsal) -> list[tuple[str, str, str]]:
    """The table that is printed: what, how much, and how it was measured."""
    place = f"CPU, {cost.threads} thread{'s' * (cost.threads > 1)}" if cost.device == "CPU" else cost.device
    within = f" in {cost.budget}" if cost.budget else ""
    by = "its budget, from the start of the command" if cost.budget else "by the speed measured here"
    return [
        ("duration", f"about {duration(cost.seconds)}", by),
        ("the run", f"{cost.passes:.3g} passes over the data", f"{cost.steps:,} updates of {cost.batch}{within}"),
        ("first update", f"{cost.first_update:.1f} s", "after the start of the command"),
        (
            "training",
            f"{cost.examples_per_second:,.0f} {cost.things}/s",
            f"median of {cost.timed} updates in {cost.precision}",
        ),
        ("peak memory", f"{cost.peak_mb:,.0f} MB", "on the GPU" if cost.device != "CPU" else "resident"),
        ("checkpoint", f"{cost.checkpoint_mb:,.1f} MB", f"saved in {cost.save:.2g} s"),
        ("sample", f"{1000 * cost.sample:,.3g} ms each", f"{cost.sampled} at once, first time"),
        ("forward pass", f"{cost.forward_gflop:.3g} GFLOP each", "a multiply-add is 2"),
        ("arithmetic", f"{cost.training_gflops:,.0f} GFLOP/s", "an update is 3 forward passes"),
        (
            "of the machine",
            f"{100 * cost.share:.0f} %",
            f"of {cost.matrix_gflops:,.0f} GFLOP/s, a matrix product in {cost.precision} ({place})",
        ),
    ]
