"""A critic of patches: how real an image looks, place by place."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from ebb.errors import UsageError
from ebb.networks.convolutional import channels_last
from ebb.networks.unet import groups
from ebb.shapes import Float, sides


class Critic(nn.Module):
    """x [b, channels, h, w] → [b, 1, h', w'], a score for each overlapping patch (Isola et al. 2017, §3.2.2).

    `halvings` convolutions of stride 2, each with twice the channels of the one before up to 4·width, then the score.
    With three, the default, a score sees 38×38 pixels. Normalised by groups of channels within each image, so no
    image's score depends on another's.
    """

    def __init__(self, channels: int, *, width: int = 32, halvings: int = 3) -> None:
        super().__init__()
        if halvings < 1:
            raise UsageError(f"a critic has 1 or more halvings, got {halvings}")
        self.settings: dict[str, Any] = {"channels": channels, "width": width, "halvings": halvings}
        layers: list[nn.Module] = [nn.Conv2d(channels, width, 4, stride=2, padding=1), nn.LeakyReLU(0.2)]
        inside = width
        for halving in range(1, halvings):
            w = width * min(2**halving, 4)
            layers += [
                nn.Conv2d(inside, w, 4, stride=2, padding=1, bias=False),
                nn.GroupNorm(groups(w), w),
                nn.LeakyReLU(0.2),
            ]
            inside = w
        self.body = nn.Sequential(*layers)
        self.score = nn.Conv2d(inside, 1, 3, padding=1)
        self.smallest = 2 ** (halvings + 1)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b 1 h2 w2"]:
        """The scores; raises UsageError for an image too small to have a 2×2 map of them."""
        if min(x.shape[2:]) < self.smallest:
            raise UsageError(
                f"this critic needs sides of {self.smallest} or more, got {sides(x.shape[2:])}",
                "build it with fewer halvings",
            )
        scores: Tensor = self.score(self.body(channels_last(x)))
        return scores
