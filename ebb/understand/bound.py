"""The variational bound: how many bits a model needs at most for 8-bit images, and at which noise levels."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial

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
from ebb.understand.likelihood import NOTHING_GIVEN, UNIT, batched, interval, loudest
from ebb.understand.reader import ValueReader, answer_at, reading

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
    faintest: float
    """ν at the end of the chain"""
    fitted: int
    """training images to which the distribution is fitted by which values are read off there; 0: it is N(x̂0, ν²)"""


def bound(
    system: System,
    images: NDArray[np.uint8],
    given: Values = NOTHING_GIVEN,
    *,
    seed: int,
    levels: int = 32,
    end: float | ValueReader = FAINTEST,
) -> Bound:
    """The variational bound on −log₂ P(image)/d of 8-bit images [n, *d], in the limit of infinitely many steps.

    With λ the log-SNR and x̂0 the denoiser's answer at x_λ = α·x0 + σ·ε, in nats (Kingma et al. 2021, eq. 11 and 15):

        ½·e^{λ_first}·|x0|² + ½∫ e^λ·E|x0 − x̂0|² dλ + E[−log P(x0 | x_last)].

    The first part is the divergence of the chain's beginning from N(0, σ²I). The second is what T steps cost,
    Σ ½(SNR_s − SNR_t)·E|x0 − x̂0|², as T → ∞. In the third each value has the mass of N(x̂0, ν²) within half of WIDTH,
    and the outermost two also what lies beyond (Ho et al. 2020, eq. 13), at ν = `end`; or a mass that was fitted to
    what the model says, at the ν of a `ValueReader`. With the exact denoiser the bound falls to −log₂ P as ν falls to
    0; a network has learnt nothing below the noise it was trained on, and pays for each piece there.

    The range of λ is cut into `levels` equal pieces; every image is asked once in each, at a level and with a noise of
    its own, and once at the end. So every part is without bias, and the interval over images holds that noise too. No
    noise is added to the values: this is a bound for discrete ones.

    In float32 and without guidance, as `likelihood`; that is another model made of the same denoiser (a flow without
    noise, down to a fainter end), so neither figure bounds the other. Raises UsageError for levels < 1 and an `end`
    outside (0, 1), and as `batched` does.
    """
    faintest = end.nsr if isinstance(end, ValueReader) else end
    if levels < 1 or not 0 < faintest < 1:
        raise UsageError(f"a bound needs levels ≥ 1 and 0 < end < 1, got {levels}, {faintest:g}")
    path, dims = system.denoiser.path, math.prod(system.shape)
    first, last = (2 * where(path, -math.log(nsr)).lam for nsr in (min(loudest(system.denoiser), LOUDEST), faintest))
    edges = torch.linspace(first, last, levels + 1, dtype=torch.float64)
    jitter = torch.from_numpy(np.random.default_rng([seed, 1]).random((len(images), levels)))
    read = end if isinstance(end, ValueReader) else partial(reading, std=faintest)
    rows = []
    for begin, x0, cond in batched(system, images, given, BATCH):
        places = edges[:-1] + (edges[1:] - edges[:-1]) * jitter[begin : begin + len(x0)]
        noise = Noise.of(seed + begin, len(x0))
        parts = spent(system.denoiser, x0, cond, edges, places, noise)
        nats = read(x0, answer_at(system.denoiser, x0, cond, faintest, noise(levels, x0)))
        rows.append(torch.cat([parts, nats[:, None]], 1))
    bits = torch.cat(rows) / (dims * math.log(2))
    prior, *terms, reconstruction = bits.mean(0).tolist()
    fitted = end.count if isinstance(end, ValueReader) else 0
    middles = ((edges[:-1] + edges[1:]) / 2).tolist()
    named = [{"log_snr": middle, "bits": term} for middle, term in zip(middles, terms, strict=True)]
    return Bound(*interval(bits.sum(1)), len(images), UNIT, named, reconstruction, prior, faintest, fitted)


@torch.no_grad()
def spent(
    denoiser: Denoiser,
    x0: Float[Tensor, "b *d"],
    cond: Cond,
    edges: Float[Tensor, "ends"],
    places: Float[Tensor, "b levels"],
    noise: Noise,
) -> Float[Tensor, "b parts"]:
    """The nats of each sample: at the beginning, in each piece between `edges` as its place there tells."""
    path, pieces = denoiser.path, (edges[1:] - edges[:-1]).tolist()
    parts = [math.exp(float(edges[0])) / 2 * squared(x0)]
    for k, length in enumerate(pieces):
        log_snr = places[:, k]
        t = path.time(torch.exp(-log_snr / 2))
        answer = denoiser(path.mix(x0, noise(k, x0), t), t, cond)
        parts.append(length / 2 * log_snr.exp() * squared(x0 - answer))
    return torch.stack(parts, 1)


def squared(x: Float[Tensor, "b *d"]) -> Float[Tensor, "b"]:
    """|x|² of each sample, float64 on the CPU."""
    return x.flatten(1).double().square().sum(1).cpu()
