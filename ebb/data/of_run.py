"""The data that a run was trained on, read again."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from ebb.data.changed import changed
from ebb.data.reading import as_asked
from ebb.data.scan import Images
from ebb.data.sources import COME
from ebb.errors import DataError
from ebb.recipe.recipe import from_yaml
from ebb.store.place import by_name, expanded


def data_of(run: Path, place: str | None = None) -> Images:
    """The run's training images, read again from where they were, or from a `place` where they are now.

    Raises DataError where there are none, or not the same.
    """
    recipe, about = from_yaml(run / "run.yaml")
    data, moved = place or about["data"], "name the place where it is now: --data PLACE"
    if data not in COME and not expanded(data).exists():
        raise DataError(f"the data of {run} is not at {data}", moved)
    again = partial(as_asked, data, recipe, by_name(run).parent)
    images = again()
    if images.summary.fingerprint == about["fingerprint"]:
        return images
    whole = again(hold_back=False)  # as runs of before images were held back
    if whole.summary.fingerprint == about["fingerprint"]:
        return whole
    raise DataError(
        f"{data} is not what {run} was trained on: {changed(run, images.summary, data)}"
        f" (fingerprint {images.summary.fingerprint[:12]}…, expected {about['fingerprint'][:12]}…)",
        f"restore the data, or {moved}; or train again: ebb train DATA --fresh",
    )
