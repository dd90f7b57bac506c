"""Words that a finished model did not know, as an addition: textual inversion, with rows no longer than its own.

A new word is a row of the table of pieces and nothing else (Gal et al. 2022, § 4): what is drawn for texts without it
stays to the bit. A row that grows without end drowns the other words of a text, so its norm is bounded by the longest
row of the table.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from ebb.adapt.addition import innermost
from ebb.adapt.table_rows import TableRows
from ebb.errors import UsageError
from ebb.networks.embedder import Embedder
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


class NewWords(TableRows):
    """`count` words after the pieces that a network knows."""

    def __init__(self, denoiser: NetworkDenoiser, count: int) -> None:
        weight = pieces_of(denoiser).weight
        super().__init__(WordRows(weight, count).to(weight.device))

    def table(self, denoiser: NetworkDenoiser) -> nn.Embedding:
        """That of pieces."""
        return pieces_of(denoiser)

    def counted(self, embedder: Embedder, count: int) -> None:
        """All are pieces."""
        for name, port in embedder.ports.items():
            if isinstance(port, PiecesPort):
                embedder.ports[name] = embedder.others[name] = replace(port, vocabulary=count)

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
