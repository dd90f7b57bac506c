"""What a family is: what is trained and how it draws; and what it builds on and builds."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from ebb.data.dataset import Dataset
from ebb.data.loader import Examples, Loader
from ebb.encode.conditioner import Conditioner, Values
from ebb.encode.latent import LatentSpace
from ebb.errors import UsageError
from ebb.events import Work
from ebb.process.denoiser import NetworkDenoiser
from ebb.recipe.recipe import Recipe, Sampling, resolved
from ebb.recipe.starting import Facts
from ebb.store.origin import Origin
from ebb.system.model import Model
from ebb.train.ema import EMA
from ebb.train.from_base import Departure, Probe
from ebb.train.gradients import GradientProbe
from ebb.train.landing import Landing
from ebb.train.loop import Training
from ebb.train.muon import muon
from ebb.train.objectives.autoencoding import FeatureMaps
from ebb.train.objectives.objective import Objective, ObjectiveState
from ebb.train.optimiser import adamw
from ebb.train.validate import Validation


@dataclass(frozen=True, eq=False)
class Base:
    """The finished model that something is put on, the run that it is, and what has to be put on for the data."""

    model: Model
    origin: Origin
    besides: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """settings by kind of `ebb.adapt.additions.ADDITIONS`, such as labels that the model does not know"""
    rest: Probe | None = None
    """some of its own samples, by which it is seen whether the rest stays as it is"""
    sampling: Sampling | None = None
    """how it samples, by what it has measured"""

    @property
    def denoiser(self) -> NetworkDenoiser:
        """The model's; raises UsageError for one that has none."""
        if self.model.denoiser is None:
            raise UsageError(
                f"{self.origin.run} is of the family {self.model.family}, and has no denoiser", "ebb train DATA"
            )
        return self.model.denoiser


