"""From a run to its few-step model: where its data is, how long to learn, where to keep it."""

from __future__ import annotations

from pathlib import Path

from ebb.data.of_run import whereabouts
from ebb.errors import UsageError
from ebb.recipe.document import from_yaml
from ebb.recipe.recipe import FewStepRecipe, seconds

SHARE = 0.2
"""The budget of distilling as a share of the teacher's."""


def beside(run: Path, into: str = "model") -> Path:
    """The folder of the few-step model of a run: RUN-few, or of an adapter of it RUN-few-lora."""
    return run.with_name(f"{run.name}-few" + ("" if into == "model" else f"-{into}"))


def asked_of(run: Path, asked: FewStepRecipe, data: str | None = None) -> tuple[str, FewStepRecipe]:
    """The data of a run, or where it is now, and what is asked for with a length; UsageError where there is no run."""
    file = run / "run.yaml"
    if not file.is_file():
        raise UsageError(f"there is no run {run}", "train one first: ebb train DATA")
    _, about = from_yaml(file)
    if asked.steps is None and asked.budget is None:
        budget = about.get("asked", {}).get("budget") or from_yaml(file)[0].budget or "10m"
        asked = asked.model_copy(update={"budget": f"{max(30, round(SHARE * seconds(budget)))}s"})
    return whereabouts(run, about, data), asked
