"""From what was asked for to a recipe with nothing left open: facts of the data first, then a stopwatch."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Set
from contextlib import suppress
from dataclasses import replace
from itertools import repeat
from typing import Any, Literal, get_args

import numpy as np
import torch

from ebb.errors import UsageError
from ebb.events import Message, Work
from ebb.machine import multiplies_bf16
from ebb.recipe.by_speed import STEEPNESS, default_budget, suited_batch, suited_width
from ebb.recipe.recipe import Recipe, of_denoiser, resolved, seconds
from ebb.recipe.starting import Facts
from ebb.run.build import Built, build, updates_of
from ebb.run.search import searched
from ebb.system.families.families import FAMILIES
from ebb.system.families.family import Prepared, facts_of
from ebb.train.gradients import span
from ebb.train.optimiser import SCHEDULES, WarmupDecay

Engine = Literal["eager", "compiled"]

Precision = Literal["fp32", "bf16"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)

SLOWER = 1.5
"""How many times as long as the fastest an update takes that need not be timed a third time."""

RESERVE = 0.96
"""The share of a budget for planning, updates and sheets; the rest is for checkpoints, validation and report."""

PROBE = 32
"""Examples of a batch that the precisions are compared on, on a CPU; a GPU takes little longer for whole ones."""

TRIAL = 18 * 60.0
"""Seconds left, as 20 minutes leave them, for which on a GPU the compiled network is timed too; that takes a minute."""

WORTH = 1.05
"""How many times as fast the compiled network must be, since every resumed run compiles it anew."""

UNTRIED = "compiling is tried on a GPU, for 20 minutes or more by the clock"

ROUNDS = 3
"""Updates in each precision, at least, that the faster is chosen by, one fewer where it is SLOWER."""

ROUNDED = 0.3
"""The share of the gradient of a noise level by which bf16 may be off: rounding to 8 bits takes less than a hundredth
after ROUNDS updates, and up to a quarter where the gradient nearly cancels after ten minutes (docs/train.md)."""

SPREAD = 0.6
"""Seconds over which they are spread, so that what another program does for a moment decides nothing."""

DISTURBED = 2.0
"""How many times as fast as by the first reading updates must be for the width to be chosen anew by the second."""

GRID_SAMPLES = 40
"""About how many samples a sheet shows."""

MOST_SHEETS = 10


def rate_of(recipe: Recipe, start: int = 0) -> WarmupDecay:
    """The learning rate over the run, or once more over what follows step `start` of one that goes on from there."""
    how, steps, warmup = recipe.optimiser, resolved(recipe.steps), resolved(recipe.optimiser.warmup)
    warmup = min(warmup, (steps - start) // 10) if start else warmup
    rate = SCHEDULES[how.schedule](resolved(how.lr), steps, warmup, start=start)
    return replace(rate, decay=how.decay) if how.schedule == "level_then_fall" else rate


def timed(recipe: Recipe, parts: Built) -> Iterator[float]:
    """Seconds of whole updates without end; the first update only warms up."""
    last = None
    for step in updates_of(recipe, parts):
        step.loss.item()  # waits for the device
        if last is not None:
            yield time.perf_counter() - last
        last = time.perf_counter()


def while_they_fit(updates: Iterator[float], parts: Built) -> Iterator[float]:
    """Seconds of updates, infinitely many from the one on that did not fit in a GPU's memory."""
    with suppress(torch.OutOfMemoryError):
        yield from updates
    parts.training.optimizer.zero_grad()  # of what a backward pass left
    yield from repeat(math.inf)


def pace(recipe: Recipe, data: Prepared, device: torch.device, spend: float) -> float:
    """Examples per second: a median over `spend` seconds of updates or three, on a copy that is thrown away."""
    took = list[float]()
    for each in timed(recipe, build(recipe, data, device)):
        took.append(each)
        if len(took) >= 3 and sum(took) > spend:
            break
    return examples_of(recipe) / float(np.median(took))


