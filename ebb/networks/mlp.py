"""A residual MLP for points in the plane and other data without a spatial axis."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from ebb.errors import UsageError
from ebb.networks.blocks import answering, zeroed
from ebb.networks.embedder import Embedder
from ebb.networks.ports import NO_PORTS, Ports
from ebb.shapes import Float


class MLP(nn.Module):
    """x [b, channels], time [b], cond → [b, channels]: `depth` residual layers, scaled and shifted by the embedding.

    Outputs start at 0.
    """

    def __init__(
        self, channels: int, *, width: int = 128, depth: int = 3, ports: Ports = NO_PORTS, answers: int = 1
    ) -> None:
        super().__init__()
        self.embedding = Embedder(width, ports)
        if self.embedding.length or self.embedding.beside:
            raise UsageError("an MLP attends to no text and has no places", "give ports of classes and vectors")
        own = {"channels": channels, "width": width, "depth": depth}
        self.settings: dict[str, Any] = own | self.embedding.settings | answering(answers)
        self.stem = nn.Linear(channels, width)
        self.film = nn.ModuleList(nn.Linear(width, 2 * width) for _ in range(depth))
        self.layers = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))
        self.out = zeroed(nn.Linear(width, answers * channels))

    def forward(
        self, x: Float[Tensor, "b c"], time: Float[Tensor, "b"], cond: Mapping[str, Tensor]
    ) -> Float[Tensor, "b k"]:
        """The network's output."""
        h, vector = self.stem(x), self.embedding(time, cond).vector
        for film, layer in zip(self.film, self.layers, strict=True):
            scale, shift = film(vector).chunk(2, -1)
            h = h + layer(F.silu(torch.addcmul(shift, F.layer_norm(h, h.shape[-1:]), 1 + scale)))
        out: Tensor = self.out(F.silu(F.layer_norm(h, h.shape[-1:])))
        return out
