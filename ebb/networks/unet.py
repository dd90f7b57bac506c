"""A U-Net for data with any number of spatial dimensions (Ronneberger et al. 2015; Ho et al. 2020, appendix B)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from copy import deepcopy
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from ebb.errors import UsageError
from ebb.networks.attention import Attention, CrossAttention
from ebb.networks.blocks import CONVOLUTIONS, answering, cropped, padded, patches, rippled, unpatch, zeroed
from ebb.networks.embedder import Embedded, Embedder
from ebb.networks.halves import SILENT, Handed, Opened, Residuals
from ebb.networks.ports import NO_PORTS, Ports
from ebb.shapes import Float


class Residual(nn.Module):
    """x + conv(SiLU(FiLM(GN(conv(SiLU(GN(x))))))): time and label scale and shift the second normalisation (AdaGN,
    Dhariwal & Nichol 2021, eq. 3). The last convolution starts at 0, so the block starts as the identity."""

    def __init__(self, dims: int, inside: int, width: int, embedding: int) -> None:
        super().__init__()
        conv = CONVOLUTIONS[dims]
        self.norm1 = nn.GroupNorm(groups(inside), inside)
        self.conv1 = conv(inside, width, 3, padding=1)
        self.film = nn.Linear(embedding, 2 * width)
        self.norm2 = nn.GroupNorm(groups(width), width)
        self.conv2 = zeroed(conv(width, width, 3, padding=1))
        self.skip = conv(inside, width, 1) if inside != width else nn.Identity()

    def forward(self, x: Float[Tensor, "b c *size"], heard: Embedded) -> Float[Tensor, "b w *size"]:
        """The block's output, of the same size."""
        h = self.conv1(F.silu(self.norm1(x)))
        scale, shift = self.film(heard.vector)[(...,) + (None,) * (x.ndim - 2)].chunk(2, 1)
        h = self.conv2(F.silu(torch.addcmul(shift, self.norm2(h), 1 + scale)))
        out: Tensor = self.skip(x) + h
        return out


def groups(width: int) -> int:
    """Groups of 16 channels, the best number in Wu & He 2018, table 3; where 16 does not divide the width, up to 8.

    16 is also what a vector register of a CPU holds: groups of 8 or 12 channels take it up to ten times as long.
    """
    return width // 16 if width % 16 == 0 else math.gcd(width, 8)


