"""The starting point of what is put on a finished model: few numbers, and the model's own samples beside the data."""

from __future__ import annotations

from typing import Any

from ebb.errors import UsageError
from ebb.recipe.groups import LowRankRecipe, OptimiserRecipe
from ebb.recipe.recipe import AdapterRecipe, flat, resolved
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
    chosen: dict[str, Any] = {
        "prior": learnt_besides(asked, facts.only_new),
        "drift": asked.drift if asked.drift or not asked.concept else DRIFTS,
        "batch": asked.batch or PIECE,
        "optimiser": how.model_copy(update=optimiser),
    }
    if facts.only_new:
        chosen["addition"] = asked.addition.model_copy(update={"reach": "new"})
    recipe, reasons = complete(asked.model_copy(update=chosen), facts)
    before, after = flat(asked.model_dump()), flat(recipe.model_dump())
    return recipe, reasons | {name: why for name, why in ADAPTING.items() if before.get(name) != after.get(name)}


def controlling(asked: AdapterRecipe, facts: Facts) -> tuple[AdapterRecipe, dict[str, str]]:
    """The same of a control, which is as large as half a network and trained as one, its batch in PIECES."""
    if asked.prior:
        raise UsageError("a control changes nothing where no hint is given, so nothing is learnt besides", "--prior 0")
    recipe, reasons = complete(asked.model_copy(update={"prior": 0}), facts)
    how, batch = recipe.optimiser, resolved(recipe.batch)
    if asked.batch is not None or how.accumulate > 1 or batch % PIECES:
        return recipe, reasons
    pieces = {"batch": batch // PIECES, "optimiser": how.model_copy(update={"accumulate": PIECES})}
    why = {"batch": f"{batch} in an update", "optimiser.accumulate": ADAPTING["optimiser.accumulate"]}
    return recipe.model_copy(update=pieces), reasons | why


ADAPTING = {
    "drift": "what the model knew is then still what it answers",
    "prior": "so that what the model knows stays as it is",
    "addition.reach": "all that is taught has new labels: the rest stays to the bit, and nothing is learnt besides",
    "batch": "few numbers are learnt of few examples",
    "optimiser.accumulate": "in pieces, for what is kept for the gradient of one takes a quarter of the memory",
    "optimiser.kind": "few numbers, as adapters are trained",
    "optimiser.lr": "few numbers, which move farther than all of them would",
}


def only_new(asked: AdapterRecipe, new: bool) -> bool:
    """Whether changes are for what is new alone: asked for so, or where all that is taught is `new` and nothing was
    said of what is learnt besides. UsageError where nothing is new, or the model's own samples are asked for too."""
    if not isinstance(asked.addition, LowRankRecipe):
        return False
    chosen = asked.addition.reach or ("new" if new and asked.prior is None else "all")
    if chosen == "all":
        return False
    if asked.prior:
        raise UsageError(
            "changes for what is new alone leave the rest as it is, so nothing is learnt besides",
            "leave --prior out, or take --reach all",
        )
    if not new and asked.concept is None:
        raise UsageError("some of this data has labels that the run knows already", "--reach all")
    return True


def learnt_besides(recipe: AdapterRecipe, only_new: bool = False) -> int:
    """Samples of the model that are learnt besides, asked for or not: none where nothing but a new word is learnt, by
    which no other text is drawn, what changes is for what is new alone, or a control; with a reference they are
    references of themselves."""
    if recipe.prior is not None:
        return recipe.prior
    return 0 if lone(recipe) or only_new or recipe.control() is not None else LEARNT_BESIDES


def lone(asked: AdapterRecipe) -> bool:
    """Whether nothing but the row of a new word or label is learnt."""
    return asked.addition.kind == "bare" and not asked.reference
