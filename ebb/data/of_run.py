"""The data that a run was trained on, read again."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from ebb.data.changed import changed
from ebb.data.dataset import Dataset
from ebb.data.reading import as_asked
from ebb.data.series import Series, Vectors, agreed
from ebb.data.sources import COME
from ebb.errors import DataError
from ebb.recipe.document import from_yaml
from ebb.store import checkpoint
from ebb.store.place import by_name, expanded


def columns_of(run: Path) -> list[str]:
    """The columns of the table that a run was trained on, in order, as its newest checkpoint has them."""
    newest = checkpoint.newest(run / "checkpoints")
    written = {} if newest is None else checkpoint.about(newest).get("modality", {})
    return list(written.get("heading", {}).get("columns", []))


def data_of(run: Path, place: str | None = None) -> Dataset:
    """The run's training images, read again from where they were, or from a `place` where they are now.

    Raises DataError where there are none, or not the same.
    """
    recipe, about = from_yaml(run / "run.yaml")
    data, moved = place or about["data"], "name the place where it is now: --data PLACE"
    if data not in COME and not expanded(data).exists():
        raise DataError(f"the data of {run} is not at {data}", moved)
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
        f"restore the data, or {moved}; or train again: ebb train DATA --fresh",
    )
