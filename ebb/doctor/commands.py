"""The commands that a doctor prescribes for a run: quoted, and with every choice of the run but the one to change."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from itertools import count
from pathlib import Path
from typing import Any

from ebb.recipe.recipe import Recipe, resolved
from ebb.store.place import by_name
from ebb.terminal import argument, command, duration


def removing(folder: Path) -> str:
    """The command that deletes a folder."""
    return shlex.join(["rm", "-r", argument(folder)])


def resuming(folder: Path, document: Mapping[str, Any]) -> str:
    """The command that goes on with the run in `folder`: its own, with the data by the place where it was found."""
    words = shlex.split(str(document.get("command", "ebb train DATA")))
    return shlex.join([*words[:2], str(document.get("data", words[2])), *words[3:], "--run", argument(folder)])


def training_again(folder: Path, document: Mapping[str, Any], recipe: Recipe, changes: Mapping[str, Any]) -> str:
    """The command that trains anew beside the run, all as its run.yaml says but for `changes` by dotted name.

    As many updates as it made, unless their number is changed; another network, whose updates take another time, has
    the run's budget instead if that is how its length was chosen.
    """
    own = dict(changes)
    if any(name.startswith("network.") for name in own) and "steps" not in document.get("asked", {}) and recipe.budget:
        own["budget"] = recipe.budget
    options = [word for name, value in own.items() for word in (f"--{name.replace('_', '-')}", spelled(value))]
    data = document.get("data", "DATA")
    return command("train", data, "--base", folder / "run.yaml", *options, "--run", beside(folder))


def spelled(value: object) -> str:
    """A value as the command line takes it: whole from 1 on, three digits below."""
    if isinstance(value, float):
        return f"{value:.3g}" if value < 1 else f"{value:.0f}"
    return str(value)


def beside(folder: Path) -> Path:
    """The first name of FOLDER-again, FOLDER-again-2, … that is free."""
    home = by_name(folder)
    names = (home.with_name(f"{home.name}-again{'' if n == 1 else f'-{n}'}") for n in count(1))
    return next(name for name in names if not name.exists())


def length_of(recipe: Recipe, last: Mapping[str, Any], steps: float | None = None) -> str:
    """How much `steps` updates (as many as the run's, without) are, and how long they take at the speed of its log."""
    images = (resolved(recipe.steps) if steps is None else steps) * resolved(recipe.batch) * recipe.optimiser.accumulate
    told = f"{images:,.0f} images"
    if not last.get("images") or not last.get("seconds"):
        return told
    return f"{told}, about {duration(images * last['seconds'] / last['images'])} at this run's speed"
