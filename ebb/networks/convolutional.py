"""Convolutional encoder and decoder: images to small maps of numbers and back.

Nothing in them looks at all places at once (no attention; normalisation is of each place alone), so what becomes of a
place depends on its surroundings only: one network serves every size, and a large map can be decoded in tiles.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from ebb.errors import UsageError
from ebb.networks.blocks import patches, unpatch, zeroed
from ebb.shapes import Float, sides


class PlaceNorm(nn.LayerNorm):
    """LayerNorm over the channels of each place (Liu et al. 2022, "A ConvNet for the 2020s", §2.6)."""

    def forward(self, x: Float[Tensor, "b w *size"]) -> Float[Tensor, "b w *size"]:
        """The map with mean 0 and variance 1 at each place, scaled and shifted by channel."""
        return super().forward(x.movedim(1, -1)).movedim(-1, 1)


class ResidualBlock(nn.Module):
    """x + conv(SiLU(norm(conv(SiLU(norm(x)))))); the last convolution starts at 0, so it starts as the identity."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = PlaceNorm(width), nn.Conv2d(width, width, 3, padding=1)
        self.norm2, self.conv2 = PlaceNorm(width), zeroed(nn.Conv2d(width, width, 3, padding=1))

    def forward(self, x: Float[Tensor, "b w *size"]) -> Float[Tensor, "b w *size"]:
        """The block's output, of the same size."""
        h = self.conv1(F.silu(self.norm1(x)))
        out: Tensor = x + self.conv2(F.silu(self.norm2(h)))
        return out


class Shrink(nn.Module):
    """Half the resolution, `width` channels: a convolution of stride 2.

    `residual`: a convolution whose 2×2 blocks move into the channels, added to the same of its input averaged over
    groups of channels (Chen et al. 2024, "Deep compression autoencoder"), so that it learns a difference only.
    """

    def __init__(self, inside: int, width: int, residual: bool) -> None:
        super().__init__()
        if residual and (width % 4 or 4 * inside % width):
            raise UsageError(
                f"a residual step down from {inside} channels cannot have {width}",
                "it needs a multiple of 4 that divides four times the channels above it",
            )
        self.width, self.residual = width, residual
        self.conv = nn.Conv2d(inside, width // 4 if residual else width, 3, stride=1 if residual else 2, padding=1)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b k h2 w2"]:
        """The smaller map."""
        out: Tensor = self.conv(x)
        if not self.residual:
            return out
        return patches(out, 2) + torch.unflatten(patches(x, 2), 1, (self.width, -1)).mean(2)


class Grow(nn.Module):
    """Twice the resolution, `width` channels: a pointwise convolution, each place repeated 2×2.

    `residual`: a convolution whose channels move into 2×2 blocks, added to the same of its input with channels
    repeated, the mirror of `Shrink`.
    """

    def __init__(self, inside: int, width: int, residual: bool) -> None:
        super().__init__()
        if residual and 4 * width % inside:
            raise UsageError(
                f"a residual step up from {inside} channels cannot have {width}",
                "four times as many must be a multiple of the channels below it",
            )
        self.repeats, self.residual = 4 * width // inside, residual
        self.conv = nn.Conv2d(inside, 4 * width, 3, padding=1) if residual else nn.Conv2d(inside, width, 1)

    def forward(self, x: Float[Tensor, "b k h w"]) -> Float[Tensor, "b c h2 w2"]:
        """The larger map."""
        out: Tensor = self.conv(x)
        if not self.residual:
            return F.interpolate(out, scale_factor=2.0, mode="nearest")
        return unpatch(out + x.repeat_interleave(self.repeats, 1), 2)


@dataclass(frozen=True)
class Pyramid:
    """What an encoder and its decoder share: resolution i is 1/(patch·2^i) of that of x and has width·multipliers[i]
    channels and `depth` residual blocks.

    `patch` > 1 moves patch² blocks into the channels first, which trades detail for speed at high resolution;
    `residual` puts shortcuts around the changes of resolution, for high compression. Raises UsageError for none
    at all, and for a patch below 1.
    """

    width: int = 64
    multipliers: tuple[int, ...] = (1, 2)
    depth: int = 2
    patch: int = 1
    residual: bool = False

    def __post_init__(self) -> None:
        if not self.multipliers or self.patch < 1:
            raise UsageError(
                f"expected one or more resolutions and a patch of 1 or more, got {self.multipliers} and {self.patch}"
            )

    @property
    def factor(self) -> int:
        """By how much a side shrinks, patch·2^(resolutions − 1)."""
        factor: int = self.patch * 2 ** (len(self.multipliers) - 1)
        return factor

    @property
    def widths(self) -> list[int]:
        """The channels of each resolution, from the highest."""
        return [self.width * m for m in self.multipliers]

    def blocks(self, widths: Sequence[int]) -> nn.ModuleList:
        """The residual blocks of each of these widths."""
        return nn.ModuleList(nn.Sequential(*(ResidualBlock(w) for _ in range(self.depth))) for w in widths)


def channels_last(x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
    """The same values laid out as the fast kernels want them."""
    return x.contiguous(memory_format=torch.channels_last)


class Encoder(nn.Module):
    """x [b, channels, h, w] → [b, out, h/factor, w/factor]."""

    def __init__(self, channels: int, out: int, size: Pyramid = Pyramid()) -> None:
        super().__init__()
        self.factor, self.patch, widths = size.factor, size.patch, size.widths
        self.stem = nn.Conv2d(channels * size.patch**2, widths[0], 3, padding=1)
        self.levels = size.blocks(widths)
        self.shrink = nn.ModuleList(Shrink(a, b, size.residual) for a, b in pairwise(widths))
        self.norm = PlaceNorm(widths[-1])
        self.out = nn.Conv2d(widths[-1], out, 3, padding=1)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b k h2 w2"]:
        """The map; raises UsageError for a size that the factor does not divide."""
        if any(side % self.factor for side in x.shape[2:]):
            raise UsageError(
                f"this encoder shrinks sides by {self.factor}, and {sides(x.shape[2:])} is no multiple",
                "resize or pad the images, or build it with fewer resolutions",
            )
        h = self.stem(channels_last(patches(x, self.patch)))
        for i, blocks in enumerate(self.levels):
            if i > 0:
                h = self.shrink[i - 1](h)
            h = blocks(h)
        out: Tensor = self.out(F.silu(self.norm(h)))
        return out


class Decoder(nn.Module):
    """z [b, inside, h, w] → [b, channels, h·factor, w·factor]: the resolutions of `Encoder` in reverse."""

    def __init__(self, inside: int, channels: int, size: Pyramid = Pyramid()) -> None:
        super().__init__()
        self.factor, self.patch, widths = size.factor, size.patch, size.widths[::-1]
        self.stem = nn.Conv2d(inside, widths[0], 3, padding=1)
        self.levels = size.blocks(widths)
        self.grow = nn.ModuleList(Grow(a, b, size.residual) for a, b in pairwise(widths))
        self.norm = PlaceNorm(widths[-1])
        self.out = nn.Conv2d(widths[-1], channels * size.patch**2, 3, padding=1)

    def forward(self, z: Float[Tensor, "b k h w"]) -> Float[Tensor, "b c h2 w2"]:
        """The image."""
        h = self.stem(channels_last(z))
        for i, blocks in enumerate(self.levels):
            if i > 0:
                h = self.grow[i - 1](h)
            h = blocks(h)
        return unpatch(self.out(F.silu(self.norm(h))), self.patch)
