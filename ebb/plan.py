"""From a recipe to the objects it names, and from a stopwatch to what it leaves open."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

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
from ebb.recipe import NetworkRecipe, Recipe, seconds
from ebb.recipes import Facts, complete, default_budget
from ebb.sample.table import SOLVERS
from ebb.system import Sampling, System, in_place
from ebb.train.ema import EMA
from ebb.train.loop import Training
from ebb.train.objectives.denoising import Denoising
from ebb.train.objectives.objective import ConditionDropout, Objective
from ebb.train.objectives.weights import WEIGHTS
from ebb.train.optimiser import WarmupDecay, adamw

RESERVE = 0.93
"""The share of a budget that is spent on updates; the rest pays for sample grids, checkpoints and the report."""


def facts_of(images: Images) -> Facts:
    """What the choice of a recipe depends on."""
    c, h, w = images.pixels.shape[1:]
    some = images.pixels[:: max(1, len(images.pixels) // 10_000)].astype(np.float32) / 127.5 - 1
    return Facts(len(images.pixels), (c, h, w), len(images.names), max(0.05, float(some.std())))


@dataclass(frozen=True)
class Parts:
    """The objects a resolved recipe names, ready to train."""

    system: System
    training: Training
    objective: Objective
    loader: Loader


def network_of(recipe: NetworkRecipe, facts: Facts) -> UNet | DiT:
    """The network, with fresh weights from the global generator."""
    channels = facts.shape[0]
    width, depth, patch = recipe.width or 64, recipe.depth or 2, recipe.patch or 1
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
        multipliers=recipe.multipliers or (1, 2),
        attention=recipe.attention or (),
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
        (recipe.sample.solver, SOLVERS, "solver"),
    )
    for text, members, idea in named:
        parse(text, members, idea)
    parse(recipe.sample.grid, GRIDS, "grid")(path, recipe.sample.steps)


def assemble(recipe: Recipe, images: Images, device: torch.device) -> Parts:
    """Everything the recipe names; the weights depend on its seed alone. UsageError for a name that is not known."""
    facts, labels = facts_of(images), Labels(images.names)
    torch.manual_seed(recipe.seed)
    denoiser = NetworkDenoiser(
        network_of(recipe.network, facts),
        parse(recipe.path, PATHS, "path"),
        parse(recipe.prediction, PREDICTIONS, "prediction"),
        parse(recipe.clock, CLOCKS, "clock"),
        recipe.sigma_data,
    )
    denoiser = in_place(denoiser).to(device)
    objective: Objective = Denoising(parse(recipe.times, DENSITIES, "density"), parse(recipe.weight, WEIGHTS, "weight"))
    if labels.names and recipe.label_dropout:
        objective = ConditionDropout(objective, labels.null(), recipe.label_dropout)
    optimizer = adamw(denoiser, recipe.optimiser.lr or 1e-3, recipe.optimiser.weight_decay)
    return Parts(
        System(denoiser, facts.shape, labels, Sampling(**recipe.sample.model_dump())),
        Training(denoiser, optimizer, EMA(denoiser, recipe.ema_halflife)),
        objective,
        Loader(images, recipe.batch or 128, recipe.seed, recipe.data.flip, device),
    )


def rate_of(recipe: Recipe) -> WarmupDecay:
    """The learning rate over the run; warm-up takes at most a tenth of it."""
    steps = recipe.steps or 1
    return WarmupDecay(recipe.optimiser.lr or 1e-3, steps, min(recipe.optimiser.warmup or 0, steps // 10))


def autocast_of(recipe: Recipe) -> torch.dtype | None:
    """The type the forward pass runs in, where it is not the weights' own."""
    return torch.bfloat16 if recipe.precision == "bf16" else None


def pace(parts: Parts, dtype: torch.dtype | None, spend: float) -> float:
    """Images per second of forward and backward passes: the fastest of 3 or more, over `spend` seconds."""
    model, batch, device = parts.training.model, parts.loader(0), parts.loader.device
    generator, best = torch.Generator(device).manual_seed(0), float("inf")
    began, attempt = time.perf_counter(), 0
    while attempt < 4 or time.perf_counter() - began < spend:
        start = time.perf_counter()
        with torch.autocast(device.type, dtype) if dtype else nullcontext():
            loss = parts.objective(model, batch, generator)
        loss.value.backward()  # type: ignore[no-untyped-call]
        model.zero_grad(set_to_none=True)
        if device.type == "cuda":
            torch.cuda.synchronize()
        if attempt:  # the first pass warms up
            best = min(best, time.perf_counter() - start)
        attempt += 1
    return len(batch.x0) / best


def resolve(
    asked: Recipe, images: Images, device: torch.device, say: Callable[[str], None]
) -> tuple[Recipe, dict[str, str]]:
    """The recipe with nothing left open, and the reason of each choice: facts first, then a few timed steps."""
    facts = facts_of(images)
    recipe, reasons = complete(asked, facts)
    say("timing a few steps to choose precision and length")
    parts, measured = assemble(recipe, images, device), dict[str, float]()
    spend = min(5.0, 0.01 * seconds(recipe.budget)) if recipe.budget else 1.0
    for precision in [recipe.precision] if recipe.precision else ["fp32", "bf16"]:
        measured[precision] = pace(parts, torch.bfloat16 if precision == "bf16" else None, spend)
    precision = max(measured, key=lambda name: measured[name])
    chosen: dict[str, Any] = {"precision": precision}
    if recipe.precision is None:
        reasons["precision"] = "measured " + ", ".join(
            f"{name} {rate:,.0f} images/s" for name, rate in measured.items()
        )
    if recipe.steps is None:
        budget = recipe.budget
        if budget is None:
            budget, reasons["budget"] = default_budget(facts, measured[precision])
            chosen["budget"] = budget
        per_step = (recipe.batch or 128) * recipe.optimiser.accumulate / measured[precision]
        chosen["steps"] = max(1, int(RESERVE * seconds(budget) / per_step))
        passes = chosen["steps"] * (recipe.batch or 128) * recipe.optimiser.accumulate / facts.count
        reasons["steps"] = f"{budget} at {measured[precision]:,.0f} images/s: {passes:.1f} passes over the data"
    return recipe.model_copy(update=chosen), reasons
