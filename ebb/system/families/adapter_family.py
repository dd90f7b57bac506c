"""Adapters: what is put on a finished diffusion model learns, and that model, frozen beneath, draws."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from ebb.adapt.adapter import layers
from ebb.adapt.addition import Adapted, Addition, Together, copied, innermost, sharing
from ebb.adapt.additions import ADDITIONS, together
from ebb.adapt.controlled import CONTROLS
from ebb.adapt.low_rank import once
from ebb.data.extractors import EXTRACTORS
from ebb.data.loader import Loader
from ebb.encode.latent import LatentSpace
from ebb.errors import DamagedError, UsageError
from ebb.guide.cfg import Guide
from ebb.process.denoiser import Cond, NetworkDenoiser
from ebb.process.flow_map import WAY
from ebb.recipe.few_numbers import adapting
from ebb.recipe.names import parse
from ebb.recipe.recipe import AdapterRecipe, Sampling, resolved
from ebb.recipe.starting import Facts
from ebb.sample.noise import Noise
from ebb.sample.trajectory import Point
from ebb.store.origin import Origin
from ebb.system.families.diffusion import DenoiserFamily, DiffusionModel, assembled, denoising_of
from ebb.system.families.family import Base, Prepared, Trainable
from ebb.system.model import Draw, Model
from ebb.train.from_base import Departure
from ebb.train.validate import Validation

NAME = "adapter"
"""What an addition is called on its denoiser while it is trained."""

OWN = "addition."
"""What the names of its weights begin with in a checkpoint: it is that part of `Adapted`."""


@dataclass(frozen=True, eq=False)
class AdaptedModel(Model):
    """A diffusion model with something on it, which alone it holds: the rest is another run's."""

    base: DiffusionModel = field()
    """with all that is on it"""
    addition: Addition = field()
    origin: Origin | None = None
    """the run of the base; None where several runs' additions are on it"""
    under: tuple[Addition, ...] = ()
    """what was put on before"""
    family = NAME

    @property
    def denoiser(self) -> NetworkDenoiser:  # type: ignore[override]
        """The base's, with what is on it."""
        return self.base.denoiser

    @property
    def space(self) -> LatentSpace | None:  # type: ignore[override]
        """The base's."""
        return self.base.space

    @property
    def module(self) -> Addition:
        """What is on it."""
        return self.addition

    @property
    def network(self) -> nn.Module:
        """The base's."""
        return self.base.network

    @property
    def towards(self) -> Callable[[float], Guide] | None:
        """The base's."""
        return self.base.towards

    def draw(
        self, shape: tuple[int, ...], sampling: Sampling, guides: Sequence[Guide] = (), *, compiled: bool = False
    ) -> Draw:
        """As the base; what changes its weights is computed once for all steps."""
        draw = self.base.draw(shape, sampling, guides, compiled=compiled)

        def points(cond: Cond, noise: Noise) -> Iterator[Point]:
            with once(self.base.network):
                yield from draw(cond, noise)

        return points

    def forward(self, x: Tensor, cond: Cond) -> Tensor:
        """As the base."""
        return self.base.forward(x, cond)

    def own(self, trained: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Without the name that it has in what is trained."""
        return {name.removeprefix(OWN): value for name, value in trained.items()}

    def saved(self) -> dict[str, Tensor]:
        """With that name."""
        return {f"{OWN}{name}": value for name, value in self.module.state_dict().items()}

    def whole(self) -> DiffusionModel:
        """A diffusion model with all that is on it in its weights; UsageError where that is more than weights."""
        denoiser = copied(self.denoiser, {})
        for addition in (*self.under, self.addition):
            addition.bake(denoiser)
        return replace(self.base, denoiser=denoiser, family="few_step" if self.base.hears(WAY) else self.base.family)

    def card(self) -> tuple[str, str]:
        """What is on what."""
        what, process = self.base.card()
        run = "another run" if self.origin is None else self.origin.run
        return f"{self.addition}, on {what[0].lower()}{what[1:]},", f"base: {run}; {process}"

    def contract(self) -> dict[str, Any]:
        """The base by its hash, and what is on it."""
        if self.origin is None:
            raise UsageError("several runs together are no run", "name the run of the base, and each with --adapter")
        told = {} if self.base.guidances is None else {"guidances": list(self.base.guidances)}
        return {"base": self.origin.facts(), "additions": dict(self.addition.settings), **told}


class AdapterFamily(DenoiserFamily[AdapterRecipe]):
    """An `Adapted` denoiser trained by `Denoising`: an addition of `ebb.adapt.additions.ADDITIONS`, whatever it is."""

    name = NAME
    analyses = (*DenoiserFamily.analyses, "effect")
    compiles = False

    def complete(self, asked: AdapterRecipe, facts: Facts) -> tuple[AdapterRecipe, dict[str, str]]:
        """As a denoiser, the optimiser of a few numbers, and how its base samples by what that has measured."""
        sample = facts.sampling or asked.sample
        recipe, reasons = adapting(asked.model_copy(update={"sample": sample}), facts)
        changed = {name for name, value in sample if value != getattr(asked.sample, name)}
        return recipe, reasons | {f"sample.{name}": "as its base samples" for name in changed}

    def named(self, recipe: AdapterRecipe) -> None:
        """The parts of a denoiser, and a run that it is put on."""
        super().named(recipe)
        if recipe.adapts is None:
            raise UsageError("an adapter is put on a finished run", "ebb adapt RUN DATA, or --adapts RUN")
        if (control := recipe.control()) is not None:
            parse(control.form, CONTROLS, "form of control")
            if (control.extractor is None) == (control.field is None):
                raise UsageError("a control has an extractor, or a field of metadata.jsonl", "such as --control edges")
            if control.extractor is not None:
                parse(control.extractor, EXTRACTORS, "extractor")
        if recipe.engine == "compiled":
            raise UsageError("an adapter is trained without a compiler", "leave --engine out")

    def timed(self, asked: AdapterRecipe, recipe: AdapterRecipe) -> set[str]:
        """Nothing: its batch is small."""
        return set()

    def tried(
        self, recipe: AdapterRecipe, data: Prepared, device: torch.device
    ) -> tuple[AdapterRecipe, dict[str, str]]:
        """What of the addition's settings is chosen by the gradient of a first batch."""
        base, kind = base_of(data), recipe.addition.kind
        if kind not in ADDITIONS:
            return recipe, {}
        asked = recipe.addition.model_dump(exclude={"kind"})
        found, why = ADDITIONS[kind].suited(base.denoiser, asked, lambda: first_gradients(recipe, data, device))
        addition = recipe.addition.model_copy(update=dict(found))
        return recipe.model_copy(update={"addition": addition}), {f"addition.{n}": w for n, w in why.items()}

    def build(self, recipe: AdapterRecipe, data: Prepared, device: torch.device) -> Trainable:
        """The base with the addition, of which that alone is trained."""
        base = base_of(data)
        kind, settings = recipe.addition.kind, recipe.addition.model_dump(exclude={"kind", "reach"})
        if kind not in ADDITIONS and not base.besides:
            raise UsageError(
                "there is nothing new to learn: no new word, and no new label", "name a word: --concept WORD"
            )
        own: dict[str, dict[str, Any]] = {kind: settings} if kind in ADDITIONS.keys() - base.besides.keys() else {}
        trained = adapted(base, own, device)

        def made(trained: Adapted) -> AdaptedModel:
            model = DiffusionModel(trained.denoiser, data.space, base.model.family)
            return AdaptedModel(model, trained.addition, base.origin)

        parts = assembled(recipe, data, trained, denoising_of(recipe), made)
        if (control := recipe.control()) is not None and isinstance(parts.validation, Validation):
            parts = replace(parts, validation=replace(parts.validation, hints=(control.name,)))
        if base.rest is None:
            return parts
        return replace(parts, drift=Departure(base.denoiser, base.rest, recipe.drift, recipe.seed))

    def load(self, contract: Mapping[str, Any], space: LatentSpace | None) -> DiffusionModel:
        """Nothing: an adapter is loaded with its base (`ebb.system.system.load`)."""
        raise DamagedError("an adapter is loaded with the run that it is put on", "ebb.load(RUN)")


def base_of(data: Prepared) -> Base:
    """What is adapted."""
    if data.base is None:
        raise UsageError("an adapter is put on a finished run", "ebb adapt RUN DATA")
    return data.base


def adapted(base: Base, parts: Mapping[str, Mapping[str, Any]], device: torch.device) -> Adapted:
    """A copy of the base, sharing its weights, with what the data needs and these parts on it."""
    denoiser = sharing(base.denoiser).to(device)
    return Adapted(denoiser, together(denoiser, {**base.besides, **parts}).to(device), NAME)


def first_gradients(recipe: AdapterRecipe, data: Prepared, device: torch.device) -> dict[str, Tensor]:
    """The gradient of a first batch's loss at the weight of every layer of the base, by the layer's name."""
    base = base_of(data)
    denoiser = sharing(base.denoiser).to(device)
    extra: Together = together(denoiser, base.besides)
    extra.attach(denoiser, NAME)
    found = layers(innermost(denoiser.network))
    weights: list[Tensor] = [layer.weight for layer in found.values()]  # type: ignore[misc]
    batch = Loader(data.examples, resolved(recipe.batch), recipe.seed, device=device)(0)
    asked = [weight.requires_grad for weight in weights]
    for weight in weights:
        weight.requires_grad_(True)
    loss = denoising_of(recipe)(denoiser, batch, torch.Generator(device).manual_seed(recipe.seed))
    gradients = torch.autograd.grad(loss.value, weights, allow_unused=True)
    for weight, before in zip(weights, asked, strict=True):
        weight.requires_grad_(before)
    return {
        name: torch.zeros_like(weight) if gradient is None else gradient
        for name, weight, gradient in zip(found, weights, gradients, strict=True)
    }
