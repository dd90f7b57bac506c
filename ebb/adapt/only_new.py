"""Changes of weights that reach what is new alone, as an addition: all else is drawn as before, to the bit.

A thin change of a network's weights moves its answers for everything that can be asked for, although only what is new
was to be learnt. So a batch is taken apart: samples asked for by a new label, or by a text with a new word, are
answered by the network with the change, all others by the network without it. Each is answered once, so that it costs
nothing; no samples of the network have to be learnt beside what is new, and nothing drifts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from ebb.adapt.addition import Addition, Around, innermost, unwrap
from ebb.adapt.low_rank import LowRank
from ebb.adapt.new_shares import embedder_of
from ebb.errors import UsageError
from ebb.networks.embedder import Embedder
from ebb.networks.ports import ClassEmbedding, ClassPort, PiecesPort
from ebb.networks.text_encoder import TextEncoder
from ebb.process.denoiser import NetworkDenoiser


class Switched(Around):
    """A network whose changes called `adapter` are on for samples that are asked for by the `new` numbers of a port,
    and off for the others."""

    def __init__(self, within: nn.Module, adapter: str, new: Mapping[str, range]) -> None:
        super().__init__(within)
        self.adapter, self.new = adapter, dict(new)

    def forward(self, x: Tensor, time: Tensor, cond: Mapping[str, Tensor]) -> Tensor:
        """The network's output."""
        asked = self.asked(cond, x)
        if bool(asked.all()):
            return self.answer(x, time, cond)
        with self.off():
            if not bool(asked.any()):
                return self.answer(x, time, cond)
            others = self.answer(*part(~asked, x, time, cond))
        own = self.answer(*part(asked, x, time, cond))
        places = torch.cat((asked.nonzero(), (~asked).nonzero())).squeeze(1)
        return torch.cat((own, others))[places.argsort()]

    def answer(self, x: Tensor, time: Tensor, cond: Mapping[str, Tensor]) -> Tensor:
        """What is inside says."""
        out: Tensor = self.within(x, time, cond)
        return out

    def asked(self, cond: Mapping[str, Tensor], x: Tensor) -> Tensor:
        """Which samples are asked for by what is new, bool [b]."""
        found = torch.zeros(len(x), dtype=torch.bool, device=x.device)
        for port, new in self.new.items():
            if port in cond:
                numbers = cond[port].reshape(len(x), -1)
                found |= ((numbers >= new.start) & (numbers < new.stop)).any(1)
        return found

    @contextmanager
    def off(self) -> Iterator[None]:
        """The changes are off while it lasts."""
        changes = [
            (part, part.amount)
            for part in innermost(self).modules()
            if isinstance(part, LowRank) and part.adapter == self.adapter
        ]
        try:
            for change, _ in changes:
                change.amount = 0.0
            yield
        finally:
            for change, amount in changes:
                change.amount = amount


class OnlyNew(Addition):
    """What is put on beside new labels, or new words, by the same name: changes of weights are for these alone."""

    def __init__(self, denoiser: NetworkDenoiser) -> None:
        super().__init__()

    @property
    def settings(self) -> Mapping[str, Any]:
        """None: what is new says the rest."""
        return {}

    def attach(self, denoiser: NetworkDenoiser, name: str, amount: float = 1.0) -> None:
        """Around the network. Raises UsageError where nothing of that name is new."""
        new = {port: numbers for port, numbers in brought(embedder_of(denoiser), name) if numbers}
        if not new:
            raise UsageError("no label and no word is new that changes could be for alone", "--reach all")
        denoiser.network = Switched(denoiser.network, name, new)

    def detach(self, denoiser: NetworkDenoiser, name: str) -> None:
        """The network as it was inside."""
        unwrap(denoiser, lambda one: isinstance(one, Switched) and one.adapter == name)

    def bake(self, denoiser: NetworkDenoiser) -> None:
        """UsageError: weights are for all that can be asked for."""
        raise UsageError(
            "changes that reach what is new alone cannot become a network's weights, which are for all",
            "keep them apart (ebb sample RUN --adapter), or learn them for all: ebb adapt … --reach all",
        )

    def __str__(self) -> str:
        return "for what is new alone"


def part(
    which: Tensor, x: Tensor, time: Tensor, cond: Mapping[str, Tensor]
) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """Some samples of a batch."""
    return x[which], time[which], {name: value[which] for name, value in cond.items()}


def brought(embedder: Embedder, name: str) -> Iterator[tuple[str, range]]:
    """The numbers of the labels and words that were added under a name, by the port that hears them."""
    for (port, kind), layer in zip(embedder.others.items(), embedder.layers, strict=True):
        if isinstance(kind, ClassPort) and isinstance(layer, ClassEmbedding):
            yield port, rows_of(layer.table, name, silent=1)
        if isinstance(kind, PiecesPort):
            yield from ((port, rows_of(part.pieces, name)) for part in layer.modules() if isinstance(part, TextEncoder))


def rows_of(table: nn.Embedding, name: str, silent: int = 0) -> range:
    """The numbers of the rows that were added to a table under a name; the last `silent` rows say nothing."""
    if not is_parametrized(table, "weight"):
        return range(0)
    there: Any = table.parametrizations["weight"]  # type: ignore[index]
    first = len(there.original) - silent
    for more in there:
        if more.addition == name:
            return range(first, first + len(more.rows))
        first += len(more.rows)
    return range(0)
