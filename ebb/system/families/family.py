"""What a family is: what is trained and how it draws; and what it builds on and builds."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn

from ebb.data.loader import Examples, Loader
from ebb.data.scan import Images
from ebb.encode.conditioner import Conditioner
from ebb.encode.latent import LatentSpace
from ebb.recipe.recipe import Recipe, resolved
from ebb.recipe.starting import Facts
from ebb.store.checkpoint import State
from ebb.system.system import System
from ebb.train.ema import EMA
from ebb.train.loop import Training
from ebb.train.muon import muon
from ebb.train.objectives.autoencoding import FeatureMaps
from ebb.train.objectives.objective import Objective
from ebb.train.optimiser import adamw
from ebb.train.validate import Validation


@dataclass(frozen=True, eq=False)
class Prepared:
    """What a run learns from: its images, and as the network meets them, with their conditions."""

    images: Images
    conditioner: Conditioner
    examples: Examples
    unseen: Examples | None
    space: LatentSpace | None = None
    features: FeatureMaps | None = None
    """what an autoencoder's pictures are compared by, besides their values"""
    weights: Mapping[str, Tensor] | None = None
    """of a denoiser to begin with"""

    @property
    def shape(self) -> tuple[int, ...]:
        """Of what is denoised: a picture's [c, h, w], or its latent's."""
        return self.images.summary.shape if self.space is None else self.space.shape(self.images.summary.shape)


def facts_of(data: Prepared) -> Facts:
    """What the choice of a recipe depends on."""
    s, ports = data.images.summary, data.conditioner.ports.values()
    mean, square = np.mean(s.mean), np.mean(np.square(s.std) + np.square(s.mean))
    return Facts(
        s.count,
        data.shape,
        max(0.05, float(np.sqrt(square - mean**2))) if data.space is None else 1.0,
        conditioned=len(ports) > 0,
        texts=any(port.rows for port in ports),
        beside=sum(port.beside for port in ports),
        picture=None if data.space is None else s.shape,
    )


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
    validation: Validation | None = None
    frozen: Mapping[str, nn.Module] = field(default_factory=dict)
    """what the system needs besides, as other runs have trained it, by the name of its file in a checkpoint"""

    def state(self) -> State:
        """All that a checkpoint holds: the training's state, and what is frozen."""
        return self.training.state() | {name: module.state_dict() for name, module in self.frozen.items()}


class Family(Protocol):
    """What is trained and how it draws: one for each `kind` of recipe."""

    @property
    def name(self) -> str:
        """The `kind` of a recipe that asks for it."""
        ...

    def build(self, recipe: Recipe, data: Prepared, device: torch.device) -> Built:
        """Everything the recipe names, its weights from the global generator; UsageError for what cannot be."""
        ...


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
