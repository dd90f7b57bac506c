"""Common mistakes in training a diffusion model, each made on purpose: `bench/rules.py` says what it costs.

Each is a function (recipe, parts) → (recipe, parts), as the changes of `bench/tried.py` are, and starts the training
anew where it changes the model: optimiser and average are of the model as it is then.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from ebb.data.loader import Batch, Loader, keyed
from ebb.process.denoiser import NetworkDenoiser
from ebb.process.path import Path
from ebb.recipe.recipe import Recipe
from ebb.run.build import Built
from ebb.shapes import Float
from ebb.system.families.family import training_of

Mistake = Callable[[Recipe, Built], tuple[Recipe, Built]]


def begun_again(recipe: Recipe, parts: Built) -> tuple[Recipe, Built]:
    """Optimiser and average of the model as it has become."""
    return recipe, replace(parts, training=training_of(parts.training.model, recipe))


def denoiser_of(parts: Built) -> NetworkDenoiser:
    """The model that is trained, which is the system's own."""
    denoiser = parts.training.model
    assert isinstance(denoiser, NetworkDenoiser)
    return denoiser


def batch_norm(recipe: Recipe, parts: Built) -> tuple[Recipe, Built]:
    """Every group normalisation becomes one over the batch: all noise levels share their statistics."""
    for module in list(denoiser_of(parts).network.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, nn.GroupNorm):
                setattr(module, name, nn.BatchNorm2d(child.num_channels))
    return begun_again(recipe, parts)


def half_range(recipe: Recipe, parts: Built) -> tuple[Recipe, Built]:
    """Data in [0, 1], half as wide as [−1, 1] and not centred; the input scale is half as large, to be fair.

    What is drawn lies in [0, 1] too: `widened` brings it back.
    """
    denoiser, examples = denoiser_of(parts), parts.loader.examples
    if denoiser.sigma_data is not None:
        denoiser.sigma_data /= 2
    small = replace(examples, unit=lambda stored: (examples.unit(stored) + 1) / 2)
    return begun_again(recipe, replace(parts, loader=replace(parts.loader, examples=small)))


def widened(samples: Float[Tensor, "n *d"]) -> Float[Tensor, "n *d"]:
    """From [0, 1] to [−1, 1]."""
    return 2 * samples.clamp(0, 1) - 1


def stopped(path: Path, t: Float[Tensor, "b"]) -> Float[Tensor, "b"]:
    """A clock that stands still."""
    return torch.zeros_like(t)


def timeless(recipe: Recipe, parts: Built) -> tuple[Recipe, Built]:
    """The network is not told the time."""
    denoiser_of(parts).clock = stopped
    return begun_again(recipe, parts)


def unclipped(recipe: Recipe, parts: Built) -> tuple[Recipe, Built]:
    """Gradients of any norm are taken as they are."""
    return recipe.model_copy(update={"optimiser": recipe.optimiser.model_copy(update={"clip": 1e9})}), parts


@dataclass(frozen=True)
class Cropped(Loader):
    """Each image moved by up to an eighth of its side, what moves in being its edge repeated: a random crop."""

    def __call__(self, step: int) -> Batch:
        batch = super().__call__(step)
        side = batch.x0.shape[-1]
        reach = side // 8
        wide = F.pad(batch.x0, (reach,) * 4, mode="replicate")
        corners = keyed(self.seed, 2**62 + step).integers(0, 2 * reach + 1, (self.batch, 2))
        crops = [x[:, row : row + side, column : column + side] for x, (row, column) in zip(wide, corners, strict=True)]
        return replace(batch, x0=torch.stack(crops))


def cropped(recipe: Recipe, parts: Built) -> tuple[Recipe, Built]:
    """Random crops, as a classifier is trained with: the model learns to draw them."""
    return recipe, replace(parts, loader=Cropped(**vars(parts.loader)))


MISTAKES: dict[str, Mistake] = {
    "batch_norm": batch_norm,
    "half_range": half_range,
    "timeless": timeless,
    "unclipped": unclipped,
    "cropped": cropped,
}
