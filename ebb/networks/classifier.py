"""Small classifiers of noisy data, for guidance."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from ebb.errors import UsageError
from ebb.networks.blocks import CONVOLUTIONS, zeroed
from ebb.networks.embedder import Embedder
from ebb.networks.mlp import MLP
from ebb.networks.unet import Residual, groups
from ebb.shapes import Float


def several(classes: int) -> int:
    """`classes` if there are at least two; raises UsageError else."""
    if classes < 2:
        raise UsageError(f"a classifier tells 2 or more classes apart, got {classes}")
    return classes


class Classifier(nn.Module):
    """x [b, channels, *size], time [b] → logits [b, classes], for any size: the way down of a U-Net, then the mean.

    Resolution i is 1/2^i of that of x, with width·multipliers[i] channels and `depth` residual blocks; the last
    feature map is averaged over its places (Dhariwal & Nichol 2021, §4.3, with the mean in place of attention).
    Logits start at 0: every class alike.
    """

    def __init__(
        self,
        channels: int,
        classes: int,
        *,
        width: int = 64,
        multipliers: Sequence[int] = (1, 2, 2),
        depth: int = 1,
        dims: int = 2,
    ) -> None:
        super().__init__()
        if dims not in CONVOLUTIONS:
            raise UsageError(
                f"a classifier has 1, 2 or 3 spatial dimensions, got {dims}", "for points: PointClassifier"
            )
        self.settings: dict[str, Any] = {
            "channels": channels,
            "classes": several(classes),
            "width": width,
            "multipliers": tuple(multipliers),
            "depth": depth,
            "dims": dims,
        }
        conv, widths, e = CONVOLUTIONS[dims], [width * m for m in multipliers], 2 * width
        self.embedding = Embedder(e, {})
        self.stem = conv(channels, widths[0], 3, padding=1)
        self.levels = nn.ModuleList(nn.ModuleList(Residual(dims, w, w, e) for _ in range(depth)) for w in widths)
        self.shrink = nn.ModuleList(conv(a, b, 3, stride=2, padding=1) for a, b in pairwise(widths))
        self.norm = nn.GroupNorm(groups(widths[-1]), widths[-1])
        self.out = zeroed(nn.Linear(widths[-1], classes))

    def forward(self, x: Float[Tensor, "b c *size"], time: Float[Tensor, "b"]) -> Float[Tensor, "b k"]:
        """The logits."""
        h, heard = self.stem(x), self.embedding(time, {})
        for i, blocks in enumerate(self.levels):
            if i > 0:
                h = self.shrink[i - 1](h)
            for block in blocks.children():
                h = block(h, heard)
        logits: Tensor = self.out(F.silu(self.norm(h)).flatten(2).mean(2))
        return logits


class PointClassifier(nn.Module):
    """x [b, channels], time [b] → logits [b, classes]: an `MLP` of features with a linear map before and after it.

    Logits start at 0: every class alike.
    """

    def __init__(self, channels: int, classes: int, *, width: int = 128, depth: int = 2) -> None:
        super().__init__()
        self.settings: dict[str, Any] = {
            "channels": channels,
            "classes": several(classes),
            "width": width,
            "depth": depth,
        }
        self.stem = nn.Linear(channels, width)
        self.trunk = MLP(width, width=width, depth=depth)
        self.out = nn.Linear(width, classes, bias=False)  # the trunk is what starts at 0 here

    def forward(self, x: Float[Tensor, "b c"], time: Float[Tensor, "b"]) -> Float[Tensor, "b k"]:
        """The logits."""
        logits: Tensor = self.out(self.trunk(self.stem(x), time, {}))
        return logits
