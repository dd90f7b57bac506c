"""How 8-bit values are read off the end of a chain: from N(x̂0, ν²), or by what was fitted to a model's answers."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ebb.encode.conditioner import Values
from ebb.process.denoiser import Cond, Denoiser
from ebb.process.moment import where
from ebb.sample.noise import Noise
from ebb.shapes import Float
from ebb.system.system import System
from ebb.understand.likelihood import NOTHING_GIVEN, WIDTH, batched

LEVELS = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32)
"""The ν among which the end of the chain is chosen: from about 1/256 of the range on."""

BINS = 32
"""Ranges of x̂0 of which each has a distribution of its own."""

ROUNDS = 12
"""Of expectation and maximisation."""

BATCH = 64


def cells(x0: Tensor, mean: Tensor, std: Tensor | float) -> Tensor:
    """log P of each value, P the mass of N(mean, std²) in the cell of an 8-bit value (Ho et al. 2020, eq. 13).

    A cell reaches WIDTH/2 to both sides; those of −1 and 1 have no outer edge. The difference of two normal
    distribution functions is taken where both are small, so no mean is too far off for a logarithm.
    """
    below = torch.where(x0 < WIDTH / 2 - 1, -math.inf, (x0 - WIDTH / 2 - mean) / std)
    above = torch.where(x0 > 1 - WIDTH / 2, math.inf, (x0 + WIDTH / 2 - mean) / std)
    flipped = below + above > 0
    low, high = torch.where(flipped, -above, below), torch.where(flipped, -below, above)
    more, less = torch.special.log_ndtr(high), torch.special.log_ndtr(low)
    mass: Tensor = more + torch.log1p(-torch.exp(less - more))
    return mass


def reading(x0: Float[Tensor, "b *d"], mean: Float[Tensor, "b *d"], std: float) -> Float[Tensor, "b"]:
    """−log P(x0) in nats of each sample, by `cells`."""
    nats: Tensor = -cells(x0.double(), mean.double(), std).flatten(1).sum(1).cpu()
    return nats


@dataclass(frozen=True, eq=False)
class ValueReader:
    """P(x0 | x̂0) of a value at ν = `nsr`: with `shares` [BINS, 4] it is −1, it is 1, N(x̂0, std²) in cells, anything.

    So it knows how sure the model's answers are: N(x̂0, ν²) has ν for all, and where a value is at an end of the range,
    as the background of a drawing, spends on what is certain. Its numbers belong to the model, and are fitted to
    `count` examples that it was trained on.
    """

    nsr: float
    shares: Float[Tensor, "bins 4"]
    std: Float[Tensor, "bins"]
    count: int

    def __call__(self, x0: Float[Tensor, "b *d"], mean: Float[Tensor, "b *d"]) -> Float[Tensor, "b"]:
        """−log P(x0) in nats of each sample."""
        parts = joint(x0.double().cpu(), mean.double().cpu(), self.shares, self.std)
        nats: Tensor = -torch.logsumexp(parts, 0).flatten(1).sum(1)
        return nats


def bin_of(mean: Tensor) -> Tensor:
    """The range of x̂0 that each answer lies in."""
    return ((mean.clamp(-1, 1) + 1) / 2 * (BINS - 1)).round().long()


def joint(x0: Tensor, mean: Tensor, shares: Tensor, std: Tensor) -> Tensor:
    """log of share·P of each of the four kinds of value, [4, *of x0]."""
    places = bin_of(mean)
    never = torch.full_like(x0, -math.inf)
    least, most = torch.where(x0 < WIDTH / 2 - 1, 0.0, never), torch.where(x0 > 1 - WIDTH / 2, 0.0, never)
    kinds = torch.stack([least, most, cells(x0, mean, std[places]), torch.full_like(x0, -math.log(256))])
    return kinds + shares.log()[places].movedim(-1, 0)


FIRST = (0.1, 0.1, 0.7, 0.1)
"""The shares that are begun with, which count as one value in each bin."""


def fit(nsr: float, x0: Float[Tensor, "n *d"], mean: Float[Tensor, "n *d"]) -> ValueReader:
    """The reader under which values x0 are likely where the model answers `mean` at ν = `nsr`."""
    x, answer = x0.double().flatten(), mean.double().flatten()
    places = bin_of(answer)
    prior, error = torch.tensor(FIRST, dtype=torch.float64), (x - answer).square()
    shares, std = prior.repeat(BINS, 1), torch.full((BINS,), nsr, dtype=torch.float64)
    for _ in range(ROUNDS):
        weights = torch.softmax(joint(x, answer, shares, std), 0)
        total = torch.stack([torch.zeros(BINS, dtype=torch.float64).index_add(0, places, part) for part in weights], 1)
        spread = torch.zeros(BINS, dtype=torch.float64).index_add(0, places, weights[2] * error)
        shares = (total + prior) / (total + prior).sum(1, keepdim=True)
        std = ((spread + prior[2] * nsr**2) / (total[:, 2] + prior[2])).sqrt().clamp(min=WIDTH / 8)
    return ValueReader(nsr, shares, std, len(x0))


def fitted(system: System, images: NDArray[np.uint8], given: Values = NOTHING_GIVEN, *, seed: int) -> ValueReader:
    """The reader of the model, and the ν at which the chain is to end, by training images [n, *d].

    At each of LEVELS a reader is fitted to every second image; the level is chosen at which the bits of the others are
    fewest, for reading and for the steps from the loudest level down to there (½∫ e^λ·|x0 − x̂0|² dλ by the trapezoidal
    rule). The reader of that level is then fitted to all. Raises as `bound`.
    """
    asked = {nsr: answers(system, images, given, nsr, seed) for nsr in sorted(LEVELS, reverse=True)}
    steps, before, costs = 0.0, (math.nan, 0.0), dict[float, float]()
    for nsr, (x0, mean) in asked.items():
        rate = float((x0 - mean).square().flatten(1).sum(1).mean()) / nsr**2
        steps += 0.0 if math.isnan(before[0]) else math.log(before[0] / nsr) * (rate + before[1]) / 2
        before = nsr, rate
        costs[nsr] = steps + float(fit(nsr, x0[::2], mean[::2])(x0[1::2], mean[1::2]).mean())
    best = min(costs, key=lambda nsr: costs[nsr])
    return fit(best, *asked[best])


def answers(
    system: System, images: NDArray[np.uint8], given: Values, nsr: float, seed: int
) -> tuple[Float[Tensor, "n *d"], Float[Tensor, "n *d"]]:
    """The images and what the model says of them with noise at ν = `nsr`, on the CPU."""
    rows = []
    for begin, x0, cond in batched(system, images, given, BATCH):
        eps = Noise.of(seed + begin, len(x0))(0, x0)
        rows.append((x0.cpu(), answer_at(system.denoiser, x0, cond, nsr, eps).float().cpu()))
    x0, mean = (torch.cat(parts) for parts in zip(*rows, strict=True))
    return x0, mean


@torch.no_grad()
def answer_at(denoiser: Denoiser, x0: Tensor, cond: Cond, nsr: float, eps: Tensor) -> Tensor:
    """x̂0 of x0 with the noise `eps` at ν = `nsr`."""
    there = where(denoiser.path, -math.log(nsr))
    return denoiser(there.mix(x0, eps), there.shared(len(x0)), cond)
