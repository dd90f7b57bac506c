"""The space a latent diffusion model works in: a frozen autoencoder, and the scale of its latents on one data set."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ebb.encode.autoencoder import Autoencoder
from ebb.errors import UsageError
from ebb.shapes import Float, sides

LEAST = 1e-6
"""The smallest deviation that latents are divided by."""


@dataclass(frozen=True, eq=False)
class LatentSpace:
    """z = (E(x) − mean)/deviation by channel, and back: latents of mean 0 and deviation 1 over the data they are of.

    Rombach et al. 2022 (appendix G) divide by one number measured on one data set; each channel of each data set has
    its own here, and nobody's constant is taken over.
    """

    autoencoder: Autoencoder
    mean: tuple[float, ...]
    deviation: tuple[float, ...]

    @classmethod
    def of(cls, autoencoder: Autoencoder, mean: Sequence[float], deviation: Sequence[float]) -> LatentSpace:
        """The space of measured latents; a channel that never varies is not stretched beyond LEAST."""
        return cls(autoencoder, tuple(mean), tuple(max(each, LEAST) for each in deviation))

    def scales(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and deviation as [1, c, 1, 1], where `like` is."""
        return tuple(like.new_tensor(values)[None, :, None, None] for values in (self.mean, self.deviation))  # type: ignore[return-value]

    def encode(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b k h2 w2"]:
        """The latents of pictures in [−1, 1], of unit variance."""
        with torch.no_grad():
            return self.unit(self.autoencoder.encode(x))

    def unit(self, z: Float[Tensor, "b k h w"]) -> Float[Tensor, "b k h w"]:
        """(z − mean)/deviation of what the autoencoder's encoder says."""
        mean, deviation = self.scales(z)
        return (z - mean) / deviation

    def decode(self, z: Float[Tensor, "b k h2 w2"]) -> Float[Tensor, "b c h w"]:
        """The pictures of latents, large ones in tiles; gradients pass through, for guides that look at pictures."""
        mean, deviation = self.scales(z)
        x: Tensor = self.autoencoder.tiled(z * deviation + mean)
        return x

    def shape(self, picture: tuple[int, ...]) -> tuple[int, ...]:
        """The latents' [k, h/f, w/f] for a picture's [c, h, w]. Raises UsageError for sizes that f does not divide."""
        factor = self.autoencoder.factor
        if any(length % factor for length in picture[1:]):
            fitting = [max(1, round(length / factor)) * factor for length in reversed(picture[1:])]
            raise UsageError(
                f"this autoencoder shrinks by {factor}, which does not divide {sides(picture[1:])}",
                f"resize: --data.size {'x'.join(map(str, fitting))}",
            )
        return self.autoencoder.latent, *(length // factor for length in picture[1:])
