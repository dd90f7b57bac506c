"""What an autoencoder keeps and what it loses: fidelity, what its latents hold and cost, and whether it uses them."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from ebb.encode.autoencoder import VQ, Autoencoder, Variational, divergence
from ebb.encode.quantise import perplexity
from ebb.encode.statistics import Spread
from ebb.errors import DataError, UsageError
from ebb.networks.evaluating import evaluating
from ebb.sample.noise import Noise
from ebb.shapes import Float, sides
from ebb.understand.likelihood import WIDTH, bits_per_dim

RANGE = 2.0
"""How far apart the smallest and the largest value of an image lie, in [−1, 1]."""

WINDOW, SIGMA = 11, 1.5
"""The side of SSIM's Gaussian window and its standard deviation, in pixels."""

ACTIVE = 0.01
"""A channel is active if the variance of its mean over the data is above this (Burda et al. 2016, §5.2)."""

BLURRED = 0.5
"""Below this share of the finest detail reconstructions are called blurred."""

UNUSED = 0.5
"""Below this share of codes in use the codebook is called too large."""


def psnr(made: Float[Tensor, "b *d"], x: Float[Tensor, "b *d"]) -> Float[Tensor, "b"]:
    """10·log₁₀(RANGE²/mean (x̂ − x)²) of each image, in dB; 100 for images alike, so that means stay finite."""
    error = (made.double() - x.double()).square().flatten(1).mean(1)
    return 10 * torch.log10(RANGE**2 / error.clamp(min=RANGE**2 * 1e-10))


