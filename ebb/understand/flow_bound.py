"""The bits of 8-bit values by the probability flow, from the noise at which they are read off."""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ebb.encode.conditioner import Values
from ebb.process.moment import where
from ebb.sample.adaptive import Adaptive
from ebb.sample.noise import Noise
from ebb.shapes import Float
from ebb.system.system import System
from ebb.understand.likelihood import (
    COARSE,
    NOTHING_GIVEN,
    UNIT,
    BitsPerDim,
    Hutchinson,
    batched,
    interval,
    log_density_at,
    loudest,
)
from ebb.understand.reader import ValueReader, answer_at

BATCH = 32


def flow_bound(
    system: System,
    images: NDArray[np.uint8],
    given: Values = NOTHING_GIVEN,
    *,
    seed: int,
    reader: ValueReader,
    rule: Adaptive = COARSE,
) -> BitsPerDim:
    """A bound on −log₂ P(image)/d of 8-bit images [n, *d], by the flow down to the ν of a `reader` and what that reads.

    The model draws x_t by the flow, and then values by P(x0 | x̂0(x_t)). With x_t = α·x0 + σ·ε in place of the posterior
    (Kingma & Welling 2014, eq. 2), in nats:

        −log P(x0) ≤ E[log N(x_t; α·x0, σ²I) − log p_t(x_t) − log P(x0 | x̂0(x_t))],

    with equality where the reader knows the posterior. So nothing is paid for levels fainter than ν, where values are
    told already and a flow is ruled by what was not learnt. Each image is asked once, with a noise of its own, in
    float32 and without guidance, as by `likelihood`, whose bound spreads values over their width instead. The trace is
    Hutchinson's estimate by one probe. Raises as `batched` does.
    """
    there, span = where(system.denoiser.path, -math.log(reader.nsr)), (reader.nsr, loudest(system.denoiser))
    nats, calls = [], 0
    for first, x0, cond in batched(system, images, given, BATCH):
        noise = Noise.of(seed + first, len(x0))
        eps = noise(1, x0)
        x, trace = there.mix(x0, eps), Hutchinson(1, noise)
        found = log_density_at(system.denoiser, x, cond, rule=rule, span=span, trace=trace)
        read = reader(x0, answer_at(system.denoiser, x0, cond, reader.nsr, eps))
        nats.append(normal(eps, there.sigma) - found.nats.cpu() + read)
        calls += int(found.attempts.calls.sum())
    bits = torch.cat(nats) / (math.prod(system.shape) * math.log(2))
    return BitsPerDim(*interval(bits), len(images), UNIT, 1, calls / len(images), reader.nsr)


def normal(eps: Float[Tensor, "b *d"], std: float) -> Float[Tensor, "b"]:
    """log N(std·ε; 0, std²I), on the CPU."""
    unit = eps.flatten(1).double().square() + math.log(2 * math.pi * std**2)
    return -unit.sum(1).cpu() / 2
