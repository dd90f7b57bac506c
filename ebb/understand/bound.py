"""The variational bound: how many bits a model needs at most for 8-bit images, and at which noise levels."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ebb.encode.conditioner import Values
from ebb.errors import UsageError
from ebb.process.denoiser import Cond, Denoiser
from ebb.process.moment import where
from ebb.sample.noise import Noise
from ebb.shapes import Float
from ebb.system.system import System
from ebb.understand.likelihood import NOTHING_GIVEN, UNIT, WIDTH, batched, interval, loudest

LOUDEST = 80.0
"""The chain begins at this ν, or at the path's own end if that is earlier."""

FAINTEST = 0.01
"""The chain ends at this ν, as that of Ho et al. 2020 does (β_1 = 1e-4), and the values are read off."""

BATCH = 64


@dataclass(frozen=True)
class Bound:
    """The mean of `count` images with a 95 % interval, and its parts, all in `unit`: it is their sum.

    `terms` hold the bits spent between one noise level and the next, from noise to data: {"log_snr": the middle of the
    piece, "bits"}; `prior` those on where the chain begins, `reconstruction` those on reading 8-bit values off its end.
    """

    value: float
    low: float
    high: float
    count: int
    unit: str
    terms: list[dict[str, float]]
    reconstruction: float
    prior: float


def bound(
    system: System,
    images: NDArray[np.uint8],
    given: Values = NOTHING_GIVEN,
    *,
    seed: int,
    levels: int = 32,
    faintest: float = FAINTEST,
) -> Bound:
    """The variational bound on −log₂ P(image)/d of 8-bit images [n, *d], in the limit of infinitely many steps.

    With λ the log-SNR and x̂0 the denoiser's answer at x_λ = α·x0 + σ·ε, in nats (Kingma et al. 2021, eq. 11 and 15):

        ½·e^{λ_first}·|x0|² + ½∫ e^λ·E|x0 − x̂0|² dλ + E[−log P(x0 | x_last)].

    The first part is the divergence of the chain's beginning from N(0, σ²I). The second is what T steps cost,
    Σ ½(SNR_s − SNR_t)·E|x0 − x̂0|², as T → ∞. In the third each value has the mass of N(x̂0, ν²) within half of WIDTH,
    and the outermost two also what lies beyond (Ho et al. 2020, eq. 13), at ν = `faintest`. With the exact denoiser the
    bound falls to −log₂ P as `faintest` falls to 0; a network has learnt nothing below the noise it was trained on, and
    pays for each piece there.

    The range of λ is cut into `levels` equal pieces; every image is asked once in each, at a level and with a noise of
    its own, and once at the end. So every part is without bias, and the interval over images holds that noise too. No
    noise is added to the values: this is a bound for discrete ones.

    In float32 and without guidance, as `likelihood`; that is another model made of the same denoiser (a flow without
    noise, down to a fainter end), so neither figure bounds the other. Raises UsageError for levels < 1 and a `faintest`
    outside (0, 1), and as `batched` does.
    """
    if levels < 1 or not 0 < faintest < 1:
        raise UsageError(f"a bound needs levels ≥ 1 and 0 < faintest < 1, got {levels}, {faintest:g}")
    path, dims = system.denoiser.path, math.prod(system.shape)
    first, last = (2 * where(path, -math.log(nsr)).lam for nsr in (min(loudest(system.denoiser), LOUDEST), faintest))
    edges = torch.linspace(first, last, levels + 1, dtype=torch.float64)
    jitter = torch.from_numpy(np.random.default_rng([seed, 1]).random((len(images), levels)))
    rows = []
    for begin, x0, cond in batched(system, images, given, BATCH):
        places = edges[:-1] + (edges[1:] - edges[:-1]) * jitter[begin : begin + len(x0)]
        rows.append(spent(system.denoiser, x0, cond, edges, places, Noise.of(seed + begin, len(x0))))
    bits = torch.cat(rows) / (dims * math.log(2))
    prior, *terms, reconstruction = bits.mean(0).tolist()
    middles = ((edges[:-1] + edges[1:]) / 2).tolist()
    named = [{"log_snr": middle, "bits": term} for middle, term in zip(middles, terms, strict=True)]
    return Bound(*interval(bits.sum(1)), len(images), UNIT, named, reconstruction, prior)


@torch.no_grad()
def spent(
    denoiser: Denoiser,
    x0: Float[Tensor, "b *d"],
    cond: Cond,
    edges: Float[Tensor, "ends"],
    places: Float[Tensor, "b levels"],
    noise: Noise,
) -> Float[Tensor, "b parts"]:
    """The nats of each sample: at the beginning, in each piece between `edges` as its place there tells, at the end."""
    path, pieces = denoiser.path, (edges[1:] - edges[:-1]).tolist()
    parts = [math.exp(float(edges[0])) / 2 * squared(x0)]
    for k, length in enumerate(pieces):
        log_snr = places[:, k]
        t = path.time(torch.exp(-log_snr / 2))
        answer = denoiser(path.mix(x0, noise(k, x0), t), t, cond)
        parts.append(length / 2 * log_snr.exp() * squared(x0 - answer))
    last = where(path, float(edges[-1]) / 2)
    answer = denoiser(last.mix(x0, noise(len(pieces), x0)), last.shared(len(x0)), cond)
    parts.append(reading(x0, answer, last.nsr))
    return torch.stack(parts, 1)


def squared(x: Float[Tensor, "b *d"]) -> Float[Tensor, "b"]:
    """|x|² of each sample, float64 on the CPU."""
    return x.flatten(1).double().square().sum(1).cpu()


def reading(x0: Float[Tensor, "b *d"], mean: Float[Tensor, "b *d"], std: float) -> Float[Tensor, "b"]:
    """−log P(x0) in nats, P the mass of N(mean, std²) in the cell of each 8-bit value (Ho et al. 2020, eq. 13).

    A cell reaches WIDTH/2 to both sides; those of −1 and 1 have no outer edge. The difference of two normal
    distribution functions is taken where both are small, so no mean is too far off for a logarithm.
    """
    x0, mean = x0.double(), mean.double()
    below = torch.where(x0 < WIDTH / 2 - 1, -math.inf, (x0 - WIDTH / 2 - mean) / std)
    above = torch.where(x0 > 1 - WIDTH / 2, math.inf, (x0 + WIDTH / 2 - mean) / std)
    flipped = below + above > 0
    low, high = torch.where(flipped, -above, below), torch.where(flipped, -below, above)
    more, less = torch.special.log_ndtr(high), torch.special.log_ndtr(low)
    nats: Tensor = -(more + torch.log1p(-torch.exp(less - more))).flatten(1).sum(1).cpu()
    return nats