def fastest(recipe: Recipe, data: Prepared, device: torch.device, began: float) -> Work[tuple[Engine, float, str]]:
    """How the network runs fastest of what is open, its examples per second, and why.

    Compiling is tried on a GPU where it can pay; there it is no trouble if it fails. Raises ResourceError where it was
    asked for and fails.
    """
    spend = min(1.0, 0.01 * seconds(recipe.budget)) if recipe.budget else 1.0
    if recipe.runs is not None:
        return recipe.runs, pace(recipe, data, device, spend), ""
    usual = pace(recipe, data, device, spend)
    budget = recipe.budget or default_budget(facts_of(data), usual, time.perf_counter() - began)[0]
    if device.type != "cuda" or not FAMILIES[recipe.kind].compiles or remaining(budget, began) < TRIAL:
        return "eager", usual, UNTRIED
    yield Message("timing the compiled network too: a minute")
    try:
        rate = pace(recipe.running("compiled"), data, device, spend)
    except Exception as error:  # whatever it is, the run goes on without
        return "eager", usual, str(error).partition("\n")[0]
    things = data.dataset.modality.things
    found = f"measured eager {usual:,.0f} {things}/s, compiled {rate:,.0f} {things}/s"
    return ("compiled", rate, found) if rate > WORTH * usual else ("eager", usual, found)


def paces(recipe: Recipe, data: Prepared, device: torch.device) -> dict[Precision, float]:
    """Examples per second in each precision that is open, in small batches on a CPU, which keep the first step near.

    The precisions take turns and each has the time of its fastest update, so that whatever else the machine does in
    these seconds does not decide between them. One whose updates do not fit in a GPU's memory makes 0; raises
    OutOfMemoryError where none does. A CPU without instructions for bf16 is not asked to compute in it.
    """
    small = recipe.model_copy(update={"batch": probe(recipe, device)}).running("eager")
    parts = build(small, data, device)
    running: dict[Precision, Iterator[float]] = {
        precision: while_they_fit(timed(small.model_copy(update={"precision": precision}), parts), parts)
        for precision in possible(recipe, device)
    }
    best, turn, spent = dict.fromkeys(running, math.inf), 0, 0.0
    while turn < ROUNDS or spent < SPREAD:
        for precision, each in running.items():
            if turn < 2 or best[precision] <= SLOWER * min(best.values()):
                took = next(each)
                best[precision] = took if took == math.inf else min(best[precision], took)
                spent += took
        turn += 1
    if min(best.values()) == math.inf:
        raise torch.OutOfMemoryError(
            f"out of memory with {examples_of(small)} {data.dataset.modality.things} in {' and '.join(best)}"
        )
    return {precision: examples_of(small) / least for precision, least in best.items()}


def possible(recipe: Recipe, device: torch.device) -> list[Precision]:
    """The precisions to choose from: the one that was asked for, or those that the device has instructions for."""
    if recipe.precision:
        return [recipe.precision]
    return [precision for precision in PRECISIONS if precision == "fp32" or multiplies_bf16(device)]


def probe(recipe: Recipe, device: torch.device) -> int:
    """The examples of a batch that the precisions are compared on."""
    return min(resolved(recipe.batch), PROBE) if device.type == "cpu" else resolved(recipe.batch)


def remaining(budget: str, began: float) -> float:
    """Seconds for updates and sheets from now on, of a budget that began at `began` of `time.perf_counter`."""
    return began + RESERVE * seconds(budget) - time.perf_counter()


def fits(recipe: Recipe, facts: Facts, budget: str, began: float, rate: float, sheets: int) -> None:
    """Raise UsageError where not one update fits in what is left of a budget beside so many sheets of samples."""
    update, spent = examples_of(recipe) / rate, time.perf_counter() - began
    beside = sheets * sheet_seconds(recipe, rate)
    if update + beside > remaining(budget, began):
        raise UsageError(
            f"no update fits in a budget of {budget}: one of {examples_of(recipe)} {facts.things} takes {update:.2g} s"
            f" and {sheets} sheet{'s' * (sheets > 1)} of samples {beside:.2g} s, after {spent:.2g} s of preparation",
            f"for 100 of them try --budget {math.ceil((spent + 100 * update + beside) / RESERVE)}s"
            + ", or fewer --sheets" * (sheets > 1),
        )


def sheet_seconds(recipe: Recipe, rate: float) -> float:
    """What one sheet of samples costs, if a forward pass is a third of an update."""
    return GRID_SAMPLES * FAMILIES[recipe.kind].calls(recipe) / (3 * rate)


def undecided(recipe: Recipe, start: int = 0) -> int:
    """The last update of those that do not depend on how many there are: the learning rate has not begun to fall.

    0 where more than the rate depends on it. `start` as in `rate_of`.
    """
    steady = FAMILIES[recipe.kind].steady(recipe)
    return min(rate_of(recipe, start).level, resolved(recipe.steps) - 1) if steady else 0


