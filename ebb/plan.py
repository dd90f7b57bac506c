"""From a recipe to the objects it names, and from a stopwatch to what it leaves open."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import torch

from ebb.data.loader import Loader
from ebb.data.scan import Images
from ebb.encode.labels import Labels
from ebb.names import parse
from ebb.networks.dit import DiT
from ebb.networks.unet import UNet
from ebb.process.denoiser import CLOCKS, NetworkDenoiser
from ebb.process.path import PATHS
from ebb.process.predict import PREDICTIONS
from ebb.process.times import DENSITIES, GRIDS
from ebb.recipe import NetworkRecipe, Recipe, resolved, seconds
from ebb.recipes import Facts, complete, default_budget
from ebb.sample.table import SOLVERS
from ebb.system import System, in_place
from ebb.train.ema import EMA
from ebb.train.loop import Training, updates
from ebb.train.muon import Muon
from ebb.train.objectives.coupling import COUPLINGS
from ebb.train.objectives.denoising import Denoising
from ebb.train.objectives.objective import ConditionDropout, Objective
from ebb.train.objectives.weights import WEIGHTS
from ebb.train.optimiser import WarmupDecay, adamw
from ebb.train.validate import MOST, Validation, validation_of

Precision = Literal["fp32", "bf16"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)

RESERVE = 0.96
"""The share of a budget that is for updates and sample grids; the rest pays for checkpoints, validation and report."""

PROBE = 32
"""Images of a batch that the precisions are compared on."""

GRID_IMAGES = 40
"""About how many samples a grid shows."""

MOST_GRIDS = 10


def facts_of(images: Images) -> Facts:
    """What the choice of a recipe depends on."""
    s = images.summary
    mean, square = np.mean(s.mean), np.mean(np.square(s.std) + np.square(s.mean))
    return Facts(s.count, s.shape, len(images.names), max(0.05, float(np.sqrt(square - mean**2))))


@dataclass(frozen=True)
class Parts:
    """The objects a resolved recipe names, ready to train."""

    system: System
    training: Training
    objective: Objective
    loader: Loader
    validation: Validation | None


def network_of(recipe: NetworkRecipe, facts: Facts) -> UNet | DiT:
    """The network, with fresh weights from the global generator."""
    channels = facts.shape[0]
    width, depth, patch = resolved(recipe.width), resolved(recipe.depth), resolved(recipe.patch)
    if recipe.kind == "dit":
        size = facts.shape[1:] if recipe.positions == "learned" else ()
        return DiT(
            channels,
            width=width,
            depth=depth,
            patch=patch,
            positions=recipe.positions,
            size=size,
            classes=facts.classes,
        )
    return UNet(
        channels,
        width=width,
        depth=depth,
        patch=patch,
        multipliers=resolved(recipe.multipliers),
        attention=resolved(recipe.attention),
        classes=facts.classes,
    )


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


def assemble(recipe: Recipe, images: Images, device: torch.device) -> Parts:
    """Everything the recipe names; the weights depend on its seed alone. UsageError for a name that is not known."""
    facts, labels = facts_of(images), Labels(images.names)
    torch.manual_seed(recipe.seed)
    denoiser = NetworkDenoiser(
        network_of(recipe.network, facts),
        parse(recipe.path, PATHS, "path"),
        parse(resolved(recipe.prediction), PREDICTIONS, "prediction"),
        parse(resolved(recipe.clock), CLOCKS, "clock"),
        recipe.sigma_data,
    )
    denoiser = in_place(denoiser).to(device)
    denoising = Denoising(
        parse(resolved(recipe.times), DENSITIES, "density"),
        parse(recipe.weight, WEIGHTS, "weight"),
        parse(recipe.coupling, COUPLINGS, "coupling"),
    )
    objective: Objective = denoising
    if labels.names and recipe.label_dropout:
        objective = ConditionDropout(objective, labels.null(), recipe.label_dropout)
    make = Muon if recipe.optimiser.kind == "muon" else adamw
    optimizer = make(denoiser, resolved(recipe.optimiser.lr), recipe.optimiser.weight_decay)
    batch = resolved(recipe.batch)
    return Parts(
        System(denoiser, facts.shape, labels, recipe.sample),
        Training(denoiser, optimizer, EMA(denoiser, recipe.ema_halflife)),
        objective,
        Loader(images, batch, recipe.seed, recipe.data.flip, device),
        validation_of(images, denoising, batch=min(MOST, batch), device=device, autocast=autocast_of(recipe)),
    )


def rate_of(recipe: Recipe) -> WarmupDecay:
    """The learning rate over the run; warm-up takes at most a tenth of it."""
    steps = resolved(recipe.steps)
    return WarmupDecay(resolved(recipe.optimiser.lr), steps, min(resolved(recipe.optimiser.warmup), steps // 10))


def autocast_of(recipe: Recipe) -> torch.dtype | None:
    """The type the forward pass runs in, where it is not the weights' own."""
    return torch.bfloat16 if recipe.precision == "bf16" else None


