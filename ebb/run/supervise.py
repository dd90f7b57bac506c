"""A run under way: its updates with what is done beside them, and the way back when they fail."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from ebb.data.loader import Loader
from ebb.errors import EbbError, UsageError
from ebb.events import Event, Message, Preview, RolledBack, Saved, Skipped, Update, Work
from ebb.recipe.recipe import Recipe, resolved
from ebb.run.build import Built, build, updates_of
from ebb.run.folder import GuardRecord, Log, amend
from ebb.run.marks import drift_steps, earlier_steps, gradient_steps, sheet_steps, validation_steps
from ebb.run.meter import Meter
from ebb.run.plan import rate_of, remaining, settled, undecided, updates_within
from ebb.run.preview import draw
from ebb.store import checkpoint
from ebb.store.earlier import EARLIER, forget_later, save_earlier
from ebb.store.write import replace_text
from ebb.system.families.family import autocast_of
from ebb.train.guard import STRIKES, Circumstances, Skip, Trouble, explain, poisoned, unsound
from ebb.train.loop import Step, seed_of
from ebb.train.validate import Validation

CHECKPOINT_EVERY = 60.0
"""Seconds between checkpoints, and so the most work that a power cut can cost."""

LEGS = 16
"""A run looks at the clock after so many parts of it, as long as its length is open."""

TELLING = 0.05
"""The change of a run's length that one is told, once, when it is settled."""

MOST_ROLLBACKS = 2
"""After so many rollbacks a run that is in trouble again is stopped."""

SLOWER = 0.5
"""What each rollback does to the learning rate."""

ORDER = 2**62
"""The part of a step whose seed is that of the order after a rollback; the others are small numbers."""


def follow(
    folder: Path, recipe: Recipe, parts: Built, log: Log, began: float | None = None, start: int = 0
) -> Iterator[Event]:
    """Make the updates that are left, with a log, sheets of samples and checkpoints, and go back where it must be.

    Where the budget `began` at a time of `time.perf_counter`, the recipe's steps are a first guess. As long as nothing
    depends on their number, which is until the learning rate falls, the speed so far corrects it. A run that was
    finished at step `start` and goes on has its learning rate's course, its sheets and its validations once more then.

    Closed, it saves a checkpoint of the last update that it reported, as the first Ctrl-C does after the next one.
    """
    with closing(supervised(folder, recipe, parts, log, began, start)) as events:
        for event in events:
            log.read(event)
            yield event


def supervised(folder: Path, recipe: Recipe, parts: Built, log: Log, began: float | None, start: int) -> Work[None]:
    """What `follow` does, but for the log, of which it knows the last line."""
    steps, done = resolved(recipe.steps), parts.training.step
    before, seen = log.last.get("seconds", 0.0), parts.training.seen
    meter = Meter(steps, done, before, seen, recipe.optimiser.accumulate)
    with interruptible() as stopped:
        course = Supervisor(folder, recipe, parts, log, GuardRecord(folder, done), meter, start)
        while began is not None and undecided(course.recipe, start) - parts.training.step >= course.leg:
            yield from course.train(stopped, parts.training.step + course.leg)
            course.settle(began)
        if abs(course.steps - steps) > TELLING * (steps - start):
            yield Message(f"{course.steps - start:,} updates, where {steps - start:,} were planned: {course.pace}")
        yield from course.train(stopped, course.steps)


@dataclass(frozen=True)
class Due:
    """What is to be done after an update, besides what every reported update has."""

    sheet: bool
    validation: bool
    gradients: bool
    drift: bool
    checkpoint: bool
    earlier: bool
    """the average is to be saved, unless one was before, to guide by"""
    surely: bool
    """the checkpoint also after an update that was not made: it is the last"""
    preview: int
    """the step of the next sheet"""

    @property
    def whole(self) -> bool:
        """Whether every weight and moment is looked at first."""
        return self.sheet or self.validation or self.gradients or self.drift or self.checkpoint


