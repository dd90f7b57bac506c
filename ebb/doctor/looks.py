"""What can be told of a set of images without any network: contrast, variety, sharpness."""

from __future__ import annotations

import torch

from ebb.shapes import Float


def contrast(images: Float[torch.Tensor, "n c h w"]) -> float:
    """The standard deviation of the values within an image, the root mean square over images."""
    return float(images.double().flatten(1).var(1, unbiased=False).mean().sqrt())


def variety(images: Float[torch.Tensor, "n c h w"]) -> float:
    """The standard deviation over images of the value at a place, the root mean square over places; 0 of one image."""
    return float(images.double().flatten(1).var(0, unbiased=len(images) > 1).mean().sqrt())


def fine_share(images: Float[torch.Tensor, "n c h w"]) -> float:
    """The share of an image's power, its mean apart, at spatial frequencies above half of the highest along an axis.

    Power is |FFT|² summed over images; the frequency of a place of the spectrum is √(u² + v²) in cycles a pixel, and
    those above 1/4 count. White noise has 1 − π/16 ≈ 0.80; ordinary images have a few hundredths.
    """
    power = torch.fft.fft2(images.double()).abs().square().sum((0, 1))
    rows, columns = (torch.fft.fftfreq(side, dtype=torch.float64) for side in images.shape[-2:])
    radius = torch.hypot(rows[:, None], columns[None, :])
    power[0, 0] = 0
    return float(power[radius > 0.25].sum() / power.sum().clamp(min=1e-30))
