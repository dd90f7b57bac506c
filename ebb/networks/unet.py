"""A U-Net for data with any number of spatial dimensions (Ronneberger et al. 2015; Ho et al. 2020, appendix B)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from ebb.errors import UsageError
from ebb.networks.blocks import CONVOLUTIONS, Attention, Embedding, cropped, padded, patches, unpatch, zeroed
from ebb.shapes import Float


class Residual(nn.Module):
    """x + conv(SiLU(FiLM(GN(conv(SiLU(GN(x))))))): time and label scale and shift the second normalisation (AdaGN,
    Dhariwal & Nichol 2021, eq. 3). The last convolution starts at 0, so the block starts as the identity."""

    def __init__(self, dims: int, inside: int, width: int, embedding: int) -> None:
        super().__init__()
        conv = CONVOLUTIONS[dims]
        self.norm1 = nn.GroupNorm(groups(inside), inside)
        self.conv1 = conv(inside, width, 3, padding=1)
        self.film = nn.Linear(embedding, 2 * width)
        self.norm2 = nn.GroupNorm(groups(width), width)
        self.conv2 = zeroed(conv(width, width, 3, padding=1))
        self.skip = conv(inside, width, 1) if inside != width else nn.Identity()

    def forward(self, x: Float[Tensor, "b c *size"], embedding: Float[Tensor, "b e"]) -> Float[Tensor, "b w *size"]:
        """The block's output, of the same size."""
        h = self.conv1(F.silu(self.norm1(x)))
        scale, shift = self.film(embedding)[(...,) + (None,) * (x.ndim - 2)].chunk(2, 1)
        h = self.conv2(F.silu(torch.addcmul(shift, self.norm2(h), 1 + scale)))
        out: Tensor = self.skip(x) + h
        return out


def groups(width: int) -> int:
    """Groups of 16 channels, the best number in Wu & He 2018, table 3; where 16 does not divide the width, up to 8.

    16 is also what a vector register of a CPU holds: groups of 8 or 12 channels take it up to ten times as long.
    """
    return width // 16 if width % 16 == 0 else math.gcd(width, 8)


class SelfAttention(nn.Module):
    """Attention among all places of a feature map, added to it."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(groups(width), width)
        self.attention = Attention(width)

    def forward(self, x: Float[Tensor, "b w *size"], embedding: Tensor) -> Float[Tensor, "b w *size"]:
        """x + attention(GN(x)); the embedding is not used."""
        tokens = self.norm(x).flatten(2).transpose(1, 2)
        mixed: Tensor = self.attention(tokens)
        return x + mixed.transpose(1, 2).reshape(x.shape)


class UNet(nn.Module):
    """x [b, channels, *size], time [b], cond → [b, channels, *size], for any size: it pads and crops inside.

    Level i works at 1/(patch·2^i) of the resolution with width·multipliers[i] channels and `depth` residual blocks on
    the way down and as many on the way up; levels listed in `attention` attend after each block. `patch` > 1 moves
    patch^dims blocks into the channels first, which trades detail for speed at high resolution. Outputs start at 0.
    """

    def __init__(
        self,
        channels: int,
        *,
        width: int = 64,
        multipliers: Sequence[int] = (1, 2),
        depth: int = 2,
        patch: int = 1,
        attention: Sequence[int] = (),
        classes: int = 0,
        dims: int = 2,
    ) -> None:
        super().__init__()
        if dims not in CONVOLUTIONS:
            raise UsageError(f"a U-Net has 1, 2 or 3 spatial dimensions, got {dims}")
        if any(not 0 <= level < len(multipliers) for level in attention):
            raise UsageError(f"attention levels go from 0 to {len(multipliers) - 1}, got {tuple(attention)}")
        self.settings: dict[str, Any] = {
            "channels": channels,
            "width": width,
            "multipliers": tuple(multipliers),
            "depth": depth,
            "patch": patch,
            "attention": tuple(attention),
            "classes": classes,
            "dims": dims,
        }
        conv, inside, e = CONVOLUTIONS[dims], channels * patch**dims, 2 * width
        widths = [width * m for m in multipliers]
        self.patch, self.multiple = patch, patch * 2 ** (len(widths) - 1)
        self.embedding = Embedding(e, classes)
        self.stem = conv(inside, widths[0], 3, padding=1)
        self.down, self.up = nn.ModuleList(), nn.ModuleList()

        def level(entries: Sequence[int], w: int, attend: bool) -> nn.ModuleList:
            rows = [[Residual(dims, entry, w, e), *([SelfAttention(w)] if attend else [])] for entry in entries]
            return nn.ModuleList(nn.ModuleList(row) for row in rows)

        for i, w in enumerate(widths):
            self.down.append(level([w] * depth, w, i in attention))
            self.up.append(level([2 * w] * depth, w, i in attention))
        self.shrink = nn.ModuleList(conv(a, b, 3, stride=2, padding=1) for a, b in pairwise(widths))
        self.grow = nn.ModuleList(conv(b, a, 1) for a, b in pairwise(widths))
        self.norm = nn.GroupNorm(groups(widths[0]), widths[0])
        self.out = zeroed(conv(widths[0], inside, 3, padding=1))

    def forward(
        self, x: Float[Tensor, "b c *size"], time: Float[Tensor, "b"], cond: Mapping[str, Tensor]
    ) -> Float[Tensor, "b c *size"]:
        """The network's output, of the input's size."""
        size, embedding = x.shape[2:], F.silu(self.embedding(time, cond))
        h = patches(padded(x, self.multiple), self.patch)
        h = self.stem(h.contiguous(memory_format=torch.channels_last) if h.ndim == 4 else h)
        skips = []
        for i, blocks in enumerate(self.down):
            if i > 0:
                h = self.shrink[i - 1](h)
            for block in blocks.children():
                for layer in block.children():
                    h = layer(h, embedding)
                skips.append(h)
        for i in reversed(range(len(self.up))):
            for block in self.up[i].children():
                h = torch.cat([h, skips.pop()], 1)
                for layer in block.children():
                    h = layer(h, embedding)
            if i > 0:
                h = F.interpolate(self.grow[i - 1](h), scale_factor=2.0, mode="nearest")
        out: Tensor = self.out(F.silu(self.norm(h)))
        return cropped(unpatch(out, self.patch), size)
