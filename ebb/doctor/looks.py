"""What can be told of a set of images without any network: contrast, variety, sharpness, what touches the edge."""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812

from ebb.shapes import Float


def contrast(images: Float[torch.Tensor, "n c h w"]) -> float:
    """The standard deviation of the values within an image, the root mean square over images."""
    return float(images.double().flatten(1).var(1, unbiased=False).mean().sqrt())


def variety(images: Float[torch.Tensor, "n c h w"]) -> float:
    """The standard deviation over images of the value at a place, the root mean square over places; 0 of one image."""
    return float(images.double().flatten(1).var(0, unbiased=len(images) > 1).mean().sqrt())


def spectrum(images: Float[torch.Tensor, "n c h w"]) -> tuple[Float[torch.Tensor, "h w"], Float[torch.Tensor, "h w"]]:
    """(|FFT|² summed over images and channels, their mean apart; the frequency √(u² + v²) of each place in cycles a
    pixel)."""
    power = torch.fft.fft2(images.double()).abs().square().sum((0, 1))
    rows, columns = (torch.fft.fftfreq(side, dtype=torch.float64) for side in images.shape[-2:])
    power[0, 0] = 0
    return power, torch.hypot(rows[:, None], columns[None, :])


HIGH = 0.25
"""Cycles a pixel from which on a frequency is high: half of the highest along an axis."""


def fine_power(images: Float[torch.Tensor, "n c h w"]) -> float:
    """The power of a value at frequencies above HIGH, the mean over images."""
    power, radius = spectrum(images)
    return float(power[radius > HIGH].sum()) / (images.numel() * power.numel())


def fine_share(images: Float[torch.Tensor, "n c h w"]) -> float:
    """The share of an image's power, its mean apart, at spatial frequencies above HIGH (`spectrum`).

    White noise has 1 − π/16 ≈ 0.80; ordinary images have a few hundredths.
    """
    power, radius = spectrum(images)
    return float(power[radius > HIGH].sum() / power.sum().clamp(min=1e-30))


LAPLACE = torch.tensor([[0.0, 1.0, 0.0], [1.0, -4.0, 1.0], [0.0, 1.0, 0.0]])
"""The five-point Laplacian."""


def sharpness(images: Float[torch.Tensor, "n c h w"]) -> Float[torch.Tensor, "n"]:
    """log of the variance of the Laplacian of each image's brightness (Pech-Pacheco et al. 2000), over that of the
    image at half its size. In levels of 255.

    The variance alone tells plain images from busy ones as much as blurred from sharp: of two sizes of one image both
    are alike plain, and blur takes from the larger one. Below a level or two it is rounding, and counts as nothing.
    """
    grey = images.mean(1, keepdim=True)
    halved = F.avg_pool2d(grey, 2)
    fine, coarse = (F.conv2d(x, LAPLACE.to(x)[None, None]).flatten(1).var(1) for x in (grey, halved))
    return torch.log(fine + 1) - torch.log(coarse + 4)


def contents(images: Float[torch.Tensor, "n c h w"], far: float) -> Float[torch.Tensor, "n h w"]:
    """Which places of each image differ by more than `far` from its ground, the median of its rim by channel."""
    rim = torch.cat([images[:, :, 0], images[:, :, -1], images[:, :, :, 0], images[:, :, :, -1]], 2)
    ground = rim.median(2).values
    return ((images - ground[:, :, None, None]).abs() > far).any(1).float()


def margins(content: Float[torch.Tensor, "n h w"]) -> tuple[Float[torch.Tensor, "n 4"], Float[torch.Tensor, "n 4"]]:
    """(the share of each edge that content touches, the share of the side that is empty from there on), of the upper,
    lower, left and right edge; without any content all is empty."""
    touched = torch.stack([content[:, 0], content[:, -1]], 1).mean(2)
    beside = torch.stack([content[:, :, 0], content[:, :, -1]], 1).mean(2)
    lines = [content.amax(2), content.amax(1)]
    empty = [torch.cumsum(line, 1).eq(0).float().mean(1) for lines_ in lines for line in (lines_, lines_.flip(1))]
    return torch.cat([touched, beside], 1), torch.stack(empty, 1)
