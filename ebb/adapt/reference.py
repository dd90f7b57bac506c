"""A reference picture as a prompt, as an addition: keys and values of its own beside the text's (IP-Adapter).

At each cross-attention of a network, with queries Q of the places and keys and values of the text,

    out = W·Attn(Q, K_text, V_text) + λ·W·Attn(Q, K_picture, V_picture)        (Ye et al. 2023, eq. 5)

where only the picture's are new: a small encoder that makes rows of a picture, and for each attention a linear map to
keys and values, whose values begin at 0. Nothing of the base is replaced: it is asked as ever, and what the picture
says is added beside it. A network also hears its text as one vector beside the time, by which it may have learnt what
its attentions then need not say, such as a colour: the row of the whole picture is mapped to a vector there too.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from ebb.adapt.addition import Addition, Around, around, exchange, innermost, unwrap
from ebb.adapt.controlled import controlled_in
from ebb.errors import UsageError
from ebb.networks.attention import CrossAttention, Keys, attend, normalised, rotate
from ebb.networks.blocks import zeroed
from ebb.networks.embedder import Embedder
from ebb.process.denoiser import NetworkDenoiser
from ebb.shapes import Float

REFERENCE = "reference"
"""By which the picture stands among conditions."""

GRID = 2
"""Parts of a side that have a row each; a last row is of the whole."""

WIDTHS = (32, 64, 128)
"""Channels of the encoder, each at half the size of the one before."""


class PictureRows(nn.Module):
    """Pictures [b, c, h, w] → rows [b, GRID² + 1, width], normalised: what is where, and what there is in all.

    So few rows that a picture cannot be copied through them.
    """

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        ends = (channels, *WIDTHS)
        self.layers = nn.Sequential(*(
            layer
            for inside, out in pairwise(ends)
            for layer in (nn.Conv2d(inside, out, 3, stride=2, padding=1), nn.GroupNorm(8, out), nn.SiLU())
        ))  # fmt: skip
        self.out = nn.Linear(WIDTHS[-1], width)

    def forward(self, pictures: Float[Tensor, "b c h w"]) -> Float[Tensor, "b m u"]:
        """The rows."""
        seen = self.layers(pictures)
        parts = torch.cat([F.adaptive_avg_pool2d(seen, n).flatten(2) for n in (GRID, 1)], 2).mT
        rows = self.out(parts)
        return F.layer_norm(rows, rows.shape[-1:])


class Referring(Around):
    """A network that hears a picture in `cond`, [b, c, h, w] with NaN for none, by its cross-attentions.

    What is inside is asked as it is for a batch without pictures, and by an amount of 0.
    """

    def __init__(
        self, within: nn.Module, reading: PictureRows, keys: nn.ModuleDict, vector: nn.Module | None, amount: float
    ) -> None:
        super().__init__(within)
        self.reading, self.keys, self.vector, self.amount = reading, keys, vector, amount

    def forward(self, x: Tensor, time: Tensor, cond: Mapping[str, Tensor]) -> Tensor:
        """The network's output."""
        rest = {name: value for name, value in cond.items() if name != REFERENCE}
        picture = cond.get(REFERENCE)
        if picture is None or self.amount == 0:
            return self.answer(x, time, rest)
        given = ~picture.flatten(1).isnan().any(1)
        rows = self.reading(torch.where(given[:, None, None, None], picture, 0.0).to(x.dtype))
        with self.listening(rows, self.amount * given.to(rows.dtype)):
            return self.answer(x, time, rest)

    def answer(self, x: Tensor, time: Tensor, cond: Mapping[str, Tensor]) -> Tensor:
        """What is inside says."""
        out: Tensor = self.within(x, time, cond)
        return out

    @contextmanager
    def listening(self, rows: Tensor, weight: Tensor) -> Iterator[None]:
        """While it lasts every cross-attention adds what the picture's rows [b, m, w] say, by `weight` [b], and so does
        the embedding of the time."""
        hooks = (
            []
            if self.vector is None
            else [
                embedder_in(self.within).time.register_forward_hook(
                    partial(self.told, weight[:, None] * self.vector(rows[:, -1]))
                )
            ]
        )
        hooks += [
            module.register_forward_hook(partial(self.added, self.keys[name.replace(".", "/")], rows, weight))
            for name, module in attentions(self.within).items()
        ]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    @staticmethod
    def told(vector: Tensor, time: nn.Module, given: tuple[Any, ...], out: Tensor) -> Tensor:
        """The embedding of a time with what the picture says as a vector [b, w]."""
        return out + vector.to(out.dtype)

    @staticmethod
    def added(
        keys: nn.Module, rows: Tensor, weight: Tensor, attention: CrossAttention, given: tuple[Any, ...], out: Tensor
    ) -> Tensor:
        """What an attention gives to `given` (x, rows, seen, rotation) with what the picture says beside it."""
        x, turn = given[0], given[3] if len(given) > 3 else None
        each = len(x) // len(rows)  # of a text in concepts every one looks at the picture
        k, v = (part.repeat_interleave(each, 0) for part in keys(rows))
        q = normalised(torch.unflatten(attention.q(x), -1, (attention.heads, -1)).transpose(1, 2), attention.norm_q)
        mixed = attend(q if turn is None else rotate(q, turn), k, v)
        said = F.linear(mixed, attention.out.weight)
        return out + weight.repeat_interleave(each)[:, None, None].to(said.dtype) * said


