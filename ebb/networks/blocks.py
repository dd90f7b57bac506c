"""What the networks share: the embedding of time and labels, attention, patches, padding."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TypeVar

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from ebb.errors import UsageError
from ebb.shapes import Float

M = TypeVar("M", bound=nn.Module)

CONVOLUTIONS: dict[int, type[nn.Conv1d] | type[nn.Conv2d] | type[nn.Conv3d]] = {
    1: nn.Conv1d,
    2: nn.Conv2d,
    3: nn.Conv3d,
}


def zeroed(module: M) -> M:
    """`module` with all parameters at 0, so that the branch it ends is silent at first (Goyal et al. 2017, §5.1)."""
    for parameter in module.parameters():
        nn.init.zeros_(parameter)
    return module


class Fourier(nn.Module):
    """A number per sample as sines and cosines of `width`/2 frequencies, log-spaced from 1 to `highest` radians."""

    frequencies: Tensor

    def __init__(self, width: int, highest: float = 1000.0) -> None:
        super().__init__()
        self.register_buffer("frequencies", torch.logspace(0, math.log10(highest), width // 2), persistent=False)

    def forward(self, value: Float[Tensor, "b"]) -> Float[Tensor, "b w"]:
        """(cos, sin) of value·frequencies (Vaswani et al. 2017, §3.5)."""
        angle = value[:, None].float() * self.frequencies
        return torch.cat([torch.cos(angle), torch.sin(angle)], 1)


class Embedding(nn.Module):
    """Time and label as one vector [b, width]: MLP(Fourier(time)) + table[label].

    `classes` labels are numbered from 0; row `classes` is the null label that label dropout trains for guidance. With
    classes = 0 there is no label.
    """

    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        if width % 2:
            raise UsageError(f"an embedding of sines and cosines has an even width, got {width}")
        self.classes = classes
        self.time = nn.Sequential(Fourier(width), nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))
        self.label = nn.Embedding(classes + 1, width) if classes else None

    def forward(self, time: Float[Tensor, "b"], cond: Mapping[str, Tensor]) -> Float[Tensor, "b w"]:
        """The vector; raises UsageError unless `cond` holds exactly what the network was built for."""
        expected = {"label"} if self.label is not None else set()
        if set(cond) != expected:
            raise UsageError(
                f"this network takes the conditions {sorted(expected)}, got {sorted(cond)}",
                f"it was built with classes={self.classes}",
            )
        vector: Tensor = self.time(time)
        return vector + self.label(cond["label"]) if self.label is not None else vector


class Attention(nn.Module):
    """Multi-head self-attention over tokens [b, n, width], queries and keys normalised (Dehghani et al. 2023, §3)."""

    def __init__(self, width: int, head: int = 64) -> None:
        super().__init__()
        self.heads = max(1, width // head)
        if width % self.heads:
            raise UsageError(f"attention of width {width} does not split into {self.heads} heads")
        self.qkv = nn.Linear(width, 3 * width)
        self.norm_q, self.norm_k = nn.RMSNorm(width // self.heads), nn.RMSNorm(width // self.heads)
        self.out = zeroed(nn.Linear(width, width))

    def forward(self, x: Float[Tensor, "b n w"], rotation: Tensor | None = None) -> Float[Tensor, "b n w"]:
        """softmax(QKᵀ/√d)V; `rotation` turns queries and keys by position (see `rotate`)."""
        q, k, v = torch.unflatten(self.qkv(x), -1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        q, k = normalised(q, self.norm_q), normalised(k, self.norm_k)
        if rotation is not None:
            q, k = rotate(q, rotation), rotate(k, rotation)
        mixed = F.scaled_dot_product_attention(q.to(v.dtype), k.to(v.dtype), v)
        out: Tensor = self.out(mixed.transpose(1, 2).flatten(2))
        return out


def normalised(x: Float[Tensor, "*b d"], norm: nn.RMSNorm) -> Float[Tensor, "*b d"]:
    """`norm` of x with its weight in the type of x: torch has a fused kernel for one type only."""
    weight = norm.weight.to(x.dtype)
    return F.rms_norm(x, weight.shape, weight, norm.eps)


def rotation(grid: Sequence[int], head: int, device: torch.device) -> Tensor:
    """Rotary angles as complex numbers [n, head/2] for tokens on a grid of any dimension (Su et al. 2021, axial).

    Each axis turns an equal share of the pairs, with periods from 2π to 2π·100 tokens; pairs left over stay still.
    """
    share = head // (2 * len(grid))
    speed = 100.0 ** -torch.linspace(0, 1, share, device=device)
    places = torch.cartesian_prod(*(torch.arange(size, device=device) for size in grid)).reshape(-1, len(grid))
    angles = (places[..., None] * speed).flatten(1)
    return torch.polar(torch.ones(()).to(device), F.pad(angles, (0, head // 2 - angles.shape[1])))


def rotate(x: Tensor, by: Tensor) -> Tensor:
    """Neighbouring pairs of the last axis, read as complex numbers, turned by `by`."""
    return torch.view_as_real(torch.view_as_complex(torch.unflatten(x.float(), -1, (-1, 2))) * by).flatten(-2)


def patches(x: Float[Tensor, "b c *size"], patch: int) -> Float[Tensor, "b k *grid"]:
    """Every patch^dims block moved into the channels, for any number of dimensions."""
    if patch == 1:
        return x
    dims = x.ndim - 2
    for axis in range(dims):  # split every size into (grid, patch)
        x = torch.unflatten(x, 2 + 2 * axis, (-1, patch))
    inner, outer = range(3, 3 + 2 * dims, 2), range(2, 2 + 2 * dims, 2)
    return x.permute(0, 1, *inner, *outer).flatten(1, 1 + dims)


def unpatch(x: Float[Tensor, "b k *grid"], patch: int) -> Float[Tensor, "b c *size"]:
    """The inverse of `patches`."""
    if patch == 1:
        return x
    dims = x.ndim - 2
    x = torch.unflatten(x, 1, (-1, *(patch,) * dims))
    pairs = [axis for d in range(dims) for axis in (2 + dims + d, 2 + d)]
    x = x.permute(0, 1, *pairs)
    for axis in range(dims):
        x = x.flatten(2 + axis, 3 + axis)
    return x


def padded(x: Float[Tensor, "b c *size"], multiple: int) -> Float[Tensor, "b c *more"]:
    """Edges repeated at the far side of every axis until its size is a multiple of `multiple`."""
    missing = [-size % multiple for size in x.shape[2:]]
    if not any(missing):
        return x
    return F.pad(x, [n for size in reversed(missing) for n in (0, size)], mode="replicate")


def cropped(x: Float[Tensor, "b c *more"], size: Sequence[int]) -> Float[Tensor, "b c *size"]:
    """The near corner of `x`, of the given size: undoes `padded`."""
    for axis, length in enumerate(size):
        x = x.narrow(2 + axis, 0, length)
    return x
