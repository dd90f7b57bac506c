"""Mean and deviation of an autoencoder's latents over a data set, by which they are made unit."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from ebb.encode.autoencoder import Autoencoder
from ebb.errors import DataError
from ebb.networks.evaluating import evaluating
from ebb.shapes import Float


@dataclass
class Spread:
    """Sums over a data set, from which means and variances of every latent follow, in float64."""

    count: int = 0
    total: Tensor | None = None
    squares: Tensor | None = None

    def add(self, z: Float[Tensor, "b k *size"]) -> None:
        """Take in latents; raises DataError for maps of another size than before."""
        z = z.detach().double()
        if self.total is None or self.squares is None:
            self.total, self.squares = torch.zeros_like(z[0]), torch.zeros_like(z[0])
        if z.shape[1:] != self.total.shape:
            raise DataError(f"expected latents {list(self.total.shape)} throughout, got {list(z.shape[1:])}")
        self.count, self.total, self.squares = self.count + len(z), self.total + z.sum(0), self.squares + (z * z).sum(0)

    def moments(self) -> tuple[Tensor, Tensor]:
        """(mean, mean square) of every latent [k, places]; raises DataError where there were no images."""
        if self.total is None or self.squares is None:
            raise DataError("there are no images to measure the latents of")
        mean, square = (sums.reshape(len(sums), -1) / self.count for sums in (self.total, self.squares))
        return mean, square

    def channels(self) -> tuple[list[float], list[float]]:
        """Mean and standard deviation of each channel, over images and places."""
        mean, square = (moment.mean(1) for moment in self.moments())
        return mean.tolist(), (square - mean**2).clamp(min=0).sqrt().tolist()

    def activity(self) -> list[float]:
        """The variance over images of each channel, the mean over its places."""
        mean, square = self.moments()
        return (square - mean**2).clamp(min=0).mean(1).tolist()


@dataclass(frozen=True)
class LatentStatistics:
    """Mean and standard deviation of each latent channel, over `count` images and all places."""

    mean: list[float]
    std: list[float]
    count: int


@torch.no_grad()
def latent_statistics(autoencoder: Autoencoder, batches: Iterable[Tensor]) -> LatentStatistics:
    """The statistics of `encode` over batches of images [b, c, h, w] of one size, so that latents can be made unit.

    In evaluation mode; the modes are restored. Raises DataError for no images, and images of several sizes.
    """
    spread = Spread()
    with evaluating(autoencoder):
        for x in batches:
            spread.add(autoencoder.encode(x))
    return LatentStatistics(*spread.channels(), spread.count)
