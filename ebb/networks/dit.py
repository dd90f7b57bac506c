"""A diffusion transformer with adaptive layer norm (Peebles & Xie 2023, DiT with adaLN-Zero)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import Any, Literal

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from ebb.errors import UsageError
from ebb.networks.attention import Attention, CrossAttention, heads_of, rotation
from ebb.networks.blocks import answering, assembled, cut, zeroed
from ebb.networks.embedder import Embedded, Embedder
from ebb.networks.halves import SILENT, Opened, Residuals
from ebb.networks.ports import NO_PORTS, Ports
from ebb.shapes import Float


def modulated(x: Float[Tensor, "b n w"], shift: Tensor, scale: Tensor) -> Float[Tensor, "b n w"]:
    """LN(x)·(1 + scale) + shift, the norm without parameters of its own."""
    return torch.addcmul(shift[:, None], F.layer_norm(x, x.shape[-1:]), 1 + scale[:, None])


def mlp(width: int) -> nn.Sequential:
    """Two linear maps with four times the width between them."""
    return nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(approximate="tanh"), nn.Linear(4 * width, width))


def whole_texts(embedding: Embedder, kind: str) -> Embedder:
    """`embedding`, where it hears no text in concepts; raises UsageError else."""
    if embedding.concepts:
        raise UsageError(f"a {kind} attends to whole texts", "leave --text.concepts out, or take a unet")
    return embedding


class DiTBlock(nn.Module):
    """Attention and MLP, each shifted, scaled and gated by the vector; the gates start at 0 (adaLN-Zero, §3.2).

    With `text` there is attention to its rows between the two, without a gate: its output starts at 0 (Chen et al.
    2023, PixArt-α, §2.3). Its queries are turned too: this is where a patch learns its place on the whole, of which
    turned queries and keys among patches tell differences only.
    """

    def __init__(self, width: int, head: int, text: bool = False) -> None:
        super().__init__()
        self.modulation = zeroed(nn.Linear(width, 6 * width))
        self.attention = Attention(width, head)
        nn.init.xavier_uniform_(self.attention.out.weight)  # the gate is what starts at 0 here
        self.mlp = mlp(width)
        self.cross = CrossAttention(width, width, head) if text else None

    def forward(self, x: Tensor, heard: Embedded, turn: Tensor | None) -> Float[Tensor, "b n w"]:
        """x after all branches."""
        shift1, scale1, gate1, shift2, scale2, gate2 = self.modulation(heard.vector).chunk(6, -1)
        x = x + gate1[:, None] * self.attention(modulated(x, shift1, scale1), turn)
        if self.cross is not None:
            x = x + self.cross(F.layer_norm(x, x.shape[-1:]), heard.rows, heard.seen, turn)
        out: Tensor = x + gate2[:, None] * self.mlp(modulated(x, shift2, scale2))
        return out


class NarrowRows(nn.Module):
    """A linear map to another width, and a block there; beside a block of a transformer whose `vector` is as wide as
    `embedding`."""

    def __init__(self, embedding: int, inside: int, width: int) -> None:
        super().__init__()
        self.entry, self.vector = nn.Linear(inside, width), nn.Linear(embedding, width)
        self.block = DiTBlock(width, width)  # one head

    def forward(self, h: Float[Tensor, "b n c"], opened: Opened) -> Float[Tensor, "b n w"]:
        """Its rows, turned by their place."""
        entered = self.entry(h)
        turn = rotation(opened.grid, entered.shape[-1], h.device)
        heard = opened.heard._replace(vector=F.silu(self.vector(opened.heard.vector)))
        out: Tensor = self.block(entered, heard, turn)
        return out


class Transformer(nn.Module, ABC):
    """Patches as rows, blocks, and rows as patches; what the rows pass through is each transformer's own."""

    settings: dict[str, Any]
    embedding: Embedder
    stem: nn.Linear
    blocks: nn.ModuleList
    modulation: nn.Linear
    out: nn.Linear
    patch: int

    def forward(
        self, x: Float[Tensor, "b c *size"], time: Float[Tensor, "b"], cond: Mapping[str, Tensor]
    ) -> Float[Tensor, "b k *size"]:
        """The network's output, of the input's size; UsageError for a size that learned positions do not cover."""
        return self.answered(self.opened(x, time, cond))

    @property
    def encoder(self) -> tuple[nn.Module, ...]:
        """The first half of the blocks, the greater one where their number is odd."""
        return tuple(self.blocks[: -(-len(self.blocks) // 2)])

    def copied(self) -> tuple[nn.Module, ...]:
        """A copy of the first half."""
        return deepcopy(self.encoder)

    @property
    def widths(self) -> tuple[int, ...]:
        """Of the rows after each block of the first half."""
        return (self.settings["width"],) * len(self.encoder)

    @abstractmethod
    def opened(self, x: Float[Tensor, "b c *size"], time: Float[Tensor, "b"], cond: Mapping[str, Tensor], /) -> Opened:
        """What enters; see `ebb.networks.halves`. UsageError for a size that learned positions do not cover."""

    def arranged(self, values: Float[Tensor, "b c *size"], /) -> Float[Tensor, "b n k"]:
        """A row for each patch."""
        return cut(values, self.patch)[0]

    def entered(self, stem: nn.Module, opened: Opened, /) -> Float[Tensor, "b n w"]:
        """The stem's rows."""
        h: Tensor = stem(opened.rows)
        return h

    @abstractmethod
    def encoded(self, encoder: Sequence[nn.Module], h: Tensor, opened: Opened, residuals: Residuals, /) -> Tensor:
        """The rows after some blocks."""

    def answered(self, opened: Opened, residuals: Residuals = SILENT, /) -> Float[Tensor, "b k *size"]:
        """The network's output."""
        h = self.encoded(tuple(self.blocks), self.entered(self.stem, opened), opened, residuals)
        shift, scale = self.modulation(opened.heard.vector).chunk(2, -1)
        return assembled(self.out(modulated(h, shift, scale)), opened.grid, self.patch, opened.size)

    def layer(self, inside: int, out: int, reach: int = 1) -> nn.Module:
        """A linear map of each row."""
        return nn.Linear(inside, out)

    def narrow(self, block: int, inside: int, width: int) -> nn.Module:
        """A block without text."""
        return NarrowRows(self.settings["width"], inside, width)


class DiT(Transformer):
    """x [b, channels, *size], time [b], cond → [b, channels, *size]: a transformer over patches, in any dimension.

    positions "rope" turns queries and keys by place and takes any size; "learned" adds a table made for `size`.
    What may be said in `cond`: see `ebb.networks.ports`. A text is attended to by every block, and modulates them.
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
        dims: int = 2,
        ports: Ports = NO_PORTS,
        answers: int = 1,
    ) -> None:
        super().__init__()
        if positions == "learned" and len(size) != dims:
            raise UsageError(f"learned positions need the size they are learned for, one number per {dims} axes")
        self.embedding = whole_texts(Embedder(width, ports), "dit")
        self.settings: dict[str, Any] = (
            {
                "channels": channels,
                "width": width,
                "depth": depth,
                "patch": patch,
                "head": head,
                "positions": positions,
                "size": tuple(size),
                "dims": dims,
            }
            | self.embedding.settings
            | answering(answers)
        )
        self.patch, self.turned = patch, width // heads_of(width, head)
        self.positions, self.grid = positions, tuple(-(-n // patch) for n in size)
        tokens = int(torch.tensor(self.grid).prod())
        self.stem = nn.Linear((channels + self.embedding.beside) * patch**dims, width)
        self.places = nn.Parameter(0.02 * torch.randn(1, tokens, width)) if positions == "learned" else None
        self.blocks = nn.ModuleList(DiTBlock(width, head, self.embedding.length > 0) for _ in range(depth))
        self.modulation = zeroed(nn.Linear(width, 2 * width))
        self.out = zeroed(nn.Linear(width, answers * channels * patch**dims))

    def opened(self, x: Float[Tensor, "b c *size"], time: Float[Tensor, "b"], cond: Mapping[str, Tensor], /) -> Opened:
        """What enters; UsageError for a size that learned positions do not cover."""
        heard, (rows, grid) = self.embedding(time, cond), cut(self.embedding.join(x, cond), self.patch)
        if self.places is not None and grid != self.grid:
            raise UsageError(f"positions were learned for {self.grid} patches, got {grid}", "use positions=rope")
        turn = rotation(grid, self.turned, x.device) if self.places is None else None
        return Opened(rows, heard, tuple(x.shape[2:]), grid, turn)

    def entered(self, stem: nn.Module, opened: Opened, /) -> Float[Tensor, "b n w"]:
        """The stem's rows, with learned positions where there are such."""
        h = super().entered(stem, opened)
        return h if self.places is None else h + self.places

    def encoded(self, encoder: Sequence[nn.Module], h: Tensor, opened: Opened, residuals: Residuals, /) -> Tensor:
        """The rows after some blocks."""
        for number, block in enumerate(encoder):
            h = residuals.onward(number, block(h, opened.heard, opened.turn))
            h = residuals.across(number, h)
        return h