def settled(recipe: Recipe, done: int, left: int, start: int = 0) -> Recipe:
    """The recipe with `left` updates more than the `done` ones, or the fewest that would not have changed these."""
    found = recipe.model_copy(update={"steps": done + left})
    while (short := done - undecided(found, start)) > 0:
        found = found.model_copy(update={"steps": resolved(found.steps) + short})
    return found


def updates_within(recipe: Recipe, spell: float, rate: float, sheets: int) -> int:
    """How many updates, and so many sheets of samples beside them, take `spell` seconds; at least one."""
    left = spell - sheets * sheet_seconds(recipe, rate)
    return max(1, int(left * rate / examples_of(recipe)))


def examples_of(recipe: Recipe) -> int:
    """The examples of one update."""
    return resolved(recipe.batch) * recipe.optimiser.accumulate


def length(recipe: Recipe, facts: Facts, rate: float, began: float) -> tuple[dict[str, Any], dict[str, str]]:
    """Updates, and the budget and sheets that are open, at `rate` examples per second, with the reasons."""
    chosen, reasons, budget = dict[str, Any](sheets=recipe.sheets), dict[str, str](), recipe.budget
    if budget is None:
        budget, reasons["budget"] = default_budget(facts, rate, time.perf_counter() - began)
        chosen["budget"] = budget
    if recipe.sheets is None:
        one = sheet_seconds(recipe, rate)
        chosen["sheets"] = min(MOST_SHEETS, max(1, int(0.1 * remaining(budget, began) / one)))
        reasons["sheets"] = f"at most {MOST_SHEETS}, for a tenth of the time that is left at about {one:.1f} s each"
    fits(recipe, facts, budget, began, rate, chosen["sheets"])
    chosen["steps"] = updates_within(recipe, remaining(budget, began), rate, chosen["sheets"])
    passes = chosen["steps"] * examples_of(recipe) / facts.count
    reasons["steps"] = f"{budget} at {rate:,.0f} {facts.things}/s: {passes:.1f} passes over the data"
    return chosen, reasons


def compared(speeds: Mapping[Precision, float], batch: int, things: str) -> str:
    """Why the faster precision is taken; a speed of 0 is that of one that does not fit."""
    if len(speeds) == 1:
        return "this CPU has no instructions for bf16"
    rates = {name: f"{each:,.0f} {things}/s" if each else "too large" for name, each in speeds.items()}
    return f"measured {', '.join(map(' '.join, rates.items()))} in batches of {batch}"


def chosen_precision(
    recipe: Recipe, speeds: Mapping[Precision, float], data: Prepared, device: torch.device
) -> tuple[Precision, str]:
    """The faster precision and why; fp32 where bf16 is faster and loses the gradient of a noise level (`rounded`)."""
    fastest = max(speeds, key=lambda name: speeds[name])
    why = compared(speeds, probe(recipe, device), data.dataset.modality.things)
    if fastest == "fp32" or "fp32" not in speeds or not speeds["fp32"]:
        return fastest, why
    lost = rounded(recipe, data, device)
    return ("fp32", f"{why}; {lost}") if lost else (fastest, why)


def rounded(recipe: Recipe, data: Prepared, device: torch.device) -> str:
    """The noise level at which the gradient in bf16 is not within ROUNDED of that in fp32, in words; "" without one.

    After ROUNDS updates in fp32, since networks begin as the zero function, of small batches on a CPU.
    """
    exact = recipe.model_copy(update={"batch": probe(recipe, device), "precision": "fp32"}).running("eager")
    parts = build(exact, data, device)
    if parts.gradients is None:
        return ""
    for _ in updates_of(exact, parts, steps=ROUNDS):
        pass
    off = parts.gradients.inexact(parts.system.denoiser, torch.bfloat16)
    far = [(level, share) for level, share in enumerate(off) if share is not None and not share <= ROUNDED]
    if not far:
        return ""
    low, high = span(far[0][0])
    return f"bf16 is off by {far[0][1]:.0%} of the gradient at log-SNR {low:g} to {high:g}"


def narrowed(recipe: Recipe, data: Prepared, began: float, rate: float) -> tuple[Recipe, str]:
    """The recipe with the width that suits its budget at the speed of its own width, and why it is another."""
    usual = updates_within(recipe, remaining(resolved(recipe.budget), began), rate, 0)
    recipe = of_denoiser(recipe)
    width, why = suited_width(recipe, facts_of(data), usual)
    return recipe.model_copy(update={"network": recipe.network.model_copy(update={"width": width})}), why


