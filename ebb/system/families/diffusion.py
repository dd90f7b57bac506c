"""Diffusion: a network learns E[x0 | x_t] at every noise level, and draws by solving from noise to data."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch

from ebb.data.loader import Loader
from ebb.networks.dit import DiT
from ebb.networks.mmdit import MMDiT
from ebb.networks.ports import NO_PORTS, Ports
from ebb.networks.unet import UNet
from ebb.process.denoiser import CLOCKS, NetworkDenoiser
from ebb.process.path import PATHS
from ebb.process.predict import PREDICTIONS
from ebb.process.times import DENSITIES
from ebb.recipe.names import parse
from ebb.recipe.recipe import NetworkRecipe, Recipe, resolved
from ebb.system.families.family import Built, Prepared, autocast_of, training_of
from ebb.system.system import System, in_place
from ebb.train.objectives.compiled import Compiled, compiled
from ebb.train.objectives.coupling import COUPLINGS
from ebb.train.objectives.denoising import Denoising
from ebb.train.objectives.objective import ConditionDropout, Objective
from ebb.train.objectives.weights import WEIGHTS
from ebb.train.validate import MOST, validation_of


@dataclass(frozen=True)
class DiffusionFamily:
    """A `NetworkDenoiser`, trained by `Denoising` under `ConditionDropout`, validated on held-out examples."""

    name = "denoiser"

    def build(self, recipe: Recipe, data: Prepared, device: torch.device) -> Built:
        """Network, objective and batches; the weights are those of the run that is reflowed, where one is."""
        denoiser = denoiser_of(recipe, data).to(device)
        denoising = Denoising(
            parse(resolved(recipe.times), DENSITIES, "density"),
            parse(recipe.weight, WEIGHTS, "weight"),
            parse(recipe.coupling, COUPLINGS, "coupling"),
        )
        objective: Objective = denoising
        if data.examples.cond and recipe.label_dropout:
            null = {name: row.to(device) for name, row in data.conditioner.null().items()}
            objective = ConditionDropout(objective, null, recipe.label_dropout)
        if recipe.engine == "compiled":
            objective = Compiled(objective, compiled(denoiser))
        system = System(denoiser, data.images.summary.shape, data.conditioner, recipe.sample, data.space)
        training, batch = training_of(denoiser, recipe), resolved(recipe.batch)
        validation = validation_of(
            data.unseen,
            denoising,
            encode=system.encode,
            batch=min(MOST, batch),
            device=device,
            autocast=autocast_of(recipe),
        )
        flips = recipe.data.flip and data.examples.noise is None
        return Built(
            system,
            training,
            objective,
            Loader(data.examples, batch, recipe.seed, flips, device),
            data,
            lambda: replace(system, denoiser=training.ema.model),  # type: ignore[arg-type]
            validation,
            {} if data.space is None else {"autoencoder": data.space.autoencoder},
        )


def denoiser_of(recipe: Recipe, data: Prepared) -> NetworkDenoiser:
    """The denoiser that a recipe names, with fresh weights, or those that the data brings."""
    denoiser = in_place(
        NetworkDenoiser(
            network_of(recipe.network, data.shape, data.conditioner.ports),
            parse(recipe.path, PATHS, "path"),
            parse(resolved(recipe.prediction), PREDICTIONS, "prediction"),
            parse(resolved(recipe.clock), CLOCKS, "clock"),
            recipe.sigma_data,
        )
    )
    if data.weights is not None:
        denoiser.load_state_dict(data.weights)
    return denoiser


def network_of(recipe: NetworkRecipe, shape: tuple[int, ...], ports: Ports = NO_PORTS) -> UNet | DiT | MMDiT:
    """The network for what has this shape, with fresh weights from the global generator."""
    shared: dict[str, Any] = {
        "width": resolved(recipe.width),
        "depth": resolved(recipe.depth),
        "patch": resolved(recipe.patch),
        "ports": ports,
    }
    if recipe.kind == "mmdit":
        return MMDiT(shape[0], **shared)
    if recipe.kind == "dit":
        size = shape[1:] if recipe.positions == "learned" else ()
        return DiT(shape[0], positions=recipe.positions, size=size, **shared)
    levels: dict[str, Any] = {"multipliers": resolved(recipe.multipliers), "attention": resolved(recipe.attention)}
    return UNet(shape[0], **levels, cross=resolved(recipe.cross), **shared)
