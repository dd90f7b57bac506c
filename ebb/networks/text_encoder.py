"""A text as rows to attend to: pieces read by a small transformer, or ready states of a frozen encoder."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from ebb.networks.attention import Attention
from ebb.shapes import Float, Int


class TextRows(NamedTuple):
    """`rows` [b, 1 + n, w], normalised; which of them are `seen`, bool [b, 1 + n]; all in one vector, `pooled` [b, w].

    The first row is the network's own and always seen: where nothing is said, it alone speaks.
    """

    rows: Tensor
    seen: Tensor
    pooled: Tensor


NEAR = 4
"""Pieces on either side that are heard without attention: "a small red circle at the top left" is that long."""


class Neighbours(nn.Module):
    """Every row hears those within NEAR of it: a convolution of each number along the text.

    Which adjective belongs to which noun is told by what is near. Attention has to learn first what near is; with a
    short convolution before it, it needs not (as in Allen-Zhu 2025, "Canon layers").
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.mix = nn.Conv1d(width, width, 2 * NEAR + 1, padding=NEAR, groups=width)

    def forward(self, x: Float[Tensor, "b n w"], seen: Tensor) -> Float[Tensor, "b n w"]:
        """What each row hears; those that are not seen say nothing."""
        out: Tensor = self.mix((x * seen[..., None]).mT).mT
        return out


class TextBlock(nn.Module):
    """Neighbours, then attention among the rows that are seen, then an MLP, each of its input normalised and added to
    it."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.neighbours = Neighbours(width)
        self.attention = Attention(width)
        nn.init.xavier_uniform_(self.attention.out.weight)  # so that the first row hears the pieces from the start
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(approximate="tanh"), nn.Linear(4 * width, width))

    def forward(self, x: Float[Tensor, "b n w"], seen: Tensor) -> Float[Tensor, "b n w"]:
        """x after both branches."""
        x = x + self.neighbours(F.layer_norm(x, x.shape[-1:]), seen)
        x = x + self.attention(F.layer_norm(x, x.shape[-1:]), seen=seen)
        out: Tensor = x + self.mlp(F.layer_norm(x, x.shape[-1:]))
        return out


class TextEncoder(nn.Module):
    """Ids of pieces [b, n ≤ length], 0 for padding → `TextRows`: a transformer in which all pieces see each other.

    Places are learned; the first is that of the row put before the pieces, whose output is the pooled text.
    """

    def __init__(self, vocabulary: int, length: int, width: int, depth: int = 2) -> None:
        super().__init__()
        self.pieces = nn.Embedding(vocabulary, width)
        nn.init.normal_(self.pieces.weight, std=0.02)  # of one size with the places, so that order is heard at once
        self.places = nn.Parameter(0.02 * torch.randn(1, 1 + length, width))
        self.blocks = nn.ModuleList(TextBlock(width) for _ in range(depth))

    def forward(self, ids: Int[Tensor, "b n"]) -> TextRows:
        """The text; padding after it changes nothing."""
        seen = F.pad(ids != 0, (1, 0), value=True)
        x = F.pad(self.pieces(ids), (0, 0, 1, 0)) + self.places[:, : seen.shape[1]]
        for block in self.blocks:
            x = block(x, seen)
        rows = F.layer_norm(x, x.shape[-1:])
        return TextRows(rows, seen, rows[:, 0])


class TextStates(nn.Module):
    """States of a frozen encoder [b, n, states], rows of 0 for padding → `TextRows`: a linear map, a learned row first.

    They know their neighbours already; pooled is the mean of the rows that are seen.
    """

    def __init__(self, states: int, width: int) -> None:
        super().__init__()
        self.inside = nn.Linear(states, width)
        self.first = nn.Parameter(0.02 * torch.randn(1, 1, width))

    def forward(self, states: Float[Tensor, "b n s"]) -> TextRows:
        """The text; padding after it changes nothing."""
        seen = F.pad((states != 0).any(-1), (1, 0), value=True)
        x = self.inside(states.to(self.first.dtype))
        x = torch.cat([self.first.expand(x.shape[0], -1, -1), x], 1)
        rows = F.layer_norm(x, x.shape[-1:])
        weight = seen[..., None].to(rows.dtype)
        return TextRows(rows, seen, (weight * rows).sum(1) / weight.sum(1))
