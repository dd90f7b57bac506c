"""Few steps: a network learns to land anywhere on the flow in one call, from a diffusion model or from the data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch

from ebb.adapt.addition import Adapted, sharing
from ebb.data.loader import Batch
from ebb.errors import UsageError
from ebb.guide.distilled import GUIDANCE, TeachingGuidance
from ebb.networks.ports import Ports, ShareEmbedding, SharePort
from ebb.process.denoiser import Denoiser, NetworkDenoiser
from ebb.process.flow_map import WAY
from ebb.process.times import DENSITIES
from ebb.recipe.few_numbers import FEW_NUMBERS
from ebb.recipe.names import parse
from ebb.recipe.recipe import FEW, FewStepRecipe, resolved
from ebb.recipe.starting import Facts, few_steps
from ebb.system.families.adapter_family import AdaptedModel, adapted, base_of
from ebb.system.families.diffusion import DenoiserFamily, DiffusionModel, assembled, denoiser_of
from ebb.system.families.family import Prepared, Trainable
from ebb.system.model import Draw, Model
from ebb.train.landing import Landing
from ebb.train.objectives.map_matching import MapMatching
from ebb.train.objectives.methods import METHODS
from ebb.train.objectives.objective import Loss, Objective, ObjectiveState


class FewStepFamily(DenoiserFamily[FewStepRecipe]):
    """A `DiffusionModel` whose network hears the way that it is asked to go, trained by `MapMatching`."""

    name = "few_step"
    analyses = (*DenoiserFamily.analyses, "steps")

    def complete(self, asked: FewStepRecipe, facts: Facts) -> tuple[FewStepRecipe, dict[str, str]]:
        """As a denoiser, and the method, and how it is followed: on the flow where it learned to land anywhere."""
        recipe, reasons = few_steps(asked if asked.adapter is None else thinned(asked), facts)
        if asked.adapter is not None:
            reasons |= {name: THIN for name in ("optimiser.kind", "optimiser.lr", "rank") if name not in reasons}
        if asked.sample == FEW and parse(resolved(recipe.method), METHODS, "method").anywhere:
            sample = recipe.sample.model_copy(update={"solver": "jump"})
            recipe = recipe.model_copy(update={"sample": sample})
            reasons["sample.solver"] = f"{recipe.method} lands anywhere on the flow"
        return recipe, reasons

    def named(self, recipe: FewStepRecipe) -> None:
        """The parts of a denoiser, and the method, which may need a teacher."""
        super().named(recipe)
        if recipe.adapter is not None and recipe.engine == "compiled":
            raise UsageError("an adapter is trained without a compiler", "leave --engine out")
        if recipe.method is None:
            return
        if parse(recipe.method, METHODS, "method").needs == "teacher" and recipe.teacher is None:
            raise UsageError(f"{recipe.method} learns from a teacher", "ebb distil RUN, or --teacher RUN")

    def steady(self, recipe: FewStepRecipe) -> bool:
        """Unless it is taught in phases."""
        return recipe.method is None or parse(recipe.method, METHODS, "method").steady

    def calls(self, recipe: FewStepRecipe) -> float:
        """One for each step."""
        return recipe.sample.steps

    def timed(self, asked: FewStepRecipe, recipe: FewStepRecipe) -> set[str]:
        """As a denoiser; what has a teacher has its width."""
        return super().timed(asked, recipe) - ({"network.width"} if recipe.teacher else set())

    def build(self, recipe: FewStepRecipe, data: Prepared, device: torch.device) -> Trainable:
        """Network, objective and batches; with a teacher the network begins as it, or is it with an addition."""
        if recipe.adapter is not None:
            return on_teacher(recipe, data, device)
        extra: Ports = {WAY: SharePort()} | ({GUIDANCE: SharePort()} if recipe.guidances else {})
        denoiser = denoiser_of(recipe, data, {**data.conditioner.ports, **extra}).to(device)
        teacher: Denoiser | None = None
        if data.weights is not None:
            teacher = taught(recipe, data, denoiser, device)
        updates = recipe.steps or 1  # while it is open, updates are only timed
        target = parse(resolved(recipe.method), METHODS, "method").begun(denoiser, updates)
        objective = MapMatching(
            target,
            teacher,
            parse(resolved(recipe.times), DENSITIES, "density"),
            guidance=recipe.guidances,
        )
        made = landing(
            recipe, data, denoiser, objective, lambda d: DiffusionModel(d, data.space, self.name, recipe.guidances)
        )
        return replace(made, memory=target) if isinstance(target, ObjectiveState) else made


def landing(
    recipe: FewStepRecipe, data: Prepared, trained: Any, objective: Objective, made: Callable[[Any], Model]
) -> Trainable:
    """What `assembled` makes, validated by where its samples in one and two steps land."""
    parts, how = assembled(recipe, data, trained, objective, made), recipe.sample
    if parts.validation is None:
        return parts

    def draw(model: Any, shape: tuple[int, ...], steps: int) -> Draw:
        return made(model).draw(shape, how.model_copy(update={"steps": steps}))

    return replace(parts, validation=Landing(parts.validation.batches, draw))


THIN = "few numbers on a frozen teacher"

RANK = 16
"""Of a change that makes a model of many steps one of few: of all its layers, since all is another task for them."""


def thinned(asked: FewStepRecipe) -> FewStepRecipe:
    """What is asked for with the rank and the optimiser of an adapter chosen."""
    how, usual = asked.optimiser, FEW_NUMBERS
    optimiser = how.model_copy(update={"kind": how.kind or usual.kind, "lr": how.lr or usual.lr})
    return asked.model_copy(update={"optimiser": optimiser, "rank": asked.rank or RANK})


@dataclass(frozen=True, eq=False)
class OfAdapted:
    """An objective of the denoiser in an `Adapted`."""

    objective: Objective

    def __call__(self, model: Adapted, batch: Batch, generator: torch.Generator) -> Loss:
        """Its loss."""
        return self.objective(model.denoiser, batch, generator)


def on_teacher(recipe: FewStepRecipe, data: Prepared, device: torch.device) -> Trainable:
    """The teacher itself, frozen, with an addition that alone learns to land: how far and by which scale it is told.

    Raises UsageError for a method that keeps a copy of its student.
    """
    base, target = base_of(data), parse(resolved(recipe.method), METHODS, "method")
    told = [WAY, *([GUIDANCE] if recipe.guidances else [])]
    parts: dict[str, dict[str, Any]] = {
        "shares": {"names": told},
        "low_rank": {"rank": recipe.rank, "form": recipe.adapter},
    }
    student = adapted(base, parts, device)
    if isinstance(target.begun(student.denoiser, recipe.steps or 1), ObjectiveState):
        raise UsageError(f"{recipe.method} keeps copies of what it trains", "take another --method, or leave --as out")
    teacher: Denoiser = sharing(base.denoiser).to(device)
    if recipe.guidances is not None:
        teacher = TeachingGuidance(teacher, {name: row.to(device) for name, row in data.conditioner.null().items()})
    matching = MapMatching(
        target, teacher, parse(resolved(recipe.times), DENSITIES, "density"), guidance=recipe.guidances
    )

    def made(trained: Adapted) -> AdaptedModel:
        model = DiffusionModel(trained.denoiser, data.space, base.model.family, recipe.guidances)
        return AdaptedModel(model, trained.addition, base.origin)

    return landing(recipe, data, student, OfAdapted(matching), made)


SOONER = 8.0
"""The gain of what a student hears besides all that its teacher does. From the data alone, where nothing has been
learned, it makes training restless."""


def taught(recipe: FewStepRecipe, data: Prepared, student: NetworkDenoiser, device: torch.device) -> Denoiser:
    """The teacher, with its guidance where the student is told one; the student begins with its weights."""
    teacher = denoiser_of(recipe, data, data.conditioner.ports).to(device)
    teacher.load_state_dict(data.weights or {})
    teacher.requires_grad_(False).eval()
    student.load_state_dict(student.state_dict() | teacher.state_dict())
    for part in student.network.modules():
        if isinstance(part, ShareEmbedding):
            part.gain.fill_(SOONER)
    if recipe.guidances is None:
        return teacher
    return TeachingGuidance(teacher, {name: row.to(device) for name, row in data.conditioner.null().items()})