class ReferencePrompt(Addition):
    """What hears a reference picture of `channels` beside the texts of a network, with `vector` beside its time too."""

    def __init__(self, denoiser: NetworkDenoiser, channels: int, vector: bool = False) -> None:
        super().__init__()
        found = attentions(denoiser.network)
        inside = next(iter(found.values())).rows.kv.in_features
        self.reading = PictureRows(channels, inside)
        width = embedder_in(denoiser.network).time[-1].out_features if vector else 0
        self.vector = zeroed(nn.Linear(inside, int(width))) if vector else None  # type: ignore[arg-type]
        self.keys = nn.ModuleDict({name.replace(".", "/"): silent(module) for name, module in found.items()})
        self.to(next(denoiser.parameters()).device)

    @property
    def settings(self) -> Mapping[str, Any]:
        """The channels of a picture, and whether it speaks as a vector too."""
        channels = {"channels": self.reading.layers[0].in_channels}
        return channels if self.vector is None else channels | {"vector": True}

    def attach(self, denoiser: NetworkDenoiser, name: str, amount: float = 1.0) -> None:
        """Around the network and its controls, whose copies of attentions hear the text alone, and within what takes a
        batch apart. Raises UsageError where a reference is heard already."""
        if any(isinstance(each, Referring) for each in around(denoiser.network)):
            raise UsageError("a model hears one reference, and this one hears one already", "put on one of the two")
        inside = controlled_in(denoiser.network) or innermost(denoiser.network)
        exchange(denoiser, inside, Referring(inside, self.reading, self.keys, self.vector, amount))

    def detach(self, denoiser: NetworkDenoiser, name: str) -> None:
        """The network as it was inside."""
        unwrap(denoiser, lambda one: isinstance(one, Referring) and one.keys is self.keys)

    def __str__(self) -> str:
        return f"a reference picture in {GRID**2 + 1} rows at {len(self.keys)} attentions"


def embedder_in(network: nn.Module) -> Embedder:
    """What embeds the time and the conditions of a network with texts."""
    return next(part for part in innermost(network).modules() if isinstance(part, Embedder))


def silent(attention: CrossAttention) -> Keys:
    """Keys and values of the picture for an attention, the values 0 at first."""
    width, heads = attention.q.out_features, attention.heads
    made = Keys(attention.rows.kv.in_features, width, heads)
    nn.init.zeros_(made.kv.weight[width:])
    nn.init.zeros_(made.kv.bias)
    return made


def attentions(network: nn.Module) -> dict[str, CrossAttention]:
    """The cross-attentions of a network by name; UsageError where it has none."""
    found = {name: each for name, each in innermost(network).named_modules() if isinstance(each, CrossAttention)}
    if not found:
        raise UsageError(
            "this network attends to no text, and a reference is heard beside one",
            "take a run with captions, of a unet or a dit",
        )
    return found


def heard_at(network: nn.Module, scale: float) -> None:
    """Scale how loud the reference of a network is, in place. UsageError for a network that hears none."""
    for part in around(network):
        if isinstance(part, Referring):
            part.amount *= scale
            return
    raise UsageError(
        "this model hears no reference picture", "teach it to: ebb adapt RUN DATA --reference, and put that on"
    )