def ssim(made: Float[Tensor, "b c h w"], x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b"]:
    """Structural similarity of each image, at most 1 (Wang et al. 2004, eq. 13), the mean over channels and places.

    (2·μμ' + C1)(2·σ_xx' + C2)/((μ² + μ'² + C1)(σ² + σ'² + C2)), C1 = (0.01·RANGE)², C2 = (0.03·RANGE)², the moments
    under a Gaussian window that lies within the image. Raises UsageError for images smaller than the window.
    """
    if min(x.shape[2:]) < WINDOW:
        raise UsageError(f"SSIM needs images of {WINDOW}×{WINDOW} or more, got {sides(x.shape[2:])}")
    a, b = made.double().flatten(0, 1)[:, None], x.double().flatten(0, 1)[:, None]
    line = torch.exp(-(((torch.arange(WINDOW, dtype=torch.float64, device=x.device) - WINDOW // 2) / SIGMA) ** 2) / 2)
    line = line / line.sum()
    planes = torch.cat([a, b, a * a, b * b, a * b], 1).flatten(0, 1)[:, None]
    planes = F.conv2d(F.conv2d(planes, line[None, None, None, :]), line[None, None, :, None])
    mean_a, mean_b, aa, bb, ab = torch.unflatten(planes[:, 0], 0, (-1, 5)).unbind(1)
    c1, c2 = (0.01 * RANGE) ** 2, (0.03 * RANGE) ** 2
    alike = (2 * mean_a * mean_b + c1) * (2 * (ab - mean_a * mean_b) + c2)
    most = (mean_a**2 + mean_b**2 + c1) * (aa - mean_a**2 + bb - mean_b**2 + c2)
    found: Tensor = (alike / most).reshape(len(x), -1).mean(1)
    return found


def detail(x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b"]:
    """The energy of each image's finest octave: Σ (x − the mean of its 2×2 block)²; an odd last line is left out."""
    x = x.double()[..., : x.shape[2] // 2 * 2, : x.shape[3] // 2 * 2]
    coarse = F.interpolate(F.avg_pool2d(x, 2), scale_factor=2.0, mode="nearest")
    return (x - coarse).square().flatten(1).sum(1)


@dataclass(frozen=True)
class Evidence:
    """The ELBO of a variational autoencoder per image, in nats: elbo = −(reconstruction + kl).

    `reconstruction` is −E[log N(x; decode(z), variance·I)], one z from each image's posterior. `kl` is the posterior's
    divergence from N(0, I), `kl_per_channel` its parts. `bits` bounds the bits per dimension of 8-bit values: the same
    with x spread evenly over its value's width, which the encoder does not see.
    """

    elbo: float
    reconstruction: float
    kl: float
    kl_per_channel: list[float]
    variance: float
    bits: float


@dataclass(frozen=True)
class Codes:
    """How many codes a data set needs: their number, the share in use, and the perplexity of their counts."""

    codes: int
    usage: float
    perplexity: float


@dataclass(frozen=True)
class Reconstruction:
    """How well `count` images come back, each figure the mean over images, and how the latents are used.

    `psnr` in dB and `ssim` are of decode(encode(x)); ssim is None for images smaller than its window. `detail` is the
    energy of the finest octave in the reconstructions over that in the images. `activity` is the variance over images
    of each channel of encode(x). `evidence` is None without a posterior, `codes` without a codebook.
    """

    count: int
    psnr: float
    ssim: float | None
    detail: float
    activity: list[float]
    evidence: Evidence | None
    codes: Codes | None

    @classmethod
    def of(
        cls, autoencoder: Autoencoder, batches: Iterable[Tensor], *, seed: int = 0, variance: float | None = None
    ) -> Reconstruction:
        """Measure `autoencoder` on batches [b, c, h, w] in [−1, 1], in evaluation mode; the modes are restored.

        `variance` is the Gaussian decoder's; by default the one under which these images are likeliest, the mean
        squared error (Rybkin et al. 2021, eq. 7). The posterior's draw for image i is seeded seed + i. Raises DataError
        for no images, images of several sizes and reconstructions that are not finite, UsageError for variance ≤ 0.
        """
        if variance is not None and not variance > 0:
            raise UsageError(f"a variance is above 0, got {variance:g}")
        sums = Sums()
        with torch.no_grad(), evaluating(autoencoder):
            for x in batches:
                sums.add(autoencoder, x, seed)
        activity, count = sums.spread.activity(), sums.spread.count
        if not math.isfinite(sums.psnr):
            raise DataError(
                "the reconstructions are not finite", "look at the images and the weights for values that are not"
            )
        similar = None if sums.ssim is None else sums.ssim / count
        sharp = sums.detail[1] / sums.detail[0] if sums.detail[0] else 1.0
        return cls(count, sums.psnr / count, similar, sharp, activity, sums.evidence(variance), sums.codes())

    @property
    def inactive(self) -> float:
        """The share of channels that say next to nothing about the image."""
        return sum(value <= ACTIVE for value in self.activity) / len(self.activity)

    def warnings(self) -> list[str]:
        """What is wrong in plain words, with what to try; empty where nothing is."""
        said, total = [], len(self.activity)
        if self.inactive > 0:
            said.append(
                f"posterior collapse: {round(self.inactive * total)} of {total} latent channels hardly vary over the"
                " images; lower the divergence's weight, warm it up, or give free nats"
            )
        if self.detail < BLURRED:
            said.append(
                f"blur: the reconstructions have {self.detail:.0%} of the images' finest detail; try more latent"
                " channels, a smaller factor, a perceptual or an adversarial term"
            )
        if self.codes is not None and self.codes.usage < UNUSED:
            said.append(
                f"codebook: {self.codes.usage:.0%} of {self.codes.codes} codes are in use; take fewer, or train longer"
            )
        return said


@dataclass
class Sums:
    """What is added up over a data set on the way to a `Reconstruction`."""

    psnr: float = 0.0
    ssim: float | None = 0.0
    detail: list[float] = field(default_factory=lambda: [0.0, 0.0])
    """Of the images, and of their reconstructions."""
    spread: Spread = field(default_factory=Spread)
    kl: Tensor | None = None
    """Nats in each channel."""
    error: float = 0.0
    """Σ (x − decode(z))², z drawn."""
    elements: int = 0
    """Of one image."""
    counts: Tensor | None = None

    def add(self, autoencoder: Autoencoder, x: Float[Tensor, "b c h w"], seed: int) -> None:
        """Take in a batch, whose first image is number `spread.count`."""
        noise = Noise.of(seed + self.spread.count, len(x))
        z = autoencoder.encode(x)
        made = autoencoder.decode(z).float()
        self.psnr += float(psnr(made, x).sum())
        small = min(x.shape[2:]) < WINDOW
        self.ssim = None if small or self.ssim is None else self.ssim + float(ssim(made, x).sum())
        self.detail = [was + float(detail(image).sum()) for was, image in zip(self.detail, (x, made), strict=True)]
        self.spread.add(z)
        self.elements = x[0].numel()
        if isinstance(autoencoder, Variational):
            mean, log_variance = autoencoder.posterior(x)
            nats = divergence(mean, log_variance).double().sum(0).flatten(1).sum(1)
            self.kl = nats if self.kl is None else self.kl + nats
            drawn = autoencoder.decode(mean + torch.exp(log_variance / 2) * noise(0, mean))
            self.error += float((drawn.double() - x.double()).square().sum())
        if isinstance(autoencoder, VQ):
            _, index = autoencoder.codebook(z)
            found = torch.bincount(index.flatten(), minlength=autoencoder.codebook.codes).double()
            self.counts = found if self.counts is None else self.counts + found

    def evidence(self, variance: float | None) -> Evidence | None:
        """The ELBO and its parts under this variance, or the likeliest."""
        if self.kl is None:
            return None
        d, error = self.elements, self.error / self.spread.count
        variance = max(error / d, 1e-12) if variance is None else variance
        nats = (d * math.log(2 * math.pi * variance) + error / variance) / 2
        channels: list[float] = (self.kl / self.spread.count).tolist()
        kl = math.fsum(channels)
        evenly = d * WIDTH**2 / 12 / (2 * variance)
        bits = bits_per_dim(torch.tensor([-(nats + kl + evenly)], dtype=torch.float64), d, WIDTH)
        return Evidence(-(nats + kl), nats, kl, channels, variance, float(bits))

    def codes(self) -> Codes | None:
        """How the codes were used."""
        if self.counts is None:
            return None
        used = float((self.counts > 0).double().mean())
        return Codes(len(self.counts), used, float(perplexity(self.counts)))