@dataclass(frozen=True, eq=False)
class Prepared:
    """What a run learns from: its examples, and as the network meets them, with their conditions."""

    dataset: Dataset
    conditioner: Conditioner
    examples: Examples
    unseen: Examples | None
    space: LatentSpace | None = None
    features: FeatureMaps | None = None
    """what an autoencoder's examples are compared by, besides their values"""
    weights: Mapping[str, Tensor] | None = None
    """of a denoiser to begin with"""
    base: Base | None = None
    """what an adapter is put on"""
    taught: Values | None = None
    """what its examples are asked for as, where that is a new word or a reference, which the data does not say"""

    @property
    def shape(self) -> tuple[int, ...]:
        """Of what is denoised: an example, or its latent; in buckets that of most."""
        return self.inner(self.dataset.summary.shape)

    def inner(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of what is denoised, of examples of a shape."""
        return shape if self.space is None else self.space.shape(shape)


def facts_of(data: Prepared) -> Facts:
    """What the choice of a recipe depends on."""
    s, ports = data.dataset.summary, data.conditioner.ports.values()
    mean, square = np.mean(s.mean), np.mean(np.square(s.std) + np.square(s.mean))
    return Facts(
        s.count,
        data.shape,
        max(0.05, float(np.sqrt(square - mean**2))) if data.space is None else 1.0,
        conditioned=len(ports) > 0,
        texts=any(port.rows for port in ports),
        beside=sum(port.beside for port in ports),
        decoded=None if data.space is None else s.shape,
        things=s.things,
        window=s.shape[-1] if data.dataset.apart > 1 else None,
        others=tuple(map(data.inner, (other.rows.shape[1:] for other in data.dataset.others))),
        square=s.square,
        sampling=None if data.base is None else data.base.sampling,
        only_new=data.base is not None and "only_new" in data.base.besides,
    )


@dataclass(frozen=True)
class Workshop:
    """Where what a run learns from is prepared: the device, and the folder of what is computed once."""

    device: torch.device = torch.device("cpu")
    cache: Path = Path("runs")


@dataclass(frozen=True)
class Trainable:
    """A model and all that its training needs."""

    model: Model
    training: Training
    objective: Objective
    loader: Loader
    averaged: Callable[[], Model]
    """the model with the averaged weights, which is what one samples from"""
    validation: Validation | Landing | None = None
    sampling: Sampling = field(default_factory=Sampling)
    gradients: GradientProbe | None = None
    """what asks for the gradient at each noise level"""
    memory: ObjectiveState | None = None
    """what the objective remembers"""
    drift: Departure | None = None
    """how far it has moved from what it is put on, where nothing is taught"""


R = TypeVar("R", bound=Recipe)


class Family(ABC, Generic[R]):
    """What is trained and how it draws: one for each `kind` of recipe."""

    name: str
    """the `kind` of a recipe that asks for it, and the family of its models"""
    analyses: tuple[str, ...] = ("copies",)
    """what `ebb.evaluate.analyses` can find out about its models, by name"""
    conditioned: bool = False
    """whether it learns what is said of the data"""
    compiles: bool = False
    """whether its network can be compiled while it trains"""
    autoguided: bool = False
    """whether its models can be guided by an earlier average of their weights, which a run then saves"""

    @abstractmethod
    def build(self, recipe: R, data: Prepared, device: torch.device) -> Trainable:
        """All that the recipe names, its weights from the global generator; UsageError for what cannot be."""

    def prepared(self, recipe: R, dataset: Dataset, shop: Workshop) -> Work[Prepared]:
        """What it learns from of examples without all that is said of them, where it is not `conditioned`."""
        yield from ()
        first, *others = (Examples(each.rows, unit=dataset.modality.unit) for each in dataset.buckets)
        return Prepared(dataset, Conditioner(), replace(first, others=tuple(others)), None)

    @abstractmethod
    def complete(self, asked: R, facts: Facts) -> tuple[R, dict[str, str]]:
        """The recipe with everything chosen that needs no measuring, and the reason of each choice by dotted name."""

    def tried(self, recipe: R, data: Prepared, device: torch.device) -> tuple[R, dict[str, str]]:
        """The same of what is chosen by what a first batch shows of the model."""
        return recipe, {}

    def as_trained(self, recipe: R) -> tuple[R, dict[str, str]]:
        """The same of what waits for the precision that was chosen by the clock."""
        return recipe, {}

    def named(self, recipe: R) -> None:
        """Raise UsageError, with the nearest name, unless every part that a recipe names exists and fits the others."""
        return

    def calls(self, recipe: R) -> float:
        """How many forward passes a sample of a sheet takes."""
        return 1

    def steady(self, recipe: R) -> bool:
        """Whether nothing but the learning rate depends on how many updates there will be."""
        return True

    def timed(self, asked: R, recipe: R) -> set[str]:
        """What of "batch" and "network.width" is chosen anew by the speed of updates, since it was not asked for."""
        return {"batch"} if asked.batch is None else set()

    def concern(self, recipe: R, facts: Facts) -> str | None:
        """What will be wrong with the model of a recipe, in plain words, if that can be seen before it is trained."""
        return None

    @abstractmethod
    def load(self, contract: Mapping[str, Any], space: LatentSpace | None) -> Model:
        """The model that `Model.contract` describes, in its latent space, with fresh weights."""


OPTIMISERS = {"muon": muon, "adamw": adamw}
"""The optimisers that a recipe can name."""


def training_of(model: nn.Module, recipe: Recipe) -> Training:
    """The model with its optimiser and its average."""
    optimizer = OPTIMISERS[resolved(recipe.optimiser.kind)](
        model, resolved(recipe.optimiser.lr), recipe.optimiser.weight_decay
    )
    return Training(model, optimizer, EMA(model, recipe.ema_halflife))


def autocast_of(recipe: Recipe) -> torch.dtype | None:
    """The type the forward pass runs in, where it is not the weights' own."""
    return torch.bfloat16 if recipe.precision == "bf16" else None


M = TypeVar("M", bound=nn.Module)


def in_place(module: M) -> M:
    """Convolution weights laid out channels last, as the fast kernels want them; values are unchanged."""
    has_planes = any(isinstance(part, nn.Conv2d) for part in module.modules())
    return module.to(memory_format=torch.channels_last) if has_planes else module  # type: ignore[call-overload]
