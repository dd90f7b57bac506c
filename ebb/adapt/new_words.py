"""Words that a finished model did not know, as an addition: textual inversion, with rows no longer than its own.

A new word is a row of the table of pieces and nothing else (Gal et al. 2022, § 4): what is drawn for texts without it
stays to the bit. A row that grows without end drowns the other words of a text, so its norm is bounded by the longest
row of the table.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from ebb.adapt.addition import Addition, innermost
from ebb.adapt.new_shares import embedder_of, network_of
from ebb.errors import UsageError
from ebb.networks.ports import PiecesPort
from ebb.networks.text_encoder import TextEncoder
from ebb.process.denoiser import NetworkDenoiser


class WordRows(nn.Module):
    """More rows after those of a table, [n, w] → [n + k, w], each of a norm of `bound` at most.

    They begin at the mean of the table's. By an `amount` below 1 they are that much nearer to where they began.
    """

    start: Tensor
    bound: Tensor

    def __init__(self, table: Tensor, count: int) -> None:
        super().__init__()
        own = table.detach()[1:]  # the first is of padding
        self.register_buffer("start", own.mean(0))
        self.register_buffer("bound", own.norm(dim=1).max())
        self.rows = nn.Parameter(own.mean(0).expand(count, -1).clone())
        self.addition, self.amount = "", 1.0

    def bounded(self) -> Tensor:
        """The rows as they are used."""
        inside: Tensor = self.rows * (self.bound / self.rows.norm(dim=1, keepdim=True)).clamp(max=1)
        return inside

    def forward(self, table: Tensor) -> Tensor:
        """The table with the rows."""
        return torch.cat((table, torch.lerp(self.start, self.bounded(), self.amount).to(table.dtype)))


class NewWords(Addition):
    """`count` words after the pieces that a network knows."""

    def __init__(self, denoiser: NetworkDenoiser, count: int) -> None:
        super().__init__()
        table = pieces_of(denoiser)
        self.more = WordRows(table.weight, count).to(table.weight.device)

    @property
    def settings(self) -> Mapping[str, Any]:
        """How many."""
        return {"count": len(self.more.rows)}

    def attach(self, denoiser: NetworkDenoiser, name: str, amount: float = 1.0) -> None:
        """As a parametrization of the table, after those that are on it."""
        self.more.addition, self.more.amount = name, amount
        parametrize.register_parametrization(pieces_of(denoiser), "weight", self.more, unsafe=True)

    def detach(self, denoiser: NetworkDenoiser, name: str) -> None:
        """The table is as it was, with what others have put on it."""
        table = pieces_of(denoiser)
        rest = [rows for rows in table.parametrizations.weight if rows.addition != name]  # type: ignore[union-attr]
        parametrize.remove_parametrizations(table, "weight", leave_parametrized=False)
        for rows in rest:
            parametrize.register_parametrization(table, "weight", rows, unsafe=True)

    def bake(self, denoiser: NetworkDenoiser) -> None:
        """With all other words that are on; the network was built for them then."""
        table, embedder = pieces_of(denoiser), embedder_of(denoiser)
        if parametrize.is_parametrized(table, "weight"):
            parametrize.remove_parametrizations(table, "weight", leave_parametrized=True)
        table.num_embeddings = len(table.weight)
        for name, port in embedder.ports.items():
            if isinstance(port, PiecesPort):
                embedder.ports[name] = embedder.others[name] = replace(port, vocabulary=len(table.weight))
        network_of(denoiser).settings |= embedder.settings

    def __str__(self) -> str:
        count, norm = len(self.more.rows), float(self.more.bounded().detach().norm(dim=1).max())
        return f"{count} new word{'s' * (count > 1)} of norm {norm:.2g}, at most {float(self.more.bound):.2g}"


def pieces_of(denoiser: NetworkDenoiser) -> nn.Embedding:
    """The table of a network's pieces; UsageError for one that has none."""
    for part in innermost(denoiser.network).modules():
        if isinstance(part, TextEncoder):
            return part.pieces
    raise UsageError(
        "this model has no vocabulary of its own, so no word can be added to it",
        "take a run that learnt its words from captions, or give the pictures captions and leave --concept out",
    )
