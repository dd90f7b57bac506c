"""Several adapters as one: the factors of each layer's changes one after another, whose product is their sum.

    Σ wᵢ·sᵢ·Bᵢ·Aᵢ = B·A  with  B = [w₁·s₁·B₁ … wₙ·sₙ·Bₙ]  and  A = [A₁; …; Aₙ]

The rank is the sum of theirs and nothing is lost. A mean of the factors, (Σ √wᵢ·Bᵢ)·(Σ √wᵢ·Aᵢ), has products of every
Bᵢ with every Aⱼ besides, which nobody trained.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations

import torch
from torch import Tensor

from ebb.adapt.adapter import Adapter
from ebb.adapt.low_rank import LowRank, LowRankDirection
from ebb.errors import UsageError


@dataclass(frozen=True, eq=False)
class Summand:
    """An adapter, and how much of it: 1 as it was trained, 0 nothing."""

    adapter: Adapter
    amount: float = 1.0

    def change(self, layer: str) -> Tensor | None:
        """amount · s·B·A of a layer; None where it changes nothing there."""
        own = self.adapter.changes.get(layer)
        return None if own is None or self.amount == 0 else self.amount * own.change().detach()


def stacked(parts: Sequence[Summand], name: str) -> Adapter:
    """The adapter whose changes are the weighed sums of those of several; one with an amount of 1 is itself.

    Raises UsageError for adapters that were learnt on different weights, shapes of a layer that differ, amounts that
    leave nothing, and a direction (dora) by another amount than 1 or on a layer with another, which is no sum.
    """
    some = [part for part in parts if part.amount != 0]
    if not some:
        raise UsageError("nothing of these adapters is asked for", "give one of them an amount above 0: ADAPTER:0.7")
    bases = {part.adapter.base: part.adapter.name for part in some if part.adapter.base}
    if len(bases) > 1:
        one, other = list(bases.values())[:2]
        raise UsageError(f"{one} and {other} were learnt on other weights", "join adapters of one run")
    layers = dict.fromkeys(layer for part in some for layer in part.adapter.changes)
    changes = {layer: joint(layer, [part for part in some if layer in part.adapter.changes]) for layer in layers}
    return Adapter(name, changes, next(iter(bases), ""), some[0].adapter.component)


def joint(layer: str, parts: Sequence[Summand]) -> LowRank:
    """The change of a layer that is the sum of some."""
    changes = [part.adapter.changes[layer] for part in parts]
    if len(changes) == 1 and parts[0].amount == 1:
        return changes[0]
    if any(isinstance(change, LowRankDirection) for change in changes):
        raise UsageError(
            f"one of the adapters changes the direction of {layer} (dora), which adds up with nothing",
            "join those that are lora; by 1, and where no other changes its layers, it is itself",
        )
    if len({change.shape for change in changes}) > 1:
        shapes = " and ".join(str(list(change.shape)) for change in changes)
        raise UsageError(f"{layer} is {shapes} in these adapters", "join adapters of one network")
    made = LowRank(changes[0].shape, sum(change.rank for change in changes)).requires_grad_(False)
    made.down.data = torch.cat([change.down.data for change in changes])
    made.up.data = torch.cat([part.amount * c.scale * c.up.data for part, c in zip(parts, changes, strict=True)], 1)
    return made


def overlaps(parts: Sequence[Summand]) -> Iterator[tuple[str, str, float]]:
    """Of every two adapters their names and the cosine of their changes: 0 where neither says what the other does."""
    layers = dict.fromkeys(layer for part in parts for layer in part.adapter.changes)
    for one, other in combinations(parts, 2):
        product = squares = against = 0.0
        for layer in layers:
            a, b = one.change(layer), other.change(layer)
            squares += 0.0 if a is None else float(a.square().sum())
            against += 0.0 if b is None else float(b.square().sum())
            product += 0.0 if a is None or b is None else float((a * b).sum())
        yield one.adapter.name, other.adapter.name, product / max((squares * against) ** 0.5, 1e-30)
