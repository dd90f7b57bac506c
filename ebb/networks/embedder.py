"""What a network hears besides x: the time, and what is asked for at its ports, embedded for all its layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from ebb.errors import UsageError
from ebb.networks.blocks import Fourier
from ebb.networks.ports import PORTS, PortEmbedding, Ports, ports_of
from ebb.recipe.names import spell
from ebb.shapes import Float


class Embedded(NamedTuple):
    """What every layer may use: one `vector` [b, w], and the `rows` [b, m, w] of texts with the mask of those `seen`.

    The vector has passed SiLU, ready to be mapped to shifts and scales. With concepts, rows are [b, k, m, w] and seen
    is [b, k, m]; without text there are no rows (m = 0).
    """

    vector: Tensor
    rows: Tensor
    seen: Tensor


class Embedder(nn.Module):
    """(time, cond) → `Embedded`: the vector SiLU(MLP(Fourier(time)) + Σ vectors of the ports), and the rows of all.

    `cond` holds exactly what there are ports for, as each kind of port has it (`ebb.networks.ports`). Ports that add
    channels to x are heard by `join`.
    """

    def __init__(self, width: int, ports: Ports) -> None:
        super().__init__()
        if width % 2:
            raise UsageError(f"an embedding of sines and cosines has an even width, got {width}")
        self.ports = ports_of(ports)
        self.beside = sum(port.beside for port in self.ports.values())
        self.length = max((port.rows for port in self.ports.values()), default=0)
        self.concepts = max((port.concepts for port in self.ports.values()), default=0)
        if any(port.rows and not port.concepts for port in self.ports.values()) and self.concepts:
            raise UsageError("texts that stay whole and texts in concepts are not heard together", "one kind of them")
        self.required = {name for name, port in self.ports.items() if port.required}
        self.mapped = {name: port for name, port in self.ports.items() if port.beside}
        self.others = {name: port for name, port in self.ports.items() if not port.beside}
        self.maps = nn.ModuleList(port.build(width) for port in self.mapped.values())
        self.time = nn.Sequential(Fourier(width), nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))
        self.layers = nn.ModuleList(port.build(width) for port in self.others.values())
        self.register_load_state_dict_pre_hook(renamed)  # type: ignore[no-untyped-call]

    @property
    def settings(self) -> dict[str, Any]:
        """The ports as text, but for those that no file can name."""
        known = tuple(PORTS.values())
        return {"ports": {n: spell(port, PORTS) if type(port) in known else port for n, port in self.ports.items()}}

    def forward(self, time: Float[Tensor, "b"], cond: Mapping[str, Tensor]) -> Embedded:
        """What is heard, but for channels. Raises UsageError unless `cond` is what the network has ports for."""
        if not self.required <= cond.keys() <= self.ports.keys():
            raise UsageError(
                f"this network takes the conditions {sorted(self.ports)}, got {sorted(cond)}",
                f"it was built with ports={self.ports}" if self.ports else "it was built without ports",
            )
        vector, batch = self.time(time), time.shape[0]
        rows: list[Tensor] = []  # not `list[Tensor]()`, which a compiler cannot trace
        seen: list[Tensor] = []
        for (name, port), layer in zip(self.others.items(), self.layers, strict=True):
            if name not in cond:
                continue
            heard: PortEmbedding = layer(fitting(name, cond[name], port.floating, batch, *port.sizes(())))
            vector = vector if heard.vector is None else vector + heard.vector
            if heard.rows is not None and heard.seen is not None:
                rows.append(heard.rows)
                seen.append(heard.seen)
        if not rows:
            none = vector.new_zeros(batch, 0, vector.shape[1])
            return Embedded(F.silu(vector), none, none[..., 0].bool())
        longest = self.length + 1 if self.concepts else 0
        return Embedded(F.silu(vector), joined(rows, longest), joined(seen, longest))

    def join(self, x: Float[Tensor, "b c *size"], cond: Mapping[str, Tensor]) -> Float[Tensor, "b d *size"]:
        """x and the channels that stand beside it; x itself where there are none.

        Raises UsageError unless they are floating, with the batch and the size of x.
        """
        parts = [x]
        for (name, port), layer in zip(self.mapped.items(), self.maps, strict=True):
            value = fitting(name, cond[name], port.floating, x.shape[0], *port.sizes(tuple(x.shape[2:])))
            parts.append(layer(value).channels.to(x.dtype))
        return torch.cat(parts, 1) if self.maps else x


def joined(parts: Sequence[Tensor], longest: int) -> Tensor:
    """Rows of several texts one after the other; concepts lie beside each other, and are filled up to the `longest`."""
    if len(parts) > 1 and longest:
        parts = [F.pad(p, (*(0, 0) * (p.ndim - 3), 0, longest - p.shape[2])) for p in parts]
    return parts[0] if len(parts) == 1 else torch.cat(list(parts), 1)


def fitting(name: str, value: Tensor, floating: bool, batch: int, *sizes: int) -> Tensor:
    """`value`, where it is [batch, *sizes] of that kind; a size of −n is any up to n. Raises UsageError else."""
    fits = value.is_floating_point() == floating and value.ndim == 1 + len(sizes) and value.shape[0] == batch
    if not fits or any(got > -n if n < 0 else got != n for got, n in zip(value.shape[1:], sizes, strict=True)):
        expected = ", ".join([str(batch), *(str(n) if n >= 0 else f"≤ {-n}" for n in sizes)])
        raise UsageError(
            f"the condition {name!r} is {'floating' if floating else 'integer'} [{expected}],"
            f" got {str(value.dtype).removeprefix('torch.')} {list(value.shape)}"
        )
    return value


FORMER = {
    "label.": ("label", "table."),
    "numbers.": ("numbers", ""),
    "text.": ("text", "encoder."),
    "pooled.": ("text", "pooled."),
}
"""What weights were called before ports had names: the port of each, and how its layer calls it."""


def renamed(embedder: Embedder, state: dict[str, Tensor], prefix: str, *_: Any) -> None:
    """Call the weights of a checkpoint of before ports had names as they are called now."""
    places = {name: f"{prefix}layers.{i}." for i, name in enumerate(embedder.others)}
    for key in [key for key in state if key.startswith(prefix)]:
        for former, (port, own) in FORMER.items():
            if key.startswith(prefix + former) and port in places:
                state[places[port] + own + key.removeprefix(prefix + former)] = state.pop(key)
    if f"{prefix}blank" in state:
        state[f"{prefix}maps.0.blank"] = state.pop(f"{prefix}blank")