def pace(recipe: Recipe, images: Images, device: torch.device, spend: float) -> float:
    """Images per second of whole updates, on a copy that is thrown away: a median over `spend` seconds."""
    parts, took = assemble(recipe, images, device), list[float]()
    began = last = time.perf_counter()
    for step in updates(
        parts.training,
        parts.objective,
        parts.loader,
        steps=10_000,
        accumulate=recipe.optimiser.accumulate,
        autocast=autocast_of(recipe),
    ):
        step.loss.item()  # waits for the device
        took.append(time.perf_counter() - last)
        last = time.perf_counter()
        if len(took) > 3 and last - began > spend:
            break
    return resolved(recipe.batch) * recipe.optimiser.accumulate / float(np.median(took[1:]))


def faster(recipe: Recipe, images: Images, device: torch.device) -> tuple[Precision, str]:
    """The precision with more images per second, and why; a small batch tells, and keeps the first step near."""
    batch, measured = min(resolved(recipe.batch), PROBE), dict[Precision, float]()
    for precision in PRECISIONS:
        trial = recipe.model_copy(update={"precision": precision, "batch": batch})
        measured[precision] = pace(trial, images, device, 0.0)
    found = ", ".join(f"{name} {each:,.0f} images/s" for name, each in measured.items())
    return max(measured, key=lambda name: measured[name]), f"measured {found} in batches of {batch}"


def grid_seconds(recipe: Recipe, images_per_second: float) -> float:
    """What one sample grid costs, if a forward pass is a third of an update."""
    calls = recipe.sample.steps * (1 if recipe.sample.guidance == 1 else 2)
    return GRID_IMAGES * calls / (3 * images_per_second)


def resolve(
    asked: Recipe, images: Images, device: torch.device, say: Callable[[str], None]
) -> tuple[Recipe, dict[str, str]]:
    """The recipe with nothing left open, and the reason of each choice: facts first, then a few timed steps."""
    facts = facts_of(images)
    recipe, reasons = complete(asked, facts)
    say("timing a few steps to choose precision and length")
    precision = recipe.precision
    if precision is None:
        precision, reasons["precision"] = faster(recipe, images, device)
    chosen = dict[str, Any](precision=precision, grids=recipe.grids or MOST_GRIDS)
    spend = min(1.0, 0.01 * seconds(recipe.budget)) if recipe.budget else 1.0
    rate = pace(recipe.model_copy(update={"precision": precision}), images, device, spend)
    if recipe.sample.precision is None:
        chosen["sample"] = recipe.sample.model_copy(update={"precision": precision})
        reasons["sample.precision"] = "as trained"
    if recipe.grids is None:
        reasons["grids"] = f"at most {MOST_GRIDS}"
    if recipe.steps is None:
        budget = recipe.budget
        if budget is None:
            budget, reasons["budget"] = default_budget(facts, rate)
            chosen["budget"] = budget
        one = grid_seconds(recipe, rate)
        if recipe.grids is None:
            chosen["grids"] = min(MOST_GRIDS, max(1, int(0.1 * seconds(budget) / one)))
            reasons["grids"] += f", for a tenth of the budget at about {one:.1f} s each"
        per_step = resolved(recipe.batch) * recipe.optimiser.accumulate
        left = RESERVE * seconds(budget) - chosen["grids"] * one
        chosen["steps"] = max(1, int(left * rate / per_step))
        passes = chosen["steps"] * per_step / facts.count
        reasons["steps"] = f"{budget} at {rate:,.0f} images/s: {passes:.1f} passes over the data"
    return recipe.model_copy(update=chosen), reasons
