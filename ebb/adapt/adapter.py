"""An adapter: changes of a network's weights by the names of its layers, put on, weighed, taken off, merged.

Changes are torch parametrizations: the weights themselves stay as they are beneath them, to the bit, and the sum of
several adapters is the sum of their changes, which no mean of their factors is.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from ebb.adapt.low_rank import LowRank, LowRankDirection, surviving
from ebb.errors import UsageError, nearest

LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
"""Layers that can be changed."""

SURVIVES = 0.95
"""A merge that would lose more than the rest of this is refused."""

KINDS: dict[str, Callable[[Tensor, int, float], LowRank]] = {
    "lora": lambda weight, rank, scale: LowRank(weight.shape, rank, scale),
    "dora": LowRankDirection,
}
"""Kinds of change: of a weight, a rank and a scale."""


@dataclass(frozen=True, eq=False)
class Adapter:
    """Changes by the name of their layer in the network, the sha256 of the weights that they were learnt on, and what a
    pipeline of diffusers calls such a network, "unet" or "transformer"."""

    name: str
    changes: Mapping[str, LowRank]
    base: str = ""
    component: str = "unet"

    def parameters(self) -> Iterator[nn.Parameter]:
        """All that is trained."""
        for change in self.changes.values():
            yield from change.parameters()

    @property
    def size(self) -> int:
        """How many numbers it has."""
        return sum(parameter.numel() for parameter in self.parameters())


def component_of(network: nn.Module) -> str:
    """What a pipeline of diffusers calls a network, by its kind: what is no U-Net is a transformer."""
    return "unet" if "unet" in type(network).__name__.lower() else "transformer"


def fingerprint(network: nn.Module) -> str:
    """The sha256 of a network's own weights: their names, in order, and their bytes. Adapters on it change nothing."""
    found = hashlib.sha256()
    for name, tensor in own_weights(network).items():
        found.update(name.encode())
        found.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


def own_weights(network: nn.Module) -> dict[str, Tensor]:
    """The network's weights without what is put on them, by the names that they have without it, sorted."""
    found = dict[str, Tensor]()
    for name, tensor in network.state_dict().items():
        before, inside, rest = name.partition("parametrizations.")
        if not inside:
            found[name] = tensor
        elif rest.endswith(".original"):
            found[before + rest.removesuffix(".original")] = tensor
    return dict(sorted(found.items()))


def layers(network: nn.Module, targets: Sequence[str] = ("*",)) -> dict[str, nn.Module]:
    """The layers whose names match any of `targets`, as file names are matched; UsageError where none does."""
    known: dict[str, nn.Module] = {n: module for n, module in network.named_modules() if isinstance(module, LAYERS)}
    found = {name: module for name, module in known.items() if any(fnmatchcase(name, each) for each in targets)}
    if not found:
        raise UsageError(f"no layer is called {' or '.join(targets)}", nearest(targets[0], known))
    return found


def fresh(
    network: nn.Module, name: str, rank: int, *, kind: str = "lora", scale: float = 1.0, targets: Sequence[str] = ("*",)
) -> Adapter:
    """An adapter that changes nothing yet, for all layers that `targets` match; a layer with a side below `rank` has
    that side's rank.

    Its first weights are from the global generator. Raises UsageError for a rank below 1, a kind that there is not, and
    targets that match nothing.
    """
    positive(rank)
    if kind not in KINDS:
        raise UsageError(f"there is no kind of adapter called {kind!r}", nearest(kind, KINDS))
    changes = {}
    for layer, module in layers(network, targets).items():
        weight: Tensor = module.weight  # type: ignore[assignment]
        most = min(len(weight), weight[0].numel())
        changes[layer] = KINDS[kind](weight, min(rank, most), scale).to(weight.device)
    return Adapter(name, changes, fingerprint(network), component_of(network))


def positive(rank: int) -> None:
    """Raise UsageError for a rank below 1."""
    if rank < 1:
        raise UsageError(f"an adapter has a rank of at least 1, got {rank}")


def attach(network: nn.Module, adapter: Adapter, amount: float = 1.0) -> nn.Module:
    """Put `amount` of an adapter on a network, in place; its own weights stay beneath.

    Raises UsageError, before anything is changed, for an adapter of that name that is on already, one learnt on other
    weights, layers that the network does not have in that shape, and two adapters on a layer of which one is of a
    direction, whose order would matter.
    """
    if adapter.name in attached(network):
        raise UsageError(
            f"an adapter called {adapter.name} is on this network already", "give one of them another name"
        )
    of_these(adapter, network)
    known = layers(network)
    for layer, change in adapter.changes.items():
        fits(adapter.name, layer, change, known)
    for layer, change in adapter.changes.items():
        change.adapter, change.amount = adapter.name, amount
        parametrize.register_parametrization(known[layer], "weight", change)
    return network


