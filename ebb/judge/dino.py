"""DINOv2: a vision transformer whose features are a better judge of images than Inception's (Stein et al. 2023)."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from ebb.shapes import Float

PATCH, SIDE, HEAD = 14, 224, 64
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of ImageNet's colours, on values of 0…1."""


class DinoBlock(nn.Module):
    """Attention, then a hidden layer; each on normalised input, scaled by a learned γ and added to its input."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width, eps=1e-6), nn.LayerNorm(width, eps=1e-6)
        self.attn = nn.ModuleDict({"qkv": nn.Linear(width, 3 * width), "proj": nn.Linear(width, width)})
        self.mlp = nn.ModuleDict({"fc1": nn.Linear(width, 4 * width), "fc2": nn.Linear(4 * width, width)})
        self.ls1, self.ls2 = (nn.ParameterDict({"gamma": torch.zeros(width)}) for _ in range(2))

    def forward(self, x: Float[Tensor, "b n d"]) -> Float[Tensor, "b n d"]:
        """The block's output."""
        parts = self.attn["qkv"](self.norm1(x)).unflatten(-1, (3, -1, HEAD)).permute(2, 0, 3, 1, 4)
        seen = F.scaled_dot_product_attention(*parts).transpose(1, 2).flatten(2)
        x = x + self.ls1["gamma"] * self.attn["proj"](seen)
        hidden = F.gelu(self.mlp["fc1"](self.norm2(x)))
        found: Tensor = x + self.ls2["gamma"] * self.mlp["fc2"](hidden)
        return found


def _bicubic(size: int) -> Tensor:
    """Weights [SIDE, size] of Pillow's bicubic filter along one axis, in whole units of 2⁻²², float64.

    Cubic convolution with a = −½ (Keys 1981), as wide as a pixel of the output where an image gets smaller.
    """
    centres = (torch.arange(SIDE, dtype=torch.float64) + 0.5) * (size / SIDE)
    far = (torch.arange(size) + 0.5 - centres[:, None]).abs() / max(size / SIDE, 1)
    near, wing = ((1.5 * far - 2.5) * far) * far + 1, ((2.5 - 0.5 * far) * far - 4) * far + 2
    weights = torch.where(far < 1, near, torch.where(far < 2, wing, 0))
    whole = weights / weights.sum(dim=1, keepdim=True) * 2**22
    return (whole.abs() + 0.5).floor() * whole.sign()


def resize(levels: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c y x"]:
    """Bicubic with antialiasing to 224×224 of whole values 0…255, rounded to 8 bits after each axis, rows first.

    The same as Pillow's to the last bit: the reference resizes 8-bit images by Pillow.
    """
    x = levels.double()
    for axis in (-1, -2):
        x = x.transpose(axis, -1) @ _bicubic(x.shape[axis]).to(x.device).T  # whole numbers below 2⁵³: exact
        x = (x / 2**22 + 0.5).floor().clamp(0, 255).transpose(axis, -1)
    return x.to(levels.dtype)


class Dino(nn.Module):
    """The class token of a DINOv2 ViT after its last norm (Oquab et al. 2023), as many features as it is wide.

    Images are resized to 224×224 from any size or shape. Names of tensors are those of the published weights, of
    patches of 14 and heads of 64: ViT-S, B and L, with register tokens (Darcet et al. 2023) or without.
    """

    unused = ("mask_token",)
    """beginnings of names that a weights file may hold besides"""

    def __init__(self, width: int, depth: int, grid: int = 37, registers: int = 0) -> None:
        super().__init__()
        self.dimension, self.grid = width, grid
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + grid**2, width))
        self.register_tokens = nn.Parameter(torch.zeros(1, registers, width)) if registers else None
        self.patch_embed = nn.ModuleDict({"proj": nn.Conv2d(3, width, PATCH, PATCH)})
        self.blocks = nn.ModuleList([DinoBlock(width) for _ in range(depth)])
        self.norm = nn.LayerNorm(width, eps=1e-6)

    @classmethod
    def like(cls, tensors: Mapping[str, Tensor]) -> Dino:
        """A network of the size of these weights; where they are of no known kind, ViT-S, which they will not fit."""
        positions = tensors.get("pos_embed", torch.empty(0))
        blocks = [re.match(r"blocks\.(\d+)\.", name) for name in tensors]
        depth = 1 + max((int(block[1]) for block in blocks if block), default=-1)
        if positions.ndim != 3 or positions.shape[1] < 2 or positions.shape[2] % HEAD or not depth:
            return cls(384, 12)
        registers = tensors["register_tokens"].shape[1:2] if "register_tokens" in tensors else (0,)
        return cls(positions.shape[2], depth, math.isqrt(positions.shape[1] - 1), *registers)

    def _positions(self) -> Float[Tensor, "b n d"]:
        """Learned positions on the 16×16 grid of 224×224, interpolated as the published networks do it.

        Those without registers tell bicubic interpolation a scale of (16 + 0.1) / grid, a kludge that moves samples by
        up to 0.2 of a patch and is part of what they compute; those with registers give the size, and antialias.
        """
        side, grid = SIDE // PATCH, self.grid
        places = self.pos_embed[:, 1:].transpose(1, 2).reshape(1, -1, grid, grid)
        if self.register_tokens is not None:
            places = F.interpolate(places, (side, side), mode="bicubic", antialias=True)
        elif grid != side:
            places = F.interpolate(places, scale_factor=((side + 0.1) / grid,) * 2, mode="bicubic")
        return places.flatten(2).transpose(1, 2)

    def forward(self, levels: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b d"]:
        """The features of images with values 0…255, of any size."""
        mean, deviation = (levels.new_tensor(x)[:, None, None] for x in (MEAN, DEVIATION))
        patches = self.patch_embed["proj"]((resize(levels) / 255 - mean) / deviation).flatten(2).transpose(1, 2)
        tokens = [self.cls_token + self.pos_embed[:, :1]]
        if self.register_tokens is not None:
            tokens.append(self.register_tokens)
        x = torch.cat([*(token.expand(len(levels), -1, -1) for token in tokens), patches + self._positions()], dim=1)
        for block in self.blocks:
            x = block(x)
        found: Tensor = self.norm(x[:, 0])
        return found
