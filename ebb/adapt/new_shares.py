"""More shares that a finished network is told, such as how far it is asked to go, as an addition: silent at first."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ebb.adapt.addition import Addition, innermost
from ebb.errors import UsageError
from ebb.networks.embedder import Embedder
from ebb.networks.ports import PortEmbedding, SharePort
from ebb.process.denoiser import NetworkDenoiser


class Weighed(nn.Module):
    """What a layer makes of its value, by an amount."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer, self.amount = layer, 1.0

    def forward(self, value: Tensor) -> PortEmbedding:
        """The vector, as far as it counts."""
        vector: Tensor = self.layer(value).vector
        return PortEmbedding(self.amount * vector)


class NewShares(Addition):
    """A `SharePort` for each of some names, that a network is told from then on; left out it says nothing."""

    def __init__(self, denoiser: NetworkDenoiser, names: Iterable[str]) -> None:
        super().__init__()
        embedder = embedder_of(denoiser)
        width = embedder.time[-1].out_features
        self.layers = nn.ModuleDict({name: Weighed(SharePort().build(int(width))) for name in names})  # type: ignore[arg-type]

    @property
    def settings(self) -> Mapping[str, Any]:
        """Their names."""
        return {"names": list(self.layers)}

    def attach(self, denoiser: NetworkDenoiser, name: str, amount: float = 1.0) -> None:
        """As layers of the network's embedder, after its own."""
        embedder = embedder_of(denoiser)
        for share in self.layers:
            if share in embedder.ports:
                raise UsageError(f"this network is told its {share} already", "put on one such adapter")
        for share, layer in self.layers.items():
            layer.amount = amount  # type: ignore[assignment]
            embedder.ports[share] = embedder.others[share] = SharePort()
            embedder.layers.append(layer)
        network_of(denoiser).settings |= embedder.settings

    def detach(self, denoiser: NetworkDenoiser, name: str) -> None:
        """The embedder has its own layers again."""
        embedder = embedder_of(denoiser)
        for share in self.layers:
            place = list(embedder.others).index(share)
            del embedder.layers[place], embedder.others[share], embedder.ports[share]
        network_of(denoiser).settings |= embedder.settings

    def bake(self, denoiser: NetworkDenoiser) -> None:
        """As layers of the embedder's own; what counts less has a last layer that says less."""
        embedder = embedder_of(denoiser)
        for place, layer in enumerate(embedder.layers):
            if isinstance(layer, Weighed):
                last = layer.layer.mlp[-1]  # type: ignore[index]
                with torch.no_grad():
                    for part in last.parameters():  # type: ignore[union-attr]
                        part.mul_(layer.amount)
                embedder.layers[place] = layer.layer

    def __str__(self) -> str:
        return f"told {' and '.join(self.layers)}"


def network_of(denoiser: NetworkDenoiser) -> Any:
    """The network itself, which has its ports among its `settings`."""
    return innermost(denoiser.network)


def embedder_of(denoiser: NetworkDenoiser) -> Embedder:
    """What embeds a network's time and conditions; UsageError for a network of another kind."""
    for part in innermost(denoiser.network).modules():
        if isinstance(part, Embedder):
            return part
    raise UsageError("this network has no embedding of its conditions that could be told more", "take a network of ebb")
