"""What new labels and new words have in common: more rows of a table, as a parametrization of it."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any

from torch import nn
from torch.nn.utils import parametrize

from ebb.adapt.addition import Addition
from ebb.adapt.new_shares import embedder_of, network_of
from ebb.networks.embedder import Embedder
from ebb.process.denoiser import NetworkDenoiser


class TableRows(Addition):
    """`more` gives a table more `rows`; it knows whose `addition` it is and by what `amount`.

    A newcomer says which table that is, and how a network says that it has so many.
    """

    def __init__(self, more: nn.Module) -> None:
        super().__init__()
        self.more: Any = more

    @abstractmethod
    def table(self, denoiser: NetworkDenoiser) -> nn.Embedding:
        """The table; UsageError for a network without one."""

    @abstractmethod
    def counted(self, embedder: Embedder, count: int) -> None:
        """Let the ports of a network say that its table has `count` rows."""

    @property
    def settings(self) -> Mapping[str, Any]:
        """How many."""
        return {"count": len(self.more.rows)}

    def attach(self, denoiser: NetworkDenoiser, name: str, amount: float = 1.0) -> None:
        """As a parametrization of the table, after those that are on it."""
        self.more.addition, self.more.amount = name, amount
        parametrize.register_parametrization(self.table(denoiser), "weight", self.more, unsafe=True)

    def detach(self, denoiser: NetworkDenoiser, name: str) -> None:
        """The table is as it was, with what others have put on it."""
        table = self.table(denoiser)
        rest = [rows for rows in table.parametrizations.weight if rows.addition != name]  # type: ignore[union-attr]
        parametrize.remove_parametrizations(table, "weight", leave_parametrized=False)
        for rows in rest:
            parametrize.register_parametrization(table, "weight", rows, unsafe=True)

    def bake(self, denoiser: NetworkDenoiser) -> None:
        """With all other rows that are on; the network was built for them then."""
        table, embedder = self.table(denoiser), embedder_of(denoiser)
        if parametrize.is_parametrized(table, "weight"):
            parametrize.remove_parametrizations(table, "weight", leave_parametrized=True)
        table.num_embeddings = len(table.weight)
        self.counted(embedder, len(table.weight))
        network_of(denoiser).settings |= embedder.settings
