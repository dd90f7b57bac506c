"""From a resolved recipe to the objects it names, ready to train."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import nn

from ebb.data.loader import Examples, Loader
from ebb.data.pictures import batches
from ebb.encode.autoencoder import KL, VQ, Autoencoder
from ebb.encode.conditioner import Conditioner
from ebb.encode.latent import LatentSpace
from ebb.encode.statistics import latent_statistics
from ebb.errors import UsageError
from ebb.networks.critic import Critic
from ebb.networks.dit import DiT
from ebb.networks.mmdit import MMDiT
from ebb.networks.unet import UNet
from ebb.networks.zero import Zero
from ebb.process.denoiser import CLOCKS, NetworkDenoiser
from ebb.process.path import PATHS, Cosine
from ebb.process.predict import PREDICTIONS
from ebb.process.times import DENSITIES, GRIDS
from ebb.recipe.names import parse
from ebb.recipe.recipe import AutoencoderRecipe, NetworkRecipe, Recipe, resolved
from ebb.recipe.starting import Facts
from ebb.run.prepare import Prepared
from ebb.sample.solvers import SOLVERS
from ebb.store.checkpoint import State
from ebb.system.system import System, in_place
from ebb.train.ema import EMA
from ebb.train.loop import Step, Training, updates
from ebb.train.muon import Muon
from ebb.train.objectives.autoencoding import DISTANCES, Autoencoding, Commitment, Divergence, Trainee
from ebb.train.objectives.compiled import Compiled, compiled, compiling
from ebb.train.objectives.coupling import COUPLINGS
from ebb.train.objectives.denoising import Denoising
from ebb.train.objectives.objective import ConditionDropout, Objective
from ebb.train.objectives.weights import WEIGHTS
from ebb.train.optimiser import AdamW
from ebb.train.validate import MOST, Validation, validation_of


def facts_of(data: Prepared) -> Facts:
    """What the choice of a recipe depends on."""
    s, sizes = data.images.summary, data.conditioner.sizes
    mean, square = np.mean(s.mean), np.mean(np.square(s.std) + np.square(s.mean))
    return Facts(
        s.count,
        data.shape,
        sizes.pop("classes"),
        max(0.05, float(np.sqrt(square - mean**2))) if data.space is None else 1.0,
        **sizes,
        picture=None if data.space is None else s.shape,
    )


@dataclass(frozen=True)
class Built:
    """The objects a resolved recipe names, ready to train."""

    system: System
    training: Training
    objective: Objective
    loader: Loader
    validation: Validation | None
    data: Prepared
    averaged: Callable[[], System]
    """the system with the averaged weights, which is what one samples from"""

    def state(self) -> State:
        """All that a checkpoint holds: the training's state, and the autoencoder's where one is in use."""
        frozen = None if isinstance(self.training.model, Trainee) else self.system.space
        return self.training.state() | ({} if frozen is None else {"autoencoder": frozen.autoencoder.state_dict()})


def network_of(recipe: NetworkRecipe, facts: Facts) -> UNet | DiT | MMDiT:
    """The network, with fresh weights from the global generator."""
    shared: dict[str, Any] = {
        "width": resolved(recipe.width),
        "depth": resolved(recipe.depth),
        "patch": resolved(recipe.patch),
        "classes": facts.classes,
        "vocabulary": facts.vocabulary,
        "states": facts.states,
        "length": facts.length,
        "numbers": facts.numbers,
        "image": facts.image,
    }
    if recipe.kind != "unet" and facts.concepts:
        raise UsageError(f"a {recipe.kind} attends to whole texts", "leave --text.concepts out, or take a unet")
    if recipe.kind == "mmdit":
        return MMDiT(facts.shape[0], **shared)
    if recipe.kind == "dit":
        size = facts.shape[1:] if recipe.positions == "learned" else ()
        return DiT(facts.shape[0], positions=recipe.positions, size=size, **shared)
    levels: dict[str, Any] = {"multipliers": resolved(recipe.multipliers), "attention": resolved(recipe.attention)}
    return UNet(facts.shape[0], **levels, cross=resolved(recipe.cross), concepts=facts.concepts, **shared)


def names_known(recipe: Recipe) -> None:
    """Raise UsageError, with the nearest name, unless every part the recipe names exists and fits the others."""
    path = parse(recipe.path, PATHS, "path")
    named = (
        (recipe.prediction, PREDICTIONS, "prediction"),
        (recipe.clock, CLOCKS, "clock"),
        (recipe.times, DENSITIES, "density"),
        (recipe.weight, WEIGHTS, "weight"),
        (recipe.coupling, COUPLINGS, "coupling"),
        (recipe.sample.solver, SOLVERS, "solver"),
    )
    for text, members, idea in named:
        if text is not None:
            parse(text, members, idea)
    parse(recipe.sample.grid, GRIDS, "grid")(path, recipe.sample.steps)


def build(recipe: Recipe, data: Prepared, device: torch.device) -> Built:
    """Everything the recipe names; the weights depend on its seed alone. UsageError for a name that is not known."""
    torch.manual_seed(recipe.seed)
    return (of_autoencoder if recipe.kind == "autoencoder" else of_denoiser)(recipe, data, device)


def of_denoiser(recipe: Recipe, data: Prepared, device: torch.device) -> Built:
    """The parts of a run that trains a denoiser."""
    denoiser = NetworkDenoiser(
        network_of(recipe.network, facts_of(data)),
        parse(recipe.path, PATHS, "path"),
        parse(resolved(recipe.prediction), PREDICTIONS, "prediction"),
        parse(resolved(recipe.clock), CLOCKS, "clock"),
        recipe.sigma_data,
    )
    denoiser = in_place(denoiser).to(device)
    if data.weights is not None:
        denoiser.load_state_dict(data.weights)
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
    return Built(
        system,
        training,
        objective,
        Loader(data.examples, batch, recipe.seed, recipe.data.flip and data.examples.noise is None, device),
        validation_of(
            data.unseen,
            denoising,
            encode=system.encode,
            batch=min(MOST, batch),
            device=device,
            autocast=autocast_of(recipe),
        ),
        data,
        lambda: replace(system, denoiser=training.ema.model),  # type: ignore[arg-type]
    )


def of_autoencoder(recipe: Recipe, data: Prepared, device: torch.device) -> Built:
    """The parts of a run that trains an autoencoder: a model that needs no denoiser for its latents.

    Its system samples latents with the mean and deviation, by channel, that some training images have.
    """
    how, shape = recipe.autoencoding, data.images.summary.shape
    model = Trainee(autoencoder_of(how, shape[0]), Critic(shape[0]) if how.adversarial else None)
    model = in_place(model).to(device)
    training, batch = training_of(model, recipe), resolved(recipe.batch)
    late = resolved(recipe.steps or 1) * batch * recipe.optimiser.accumulate // 4
    bottleneck = Divergence(how.beta, how.warmup, how.free_nats) if how.kind == "kl" else Commitment()
    objective = Autoencoding(
        bottleneck, DISTANCES[how.distance], data.features, how.perceptual, how.adversarial, start=late
    )
    prior = NetworkDenoiser(Zero(), Cosine(), PREDICTIONS["v"])
    pixels = data.images.pixels

    def system(codec: Autoencoder) -> System:
        some = pixels[:: max(1, len(pixels) // MEASURED)][:MEASURED]
        found = latent_statistics(codec, (x.to(device) for x in batches(some, 64)))
        space = LatentSpace.of(codec, found.mean, found.std)
        return System(prior.to(device), shape, Conditioner(), recipe.sample, space)

    return Built(
        system(model.autoencoder),
        training,
        objective,
        Loader(Examples(pixels), batch, recipe.seed, recipe.data.flip, device),
        None,
        data,
        lambda: system(training.ema.model.autoencoder),  # type: ignore[arg-type]
    )


MEASURED = 512
"""Images whose latents tell where those of an autoencoder lie."""


def autoencoder_of(recipe: AutoencoderRecipe, channels: int) -> Autoencoder:
    """The autoencoder, with fresh weights; raises UsageError for a factor that is not a power of 2."""
    halvings = recipe.factor.bit_length() - 1
    if 2**halvings != recipe.factor or not halvings:
        raise UsageError(f"an autoencoder shrinks by 2, 4, 8, …, got {recipe.factor}", "try --autoencoding.factor 4")
    shape: dict[str, Any] = {
        "latent": recipe.latent,
        "width": recipe.width,
        "patch": 2,
        "multipliers": (1, *(2,) * (halvings - 1)),
        "residual": recipe.residual,
    }
    return KL(channels, **shape) if recipe.kind == "kl" else VQ(channels, codes=recipe.codes, **shape)


def training_of(model: nn.Module, recipe: Recipe) -> Training:
    """The model with its optimiser and its average."""
    make = Muon if recipe.optimiser.kind == "muon" else AdamW
    optimizer = make(model, resolved(recipe.optimiser.lr), recipe.optimiser.weight_decay)
    return Training(model, optimizer, EMA(model, recipe.ema_halflife))


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
    made = updates(
        parts.training,
        parts.objective,
        loader,
        steps=steps,
        rate=rate,
        seed=loader.seed,
        accumulate=recipe.optimiser.accumulate,
        clip=recipe.optimiser.clip,
        autocast=autocast_of(recipe),
    )
    return compiling(made) if recipe.engine == "compiled" else made


def autocast_of(recipe: Recipe) -> torch.dtype | None:
    """The type the forward pass runs in, where it is not the weights' own."""
    return torch.bfloat16 if recipe.precision == "bf16" else None
