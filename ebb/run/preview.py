"""Samples of a run under way, drawn to be looked at."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ebb.data.images import save_png
from ebb.encode.conditioner import Values
from ebb.run.build import Built
from ebb.run.plan import GRID_SAMPLES
from ebb.system.requests import asked_for
from ebb.system.sampler import Sampler
from ebb.system.system import System
from ebb.system.taught import some_of


def draw(folder: Path, parts: Built, step: int) -> Path:
    """The file of a sheet to look at, from the averaged weights, with the same seeds at every step."""
    made, columns = shown(parts)
    modality, file = parts.averaged().modality, folder / "samples" / f"step-{step:06d}.png"
    save_png(modality.sheet(modality.stored(made), columns), file, {"step": step, "seed": 0})
    return file


def shown(parts: Built) -> tuple[Tensor, int]:
    """Samples, and how many columns to show them in; of an autoencoder examples, and below each what is left of it.

    See `asked` for what they are asked for; else for all labels in turn, or some texts.
    """
    system, classes = parts.averaged(), len(parts.system.labels.names)
    if system.model.reconstructs:
        columns, dataset = GRID_SAMPLES // 4, parts.data.dataset.held_out or parts.data.dataset
        x = dataset.x(slice(2 * columns)).to(system.device)
        with torch.no_grad():
            made = system.decode(system.encode(x))
        return torch.cat([x[:columns], made[:columns], x[columns:], made[columns:]]), columns
    if (given := asked(parts, system)) is not None:
        return Sampler(system)(system.request(given, GRID_SAMPLES)), 6
    columns = classes if 4 <= classes <= 16 else 6
    return system.sample(columns * round(GRID_SAMPLES / columns), seed=0), columns


def asked(parts: Built, system: System) -> Values | None:
    """What the samples of a sheet are asked for, of examples: as an adapter was taught them, where the data does not
    say that; and, of a model that hears numbers or what stands beside x, what is said of those that were held out, if
    there are. None where nothing need be shown."""
    if parts.data.taught is not None:
        rows = np.random.default_rng(0).choice(len(parts.data.dataset.rows), GRID_SAMPLES)
        return some_of(parts.data.taught, rows)
    if not system.conditioner.shown:
        return None
    return asked_for(system, parts.data.dataset.held_out or parts.data.dataset, GRID_SAMPLES, seed=0)
