"""A run to its end: the updates that are left of it, then its card and its page."""

from __future__ import annotations

from pathlib import Path

from ebb.events import Work
from ebb.recipe.recipe import Recipe
from ebb.report.run_report import write_report
from ebb.run.build import Built
from ebb.run.folder import Log, write_card
from ebb.run.supervise import follow
from ebb.store import checkpoint


def completed(folder: Path, recipe: Recipe, parts: Built, began: float | None = None, start: int = 0) -> Work[None]:
    """The updates that are left, as `ebb.run.supervise.follow` makes them, and the documents that speak of all of them.

    KeyboardInterrupt says what the same command would do.
    """
    log = Log(folder, parts.training.step)
    try:
        yield from follow(folder, recipe, parts, log, began, start)
    except KeyboardInterrupt as stop:
        raise KeyboardInterrupt(*stop.args[:1], checkpoint.outlook(folder / "checkpoints")) from stop
    write_card(folder, recipe, parts.system, log.last)
    write_report(folder)
