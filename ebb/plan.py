"""From what was asked for to a recipe with nothing left open: facts of the data first, then a stopwatch."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Literal, get_args

import numpy as np
import torch

from ebb.assemble import assemble, autocast_of, facts_of
from ebb.prepare import Prepared
from ebb.recipe import Recipe, resolved, seconds
from ebb.recipes import complete, default_budget, suited_width
from ebb.train.loop import updates
from ebb.train.optimiser import WarmupDecay

Precision = Literal["fp32", "bf16"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)[::-1]
"""bf16 first: where it is the faster one, fp32 is given up once it is SLOWER."""

SLOWER = 1.5
"""How many times as long an update takes that need not be timed again."""

RESERVE = 0.96
"""The share of a budget for planning, updates and sample grids; the rest is for checkpoints, validation and report."""

PROBE = 32
"""Images of a batch that the precisions are compared on."""

GRID_IMAGES = 40
"""About how many samples a grid shows."""

MOST_GRIDS = 10


def rate_of(recipe: Recipe) -> WarmupDecay:
    """The learning rate over the run."""
    return WarmupDecay(resolved(recipe.optimiser.lr), resolved(recipe.steps), resolved(recipe.optimiser.warmup))


def pace(recipe: Recipe, data: Prepared, device: torch.device, spend: float, rival: float = 0.0) -> float:
    """Images per second of whole updates, on a copy that is thrown away: a median over `spend` seconds, of three at
    least, or of two that are SLOWER than a `rival`'s."""
    parts, took = assemble(recipe, data, device), list[float]()
    began = last = time.perf_counter()
    for step in updates(
        parts.training,
        parts.objective,
        parts.loader,
        steps=10_000,
        accumulate=recipe.optimiser.accumulate,
        autocast=autocast_of(recipe),
    ):
        step.loss.item()  # waits for the device
        took.append(time.perf_counter() - last)
        last = time.perf_counter()
        if len(took) > 2 and min(took[1:]) * rival > SLOWER * images_of(recipe):
            break
        if len(took) > 3 and last - began > spend:
            break
    return images_of(recipe) / float(np.median(took[1:]))


def paces(recipe: Recipe, data: Prepared, device: torch.device) -> dict[Precision, float]:
    """Images per second in each precision that is open, in small batches, which keep the first step near."""
    batch, found = min(resolved(recipe.batch), PROBE), dict[Precision, float]()
    for precision in [recipe.precision] if recipe.precision else PRECISIONS:
        trial = recipe.model_copy(update={"precision": precision, "batch": batch})
        found[precision] = pace(trial, data, device, 0.0, max(found.values(), default=0.0))
    return found


def grid_seconds(recipe: Recipe, images_per_second: float) -> float:
    """What one sample grid costs, if a forward pass is a third of an update."""
    if recipe.kind == "autoencoder":
        return GRID_IMAGES / images_per_second
    calls = recipe.sample.steps * (1 if recipe.sample.guidance == 1 else 2)
    return GRID_IMAGES * calls / (3 * images_per_second)


def updates_within(recipe: Recipe, spell: float, images_per_second: float, grids: int) -> int:
    """How many updates, and so many sample grids beside them, take `spell` seconds; at least one."""
    left = spell - grids * grid_seconds(recipe, images_per_second)
    return max(1, int(left * images_per_second / images_of(recipe)))


def images_of(recipe: Recipe) -> int:
    """The images of one update."""
    return resolved(recipe.batch) * recipe.optimiser.accumulate


def resolve(
    asked: Recipe, data: Prepared, device: torch.device, say: Callable[[str], None]
) -> tuple[Recipe, dict[str, str]]:
    """The recipe with nothing left open, and the reason of each choice: facts first, then a few timed steps."""
    facts = facts_of(data)
    recipe, reasons = complete(asked, facts)
    say("timing a few steps to choose precision, width and length")
    measured = paces(recipe, data, device)
    precision = max(measured, key=lambda name: measured[name])
    if recipe.precision is None:
        found = ", ".join(f"{name} {each:,.0f} images/s" for name, each in measured.items())
        reasons["precision"] = f"measured {found} in batches of {min(resolved(recipe.batch), PROBE)}"
    open_width = recipe.kind == "denoiser" and recipe.network.kind == "unet" and asked.network.width is None
    if open_width and recipe.budget is not None and recipe.steps is None:
        usual = updates_within(recipe, RESERVE * seconds(recipe.budget), measured[precision], 0)
        width, why = suited_width(recipe, usual)
        recipe = recipe.model_copy(update={"network": recipe.network.model_copy(update={"width": width})})
        reasons["network.width"] += why
    chosen = dict[str, Any](precision=precision, grids=recipe.grids or MOST_GRIDS)
    spend = min(1.0, 0.01 * seconds(recipe.budget)) if recipe.budget else 1.0
    rate = pace(recipe.model_copy(update={"precision": precision}), data, device, spend)
    if recipe.sample.precision is None:
        chosen["sample"] = recipe.sample.model_copy(update={"precision": precision})
        reasons["sample.precision"] = "as trained"
    if recipe.grids is None:
        reasons["grids"] = f"at most {MOST_GRIDS}"
    if recipe.steps is None:
        budget = recipe.budget
        if budget is None:
            budget, reasons["budget"] = default_budget(facts, rate)
            chosen["budget"] = budget
        one = grid_seconds(recipe, rate)
        if recipe.grids is None:
            chosen["grids"] = min(MOST_GRIDS, max(1, int(0.1 * seconds(budget) / one)))
            reasons["grids"] += f", for a tenth of the budget at about {one:.1f} s each"
        chosen["steps"] = updates_within(recipe, RESERVE * seconds(budget), rate, chosen["grids"])
        passes = chosen["steps"] * images_of(recipe) / facts.count
        reasons["steps"] = f"{budget} at {rate:,.0f} images/s: {passes:.1f} passes over the data"
    steps = chosen.get("steps") or resolved(recipe.steps)
    if asked.optimiser.warmup is None:
        warmup = min(resolved(recipe.optimiser.warmup), steps // 10)
        chosen["optimiser"] = recipe.optimiser.model_copy(update={"warmup": warmup})
        reasons["optimiser.warmup"] += ", at most a tenth of the updates"
    return recipe.model_copy(update=chosen), reasons
