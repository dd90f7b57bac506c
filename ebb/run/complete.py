"""A run to its end: the updates that are left of it, then its card and its page."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ebb.events import Message, Work
from ebb.recipe.recipe import Recipe
from ebb.report.run_report import write_report
from ebb.run.build import Built
from ebb.run.folder import Log, write_card
from ebb.run.supervise import follow
from ebb.store import checkpoint
from ebb.train.validate import Validation


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
    if isinstance(parts.validation, Validation) and parts.validation.hints:
        lines = (folder / "log.jsonl").read_text().splitlines()
        yield Message(hints_used([json.loads(line) for line in lines], parts.validation.hints))


USED = 0.02
"""A hint is used where the loss with another example's is higher by this share."""


def hints_used(log: Sequence[Mapping[str, Any]], hints: Sequence[str]) -> str:
    """From which update on a run's hints are used, by its log, in words."""
    marks = [(line["step"], float(line["hint_use"])) for line in log if "hint_use" in line]
    unused = [step for step, use in marks if use < USED]
    after = [(step, use) for step, use in marks if not unused or step > unused[-1]]
    name = ", ".join(hints)
    if not after:
        return f"{name} are not used yet: with those of others the loss is higher by {marks[-1][1]:.1%}; go on"
    return (
        f"{name} are used from update {after[0][0]:,} on: in the end, with those of others, the loss is"
        f" {1 + after[-1][1]:.3g} times as high"
    )
