"""Autoencoders: images to latents, in which diffusion is cheaper, and back."""

from __future__ import annotations

import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from ebb.encode.quantise import Codebook
from ebb.errors import UsageError
from ebb.networks.convolutional import Decoder, Encoder, Pyramid
from ebb.shapes import Float

LOG_VARIANCE = (-30.0, 20.0)
"""Of a posterior: outside, its exponential is nothing or everything."""


class Autoencoder(nn.Module, ABC):
    """encode: x [b, channels, h, w] in [−1, 1] → z [b, latent, h/factor, w/factor]; decode: the way back, about."""

    channels: int
    factor: int
    latent: int
    settings: dict[str, Any]

    @abstractmethod
    def encode(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b k h2 w2"]:
        """The latents of images, without any chance; raises UsageError for a size that `factor` does not divide."""

    @abstractmethod
    def decode(self, z: Float[Tensor, "b k h2 w2"]) -> Float[Tensor, "b c h w"]:
        """The images of latents."""

    def tiled(self, z: Float[Tensor, "b k h2 w2"], tile: int = 32, overlap: int = 8) -> Float[Tensor, "b c h w"]:
        """`decode` of large latents in square tiles of `tile` places a side, in the memory of one tile and the image.

        Neighbours share `overlap` places or more, where one fades linearly into the other. A place that lies in one
        tile only comes out as `decode` would have it if `overlap` is at least as far as the decoder looks to a side;
        the fading keeps the rest near it. Latents that fit in one tile are decoded in one piece. Raises UsageError
        unless 0 ≤ overlap < tile.
        """
        if not 0 <= overlap < tile:
            raise UsageError(f"tiles overlap by less than their side, got an overlap of {overlap} and tiles of {tile}")
        return blended(self.decode, z, self.channels, self.factor, tile, overlap)


def blended(
    decode: Callable[[Tensor], Tensor],
    z: Float[Tensor, "b k h2 w2"],
    channels: int,
    factor: int,
    tile: int,
    overlap: int,
) -> Float[Tensor, "b c h w"]:
    """The tiles' images, added up with weights that rise linearly over `overlap` from every seam and sum to 1."""
    height, width = z.shape[2:]
    total = z.new_zeros(len(z), channels, height * factor, width * factor)
    weights = torch.zeros_like(total[0, 0])
    for top, left in itertools.product(starts(height, tile, overlap), starts(width, tile, overlap)):
        image = decode(z[:, :, top : top + tile, left : left + tile])
        y, x = top * factor, left * factor
        rows = ramp(y, image.shape[2], height * factor, overlap * factor)
        columns = ramp(x, image.shape[3], width * factor, overlap * factor)
        weight = (rows[:, None] * columns).to(weights)
        here = (..., slice(y, y + len(rows)), slice(x, x + len(columns)))
        total[here] += weight * image
        weights[here] += weight
    return total / weights


def starts(size: int, tile: int, overlap: int) -> list[int]:
    """Where tiles begin that cover `size` places evenly, neighbours sharing `overlap` or more."""
    count = max(1, math.ceil((size - overlap) / (tile - overlap)))
    return [round(i * (size - tile) / max(1, count - 1)) for i in range(count)]


def ramp(start: int, length: int, whole: int, overlap: int) -> Float[Tensor, "length"]:
    """The weight of each place of a tile: its distance from the nearer seam over `overlap`, at most 1.

    The ends of the whole are no seams.
    """
    place = torch.arange(length) + 0.5
    before = place if start > 0 else torch.full_like(place, math.inf)
    after = length - place if start + length < whole else torch.full_like(place, math.inf)
    return (torch.minimum(before, after) / max(overlap, 1)).clamp(max=1)


@runtime_checkable
class Variational(Protocol):
    """What has a posterior N(mean, diag exp(log variance)) over latents, and a way back from them."""

    def posterior(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(mean, log variance) of z given x, both [b, latent, *size]."""
        ...

    def decode(self, z: Tensor) -> Tensor:
        """The images of latents."""
        ...


def draw(
    mean: Float[Tensor, "b *d"], log_variance: Float[Tensor, "b *d"], generator: torch.Generator
) -> Float[Tensor, "b *d"]:
    """z = mean + exp(log variance/2)·ε, ε ~ N(0, I) (Kingma & Welling 2014, §2.4)."""
    eps = torch.randn(mean.shape, generator=generator, device=generator.device).to(mean)
    return mean + torch.exp(log_variance / 2) * eps


def divergence(mean: Float[Tensor, "b *d"], log_variance: Float[Tensor, "b *d"]) -> Float[Tensor, "b *d"]:
    """Each number's share of D(N(mean, exp(log variance)) ‖ N(0, 1)), in nats (Kingma & Welling 2014, appendix B).

    ½(mean² + exp(log variance) − 1 − log variance).
    """
    return (mean.square() + torch.expm1(log_variance) - log_variance) / 2


class KL(Autoencoder):
    """A variational autoencoder (Kingma & Welling 2014): the encoder says a mean and a variance for every latent.

    `latent` channels; the other settings are those of `ebb.networks.convolutional.Pyramid`. Latents drawn from N(0, I)
    decode to images as far as training has weighed the divergence enough.
    """

    def __init__(
        self,
        channels: int,
        *,
        latent: int = 4,
        width: int = 64,
        multipliers: Sequence[int] = (1, 2),
        depth: int = 2,
        patch: int = 2,
        residual: bool = False,
    ) -> None:
        super().__init__()
        size = Pyramid(width, tuple(multipliers), depth, patch, residual)
        self.settings = {"channels": channels, "latent": latent, **vars(size)}
        self.encoder, self.decoder = built(channels, 2 * latent, latent, size)
        self.channels, self.latent, self.factor = channels, latent, self.encoder.factor

    def posterior(self, x: Float[Tensor, "b c h w"]) -> tuple[Float[Tensor, "b k h2 w2"], Float[Tensor, "b k h2 w2"]]:
        """(mean, log variance), float32; the logarithm is kept within LOG_VARIANCE."""
        mean, log_variance = self.encoder(x).float().chunk(2, 1)
        return mean, log_variance.clamp(*LOG_VARIANCE)

    def encode(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b k h2 w2"]:
        """The posterior's mean."""
        return self.posterior(x)[0]

    def decode(self, z: Float[Tensor, "b k h2 w2"]) -> Float[Tensor, "b c h w"]:
        """The images of latents, not clipped."""
        image: Tensor = self.decoder(z)
        return image


class VQ(Autoencoder):
    """An autoencoder whose latents are vectors of a codebook (van den Oord et al. 2017).

    `latent` channels, `codes` vectors, of which each is a running mean over about 1/(1 − decay) batches; the other
    settings are those of `ebb.networks.convolutional.Pyramid`. `codebook.learn` moves the codes, nothing else does, and
    until its first call they are all 0.
    """

    def __init__(
        self,
        channels: int,
        *,
        latent: int = 4,
        codes: int = 512,
        decay: float = 0.99,
        width: int = 64,
        multipliers: Sequence[int] = (1, 2),
        depth: int = 2,
        patch: int = 2,
        residual: bool = False,
    ) -> None:
        super().__init__()
        size = Pyramid(width, tuple(multipliers), depth, patch, residual)
        self.settings = {"channels": channels, "latent": latent, "codes": codes, "decay": decay, **vars(size)}
        self.encoder, self.decoder = built(channels, latent, latent, size)
        self.codebook = Codebook(codes, latent, decay)
        self.channels, self.latent, self.factor = channels, latent, self.encoder.factor

    def encode(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b k h2 w2"]:
        """The code nearest to what the encoder says, at each place."""
        latents: Tensor = self.codebook(self.encoder(x).float())[0]
        return latents

    def decode(self, z: Float[Tensor, "b k h2 w2"]) -> Float[Tensor, "b c h w"]:
        """The images of the codes nearest to these latents (a decoder knows nothing else), not clipped."""
        image: Tensor = self.decoder(self.codebook(z)[0])
        return image


def built(channels: int, out: int, latent: int, size: Pyramid) -> tuple[Encoder, Decoder]:
    """The two networks of an autoencoder, their weights laid out as the fast kernels want them."""
    encoder, decoder = Encoder(channels, out, size), Decoder(latent, channels, size)
    for network in (encoder, decoder):
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return encoder, decoder


AUTOENCODERS: dict[str, type[Autoencoder]] = {"kl": KL, "vq": VQ}
