"""What the way through an autoencoder costs in the Fréchet distance: the floor of every sampler of its latents."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from ebb.data.images import to_pixels
from ebb.data.pictures import batches
from ebb.encode.latent import LatentSpace
from ebb.errors import DataError
from ebb.evaluate.measure import split
from ebb.judge.distances import averaged, frechet_counted, once
from ebb.judge.features import Features, blocks, extract

AT_ONCE = 64
"""Pictures that go there and back at once."""


@dataclass(frozen=True)
class LatentFloor:
    """Fréchet distances of `count` real pictures, in the features of a measurement.

    `moved` lies between the pictures and what comes back of them: 0 for an autoencoder that loses nothing (the "R-FID"
    of Rombach et al. 2022, table 8). `reached` lies between what comes back and the reference that samples are compared
    with: what a sampler of the latents would read that makes no error of its own. `real` is that of the pictures
    themselves, the floor of any model.
    """

    moved: float
    reached: float
    real: float
    count: int


def there_and_back(space: LatentSpace, images: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """What comes back of images uint8 [n, c, h, w] through the latents, as samples are stored."""
    device = next(space.autoencoder.parameters(), torch.empty(0)).device
    with torch.no_grad():
        parts = (space.decode(space.encode(x.to(device))) for x in batches(images, AT_ONCE))
        return np.concatenate([to_pixels(part) for part in parts])


def latent_floor(
    space: LatentSpace, images: NDArray[np.uint8], features: Features, count: int, seed: int
) -> LatentFloor:
    """The floor for `count` samples, whose pictures and reference are those that `measure` takes by the same seed.

    Raises DataError for as many images as features or fewer, where a covariance is not one.
    """
    aside, reference = split(images, count, seed)
    least, dimension = min(len(aside), len(reference)), max(part.stop - part.start for part in blocks(features))
    if least <= dimension:
        raise DataError(f"{least} images give no covariance of {dimension} features")
    distance = averaged(frechet_counted, blocks(features))
    back = there_and_back(space, aside)
    own, returned, others = (extract(features, batches(each)) for each in (aside, back, reference))
    moved, reached, real = (once(distance, a, b) for a, b in ((returned, own), (returned, others), (own, others)))
    return LatentFloor(max(moved, 0.0), reached, real, len(aside))