def of_these(adapter: Adapter, network: nn.Module) -> None:
    """Raise UsageError for an adapter that was learnt on other weights, where it says on which."""
    if adapter.base and adapter.base != (own := fingerprint(network)):
        raise UsageError(
            f"the adapter {adapter.name} was learnt on weights with sha256 {adapter.base[:12]}…, and these have"
            f" {own[:12]}…",
            "put it on the run that it was made from",
        )


def fits(name: str, layer: str, change: LowRank, known: Mapping[str, nn.Module]) -> None:
    """Raise UsageError unless a change fits the layer of its name, and what is on it already."""
    if layer not in known:
        raise UsageError(f"the adapter {name} changes {layer}, which this network does not have", nearest(layer, known))
    weight: Tensor = known[layer].weight  # type: ignore[assignment]
    if tuple(weight.shape) != change.shape:
        raise UsageError(
            f"the adapter {name} changes a weight {list(change.shape)} in {layer}, where this network has"
            f" {list(weight.shape)}",
            "put it on the network that it was made for",
        )
    there = on(known[layer])
    if there and any(isinstance(each, LowRankDirection) for each in (*there, change)):
        raise UsageError(
            f"two adapters on {layer}, one of them of a direction (dora): their order would matter",
            "put on one of them, or merge the first",
        )


def on(module: nn.Module) -> list[LowRank]:
    """The changes of a layer's weight."""
    there = module.parametrizations["weight"] if parametrize.is_parametrized(module, "weight") else []  # type: ignore[index]
    return [each for each in there if isinstance(each, LowRank)]


def attached(network: nn.Module) -> dict[str, Adapter]:
    """The adapters on a network, by name, with the changes that it has: of a copy its own."""
    found: dict[str, dict[str, LowRank]] = {}
    for layer, module in network.named_modules():
        if isinstance(module, LAYERS):
            for change in on(module):
                found.setdefault(change.adapter, {})[layer] = change
    return {name: Adapter(name, changes, component=component_of(network)) for name, changes in found.items()}


def detach(network: nn.Module, name: str) -> nn.Module:
    """Take an adapter off, in place; what was beneath is there again to the bit. UsageError where it is not on."""
    if name not in (known := attached(network)):
        raise UsageError(f"there is no adapter {name} on this network", nearest(name, known))
    for layer in known[name].changes:
        module = network.get_submodule(layer)
        rest = [change for change in on(module) if change.adapter != name]
        parametrize.remove_parametrizations(module, "weight", leave_parametrized=False)
        for change in rest:
            parametrize.register_parametrization(module, "weight", change)
    return network


@dataclass(frozen=True, eq=False)
class Merged:
    """What a merge replaced: the weights before it, and what was on them."""

    network: nn.Module
    before: dict[str, tuple[Tensor, list[LowRank]]] = field(default_factory=dict)

    def undo(self) -> nn.Module:
        """The network with the very weights of before, and the adapters on them again."""
        for layer, (weight, changes) in self.before.items():
            module = self.network.get_submodule(layer)
            module.weight = nn.Parameter(weight, requires_grad=False)
            for change in changes:
                parametrize.register_parametrization(module, "weight", change)
        return self.network


def survives(network: nn.Module) -> float:
    """The share of the changes on a network that a merge into weights of their type would keep: the least of a layer.

    See `ebb.adapt.low_rank.surviving`.
    """
    return min((surviving(*moved(module)) for module in layers(network).values() if on(module)), default=1.0)


@torch.no_grad()
def moved(module: nn.Module) -> tuple[Tensor, Tensor, torch.dtype]:
    """A layer's own weight, the change of all that is on it in float32, and the type of its weight."""
    own = beneath(module)
    with_all = own.float()
    for change in on(module):
        with_all = change(with_all)
    return own, with_all - own.float(), own.dtype


def beneath(module: nn.Module) -> Tensor:
    """A layer's own weight, whatever is on it."""
    found: Tensor = module.parametrizations["weight"].original if on(module) else module.weight  # type: ignore
    return found.detach()


def retyped(network: nn.Module, dtype: torch.dtype) -> nn.Module:
    """The network with weights of its own in another type, in place; the adapters on it stay as they are."""
    for name, parameter in network.named_parameters():
        if ".parametrizations." not in f".{name}" or name.endswith(".original"):
            parameter.data = parameter.data.to(dtype)
    return network


def merge(network: nn.Module, least: float = SURVIVES) -> Merged:
    """Make all that is on a network part of its weights, in place; `Merged.undo` brings back the very bits.

    Raises UsageError where less than the share `least` of the changes would be left in weights of their type: half
    precision forgets what is small beside an entry, and keeping the adapter apart loses nothing.
    """
    share = survives(network)
    if share < least:
        raise UsageError(
            f"merging into these weights would keep {share:.1%} of the adapters, asked for {least:.0%}",
            "keep them apart, or merge into float32",
        )
    done = Merged(network)
    for layer, module in layers(network).items():
        if there := on(module):
            done.before[layer] = beneath(module).clone(), there
            parametrize.remove_parametrizations(module, "weight", leave_parametrized=True)
    return done