@dataclass
class Supervisor:
    """A run under way: its updates, what is done beside them, and the way back when they fail."""

    folder: Path
    recipe: Recipe
    parts: Built
    log: Log
    guarded: GuardRecord
    meter: Meter
    start: int = 0
    """The step that it goes on from, of a run that was finished there."""
    skips: list[Skip] = field(default_factory=list, init=False)
    """The last updates that were not made."""
    saved: float = field(default_factory=lambda: time.monotonic(), init=False)
    """When the last checkpoint was."""
    ended: bool = field(default=False, init=False)
    """Whether it ended before its time."""
    pace: str = field(default="", init=False)
    """Why there are so many updates, once that was settled."""

    @property
    def steps(self) -> int:
        """Updates to make in all."""
        return resolved(self.recipe.steps)

    @property
    def leg(self) -> int:
        """Updates between two looks at the clock; four at least, since fewer tell no speed."""
        return max(4, min((self.steps - self.start) // LEGS, undecided(self.recipe, self.start) - self.start))

    @property
    def sheets(self) -> list[int]:
        """The steps after which a sheet of samples is drawn."""
        return [self.start + step for step in sheet_steps(resolved(self.recipe.sheets), self.steps - self.start)]

    @property
    def loader(self) -> Loader:
        """The batches in the order of this attempt; its seed, that of the noise too, is another after each rollback."""
        turns, first = len(self.guarded.rollbacks), self.parts.loader
        return replace(first, seed=seed_of(first.seed, turns, ORDER)) if turns else first

    def train(self, stopped: Callable[[], int], until: int) -> Work[None]:
        """Go on until step `until`, from earlier checkpoints where it must be."""
        while (trouble := (yield from self.attempt(stopped, until))) is not None:
            yield self.back(trouble)
            if signalled := stopped():
                raise KeyboardInterrupt(signalled)

    def settle(self, began: float) -> None:
        """Choose how many updates there are, from the speed of those that were made, and write it down."""
        done, rate = self.parts.training.step, self.meter.speed()
        if rate is None or self.ended:
            return
        ahead = sum(number > done for number in self.sheets)
        left = updates_within(self.recipe, remaining(resolved(self.recipe.budget), began), rate, ahead)
        self.recipe = settled(self.recipe, done, left, self.start)
        things = self.parts.data.dataset.modality.things
        self.pace = f"{self.recipe.budget} at {rate:,.0f} {things}/s, measured up to update {done:,}"
        amend(self.folder, self.recipe, "steps", self.pace)
        self.meter.steps = self.steps

    def updates(self, until: int) -> Iterator[Step]:
        """The updates that are left until step `until`, at a rate that each rollback has lowered."""
        rate, share = rate_of(self.recipe, self.start), SLOWER ** len(self.guarded.rollbacks)
        return updates_of(
            self.recipe, self.parts, steps=until, rate=lambda step: rate(step) * share, loader=self.loader
        )

    def attempt(self, stopped: Callable[[], int], until: int) -> Work[Trouble | None]:
        """Train to step `until` (None) or to where it cannot go on; KeyboardInterrupt, with all saved, once `stopped`.

        Most steps pass unseen. Those with a line of the log, a sheet, a validation or a checkpoint are looked at first.
        """
        sheets, ahead = self.sheets, self.steps - self.start
        new = self.recipe.model_copy(update={"steps": ahead})
        measured, probed, drifts = (
            {self.start + step for step in of(new, self.parts)}
            for of in (validation_steps, gradient_steps, drift_steps)
        )
        every = max(1, ahead // 500)
        early = range(0) if self.start else earlier_steps(self.recipe, every)
        forget_later(self.folder, self.parts.training.step)
        for step in self.updates(until):
            self.meter.note(step)
            number, signalled = step.number, stopped()
            last, preview = number == self.steps, next((s for s in sheets if s > number), self.steps)
            save = bool(signalled) or last or time.monotonic() - self.saved > CHECKPOINT_EVERY
            regular, surely = number % every == 0, last or bool(signalled)
            earlier = regular and number in early
            sheet, drift = number in sheets, number in drifts
            due = Due(sheet, number in measured, number in probed, drift, save, earlier, surely, preview)
            if not (due.whole or regular):
                continue
            try:
                trouble = yield from self.report(step, due)
            except GeneratorExit:
                self.leave(step)
                raise
            if trouble is not None or self.ended:
                return trouble
            self.meter.rested()
            if signalled and not last:
                raise KeyboardInterrupt(signalled)
        return None

    def report(self, step: Step, due: Due) -> Work[Trouble | None]:
        """What there is to report of the updates up to `step`, and what is due after it; why it cannot go on, if so."""
        now, longest = self.parts.training.guard.rows()
        reading = self.meter.read()
        skipped = self.note(reading.skips)
        trouble = self.trouble(step, now if step.number == self.steps else 0, longest, whole=due.whole)
        if reading.entry is not None and trouble is None:
            yield self.line(step, reading.entry, due)
        if skipped is not None:
            yield skipped
        if trouble is not None:
            return trouble
        if due.drift and self.parts.drift is not None and reading.entry is not None:
            yield from self.within(step.number, reading.entry["drift"], self.parts.drift.bound)
        if step.number == self.steps and (why := self.parts.settle(reading.entry or {})):
            yield Message(why)
        if due.sheet:
            yield Preview(step.number, str(draw(self.folder, self.parts, step.number)))
        if due.earlier and not (self.folder / EARLIER).is_file():
            yield self.save_earlier(step.number)
        if due.checkpoint and (due.surely or not now):  # after a bad update only where it must be
            yield self.save(step.number)
        return None

    def within(self, number: int, drift: float, bound: float | None) -> Work[None]:
        """End the run with this update where its model has moved too far from what it is put on."""
        if bound is None or drift <= bound or number == self.steps:
            return
        self.recipe, self.ended = self.recipe.model_copy(update={"steps": number}), True
        why = (
            f"after {number:,} updates answers for what is not taught had moved by {drift:.1%}, of {bound:.1%} at most"
        )
        amend(self.folder, self.recipe, "steps", why)
        self.meter.steps = number
        yield Message(f"stopped early: {why}; --drift {2 * bound:g} allows more")
        if not (self.folder / "samples" / f"step-{number:06d}.png").is_file():
            yield Preview(number, str(draw(self.folder, self.parts, number)))
        yield self.save(number)

    def note(self, skips: list[Skip]) -> Skipped | None:
        """Record updates that were not made."""
        if not skips:
            return None
        usual = self.parts.training.guard.usual()
        self.skips = [*self.skips, *skips][-STRIKES:]
        self.guarded.add([asdict(skip) | {"what": "skipped", "cause": skip.reason(usual)} for skip in skips])
        return Skipped(tuple(skip.step for skip in skips), skips[-1].reason(usual))

    def line(self, step: Step, figures: dict[str, Any], due: Due) -> Update:
        """One line of the log; where they are due, with the validation loss of the weights and of their average, and
        the gradient at each noise level."""
        validation, training = self.parts.validation, self.parts.training
        left = self.meter.left(step.number)
        if due.validation and validation is not None:
            figures |= {"validation": validation(training.model), "validation_ema": validation(training.ema.model)}  # type: ignore[arg-type]
            if self.parts.nearest is not None:
                self.parts.nearest.offer(figures["validation_ema"], step.number, training.ema.model)
            if isinstance(validation, Validation) and validation.hints:
                figures["hint_use"] = validation.use(training.ema.model, figures["validation_ema"])  # type: ignore[arg-type]
        if due.drift and self.parts.drift is not None:
            figures["drift"] = self.parts.drift(self.parts.averaged().denoiser)
        if due.gradients and self.parts.gradients is not None:
            began = time.monotonic()
            levels = asdict(self.parts.gradients(training.model))  # type: ignore[arg-type]
            figures |= {"gradients": levels | {"seconds": round(time.monotonic() - began, 4)}}
        return Update(step.number, self.steps, figures, due.preview, left)

    def save(self, number: int) -> Saved:
        """A checkpoint of the last update."""
        state, contract = self.parts.state(), self.parts.averaged().contract()
        made = checkpoint.save(self.folder / "checkpoints", number, state, contract)
        self.saved = time.monotonic()
        return Saved(number, str(made))

    def save_earlier(self, number: int) -> Message:
        """Save the average as it is now, to guide by; says what it is for and how large it is."""
        size = save_earlier(self.folder, self.parts.averaged().model.module.state_dict(), number)
        what = f"the average after {number:,} updates, to guide by with --guide auto"
        return Message(f"{EARLIER} ({size / 1e6:.1f} MB): {what}")

    def leave(self, step: Step) -> None:
        """Save a checkpoint where nobody asks for more, unless the weights are not good."""
        now, longest = self.parts.training.guard.rows()
        if self.trouble(step, now if step.number == self.steps else 0, longest, whole=True) is None:
            self.save(step.number)

    def trouble(self, step: Step, now: int, longest: int, *, whole: bool) -> Trouble | None:
        """Why the run cannot go on after `step`, whose last `now` updates and at some time `longest` in a row were bad.

        None where it can go on. `whole` looks at every weight and moment. At the end a bad update is trouble unless its
        batch explains it, for no later one can show that the weights are good.
        """
        training = self.parts.training
        fault = unsound(training.state()) if whole else None
        if fault is None and longest < STRIKES and not now:
            return None
        batch_fault = self.batch_fault(self.skips[-1]) if self.skips else None
        if fault is None and longest < STRIKES and batch_fault is not None:
            return None
        there = Circumstances(
            step.rate,
            training.guard.usual(),
            self.log.last.get("levels"),
            fault or unsound(training.state()),
            batch_fault,
            autocast_of(self.recipe),
        )
        return explain(self.skips, there)

    def batch_fault(self, skip: Skip) -> str | None:
        """What is wrong with the batches of a skipped update, if that can be seen in them."""
        loader, end = self.loader, skip.batch + self.recipe.optimiser.accumulate
        found = (poisoned(loader(number), loader(end)) for number in range(skip.batch, end))
        return next((fault for fault in found if fault), None)

    def back(self, trouble: Trouble) -> RolledBack:
        """Return to the last good checkpoint, or to the beginning; EbbError when that did not help before."""
        training, turns = self.parts.training, self.guarded.rollbacks
        at, last = training.step, self.skips[-1:]
        event: dict[str, Any] = {"step": at, "loss": None, "grad_norm": None, "batch": None, "levels": None}
        event |= {name: value for skip in last for name, value in asdict(skip).items() if name != "step"}
        event |= {"cause": trouble.cause}
        if len(turns) >= MOST_ROLLBACKS:
            self.guarded.add([event | {"what": "stopped"}])
            before = " and ".join(f"{turn['to']:,}" for turn in turns)
            raise EbbError(f"stopped at step {at:,}, after going back to step {before}: {trouble.cause}", trouble.hint)
        target = good_checkpoint(self.folder, turns[-1]["to"] if turns else None)
        if target is not None:
            restore(self.parts, target)
        else:
            again = build(self.recipe, self.parts.data, self.parts.loader.device)
            self.parts.restore(again.state())
        share = SLOWER ** (len(turns) + 1)
        self.guarded.add([event | {"what": "rolled back", "to": training.step, "rate": share}])
        self.meter.back(training.step, training.seen)
        self.skips = []
        return RolledBack(at, training.step, share, trouble.cause)


def good_checkpoint(folder: Path, tried: int | None) -> Path | None:
    """The newest checkpoint, None if there is none. If it is of step `tried`, which did not help, the one before it."""
    found = checkpoint.finished(folder / "checkpoints")
    if len(found) > 1 and int(found[-1].name.removeprefix("step-")) == tried:
        replace_text(folder / "latest", found[-2].name)
        checkpoint.remove(found.pop())
    return found[-1] if found else None


def restore(parts: Built, saved: Path) -> None:
    """Go on from a checkpoint; DamagedError for one that is not what was saved.

    Raises UsageError where the latents are not those that were trained on, which runs without origins tell by this
    alone.
    """
    checkpoint.verify(saved)
    if (saved / "autoencoder.safetensors").is_file():
        now, then = parts.state()["autoencoder"], checkpoint.read(saved, "autoencoder")
        if now.keys() != then.keys() or any(not torch.equal(now[name].cpu(), value) for name, value in then.items()):
            raise UsageError(
                f"the autoencoder has been trained anew since {saved.name}", "start anew with its latents: --fresh"
            )
    nearest = (saved / "nearest.safetensors").is_file()  # checkpoints of older versions have none
    names = (*checkpoint.PARTS, *["memory"] * (parts.memory is not None), *["nearest"] * nearest)
    parts.restore({part: checkpoint.read(saved, part) for part in names})


@contextmanager
def interruptible() -> Iterator[Callable[[], int]]:
    """Ctrl-C and SIGTERM, once, are a number that the loop reads after the step (0: none); a second acts at once."""
    asked: list[int] = []

    def note(number: int, _: object) -> None:
        if asked:
            raise KeyboardInterrupt(number)
        asked.append(number)

    try:
        before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:  # not the main thread: signals belong to whoever started us
        before = {}
    try:
        yield lambda: asked[0] if asked else 0
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
