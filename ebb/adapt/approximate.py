"""The adapter of a rank that comes nearest: to what separates two networks, and to another adapter.

What a rank leaves out is known before, of each layer and of all together: the root of the sum of the squares of the
singular values that it has no place for (Eckart & Young 1936).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from ebb.adapt.adapter import Adapter, component_of, fingerprint, layers, own_weights, positive
from ebb.adapt.low_rank import LowRank, LowRankDirection, factors
from ebb.errors import UsageError

RANKS = (1, 2, 4, 8, 16, 32, 64)
"""Ranks of which the error is shown."""


@dataclass(frozen=True, eq=False)
class Approximation:
    """An adapter, the singular values [k] of what it stands for by layer, and what of it no adapter can have: the norm
    of the difference of biases, norms and tables, by name."""

    adapter: Adapter
    values: Mapping[str, Tensor]
    besides: Mapping[str, float]

    def error(self, rank: int) -> float:
        """What a rank leaves out of all layers together, as a share of their change: of norms."""
        every = torch.cat([*self.values.values()]).norm()
        left = torch.cat([values[rank:] for values in self.values.values()]).norm()
        return float(left / every)

    def rows(self, rank: int) -> list[tuple[str, str]]:
        """The error of RANKS up to the first that leaves out nothing, and of the one asked for."""
        most = max(len(values) for values in self.values.values())
        several = sorted({each for each in RANKS if each < most} | {rank, most})
        mark = {rank: "  ← written"}
        return [(f"rank {each}", f"{self.error(each):.3%} left out{mark.get(each, '')}") for each in several]

    def beyond(self) -> float:
        """The share, of norms, of the whole difference that lies where no adapter reaches."""
        inside = math.sqrt(sum(float(values.square().sum()) for values in self.values.values()))
        outside = math.hypot(*self.besides.values())
        return outside / math.hypot(inside, outside)


def extracted(old: nn.Module, new: nn.Module, name: str, rank: int) -> Approximation:
    """The LoRA of a rank that, put on `old`, comes nearest to `new`: two checkpoints of one network.

    Raises UsageError for a rank below 1, networks of other layers, and weights that are equal.
    """
    positive(rank)
    before, after = own_weights(old), own_weights(new)
    alike(before, after)
    known, changes, values = set(layers(old)), dict[str, LowRank](), dict[str, Tensor]()
    besides = dict[str, float]()
    for tensor in before:
        difference = after[tensor].double() - before[tensor].double()
        if not bool(difference.any()):
            continue
        layer = tensor.removesuffix(".weight")
        if layer == tensor or layer not in known:
            besides[tensor] = float(difference.norm())
        else:
            changes[layer], values[layer] = factors(difference, min(rank, len(difference), difference[0].numel()))
    if not changes:
        raise UsageError("the layers of the two are equal to the bit: there is nothing to extract", "name two runs")
    return Approximation(Adapter(name, changes, fingerprint(old), component_of(old)), values, besides)


def resized(adapter: Adapter, rank: int) -> Approximation:
    """The adapter of another rank that comes nearest to it; of a DoRA s·B·A is what is brought near, and its lengths
    stay. A larger rank has columns of zeros. Raises UsageError for a rank below 1."""
    positive(rank)
    changes, values = dict[str, LowRank](), dict[str, Tensor]()
    for layer, change in adapter.changes.items():
        shape = change.shape
        with torch.no_grad():
            near, values[layer] = factors(change.change(), min(rank, shape[0], math.prod(shape[1:])))
        if isinstance(change, LowRankDirection):
            turned = LowRankDirection(torch.ones(shape), near.rank).requires_grad_(False)
            turned.magnitude.data, turned.up.data, turned.down.data = (
                change.magnitude.data,
                near.up.data,
                near.down.data,
            )
            near = turned
        changes[layer] = near
    return Approximation(replace(adapter, changes=changes), values, {})


def alike(before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> None:
    """Raise UsageError unless both have tensors of the same names and shapes."""
    for name in [*before, *after]:
        if name not in before or name not in after:
            raise UsageError(
                f"only one of the two has {name}: they are not checkpoints of one network",
                "name two runs of the same --network",
            )
        if before[name].shape != after[name].shape:
            raise UsageError(
                f"{name} is {list(before[name].shape)} in the first and {list(after[name].shape)} in the second",
                "name two checkpoints of one network",
            )
