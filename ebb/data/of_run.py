"""The data that a run was trained on, read again."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from ebb.data.changed import changed
from ebb.data.dataset import Dataset
from ebb.data.reading import as_asked
from ebb.data.series import Series, Vectors, agreed
from ebb.data.sources import COME
from ebb.errors import DataError, UsageError
from ebb.recipe.document import from_yaml, validated
from ebb.recipe.recipe import AdapterRecipe, Recipe
from ebb.store import checkpoint, shared
from ebb.store.place import by_name, expanded


def columns_of(run: Path) -> list[str]:
    """The columns of the table that a run was trained on, in order, as its newest checkpoint has them."""
    newest = checkpoint.newest(run / "checkpoints")
    written = {} if newest is None else checkpoint.about(newest).get("modality", {})
    return list(written.get("heading", {}).get("columns", []))


def trained_as(run: Path) -> tuple[Recipe, dict[str, Any]]:
    """How the data of a run is read, as a recipe, and what else is known of its training: "fingerprint", and of a run
    that was not exported "data", where it was.

    Raises UsageError for a system that does not say what it was trained on.
    """
    exported = run.is_file() or (run / "system.json").is_file()
    if not exported:
        return from_yaml(run / "run.yaml")
    about = shared.opened(run)[0].get("trained")
    if about is None:
        raise UsageError(
            f"{run} does not say what it was trained on, so nothing can be measured beside that",
            "measure its samples in Python: ebb.measure(samples, real, features)",
        )
    return validated(about["recipe"], str(run)), about


def reading(recipe: Recipe, about: Mapping[str, Any]) -> dict[str, Any]:
    """What `trained_as` needs of a run to read its data again elsewhere: how it was read, and its fingerprint."""
    how: dict[str, Any] = {"data": recipe.data.model_dump(mode="json"), "beside": list(recipe.beside)}
    numbers = {"numbers": list(recipe.metadata())} if recipe.metadata() else {}
    if isinstance(recipe, AdapterRecipe):  # what its pictures are called, and what is found in them
        how |= recipe.model_dump(mode="json", include={"kind", "label", "addition"})
    return {"recipe": how | numbers, "fingerprint": about.get("fingerprint")}


MOVED = "name the place where it is now: --data PLACE"


def whereabouts(run: Path, about: Mapping[str, Any], place: str | None = None) -> str:
    """Where a run's data lies, by `place` or what is known of the run; DataError where nothing is there, or known."""
    data = place or about.get("data")
    if data is None:
        raise DataError(f"{run} does not say where the data is that it was trained on", MOVED)
    if data not in COME and not expanded(data).exists():
        raise DataError(f"the data of {run} is not at {data}", MOVED)
    return str(data)


def data_of(run: Path, place: str | None = None) -> Dataset:
    """The run's training images, read again from where they were, or from a `place` where they are now.

    Raises DataError where there are none, or not the same.
    """
    recipe, about = trained_as(run)
    data = whereabouts(run, about, place)
    again = partial(as_asked, data, recipe, by_name(run).parent)
    dataset = again()
    if dataset.summary.fingerprint == about["fingerprint"]:
        return dataset
    whole = again(hold_back=False)  # as runs of before images were held back
    if whole.summary.fingerprint == about["fingerprint"]:
        return whole
    if (columns := columns_of(run)) and isinstance(dataset.modality, Vectors | Series):
        agreed(columns, dataset.modality.heading.columns, data)
    raise DataError(
        f"{data} is not what {run} was trained on: {changed(run, dataset.summary, data)}"
        f" (fingerprint {dataset.summary.fingerprint[:12]}…, expected {about['fingerprint'][:12]}…)",
        f"restore the data, or {MOVED}; or train again: ebb train DATA --fresh",
    )
