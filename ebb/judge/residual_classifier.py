"""The network that judges: a small residual one on whitened patches, which a few minutes of two cores make good."""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from ebb.networks.unet import groups
from ebb.shapes import Float

COMPONENTS = 24
"""The most principal components of a patch that are looked at, each with both signs."""

WHITENED = 2000
"""Images that the components are measured on."""

LEAST_VARIANCE = 1e-2
"""What is added to the variance of a component, so that noise is not made as loud as edges; images are in [−1, 1]."""

WIDTHS = (32, 64, 128)


def stage(before: int, width: int, *, shrink: bool) -> list[nn.Module]:
    """A convolution with its norm; `shrink` takes the larger of every two places along both axes."""
    pool = [nn.MaxPool2d(2)] if shrink else []
    return [
        nn.Conv2d(before, width, 3, padding=1, bias=False),
        *pool,
        nn.GroupNorm(groups(width), width),
        nn.ReLU(),
    ]


class Added(nn.Module):
    """x + relu(norm(convolution(x)))."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.inside = nn.Sequential(*stage(width, width, shrink=False))

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """The sum."""
        found: Tensor = x + self.inside(x)
        return found


class ResidualClassifier(nn.Module):
    """Images in [−1, 1] → 128 features; `logits` turns features into class scores.

    The first convolution strides by `reduction`, which brings images of any size to about 16×16; its filters are not
    learnt but the whitened principal components of the data's patches (`whiten`), with both signs (after Jordan 2024,
    "94 % on CIFAR-10 in 3.29 seconds", § 3.2, and Page 2019). Once `mirrored` is set, an image's features are the mean
    of its own and those of its mirror image. The features are the hidden layer before its ReLU, where they are nearest
    to a Gaussian, which the Fréchet distance assumes.
    """

    name = "classifier"
    dimension = 128
    filters: Tensor
    mirrored: Tensor

    def __init__(self, channels: int, classes: int, reduction: int = 1) -> None:
        super().__init__()
        self.channels, self.classes, self.reduction = channels, classes, reduction
        self.kernel = max(3, 2 * reduction - 1)
        known = min(COMPONENTS, channels * self.kernel**2)
        self.register_buffer("filters", torch.zeros(2 * known, channels, self.kernel, self.kernel))
        self.register_buffer("mirrored", torch.tensor(False))
        first, second, third = WIDTHS
        self.body = nn.Sequential(
            *stage(2 * known, first, shrink=True),
            *stage(first, second, shrink=True),
            Added(second),
            *stage(second, third, shrink=False),
            Added(third),
            nn.AdaptiveMaxPool2d(2),
            nn.Flatten(),
        )
        self.embed = nn.Linear(4 * third, self.dimension)
        self.head = nn.Linear(self.dimension, classes)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # convolutions run faster on CPUs

    @torch.no_grad()
    def whiten(self, images: Float[Tensor, "b c h w"]) -> None:
        """Make the first filters of the patches of these images: eigenvectors e of their covariance, e/√(λ + ε)."""
        patches = F.unfold(images, self.kernel, stride=max(2, self.reduction)).transpose(1, 2).flatten(0, 1).double()
        centred = patches - patches.mean(dim=0)
        values, vectors = torch.linalg.eigh(centred.T @ centred / len(centred))
        most = slice(-(len(self.filters) // 2), None)
        found = (vectors[:, most] / (values[most].clamp(min=0) + LEAST_VARIANCE).sqrt()).T.reshape(
            -1, *self.filters.shape[1:]
        )
        self.filters.copy_(torch.cat([found, -found]))

    def forward(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d"]:
        """The features."""
        seen = self.seen(images)
        return (seen + self.seen(images.flip(3))) / 2 if bool(self.mirrored) else seen

    def seen(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d"]:
        """The features of images as they are, whether or not mirror images are alike."""
        patches = F.conv2d(images, self.filters, stride=self.reduction, padding=self.kernel // 2)
        features: Tensor = self.embed(self.body(F.relu(patches)))
        return features

    def logits(self, features: Float[Tensor, "b d"]) -> Float[Tensor, "b classes"]:
        """Class scores from features (not from images, so that images pass through the network once)."""
        scores: Tensor = self.head(F.relu(features))
        return scores
