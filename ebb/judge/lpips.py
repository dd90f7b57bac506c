"""LPIPS: what a VGG-16 sees of a picture, weighted as people judged which of two pictures is nearer to a third."""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from ebb.errors import UsageError
from ebb.shapes import Float, sides

STAGES = ((64, (0, 2)), (128, (5, 7)), (256, (10, 12, 14)), (512, (17, 19, 21)), (512, (24, 26, 28)))
"""Channels of each stage of VGG-16 (Simonyan & Zisserman 2015, configuration D), and the places of its convolutions."""

SMALLEST = 16
"""Pixels of a side that the four poolings leave one of."""


class Lpips(nn.Module):
    """Feature maps whose squared differences, over channels, places and depths, are LPIPS (Zhang et al. 2018, eq. 1).

    At each depth the features of a place have length 1 and are scaled by √w, w ≥ 0 the channel's learned weight, so
    d(x, y) = Σ_depths mean_places |f(x) − f(y)|². Names of tensors are those of the `lpips` package, 0.1, "vgg".
    """

    unused = ("lins.",)
    """beginnings of names that a weights file may hold besides"""

    def __init__(self) -> None:
        super().__init__()
        numbers = {name: nn.Parameter(torch.zeros(1, 3, 1, 1)) for name in ("shift", "scale")}
        self.scaling_layer, self.net, below = nn.ParameterDict(numbers), nn.ModuleDict(), 3
        for depth, (wide, places) in enumerate(STAGES):
            stage = nn.ModuleDict()
            for place in places:
                stage[str(place)] = nn.Conv2d(below, wide, 3, padding=1)
                below = wide
            self.net[f"slice{depth + 1}"] = stage
            layer = nn.Conv2d(wide, 1, 1, bias=False)
            self.add_module(f"lin{depth}", nn.ModuleDict({"model": nn.ModuleDict({"1": layer})}))

    def forward(self, x: Float[Tensor, "b c h w"]) -> list[Tensor]:
        """The maps [b, k, h', w'] of images in [−1, 1], grey or colour; UsageError for sides below 16."""
        if min(x.shape[2:]) < SMALLEST:
            raise UsageError(f"LPIPS sees images of {SMALLEST} pixels a side or more, got {sides(x.shape[2:])}")
        x, found = (x - self.scaling_layer["shift"]) / self.scaling_layer["scale"], []
        for depth, stage in enumerate(self.net.values()):
            x = F.max_pool2d(x, 2) if depth else x
            for convolution in stage.values():  # type: ignore[operator]
                x = F.relu(convolution(x))
            weight = self.get_parameter(f"lin{depth}.model.1.weight")
            found.append(F.normalize(x.float(), dim=1, eps=1e-10) * weight.clamp(min=0).sqrt())
        return found
