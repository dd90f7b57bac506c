"""What a run has from the one that it stands on: a reflowed run from its first, a few-step run from its teacher, an
adapter from its base."""

from __future__ import annotations

from pathlib import Path

from ebb.errors import UsageError
from ebb.recipe.document import from_yaml
from ebb.recipe.recipe import AdapterRecipe, DenoiserRecipe, DiffusionRecipe, FewStepRecipe, Recipe

SHARED = (
    "path", "prediction", "clock", "sigma_data", "autoencoder", "data", "text", "numbers",
    "beside", "network",
)  # fmt: skip
"""What both have in common."""


def inherited(asked: Recipe) -> Recipe:
    """`asked` with what it shares with the run that teaches it; as it is where none does.

    Raises UsageError for a run that is not there or cannot teach it, and for settings that differ.
    """
    if not isinstance(asked, DenoiserRecipe):
        return asked
    for option, run in asked.taught_by().items():
        if run is None:
            continue
        base = teaching(asked, option, run)
        usual = type(asked)(kind=asked.kind)
        shared = SHARED + ("objective",) * isinstance(asked, DiffusionRecipe)
        shared += ("condition_dropout",) * (not isinstance(asked, AdapterRecipe))  # what is given has its labels
        for name in shared:
            own = getattr(asked, name)
            if own not in (getattr(usual, name), getattr(base, name)):
                raise UsageError(f"{name} is that of {run}, which this run stands on", f"leave --{name} out")
        taken = {name: getattr(base, name) for name in shared}
        if isinstance(asked, AdapterRecipe) and asked.sample == usual.sample:
            taken["sample"] = base.sample
        return asked.model_copy(update=taken | {"times": asked.times or times_of(asked, base)})
    return asked


def teaching(asked: DenoiserRecipe, option: str, run: str) -> DiffusionRecipe:
    """The recipe of the run that teaches; UsageError for one that cannot."""
    file = Path(run) / "run.yaml"
    if not file.is_file():
        raise UsageError(f"there is no run {run} for {option}", "train it first: ebb train DATA")
    base = from_yaml(file)[0]
    if isinstance(base, FewStepRecipe | AdapterRecipe):
        before = base.teacher if isinstance(base, FewStepRecipe) else base.adapts
        what = "a few-step model" if isinstance(base, FewStepRecipe) else "an adapter"
        raise UsageError(f"{run} is {what} already", f"take the run that it was made from: {before}")
    if not isinstance(base, DiffusionRecipe):
        raise UsageError(f"{run} is of kind {base.kind}, and {option} is of a diffusion model", "ebb train DATA")
    if not isinstance(asked, DiffusionRecipe) and base.objective != "denoising":
        raise UsageError(f"{run} learned variances too, which nothing is made of", "take one of: denoising")
    if isinstance(asked, DiffusionRecipe) and base.path != "linear":
        raise UsageError(
            f"{run} is not a diffusion model on the linear path, whose flows alone can become straight",
            "train one: ebb train DATA --path linear",
        )
    return base


def times_of(asked: DenoiserRecipe, base: DiffusionRecipe) -> str | None:
    """Times drawn evenly for what is reflowed; those of the teacher, or what suits the method, for few steps."""
    return "uniform" if isinstance(asked, DiffusionRecipe) else base.times
