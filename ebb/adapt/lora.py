"""Thin changes of the weights of a network's layers, as an addition: LoRA, or DoRA."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ebb.adapt import adapter
from ebb.adapt.adapter import Adapter
from ebb.adapt.addition import Addition, innermost
from ebb.process.denoiser import NetworkDenoiser

SHARE = 0.025
"""The numbers of an adapter whose rank is chosen, as a share of its network's."""

RANKS = (1, 2, 4, 8, 16, 32, 64)
"""Among which a rank is chosen."""


class LoRA(Addition):
    """A change of rank `rank` of the weight of each layer whose name matches `layers` (`ebb.adapt.low_rank`)."""

    def __init__(
        self, denoiser: NetworkDenoiser, rank: int, form: str = "lora", layers: Iterable[str] = ("*",)
    ) -> None:
        super().__init__()
        self.rank, self.form, self.layers = rank, form, tuple(layers)
        made = adapter.fresh(innermost(denoiser.network), "", rank, kind=form, targets=self.layers)
        self.changes = changes_in(made)

    @classmethod
    def of(cls, read: Adapter) -> LoRA:
        """An adapter that was read from a file, as an addition."""
        made = cls.__new__(cls)
        Addition.__init__(made)
        changes = list(read.changes.values())
        made.rank, made.form = max(change.rank for change in changes), "lora"
        made.layers, made.changes = tuple(read.changes), changes_in(read)
        return made

    @property
    def settings(self) -> Mapping[str, Any]:
        """Rank, form and layers."""
        return {"rank": self.rank, "form": self.form, "layers": list(self.layers)}

    def adapter(self, name: str) -> Adapter:
        """It by the names of the layers, as files have it; of no weights in particular."""
        return Adapter(name, {dotted(key): change for key, change in self.changes.items()})  # type: ignore[misc]

    def attach(self, denoiser: NetworkDenoiser, name: str, amount: float = 1.0) -> None:
        """As parametrizations of the layers' weights."""
        adapter.attach(innermost(denoiser.network), self.adapter(name), amount)

    def detach(self, denoiser: NetworkDenoiser, name: str) -> None:
        """The weights are as they were."""
        adapter.detach(innermost(denoiser.network), name)

    def bake(self, denoiser: NetworkDenoiser) -> None:
        """With all other changes that are on the same layers; UsageError where their precision would lose them."""
        adapter.merge(innermost(denoiser.network))

    def __str__(self) -> str:
        count = len(self.changes)
        return f"{self.form} of rank {self.rank} on {count} layer{'s' * (count > 1)}"

    @classmethod
    def suited(
        cls, denoiser: NetworkDenoiser, asked: Mapping[str, Any], gradients: Callable[[], Mapping[str, Tensor]]
    ) -> tuple[Mapping[str, Any], Mapping[str, str]]:
        """A rank, and the layers that have it: those of SHARE of the network's numbers that hold most of the gradient.

        A rank that is given is that of all layers.
        """
        if asked["rank"] is not None:
            return {**asked, "layers": tuple(asked["layers"] or ("*",))}, {}
        among = adapter.layers(innermost(denoiser.network), asked["layers"] or ("*",))
        room = SHARE * sum(parameter.numel() for parameter in denoiser.parameters())
        at = gradients()
        best = allotted({name: at[name] for name in among}, room)
        why = (
            f"of the gradient of a first batch, rank {best.rank} on {len(best.layers)} of {len(among)} layers holds"
            f" {best.held:.0%}, the most of any rank in {SHARE:.1%} of the numbers"
        )
        return {**asked, "rank": best.rank, "layers": best.layers}, dict.fromkeys(("rank", "layers"), why)


@dataclass(frozen=True)
class Allotment:
    """Layers, the rank that each has, and the share of the squared gradient of all that is held so."""

    rank: int
    layers: tuple[str, ...]
    held: float


def allotted(gradients: Mapping[str, Tensor], room: float) -> Allotment:
    """The rank, and the layers, that hold most of the gradient in so many numbers.

    A change of rank r of a layer can hold Σ_{i≤r} σᵢ² of its gradient (Eckart & Young 1936), for r·(out + in·kernel)
    numbers. For each rank layers are taken in the order of what they hold by number; at least the first.
    """
    energy = {name: torch.linalg.svdvals(g.float().flatten(1)).square() for name, g in gradients.items()}
    whole = max(sum(float(values.sum()) for values in energy.values()), 1e-30)
    found = list[Allotment]()
    for rank in RANKS:
        held = {name: float(values[:rank].sum()) for name, values in energy.items()}
        ranks = {name: min(rank, len(values)) for name, values in energy.items()}
        cost = {name: ranks[name] * (len(g) + g[0].numel()) for name, g in gradients.items()}
        taken, left = list[str](), room
        for name in sorted(held, key=lambda name: -held[name] / cost[name]):
            if cost[name] <= left or (not taken and rank == RANKS[0]):
                taken.append(name)
                left -= cost[name]
        found.append(Allotment(rank, tuple(n for n in gradients if n in taken), sum(map(held.get, taken)) / whole))  # type: ignore[arg-type]
    return max(found, key=lambda one: one.held)  # of equal ones the first, which is the thinnest


def changes_in(made: Adapter) -> nn.ModuleDict:
    """The changes of an adapter as a module; names of parts have no dots."""
    return nn.ModuleDict({key.replace(".", "/"): change for key, change in made.changes.items()})


def dotted(key: str) -> str:
    """The name of a layer."""
    return key.replace("/", ".")
