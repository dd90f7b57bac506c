"""What the networks share: numbers as sines and cosines, patches, padding, branches that start silent."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypeVar

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

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


def answering(answers: int) -> dict[str, int]:
    """The setting of a network that answers with so many tensors of the input's shape, side by side along axis 1; none
    of one that answers with one, as all did before."""
    return {} if answers == 1 else {"answers": answers}


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


def rippled(x: Float[Tensor, "b c *size"], waves: Sequence[float]) -> Float[Tensor, "b k *size"]:
    """x with cos(ω·x) and sin(ω·x) of each of the `waves` ω beside it (Kingma et al. 2021, appendix C): by them a
    network tells values apart that differ by less than a hundredth of their range."""
    turned = [turn(wave * x) for wave in waves for turn in (torch.cos, torch.sin)]
    return torch.cat([x, *turned], 1) if turned else x


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


def cut(x: Float[Tensor, "b c *size"], patch: int) -> tuple[Float[Tensor, "b n k"], tuple[int, ...]]:
    """x, padded to whole patches, as one row for each patch, and the grid that the patches form."""
    whole = patches(padded(x, patch), patch)
    return whole.flatten(2).transpose(1, 2), tuple(whole.shape[2:])


def assembled(
    rows: Float[Tensor, "b n k"], grid: Sequence[int], patch: int, size: Sequence[int]
) -> Float[Tensor, "b c *size"]:
    """The inverse of `cut`, to the given size."""
    return cropped(unpatch(torch.unflatten(rows.transpose(1, 2), 2, tuple(grid)), patch), size)
