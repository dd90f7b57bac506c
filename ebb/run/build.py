"""From a resolved recipe to the objects it names, ready to train."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch

from ebb.data.loader import Loader
from ebb.errors import UsageError
from ebb.recipe.recipe import Recipe
from ebb.store.checkpoint import State
from ebb.system.families.families import FAMILIES
from ebb.system.families.family import Prepared, autocast_of
from ebb.system.system import System
from ebb.train.from_base import Departure
from ebb.train.gradients import GradientProbe
from ebb.train.landing import Landing, NearestAverage
from ebb.train.loop import Descent, Step, Training, updates
from ebb.train.objectives.compiled import compiling
from ebb.train.objectives.objective import Objective, ObjectiveState
from ebb.train.validate import Validation


def names_known(recipe: Recipe) -> None:
    """Raise UsageError, with the nearest name, unless every part the recipe names exists and fits the others."""
    if recipe.optimiser.search and recipe.optimiser.lr is not None:
        raise UsageError(
            f"a learning rate is searched for or given, and it is given as {recipe.optimiser.lr:g}",
            "leave --optimiser.lr out, or --optimiser.search",
        )
    FAMILIES[recipe.kind].named(recipe)


@dataclass(frozen=True)
class Built:
    """The objects a resolved recipe names, ready to train."""

    system: System
    training: Training
    objective: Objective
    loader: Loader
    data: Prepared
    averaged: Callable[[], System]
    """the system with the averaged weights, which is what one samples from"""
    validation: Validation | Landing | None = None
    gradients: GradientProbe | None = None
    memory: ObjectiveState | None = None
    drift: Departure | None = None
    nearest: NearestAverage | None = None
    """the average that one samples from in the end, where it is chosen by where it lands"""

    def state(self) -> State:
        """All that a checkpoint holds: the training's state, what the objective remembers, and what is frozen."""
        remembered = {} if self.memory is None else {"memory": self.memory.state_dict()}
        frozen = {name: part.state_dict() for name, part in self.system.model.frozen.items()}
        nearest = {} if self.nearest is None else {"nearest": self.nearest.state()}
        return self.training.state() | remembered | nearest | frozen

    def settle(self, figures: Mapping[str, Any]) -> str | None:
        """At the end, whose line of the log is given: sample from the average that landed nearest; says so, if it is
        not the last."""
        if self.nearest is None or "validation_ema" not in figures:
            return None
        return self.nearest.settle(figures["validation_ema"], self.training.step, self.training.ema.model)

    def restore(self, state: State) -> None:
        """Go on from a `state`."""
        self.training.restore(state)
        if self.memory is not None:
            self.memory.load_state_dict(state["memory"])
        if self.nearest is not None and "nearest" in state:
            self.nearest.restore(state["nearest"])


def build(recipe: Recipe, data: Prepared, device: torch.device) -> Built:
    """Everything the recipe names; the weights depend on its seed alone. UsageError for a name that is not known."""
    torch.manual_seed(recipe.seed)
    made = FAMILIES[recipe.kind].build(recipe, data, device)
    dataset = data.dataset
    others = tuple(other.rows.shape[1:] for other in dataset.others)
    system = System(made.model, dataset.summary.shape, data.conditioner, made.sampling, dataset.modality, others)
    return Built(
        system,
        made.training,
        made.objective,
        made.loader,
        data,
        lambda: replace(system, model=made.averaged()),
        made.validation,
        made.gradients,
        made.memory,
        made.drift,
        NearestAverage() if isinstance(made.validation, Landing) else None,
    )


def updates_of(
    recipe: Recipe,
    parts: Built,
    *,
    steps: int = 10**9,
    rate: Callable[[int], float] | None = None,
    loader: Loader | None = None,
) -> Iterator[Step]:
    """The updates of `parts` as the recipe has them (`ebb.train.loop.updates`); a `loader` brings an order of its own.

    The noise is of the loader's seed.

    Raises ResourceError where the network cannot be compiled and should be.
    """
    loader = loader or parts.loader
    how = Descent(loader.seed, recipe.optimiser.accumulate, recipe.optimiser.clip, autocast_of(recipe))
    made = updates(parts.training, parts.objective, loader, how, steps=steps, rate=rate)
    made = made if parts.memory is None else remembering(parts.memory, parts.training, made)
    return compiling(made) if recipe.runs == "compiled" else made


def remembering(memory: ObjectiveState, training: Training, made: Iterator[Step]) -> Iterator[Step]:
    """The updates, with the `memory` of their objective brought up to date before each.

    What is saved after an update is of before that: who goes on from there begins with it.
    """
    memory.advance(training.step, training.ema.model)
    for step in made:
        yield step
        memory.advance(training.step, training.ema.model)
