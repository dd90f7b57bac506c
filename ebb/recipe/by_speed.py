"""What is chosen by the speed of updates on the machine at hand: width, batch and budget, each with its reason."""

from __future__ import annotations

from ebb.recipe.recipe import DenoiserRecipe, Recipe, resolved
from ebb.recipe.starting import Facts, room

ENOUGH = 1500
"""Updates that a run should make, by the speed of small batches; by that of whole ones it makes 2,000 or more.

Below, a narrower network that makes more of them is nearer to the data."""

NARROWEST = 32
STEEPNESS = 1.7
"""The seconds of an update grow with the width to this power, about."""


def suited_width(recipe: DenoiserRecipe, facts: Facts, updates: float) -> tuple[int, str]:
    """The widest U-Net, up to the usual one, that makes ENOUGH updates, where the usual one makes so many; and why.

    Widths are multiples of 16, the channels in a group, and leave `room` for a patch. Measured: docs/recipe.md.
    """
    usual = resolved(recipe.network.width)
    narrowest = min(usual, max(NARROWEST, room(facts, resolved(recipe.network.patch))))
    for width in range(usual, narrowest - 1, -16):
        more = updates * (usual / width) ** STEEPNESS
        if more >= ENOUGH or width == narrowest:
            break
    if width == usual:
        return usual, ""
    return width, f"; narrower for about {more:,.0f} updates in {recipe.budget}, where {usual} makes {updates:,.0f}"


FEW = 150
"""Updates below which a batch is made smaller: in 3 minutes of 64×64 emoji 103 updates of 64 left a third of the noise
in every sample, 231 of 16 nearly none; in 6 minutes whole batches come nearer to the data (docs/recipe.md)."""

SMALLEST = 16
"""Examples of a batch, below which a machine is not filled."""


def suited_batch(recipe: Recipe, updates: float) -> tuple[int, str]:
    """The batch, halved until FEW updates fit, where the usual one makes so many; and why."""
    usual = batch = resolved(recipe.batch)
    while updates * usual / batch < FEW and batch >= 2 * SMALLEST:
        batch //= 2
    if batch == usual:
        return usual, ""
    return batch, f"; smaller for more updates in {recipe.budget}, where {usual} makes {updates:,.0f}"


def default_budget(facts: Facts, rate: float, spent: float) -> tuple[str, str]:
    """A budget for a run without one: time to see every example 30 times, but 100,000 to 400,000 in all, within 1 to 60
    minutes, and the seconds that were `spent` before."""
    count = min(400_000, max(100_000, 30 * facts.count))
    training = min(3600.0, max(60.0, count / rate))
    return (
        f"{round((training + spent) / 60)}m",
        f"about {count:,} {facts.things} at the measured {rate:,.0f} {facts.things}/s, within 1 to 60 minutes",
    )
