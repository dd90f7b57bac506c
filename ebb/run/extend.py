"""A finished run, gone on with: a copy in it makes more updates, and takes its place if it is better on unseen data.

The copy is a run of its own in RUN/extension, at the finished checkpoint, with more updates in its recipe. Until its
last checkpoint is moved into RUN/checkpoints, which is the turn, the run is what it was.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ebb.data.of_run import data_of
from ebb.errors import UsageError
from ebb.events import Event, Message, Progress, Work
from ebb.machine import best_device
from ebb.recipe.document import from_yaml, to_yaml
from ebb.recipe.limits import whole
from ebb.recipe.recipe import Recipe, flat, resolved, seconds
from ebb.report.run_report import write_report
from ebb.run.build import Built, build
from ebb.run.complete import completed
from ebb.run.folder import environment, origins_of
from ebb.run.plan import MOST_SHEETS, fits, pace, rate_of, remaining, sheet_seconds, updates_within
from ebb.run.prepare import prepared
from ebb.run.supervise import restore
from ebb.store import checkpoint
from ebb.store.failure import explained
from ebb.store.origin import Origin, unchanged
from ebb.store.owned import EXTENSION, clear, is_run
from ebb.store.write import replace_text
from ebb.system.families.family import Prepared, facts_of
from ebb.terminal import command


@dataclass(frozen=True)
class Extension:
    """How much further a run is to go: so many updates, or as many as fit into a wall-clock time."""

    updates: int | None
    budget: str | None

    @classmethod
    def of(cls, words: str) -> Extension:
        """`"500"` and `"+500"` are updates, `"30m"` a time. Raises UsageError for anything else."""
        number = words.strip().removeprefix("+")
        if number.isdecimal():
            return cls(whole("steps", int(number)), None)
        try:
            seconds(number)
        except UsageError as error:
            what = f"--extend is a time, or a number of updates, got {words!r}"
            raise UsageError(what, "for example --extend 30m, or --extend 500") from error
        return cls(None, number)

    def __str__(self) -> str:
        return str(self.budget or self.updates)


@dataclass(frozen=True, eq=False)
class FinishedRun:
    """A run that has made all its updates: its folder, recipe and documents, and its last checkpoint."""

    folder: Path
    recipe: Recipe
    about: Mapping[str, Any]
    last: Path

    @classmethod
    def of(cls, folder: Path) -> FinishedRun:
        """The run in a folder; UsageError where there is none, or it is not finished."""
        if not is_run(folder):
            raise UsageError(f"there is no run {folder} to go on with", "train it first: the same without --extend")
        recipe, about = from_yaml(folder / "run.yaml")
        last = checkpoint.newest(folder / "checkpoints")
        done, steps = 0 if last is None else step_of(last), resolved(recipe.steps)
        if last is None or done < steps:
            what = f"{folder} is not finished: {done:,} of {steps:,} updates are made"
            raise UsageError(what, "finish it first: the same command without --extend")
        if not checkpoint.resumable(last):
            raise UsageError(*gone(folder, last))
        return cls(folder, recipe, about, last)

    @property
    def step(self) -> int:
        """The updates that it has made."""
        return step_of(self.last)

    @property
    def place(self) -> Path:
        """Where it is gone on with."""
        return self.folder / EXTENSION

    def agrees(self, asked: Recipe) -> None:
        """Raise UsageError where something is asked for that it was not trained with."""
        own, words = flat(self.recipe.model_dump(mode="json")), self.about.get("asked", {})
        changes = [
            f"{name}: {words.get(name, own.get(name))} → {value}"
            for name, value in json.loads(json.dumps(asked.asked())).items()
            if value not in (words.get(name), own.get(name))
        ]
        if changes:
            raise UsageError(
                f"{self.folder} was trained by another recipe:\n    " + "\n    ".join(changes),
                "it goes on as it was: leave these options out, or train another: --base RUN --run FOLDER",
            )


def extended(folder: Path, data: str, asked: Recipe, length: Extension, began: float) -> Work[None]:
    """Go on with the finished run in `folder`, from its weights, average and optimiser, and keep what is better.

    `data` is where its data is now. The learning rate takes its course once more over the new updates. Raises
    UsageError for a run that is not finished, for other options than its own, and while another extension of it is
    under way, DataError for other data.
    """
    yield from adopted(folder)
    run = FinishedRun.of(folder)
    run.agrees(asked)
    begun = begun_before(run, length)
    unchanged(map(Origin.read, run.about.get("origins", ())), origins_of(run.recipe))
    if names := standing_on(run):
        yield Message(
            f"{', '.join(names)} stood on the weights that {folder} has now, and could be sampled but not gone on with"
            " after it has others",
            warning=True,
        )
    yield Progress("reading the data")
    dataset, device = data_of(folder, data), best_device()
    learnt = yield from prepared(run.recipe, dataset, device, folder.parent)
    longer = begun or lengthened(run, length, learnt, device, began)
    parts = build(longer, learnt, device)
    restore(parts, run.last if begun is None else checkpoint.newest(run.place / "checkpoints") or run.last)
    if begun is None:
        begin(run, longer, {"step": run.step, "asked": str(length), "validation": validation_loss(parts)})
    yield Message(f"{folder} goes on from update {parts.training.step:,}: {course(longer, run.step)}")
    yield from completed(run.place, longer, parts, began if begun is None and length.budget else None, run.step)
    yield from judged(run, parts)


def standing_on(run: FinishedRun) -> list[str]:
    """The runs beside it that stand on its weights as they are, such as on a teacher or an autoencoder."""
    found = list[str]()
    for file in sorted(run.folder.parent.glob("*/run.yaml")):
        with suppress(UsageError):
            origins = map(Origin.read, from_yaml(file)[1].get("origins", ()))
            if any(origin.sha256 == Origin.of("", origin.role, run.last).sha256 for origin in origins):
                found.append(str(file.parent))
    return found


def begun_before(run: FinishedRun, length: Extension) -> Recipe | None:
    """The recipe of this extension of the run where it was begun before, or None; UsageError where another one was, and
    is not at its end."""
    if not is_run(run.place):
        return None
    longer, about = from_yaml(run.place / "run.yaml")
    asked, reached = about["extends"]["asked"], checkpoint.newest(run.place / "checkpoints")
    if about["extends"]["step"] != run.step or reached is None:
        return None
    if asked == str(length):
        return longer
    if step_of(reached) < resolved(longer.steps):
        what = f"{run.folder} is being extended by {asked}: update {step_of(reached):,} of {longer.steps:,}"
        away = command("tidy", run.folder, "--remove", EXTENSION)
        raise UsageError(what, f"--extend {asked} goes on with that; or take it away: {away}")
    return None


def lengthened(run: FinishedRun, length: Extension, learnt: Prepared, device: torch.device, began: float) -> Recipe:
    """The recipe with more updates, and sheets of samples for a tenth of the time that they take.

    Of a time there are as many as the machine makes in it now. Raises UsageError for one in which there is none.
    """
    recipe, usual = run.recipe, resolved(run.recipe.sheets)
    if length.updates is not None:
        sheets = min(MOST_SHEETS, max(1, round(usual * length.updates / run.step)))
        return recipe.model_copy(update={"steps": run.step + length.updates, "sheets": sheets})
    budget = str(length.budget)
    rate = pace(recipe, learnt, device, min(1.0, 0.01 * seconds(budget)))
    sheets = min(MOST_SHEETS, max(1, int(0.1 * remaining(budget, began) / sheet_seconds(recipe, rate))))
    fits(recipe, facts_of(learnt), budget, began, rate, sheets)
    more = updates_within(recipe, remaining(budget, began), rate, sheets)
    return recipe.model_copy(update={"steps": run.step + more, "sheets": sheets, "budget": budget})


def begin(run: FinishedRun, longer: Recipe, extends: Mapping[str, Any]) -> None:
    """Copy the finished run, with the recipe of the longer one; its run.yaml comes last, with which it is one."""
    clear(run.place)
    with explained(run.place):
        (run.place / "samples").mkdir(parents=True, exist_ok=True)
        for name in ("data.json", "choices.json", "guard.json", "log.jsonl"):
            if (run.folder / name).is_file():
                shutil.copyfile(run.folder / name, run.place / name)
        shutil.copytree(run.last, run.place / "checkpoints" / run.last.name)
    replace_text(run.place / "env.json", json.dumps(environment(), indent=1))
    replace_text(run.place / "run.yaml", to_yaml(longer, **run.about, extends=dict(extends)))


def validation_loss(parts: Built) -> float | None:
    """The loss of the averaged weights on held-out examples; None where there are none."""
    return None if parts.validation is None else parts.validation(parts.training.ema.model)  # type: ignore[arg-type]


def course(longer: Recipe, start: int) -> str:
    """What the learning rate does from update `start` on, in words."""
    rate, steps = rate_of(longer, start), resolved(longer.steps)
    risen = start + max(1, rate.warmup)
    level = f", is level until {rate.level:,}" if rate.level > risen else ""
    return (
        f"the learning rate, which had fallen, rises again to {rate.peak:.2g} at update {risen:,}{level}"
        f" and falls to 0 at {steps:,}"
    )


def judged(run: FinishedRun, parts: Built) -> Iterator[Event]:
    """The extension in the place of the run where it is better by validation loss, or there is none to compare by."""
    now, before = validation_loss(parts), from_yaml(run.place / "run.yaml")[1]["extends"]["validation"]
    was = "" if before is None else f"{run.step:,} updates {before:.4g}"
    if before is None or now is None:
        yield Message("no examples were held out to compare by, so the longer run takes the place of the shorter")
    elif now < before:
        yield Message(f"better: the validation loss is {now:.4g}, and was after {was}")
    else:
        figure = f"{now:.4g}" if math.isfinite(now) else "not finite"
        yield Message(
            f"not better: the validation loss is {figure}, and was after {was}, so {run.folder} stays what it was;"
            f" what was learnt since is in {run.place}, a run of its own",
            warning=True,
        )
        return
    yield from adopted(run.folder, better=True)


def adopted(folder: Path, *, better: bool = False) -> Iterator[Event]:
    """The extension of a run in its place, where that was begun or is the `better` one.

    Its last checkpoint is moved, and from then on the rest only follows it: what was interrupted is completed by the
    next call. The last checkpoint of the shorter run stays beside it.
    """
    place, checkpoints = folder / EXTENSION, folder / "checkpoints"
    if not is_run(place):
        return
    longer, about = from_yaml(place / "run.yaml")
    last = checkpoint.newest(checkpoints)
    if not better and (last is None or step_of(last) != longer.steps):
        return
    final = checkpoint.admitted(place / "checkpoints" / f"step-{longer.steps:08d}", checkpoints)
    with explained(folder):
        for file in sorted((place / "samples").glob("step-*.png")):
            file.replace(folder / "samples" / file.name)
    for name in ("choices.json", "guard.json", "log.jsonl", "card.md"):
        if (place / name).is_file():
            text = (place / name).read_text(encoding="utf8")
            replace_text(folder / name, text.replace(f"# {EXTENSION}\n", f"# {folder.name}\n", 1))
    recipe, rest = from_yaml(folder / "run.yaml")
    if recipe.steps != longer.steps:
        rest["extended"] = [*rest.get("extended", ()), about["extends"] | {"to": longer.steps}]
        replace_text(folder / "run.yaml", to_yaml(recipe.model_copy(update={"steps": longer.steps}), **rest))
    clear(place)
    write_report(folder)
    yield Message(f"{folder} is the longer run now, at {final.name}")


def gone(folder: Path, last: Path) -> tuple[str, str]:
    """What is wrong with a checkpoint of which parts were removed, and what to do."""
    anew = command("train", "DATA", "--base", folder, "--run", "FOLDER")
    return f"{folder} cannot go on: its optimiser or its raw weights were removed from {last.name}", f"anew: {anew}"


def step_of(saved: Path) -> int:
    """The updates after which a checkpoint was saved."""
    return int(saved.name.removeprefix("step-"))
