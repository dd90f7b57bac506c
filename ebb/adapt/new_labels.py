"""Labels that a finished model did not know, as an addition: a row for each in its table of vectors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from ebb.adapt.addition import Addition
from ebb.adapt.new_shares import embedder_of, network_of
from ebb.errors import UsageError
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


class NewLabels(Addition):
    """`count` labels after those that a network knows; at first each is as if none were asked for."""

    def __init__(self, denoiser: NetworkDenoiser, count: int) -> None:
        super().__init__()
        table = table_of(denoiser)
        self.more = MoreRows(table.weight[-1:], count).to(table.weight.device)

    @property
    def settings(self) -> Mapping[str, Any]:
        """How many."""
        return {"count": len(self.more.rows)}

    def attach(self, denoiser: NetworkDenoiser, name: str, amount: float = 1.0) -> None:
        """As a parametrization of the table, after those that are on it."""
        self.more.addition, self.more.amount = name, amount
        parametrize.register_parametrization(table_of(denoiser), "weight", self.more, unsafe=True)

    def detach(self, denoiser: NetworkDenoiser, name: str) -> None:
        """The table is as it was, with what others have put on it."""
        table = table_of(denoiser)
        rest = [rows for rows in table.parametrizations.weight if rows.addition != name]  # type: ignore[union-attr]
        parametrize.remove_parametrizations(table, "weight", leave_parametrized=False)
        for rows in rest:
            parametrize.register_parametrization(table, "weight", rows, unsafe=True)

    def bake(self, denoiser: NetworkDenoiser) -> None:
        """With all other labels that are on; the network was built for them then."""
        table, embedder = table_of(denoiser), embedder_of(denoiser)
        if parametrize.is_parametrized(table, "weight"):
            parametrize.remove_parametrizations(table, "weight", leave_parametrized=True)
        table.num_embeddings = len(table.weight)
        embedder.ports["label"] = embedder.others["label"] = ClassPort(len(table.weight) - 1)
        network_of(denoiser).settings |= embedder.settings

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
