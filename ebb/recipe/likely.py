"""What a diffusion model needs that is to tell how likely data is, besides what samples need."""

from __future__ import annotations

import math
from typing import Any

from ebb.recipe.groups import UNetRecipe
from ebb.recipe.recipe import DiffusionRecipe, resolved

VALUES = (1, 2)
"""Of so many 8-bit values is a wave of x long, that a network sees beside x."""


def likely(
    recipe: DiffusionRecipe, reasons: dict[str, str], asked: DiffusionRecipe
) -> tuple[DiffusionRecipe, dict[str, str]]:
    """A complete `recipe` with what a likelihood needs where it was not `asked` for, and the reasons.

    The network sees x/σ_data at the end of every path, where waves tell one 8-bit value from the next.
    """
    update: dict[str, Any] = {}
    if asked.times is None:
        update["times"] = tailed(resolved(recipe.times))
        reasons |= {"times": "a likelihood asks at every level of noise, down to 1/256 of the range"}
    if asked.precision is None:
        update["precision"] = "fp32"
        reasons |= {"precision": "bf16 does not tell noise of 1/256 from none"}
    if isinstance(recipe.network, UNetRecipe) and not asked.network.waves:  # type: ignore[union-attr]
        waves = tuple(round(255 * math.pi / count * resolved(recipe.sigma_data), 2) for count in VALUES)
        update["network"] = recipe.network.model_copy(update={"waves": waves})
        reasons |= {"network.waves": "one is as long as an 8-bit value, one as long as two"}
    return recipe.model_copy(update=update), reasons


def tailed(times: str) -> str:
    """Training times that suit samples, but three of ten evenly in log ν below, from 0.01 to 1."""
    if times == "log_normal":
        times = "log_normal(mean=-1.2, std=1.2)"
    return times.replace("logit_normal", "long_tailed").replace("log_normal", "long_tailed")
