"""Extractors: what a picture shows of itself as a map, such as its edges, to which others can be drawn.

Each takes pictures uint8 [n, c, h, w] in grey or colour and gives maps uint8 [n, k, h, w], of one channel or of as
many as the pictures have. A map depends on its own picture alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from numpy.typing import NDArray
from torch import Tensor

from ebb.errors import UsageError
from ebb.recipe.names import parse
from ebb.shapes import Float

Pixels = NDArray[np.uint8]
Extractor = Callable[[Pixels], Pixels]

CHUNK = 1024
"""Pictures that are worked on at once."""


def by_parts(pixels: Pixels, one: Callable[[Tensor], Tensor]) -> Pixels:
    """`one` of pictures as float32 in [0, 1], some at a time, as levels from 0 to 255."""
    parts = []
    for first in range(0, len(pixels), CHUNK):
        found = one(torch.from_numpy(pixels[first : first + CHUNK]).float() / 255)
        parts.append((found.clamp(0, 1) * 255).round().byte().numpy())
    return np.concatenate(parts)


@dataclass(frozen=True)
class SoftEdges:
    """How steep the picture is at each place: the length of the gradient of the channel where it is greatest, after a
    blur of `sigma` pixels; 1 is a step from black to white."""

    sigma: float = 1.0

    def __post_init__(self) -> None:
        """Raise UsageError for a blur that is none."""
        if not 0.3 <= self.sigma <= 10:
            raise UsageError(f"edges are found after a blur of 0.3 to 10 pixels, got {self.sigma}")

    def __call__(self, pixels: Pixels) -> Pixels:
        """[n, 1, h, w]."""
        return by_parts(pixels, lambda x: slopes(x, self.sigma)[0])


@dataclass(frozen=True)
class Edges:
    """Lines one pixel thin where the picture is steepest across them (Canny 1986).

    Steepness is that of `SoftEdges`. What is steeper than `high` is an edge, and so is what is steeper than `low` and
    touches one.
    """

    sigma: float = 1.0
    low: float = 0.1
    high: float = 0.2

    def __post_init__(self) -> None:
        """Raise UsageError for thresholds that are none."""
        SoftEdges(self.sigma)
        if not 0 < self.low <= self.high <= 1:
            raise UsageError(f"expected thresholds 0 < low ≤ high ≤ 1, got {self.low} and {self.high}")

    def __call__(self, pixels: Pixels) -> Pixels:
        """[n, 1, h, w], 255 on edges and 0 elsewhere."""
        return by_parts(pixels, self.lines)

    def lines(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n 1 h w"]:
        """1 on edges."""
        steep, down, right = slopes(x, self.sigma)
        ridge = ridges(steep, down, right)
        weak, found = ridge & (steep > self.low), ridge & (steep > self.high)
        while True:  # at most as often as a line has pixels
            more = weak & (F.max_pool2d(found.float(), 3, 1, 1) > 0)
            if bool((more == found).all()):
                return found.float()
            found = more


def slopes(x: Float[Tensor, "n c h w"], sigma: float) -> tuple[Tensor, Tensor, Tensor]:
    """(steepness, slope down, slope right) [n, 1, h, w], of the steepest channel, after a blur; 1 for a step of 1."""
    reach = math.ceil(3 * sigma)
    at = torch.arange(-reach, reach + 1, dtype=x.dtype)
    blur = torch.exp(-(at**2) / (2 * sigma**2))
    blur = blur / blur.sum()
    step = torch.tensor([-0.5, 0.0, 0.5])
    blurred = F.conv1d((at >= 0).float()[None, None], blur[None, None], padding=reach)
    unit = float((blurred[..., 2:] - blurred[..., :-2]).max() / 2)
    along, across = blur.view(1, 1, -1, 1), blur.view(1, 1, 1, -1)
    flat = x.reshape(-1, 1, *x.shape[2:])
    smooth = F.conv2d(F.conv2d(F.pad(flat, [reach] * 4, mode="replicate"), along), across)
    wide = F.pad(smooth, [1] * 4, mode="replicate")
    down = F.conv2d(wide[..., 1:-1], step.view(1, 1, 3, 1)).view_as(x) / unit
    right = F.conv2d(wide[..., 1:-1, :], step.view(1, 1, 1, 3)).view_as(x) / unit
    steep, at_most = torch.hypot(down, right).max(1, keepdim=True)
    return steep, down.gather(1, at_most), right.gather(1, at_most)


NEAR = 1e-4
"""Steepness by which two places are equally steep: of two, the first is the ridge."""


def ridges(steep: Tensor, down: Tensor, right: Tensor) -> Tensor:
    """Where the steepness is greatest along the slope, bool [n, 1, h, w]; it is interpolated between neighbours."""
    height, width = steep.shape[2:]
    wide = F.pad(steep, [1] * 4, mode="replicate")

    def moved(y: int, x: int) -> Tensor:
        return wide[..., 1 + y : 1 + y + height, 1 + x : 1 + x + width]

    upright = down.abs() > right.abs()
    share = torch.minimum(down.abs(), right.abs()) / torch.maximum(down.abs(), right.abs()).clamp(min=1e-12)
    same = down * right >= 0
    ahead, behind = (
        torch.lerp(
            torch.where(upright, moved(sign, 0), moved(0, sign)),
            torch.where(same, moved(sign, sign), torch.where(upright, moved(sign, -sign), moved(-sign, sign))),
            share,
        )
        for sign in (1, -1)
    )
    return (steep > ahead + NEAR) & (steep >= behind - NEAR)


@dataclass(frozen=True)
class Palette:
    """The mean colours of `cells` × `cells` parts of the picture, each filling its part."""

    cells: int = 8

    def __post_init__(self) -> None:
        """Raise UsageError for no cells."""
        if self.cells < 1:
            raise UsageError(f"a palette has at least one cell, got {self.cells}")

    def __call__(self, pixels: Pixels) -> Pixels:
        """[n, c, h, w]."""
        height, width = pixels.shape[2:]
        grid = min(self.cells, height), min(self.cells, width)
        return by_parts(pixels, lambda x: F.interpolate(F.adaptive_avg_pool2d(x, grid), (height, width)))


@dataclass(frozen=True)
class LowResolution:
    """The picture `factor` times smaller, each pixel the mean of those that it was, and smoothly enlarged again."""

    factor: int = 4

    def __post_init__(self) -> None:
        """Raise UsageError for no factor."""
        if self.factor < 2:
            raise UsageError(f"a lower resolution is at least 2 times lower, got {self.factor}")

    def __call__(self, pixels: Pixels) -> Pixels:
        """[n, c, h, w]."""
        height, width = pixels.shape[2:]
        small = max(1, height // self.factor), max(1, width // self.factor)

        def coarse(x: Tensor) -> Tensor:
            return F.interpolate(F.adaptive_avg_pool2d(x, small), (height, width), mode="bilinear")

        return by_parts(pixels, coarse)


LUMA = (0.299, 0.587, 0.114)
"""Of red, green and blue in a grey (ITU-R BT.601)."""


def grey(pixels: Pixels) -> Pixels:
    """The picture without colour, [n, 1, h, w]."""
    if pixels.shape[1] == 1:
        return pixels
    return by_parts(pixels, lambda x: (x * torch.tensor(LUMA).view(1, 3, 1, 1)).sum(1, keepdim=True))


def mask(pixels: Pixels) -> Pixels:
    """What stands out, [n, 1, h, w]: 255 where the colour is far from the median of the picture's border, 0 elsewhere.

    Far is beyond the threshold that divides the distances best into two groups (Otsu 1979).
    """
    border = np.concatenate([pixels[..., 0, :], pixels[..., -1, :], pixels[..., 0], pixels[..., -1]], -1)
    ground = np.median(border, axis=-1)[..., None, None]
    far = np.abs(pixels - ground).max(1, keepdims=True).astype(np.uint8)
    return np.where(far > otsu(far)[:, None, None, None], 255, 0).astype(np.uint8)


def otsu(levels: Pixels) -> NDArray[np.int64]:
    """Of each picture the level that divides its levels, in those up to it and those above, with the greatest variance
    between the two groups, [n]."""
    every = np.arange(256)
    counts = np.stack([np.bincount(one.ravel(), minlength=256) for one in levels]).astype(float)
    below, sums = counts.cumsum(1), (counts * every).cumsum(1)
    above = below[:, -1:] - below
    gap = sums / np.maximum(below, 1) - (sums[:, -1:] - sums) / np.maximum(above, 1)
    best: NDArray[np.int64] = np.argmax(below * above * gap**2, axis=1)
    return best


EXTRACTORS: Mapping[str, Extractor] = {
    "edges": Edges(),
    "soft_edges": SoftEdges(),
    "palette": Palette(),
    "low_resolution": LowResolution(),
    "mask": mask,
    "grey": grey,
}
"""By the name that a user gives; of some, fields can be given too: edges(high=0.3)."""


def extracted(extractor: str, pixels: Pixels) -> Pixels:
    """What an extractor, by its name, finds in pictures; UsageError for one that there is not, with the nearest."""
    found: Pixels = parse(extractor, EXTRACTORS, "extractor")(pixels)
    return found