class SelfAttention(nn.Module):
    """Attention among all places of a feature map, added to it."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(groups(width), width)
        self.attention = Attention(width)

    def forward(self, x: Float[Tensor, "b w *size"], heard: Embedded) -> Float[Tensor, "b w *size"]:
        """x + attention(GN(x)); what is heard is not used."""
        return x + mapped(self.attention(places(self.norm(x))), x)


class Whereabouts(nn.Module):
    """The places of a feature map, each told where on the whole it lies: at the top, at the left.

    Convolutions know little of that, and in noise there is nothing to see; a text speaks of it.
    """

    def __init__(self, width: int, dims: int) -> None:
        super().__init__()
        self.map = nn.Linear(2 * TURNS * dims, width)

    def forward(self, x: Float[Tensor, "b w *size"]) -> Float[Tensor, "b n w"]:
        """The map as rows, with a linear map of cos(πku) and sin(πku) added, k = 1 … TURNS, u from 0 to 1 along each
        axis."""
        axes = [(torch.arange(size, device=x.device) + 0.5) / size for size in x.shape[2:]]
        at = torch.cartesian_prod(*axes).reshape(-1, len(axes), 1)
        angle = (math.pi * at * torch.arange(1, TURNS + 1, device=x.device)).flatten(1)
        told = torch.cat([torch.cos(angle), torch.sin(angle)], 1).to(self.map.weight.dtype)
        out: Tensor = places(x) + self.map(told)
        return out


TURNS = 3
"""Half waves along a side of what `Whereabouts` tells."""


class TextAttention(nn.Module):
    """Attention from all places of a feature map to the text, added to it (Rombach et al. 2022, §3.3)."""

    def __init__(self, width: int, inside: int, dims: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(groups(width), width)
        self.where = Whereabouts(width, dims)
        self.attention = CrossAttention(width, inside)

    def forward(self, x: Float[Tensor, "b w *size"], heard: Embedded) -> Float[Tensor, "b w *size"]:
        """x + attention(GN(x) + where, rows)."""
        return x + mapped(self.attention(self.where(self.norm(x)), heard.rows, heard.seen), x)


class ConceptAttention(nn.Module):
    """Attention from all places to each of k concepts alone; a learned gate weighs their answers at each place.

    Added is Σ_i g_i·A_i with g = softmax of (0, w·A_1 + b, …, w·A_k + b), whose first entry means none of them. So no
    concept takes another's share of one attention. A concept of nothing but padding has weight 0. All concepts have
    the same weights, so their order says nothing.
    """

    def __init__(self, width: int, inside: int, dims: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(groups(width), width)
        self.where = Whereabouts(width, dims)
        self.attention = CrossAttention(width, inside)
        self.gate = nn.Linear(width, 1)

    def forward(self, x: Float[Tensor, "b w *size"], heard: Embedded) -> Float[Tensor, "b w *size"]:
        """x + Σ_k g_k·attention(GN(x) + where, rows_k)."""
        count, rows, seen = heard.rows.shape[1], heard.rows.flatten(0, 1), heard.seen.flatten(0, 1)
        each = self.attention(self.where(self.norm(x)).repeat_interleave(count, 0), rows, seen)
        answers = torch.unflatten(each, 0, (x.shape[0], count))
        speaks = heard.seen[..., 1:].any(-1)[..., None, None]
        scores = self.gate(answers).float().masked_fill(~speaks, -math.inf)
        share = torch.softmax(F.pad(scores, (0, 0, 0, 0, 1, 0)), 1)[:, 1:].to(answers.dtype)
        return x + mapped((share * answers).sum(1), x)


def places(x: Float[Tensor, "b w *size"]) -> Float[Tensor, "b n w"]:
    """A feature map as one row for each of its places."""
    return x.flatten(2).transpose(1, 2)


def mapped(rows: Float[Tensor, "b n w"], like: Float[Tensor, "b w *size"]) -> Float[Tensor, "b w *size"]:
    """The inverse of `places`, in the shape of `like`."""
    return rows.transpose(1, 2).reshape(like.shape)


def resolutions_of(name: str, resolutions: Sequence[int], count: int) -> tuple[int, ...]:
    """The resolutions of a setting; raises UsageError for one that is not there."""
    if any(not 0 <= each < count for each in resolutions):
        raise UsageError(f"{name} resolutions go from 0 to {count - 1}, got {tuple(resolutions)}")
    return tuple(resolutions)


class UNet(nn.Module):
    """x [b, channels, *size], time [b], cond → [b, channels, *size], for any size: it pads and crops inside.

    Resolution i is 1/(patch·2^i) of the input's, with width·multipliers[i] channels and `depth` residual blocks on
    the way down and as many on the way up; after each block, resolutions listed in `attention` attend to themselves and
    those in `cross` to the text. `patch` > 1 moves patch^dims blocks into the channels first, which trades detail for
    speed at high resolution. `waves` of x stand beside it (`rippled`). What may be said in `cond`: see
    `ebb.networks.ports`; with `concepts`, a text is up to that many texts, each attended to alone. Outputs start at 0.
    """

    def __init__(
        self,
        channels: int,
        *,
        width: int = 64,
        multipliers: Sequence[int] = (1, 2),
        depth: int = 2,
        patch: int = 1,
        attention: Sequence[int] = (),
        cross: Sequence[int] = (),
        waves: Sequence[float] = (),
        dims: int = 2,
        ports: Ports = NO_PORTS,
        answers: int = 1,
    ) -> None:
        super().__init__()
        if dims not in CONVOLUTIONS:
            raise UsageError(f"a U-Net has 1, 2 or 3 spatial dimensions, got {dims}")
        own = {"channels": channels, "width": width, "depth": depth, "patch": patch, "dims": dims}
        sizes = {"multipliers": tuple(multipliers)}
        sizes |= {k: resolutions_of(k, v, len(multipliers)) for k, v in (("attention", attention), ("cross", cross))}
        conv, e, widths = CONVOLUTIONS[dims], 2 * width, [width * m for m in multipliers]
        self.patch, self.depth, self.multiple = patch, depth, patch * 2 ** (len(widths) - 1)
        self.embedding = Embedder(e, ports)
        if cross and not self.embedding.length:
            raise UsageError("cross-attention needs a text", "give a port of pieces or states")
        self.waves = tuple(waves)
        fine = {"waves": self.waves} if waves else {}
        self.settings: dict[str, Any] = own | sizes | fine | self.embedding.settings | answering(answers)
        entering = channels * (1 + 2 * len(self.waves)) + self.embedding.beside
        self.stem = conv(entering * patch**dims, widths[0], 3, padding=1)
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        for i, w in enumerate(widths):
            for part, entry in ((self.down, w), (self.up, 2 * w)):
                part.append(nn.ModuleList(self.block(entry, w, i) for _ in range(depth)))
        self.shrink = nn.ModuleList(conv(a, b, 3, stride=2, padding=1) for a, b in pairwise(widths))
        self.grow = nn.ModuleList(conv(b, a, 1) for a, b in pairwise(widths))
        self.norm = nn.GroupNorm(groups(widths[0]), widths[0])
        self.out = zeroed(conv(widths[0], answers * channels * patch**dims, 3, padding=1))

    def block(self, entry: int, width: int, resolution: int) -> nn.ModuleList:
        """One residual block at a resolution and the attention after it."""
        e, listens = 2 * self.settings["width"], ConceptAttention if self.embedding.concepts else TextAttention
        layers: list[nn.Module] = [Residual(self.settings["dims"], entry, width, e)]
        layers += [SelfAttention(width)] if resolution in self.settings["attention"] else []
        layers += [listens(width, e, self.settings["dims"])] if resolution in self.settings["cross"] else []
        return nn.ModuleList(layers)

    def forward(
        self, x: Float[Tensor, "b c *size"], time: Float[Tensor, "b"], cond: Mapping[str, Tensor]
    ) -> Float[Tensor, "b k *size"]:
        """The network's output, of the input's size."""
        return self.answered(self.opened(x, time, cond))

    @property
    def encoder(self) -> tuple[nn.ModuleList, nn.ModuleList]:
        """The way down: its blocks by resolution, and the layers between resolutions."""
        return self.down, self.shrink

    def copied(self) -> tuple[nn.Module, ...]:
        """A copy of the way down."""
        return deepcopy(self.encoder)

    @property
    def widths(self) -> tuple[int, ...]:
        """Of the features after each block on the way down."""
        return tuple(self.settings["width"] * m for m in self.settings["multipliers"] for _ in range(self.depth))

    def opened(self, x: Float[Tensor, "b c *size"], time: Float[Tensor, "b"], cond: Mapping[str, Tensor], /) -> Opened:
        """What enters; see `ebb.networks.halves`."""
        heard = self.embedding(time, cond)
        return Opened(self.arranged(self.embedding.join(rippled(x, self.waves), cond)), heard, tuple(x.shape[2:]))

    def arranged(self, values: Float[Tensor, "b c *size"], /) -> Tensor:
        """Padded to whole places of the coarsest resolution, patches in the channels."""
        h = patches(padded(values, self.multiple), self.patch)
        return h.contiguous(memory_format=torch.channels_last) if h.ndim == 4 else h

    def entered(self, stem: nn.Module, opened: Opened, /) -> Tensor:
        """The stem's map."""
        h: Tensor = stem(opened.rows)
        return h

    def encoded(self, encoder: Sequence[nn.Module], h: Tensor, opened: Opened, residuals: Residuals, /) -> Tensor:
        """The map at the bottom."""
        down, shrink = encoder
        for i, (between, blocks) in enumerate(zip([None, *shrink.children()], down.children(), strict=True)):
            h = between(h) if between else h
            for j, block in enumerate(blocks.children()):
                for layer in block.children():
                    h = layer(h, opened.heard)
                h = residuals.onward(i * self.depth + j, h)
        return h

    def answered(self, opened: Opened, residuals: Residuals = SILENT, /) -> Float[Tensor, "b k *size"]:
        """The network's output; what is handed across to the way up has its residuals."""
        handed = Handed(residuals)
        h, skips = self.encoded(self.encoder, self.entered(self.stem, opened), opened, handed), handed.features
        for i in reversed(range(len(self.up))):
            for block in self.up[i].children():
                h = torch.cat([h, skips.pop()], 1)
                for layer in block.children():
                    h = layer(h, opened.heard)
            if i > 0:
                h = F.interpolate(self.grow[i - 1](h), scale_factor=2.0, mode="nearest")
        out: Tensor = self.out(F.silu(self.norm(h)))
        return cropped(unpatch(out, self.patch), opened.size)

    def layer(self, inside: int, out: int, reach: int = 1) -> nn.Module:
        """A convolution."""
        return CONVOLUTIONS[self.settings["dims"]](inside, out, reach, padding=reach // 2)

    def narrow(self, block: int, inside: int, width: int) -> nn.Module:
        """A residual block; the first of a lower resolution takes every second place."""
        stride = 2 if block and block % self.depth == 0 else 1
        return NarrowMap(self.settings["dims"], (inside, width), stride, 2 * self.settings["width"])


class NarrowMap(nn.Module):
    """A convolution to another width, at every `stride` places, and a residual block; beside a block of a U-Net."""

    def __init__(self, dims: int, widths: tuple[int, int], stride: int, embedding: int) -> None:
        super().__init__()
        inside, width = widths
        self.entry = CONVOLUTIONS[dims](inside, width, 3, stride=stride, padding=1)
        self.block = Residual(dims, width, width, embedding)

    def forward(self, h: Float[Tensor, "b c *size"], opened: Opened) -> Float[Tensor, "b w *less"]:
        """Its map."""
        out: Tensor = self.block(self.entry(h), opened.heard)
        return out
