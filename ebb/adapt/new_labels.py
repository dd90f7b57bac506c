"""Labels that a finished model did not know, as an addition: a row for each in its table of vectors."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ebb.adapt.new_shares import embedder_of
from ebb.adapt.table_rows import TableRows
from ebb.errors import UsageError
from ebb.networks.embedder import Embedder
from ebb.networks.ports import ClassEmbedding, ClassPort
from ebb.process.denoiser import NetworkDenoiser


class MoreRows(nn.Module):
    """More rows in a table whose last row says nothing, before that one: [n + 1, w] → [n + k + 1, w].

    By an `amount` below 1 they are as far from the last row, where they begin.
    """

    def __init__(self, null: Tensor, count: int) -> None:
        super().__init__()
        self.rows = nn.Parameter(null.detach().expand(count, -1).clone())
        self.addition, self.amount = "", 1.0

    def forward(self, table: Tensor) -> Tensor:
        """The table with the rows."""
        null = table[-1:]
        rows = self.rows if self.amount == 1 else null + self.amount * (self.rows - null)
        return torch.cat((table[:-1], rows.to(table.dtype), null))


class NewLabels(TableRows):
    """`count` labels after those that a network knows; at first each is as if none were asked for."""

    def __init__(self, denoiser: NetworkDenoiser, count: int) -> None:
        weight = table_of(denoiser).weight
        super().__init__(MoreRows(weight[-1:], count).to(weight.device))

    def table(self, denoiser: NetworkDenoiser) -> nn.Embedding:
        """That of labels."""
        return table_of(denoiser)

    def counted(self, embedder: Embedder, count: int) -> None:
        """All but the last are labels."""
        embedder.ports["label"] = embedder.others["label"] = ClassPort(count - 1)

    def __str__(self) -> str:
        count = len(self.more.rows)
        return f"{count} new label{'s' * (count > 1)}"


def table_of(denoiser: NetworkDenoiser) -> nn.Embedding:
    """The table of a network's labels; UsageError for one that hears none."""
    embedder = embedder_of(denoiser)
    if "label" in embedder.others:
        layer = embedder.layers[list(embedder.others).index("label")]
        if isinstance(layer, ClassEmbedding):
            return layer.table
    raise UsageError("this model hears no labels, so none can be added", "leave --label out")