def width_of(recipe: Recipe) -> int:
    """The width of the network of a recipe that has one."""
    return resolved(of_denoiser(recipe).network.width)


def by_stopwatch(
    recipe: Recipe, opened: Set[str], data: Prepared, device: torch.device, began: float
) -> Work[tuple[Recipe, float, dict[str, str]]]:
    """Precision and engine, and what is `opened` of width and batch; the examples per second (0 where no length depends
    on them), and the reasons, those of width and batch to be added to others.

    The width is chosen anew where whole updates turn out far faster than the first ones, which something disturbed.
    """
    reasons, rate, engine, why = dict[str, str](), 0.0, recipe.runs or "eager", UNTRIED
    open_width = "network.width" in opened
    speeds = dict.fromkeys(possible(recipe, device), 0.0)
    if len(speeds) > 1 or open_width or recipe.steps is None:
        yield Message("timing a few steps to choose what is open of precision, width and length")
    if len(speeds) > 1 or open_width:
        speeds = paces(recipe, data, device)
    if recipe.precision is None:
        precision, reasons["precision"] = chosen_precision(recipe, speeds, data, device)
        recipe = recipe.model_copy(update={"precision": precision})
    usual, speed = recipe, max(speeds.values())
    if open_width:
        recipe, reasons["network.width"] = narrowed(usual, data, began, speed)
    if recipe.steps is None:
        engine, rate, why = yield from fastest(recipe, data, device, began)
    if open_width:
        slower: float = (width_of(recipe) / width_of(usual)) ** STEEPNESS
        if rate * slower > DISTURBED * speed:
            recipe, reasons["network.width"] = narrowed(usual, data, began, rate * slower)
            engine, rate, why = yield from fastest(recipe, data, device, began)
    if "batch" in opened:
        updates = updates_within(recipe, remaining(resolved(recipe.budget), began), rate, 0)
        batch, reasons["batch"] = suited_batch(recipe, updates)
        if batch != recipe.batch:
            recipe = recipe.model_copy(update={"batch": batch})
            rate = pace(recipe.running(engine), data, device, 0.0)
    if recipe.runs is None and FAMILIES[recipe.kind].compiles:
        reasons["engine"] = why
    return recipe.running(engine), rate, reasons


def resolve(
    asked: Recipe, data: Prepared, device: torch.device, began: float | None = None
) -> Work[tuple[Recipe, dict[str, str]]]:
    """The recipe with nothing left open, and the reason of each choice: facts first, then, if precision or length is
    open, a few timed steps.

    Its budget began at `began`, in seconds of `time.perf_counter`; without it now.
    """
    began, facts = time.perf_counter() if began is None else began, facts_of(data)
    family = FAMILIES[asked.kind]
    recipe, reasons = family.complete(asked, facts)
    recipe, shown = family.tried(recipe, data, device)
    reasons |= shown
    if wrong := family.concern(recipe, facts):
        yield Message(wrong)
    opened = family.timed(asked, recipe) if recipe.budget is not None and recipe.steps is None else set()
    recipe, rate, measured = yield from by_stopwatch(recipe, opened, data, device, began)
    for name in opened:
        measured[name] = reasons[name] + measured[name]
    reasons |= measured
    recipe, trained = family.as_trained(recipe)
    reasons |= trained
    if recipe.optimiser.search:
        speed = rate or pace(recipe.running("eager"), data, device, 0.0)
        recipe, reasons["optimiser.lr"] = yield from searched(recipe, data, device, speed)
    chosen = dict[str, Any](sheets=recipe.sheets or MOST_SHEETS)
    if recipe.sheets is None:
        reasons["sheets"] = f"at most {MOST_SHEETS}"
    if recipe.steps is None:
        planned, told = length(recipe, facts, rate, began)
        chosen, reasons = chosen | planned, reasons | told
    steps = chosen.get("steps") or resolved(recipe.steps)
    if asked.optimiser.warmup is None:
        warmup = min(resolved(recipe.optimiser.warmup), steps // 10)
        chosen["optimiser"] = recipe.optimiser.model_copy(update={"warmup": warmup})
        reasons["optimiser.warmup"] += ", at most a tenth of the updates"
    return recipe.model_copy(update=chosen), reasons
