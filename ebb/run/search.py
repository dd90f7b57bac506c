"""The peak of the learning rate, searched for: short trials from the same start, on the same batches and noise."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

from ebb.events import Progress, Work
from ebb.recipe.recipe import Recipe, resolved, seconds
from ebb.run.build import build, updates_of
from ebb.system.families.family import Prepared
from ebb.train.optimiser import WarmupDecay

SECONDS, SHARE = 60.0, 0.1
"""What a search may take, and of a budget at most."""

FACTORS = (0.25, 0.5, 1.0, 2.0, 4.0)
"""What the usual rate is tried times; where the best is the first or the last of them, up to BEYOND more that way."""

BEYOND = 2

FEWEST, MOST = 20, 400
"""Updates of a trial: fewer tell nothing, more cost more than they tell."""


def trial(recipe: Recipe, data: Prepared, device: torch.device, rate: float, updates: int) -> float:
    """The mean loss of the last eighth of so many updates at a peak `rate`, of a run in little: a fifth of them warms
    up, and over the last two fifths the rate falls to 0, since a level rate would be blamed for its noise.

    Infinite where an update was skipped, or a loss is not finite. Weights, batches and noise are those of every trial.
    """
    parts, losses, skipped = build(recipe, data, device), list[torch.Tensor](), list[torch.Tensor]()
    course = WarmupDecay(rate, updates, max(1, updates // 5), 0.4)
    for step in updates_of(recipe, parts, steps=updates, rate=course):
        losses.append(step.loss)
        skipped.append(step.skipped)
    mean = float(torch.stack(losses[-max(1, updates // 8) :]).mean())
    return math.inf if bool(torch.stack(skipped).any()) or not math.isfinite(mean) else mean


def lowest(loss: Callable[[float], float], usual: float) -> Work[dict[float, float]]:
    """The loss of each rate that was tried, by rate: FACTORS of the usual one, and BEYOND them while the best is the
    smallest or the largest."""
    found = dict[float, float]()
    waiting = [usual * factor for factor in FACTORS]
    while waiting:
        rate = waiting.pop(0)
        yield Progress(f"trying the learning rate {rate:.2g}", len(found), len(found) + 1 + len(waiting))
        found[rate] = loss(rate)
        best = min(found, key=found.__getitem__)
        if not waiting and len(found) < len(FACTORS) + BEYOND:
            waiting += [best / 2] if best == min(found) else [best * 2] if best == max(found) else []
    return found


def searched(
    recipe: Recipe, data: Prepared, device: torch.device, examples_per_second: float
) -> Work[tuple[Recipe, str]]:
    """The recipe with the peak rate whose trial ended lowest, and why; the usual one where every trial failed.

    A trial has as many updates as fit in its part of SECONDS, or of SHARE of the budget, FEWEST at least.
    """
    usual, how = resolved(recipe.optimiser.lr), recipe.optimiser
    spend = SECONDS if recipe.budget is None else min(SECONDS, SHARE * seconds(recipe.budget))
    each = spend / (len(FACTORS) + BEYOND) * examples_per_second / (resolved(recipe.batch) * how.accumulate)
    updates = max(FEWEST, min(MOST, int(each)))
    eager = recipe.running("eager")
    found = yield from lowest(lambda rate: trial(eager, data, device, rate, updates), usual)
    best = min(found, key=found.__getitem__)
    best = best if math.isfinite(found[best]) else usual
    losses = ", ".join(f"{rate:.2g}: {found[rate]:.4g}" for rate in sorted(found))
    chosen = how.model_copy(update={"lr": best, "search": False})
    return recipe.model_copy(update={"optimiser": chosen}), f"loss after {updates} updates from the same start {losses}"
