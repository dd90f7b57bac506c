"""A diffusion transformer with adaptive layer norm (Peebles & Xie 2023, DiT with adaLN-Zero)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from ebb.errors import UsageError
from ebb.networks.blocks import Attention, Embedding, cropped, padded, patches, rotation, unpatch, zeroed
from ebb.shapes import Float


def modulated(x: Float[Tensor, "b n w"], shift: Tensor, scale: Tensor) -> Float[Tensor, "b n w"]:
    """LN(x)·(1 + scale) + shift, the norm without parameters of its own."""
    return torch.addcmul(shift[:, None], F.layer_norm(x, x.shape[-1:]), 1 + scale[:, None])


class Block(nn.Module):
    """Attention and MLP, each shifted, scaled and gated by the embedding; the gates start at 0 (adaLN-Zero, §3.2)."""

    def __init__(self, width: int, head: int) -> None:
        super().__init__()
        self.modulation = zeroed(nn.Linear(width, 6 * width))
        self.attention = Attention(width, head)
        nn.init.xavier_uniform_(self.attention.out.weight)  # the gate is what starts at 0 here
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(approximate="tanh"), nn.Linear(4 * width, width))

    def forward(self, x: Tensor, embedding: Tensor, turn: Tensor | None) -> Float[Tensor, "b n w"]:
        """x after both branches."""
        shift1, scale1, gate1, shift2, scale2, gate2 = self.modulation(embedding).chunk(6, -1)
        x = x + gate1[:, None] * self.attention(modulated(x, shift1, scale1), turn)
        out: Tensor = x + gate2[:, None] * self.mlp(modulated(x, shift2, scale2))
        return out


class DiT(nn.Module):
    """x [b, channels, *size], time [b], cond → [b, channels, *size]: a transformer over patches, in any dimension.

    positions "rope" turns queries and keys by place and takes any size; "learned" adds a table made for `size`.
    Outputs start at 0.
    """

    def __init__(
        self,
        channels: int,
        *,
        width: int = 192,
        depth: int = 6,
        patch: int = 4,
        head: int = 64,
        positions: Literal["rope", "learned"] = "rope",
        size: Sequence[int] = (),
        classes: int = 0,
        dims: int = 2,
    ) -> None:
        super().__init__()
        if positions == "learned" and len(size) != dims:
            raise UsageError(f"learned positions need the size they are learned for, one number per {dims} axes")
        self.settings: dict[str, Any] = {
            "channels": channels,
            "width": width,
            "depth": depth,
            "patch": patch,
            "head": head,
            "positions": positions,
            "size": tuple(size),
            "classes": classes,
            "dims": dims,
        }
        self.patch, self.positions, self.grid = patch, positions, tuple(-(-length // patch) for length in size)
        inside, tokens = channels * patch**dims, int(torch.tensor(self.grid).prod())
        self.embedding = Embedding(width, classes)
        self.stem = nn.Linear(inside, width)
        self.places = nn.Parameter(0.02 * torch.randn(1, tokens, width)) if positions == "learned" else None
        self.blocks = nn.ModuleList(Block(width, head) for _ in range(depth))
        self.modulation = zeroed(nn.Linear(width, 2 * width))
        self.out = zeroed(nn.Linear(width, inside))

    def forward(
        self, x: Float[Tensor, "b c *size"], time: Float[Tensor, "b"], cond: Mapping[str, Tensor]
    ) -> Float[Tensor, "b c *size"]:
        """The network's output, of the input's size; UsageError for a size that learned positions do not cover."""
        size, embedding = x.shape[2:], F.silu(self.embedding(time, cond))
        cut = patches(padded(x, self.patch), self.patch)
        grid = cut.shape[2:]
        h, turn = self.stem(cut.flatten(2).transpose(1, 2)), None
        if self.places is None:
            block = self.blocks[0].attention if len(self.blocks) else None
            turn = rotation(grid, h.shape[-1] // block.heads, h.device) if isinstance(block, Attention) else None
        elif tuple(grid) == self.grid:
            h = h + self.places
        else:
            raise UsageError(f"positions were learned for {self.grid} patches, got {tuple(grid)}", "use positions=rope")
        for layer in self.blocks:
            h = layer(h, embedding, turn)
        shift, scale = self.modulation(embedding).chunk(2, -1)
        out = self.out(modulated(h, shift, scale)).transpose(1, 2).reshape(cut.shape)
        return cropped(unpatch(out, self.patch), size)
