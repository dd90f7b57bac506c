"""The starting point of what is put on a finished model: few numbers, and the model's own samples beside the data."""

from __future__ import annotations

from typing import Any

from ebb.errors import UsageError
from ebb.recipe.groups import OptimiserRecipe
from ebb.recipe.recipe import AdapterRecipe, flat
from ebb.recipe.starting import Facts, complete

LEARNT_BESIDES = 512
"""Samples of a finished model that are learnt beside what it is taught."""

DRIFTS = 0.1
"""How far answers of a model may move for the rest while it is taught a word, of their size."""

FEW_NUMBERS = OptimiserRecipe(kind="adamw", lr=4e-3)
"""How what is put on a finished model is trained: few numbers move farther than all of them would."""

ONE_ROW = OptimiserRecipe(kind="adamw", lr=2e-2)
"""How a row alone is: its norm is bounded, and at FEW_NUMBERS it comes a third of the way in 300 updates."""


PIECE, PIECES = 16, 4
"""Examples of a piece of a batch, and its pieces: what is kept for a gradient is that of one piece at a time."""


def adapting(asked: AdapterRecipe, facts: Facts) -> tuple[AdapterRecipe, dict[str, str]]:
    """The same of what is put on a finished model."""
    if asked.control() is not None:
        return controlling(asked, facts)
    how, usual = asked.optimiser, ONE_ROW if lone(asked) else FEW_NUMBERS
    optimiser: dict[str, Any] = {name: getattr(usual, name) for name in ("kind", "lr") if getattr(how, name) is None}
    if asked.batch is None and how.accumulate == 1:
        optimiser["accumulate"] = PIECES
    chosen = {
        "prior": learnt_besides(asked),
        "drift": asked.drift if asked.drift or not asked.concept else DRIFTS,
        "batch": asked.batch or PIECE,
        "optimiser": how.model_copy(update=optimiser),
    }
    recipe, reasons = complete(asked.model_copy(update=chosen), facts)
    before, after = flat(asked.model_dump()), flat(recipe.model_dump())
    return recipe, reasons | {name: why for name, why in ADAPTING.items() if before[name] != after[name]}


def controlling(asked: AdapterRecipe, facts: Facts) -> tuple[AdapterRecipe, dict[str, str]]:
    """The same of a control, which is as large as half a network and trained as one."""
    if asked.prior:
        raise UsageError("a control changes nothing where no hint is given, so nothing is learnt besides", "--prior 0")
    return complete(asked.model_copy(update={"prior": 0}), facts)


ADAPTING = {
    "drift": "what the model knew is then still what it answers",
    "prior": "so that what the model knows stays as it is",
    "batch": "half of it what is taught, half the model's own samples",
    "optimiser.accumulate": "in pieces, for what is kept for the gradient of one takes a quarter of the memory",
    "optimiser.kind": "few numbers, as adapters are trained",
    "optimiser.lr": "few numbers, which move farther than all of them would",
}


def learnt_besides(recipe: AdapterRecipe) -> int:
    """Samples of the model that are learnt besides, asked for or not: none where nothing but a new word is learnt, by
    which no other text is drawn, or a control; with a reference they are references of themselves."""
    if recipe.prior is not None:
        return recipe.prior
    return 0 if lone(recipe) or recipe.control() is not None else LEARNT_BESIDES


def lone(asked: AdapterRecipe) -> bool:
    """Whether nothing but the row of a new word or label is learnt."""
    return asked.addition.kind == "bare" and not asked.reference
