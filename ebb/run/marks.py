"""The updates of a run after which something is done beside them, so that it costs the run a known share."""

from __future__ import annotations

from ebb.recipe.recipe import Recipe, resolved
from ebb.run.build import Built
from ebb.system.families.families import FAMILIES
from ebb.train.gradients import HALF

SHARE = 0.01
"""Of a run, that validations may cost, and that gradients by level may."""

EARLY = 0.25
"""Of a run's updates, those after which its average is saved to guide by."""

MARKS = 20
"""The most validations of a run."""

DEARER = 2.5
"""How many times as long an example takes in a backward pass of HALF on a CPU as in one of a whole batch, at most."""


def sheet_steps(count: int, steps: int) -> list[int]:
    """The steps after which a sheet is drawn: `count` of them, denser at first, where most changes; one at the end."""
    return sorted({max(1, round(steps * (i / count) ** 1.5)) for i in range(1, count + 1)})


def even_steps(count: int, steps: int) -> set[int]:
    """`count` steps, evenly, the last at the end."""
    return {max(1, round(steps * i / count)) for i in range(1, count + 1)}


def earlier_steps(recipe: Recipe, every: int) -> range:
    """The updates after the first of which that is reached the average is saved to guide by; none where it never is.

    They begin at a multiple of `every`, and are several since the length of a run may be settled on the way. After
    EARLY of the updates the average is as much shorter too, where its half-life still grows with what was seen
    (`ebb.train.ema.EMA`). The guide of Karras et al. 2024, "Guiding a diffusion model with a bad version of itself",
    has seen less than its model and need not be averaged over as much.
    """
    first = -(-int(EARLY * resolved(recipe.steps)) // every) * every
    return range(first, 2 * first if FAMILIES[recipe.kind].autoguided else first)


def seen_by(recipe: Recipe) -> int:
    """The examples that a run sees."""
    return resolved(recipe.steps) * resolved(recipe.batch) * recipe.optimiser.accumulate


def validation_steps(recipe: Recipe, parts: Built) -> set[int]:
    """The steps after which the validation loss is measured: 3 to MARKS, evenly, the last at the end; none without
    any.

    Two validations of n examples in p passes, of weights and average, cost as much as training on 2pn/3: together SHARE
    of the run.
    """
    if parts.validation is None:
        return set()
    unseen = sum(len(batch.x0) for batch in parts.validation.batches) * parts.validation.passes
    count = min(MARKS, max(3, int(SHARE * seen_by(recipe) / (unseen * 2 / 3))))
    return even_steps(count, resolved(recipe.steps))


def drift_steps(recipe: Recipe, parts: Built) -> set[int]:
    """The steps after which it is measured how far the model has moved where nothing is taught: MARKS of them, evenly;
    none where that is not known. Each costs a forward pass of half a batch."""
    return set() if parts.drift is None else even_steps(MARKS, resolved(recipe.steps))


def gradient_steps(recipe: Recipe, parts: Built) -> set[int]:
    """The steps after which the gradient at each noise level is measured: of those of a validation (of MARKS where
    there is none) as many, evenly, the last at the end, as cost no more than SHARE of the run; in a short run none.

    A backward pass of HALF examples costs as much as training on DEARER·HALF; on a GPU, which is no faster for being
    asked less, as on a batch.
    """
    if parts.gradients is None:
        return set()
    batch = resolved(recipe.batch)
    each = batch if parts.loader.device.type == "cuda" else min(batch, DEARER * HALF)
    most = int(SHARE * seen_by(recipe) / (parts.gradients.passes(parts.system.denoiser) * each))
    marks = sorted(validation_steps(recipe, parts) or even_steps(MARKS, resolved(recipe.steps)))
    return set(marks[:: -max(1, -(-len(marks) // most))]) if most else set()
