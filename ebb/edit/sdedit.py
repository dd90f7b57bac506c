"""SDEdit: noise to a picture, and a sample from there; how strong the noise is says how much may change."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

from torch import Tensor

from ebb.errors import UsageError
from ebb.process.denoiser import Cond
from ebb.process.moment import at
from ebb.sample.noise import START
from ebb.sample.scheme import Scheme, last
from ebb.shapes import Float


def steps_for(strength: float, steps: int) -> int:
    """How many of a grid's `steps`, its last, an edit of this strength makes: the whole number nearest strength·steps.

    A half goes up. Raises UsageError for a strength outside [0, 1].
    """
    if not 0 <= strength <= 1:
        raise UsageError(
            f"strength is a share of the steps from 0 (the picture itself) to 1 (a new one), got {strength:g}",
            "try --strength 0.5",
        )
    return math.floor(strength * steps + 0.5)


def sdedit(
    scheme: Scheme, x0: Float[Tensor, "b *d"], cond: Cond, noise: Callable[..., Tensor], strength: float
) -> Float[Tensor, "b *d"]:
    """x0 noised to x_t = α·x0 + σ·ε, and sampled on from there (Meng et al. 2022, algorithm 1).

    `strength` is the share of the grid's steps that are made, the last strength·n of n (`steps_for`), as in diffusers:
    the time t is where they begin, so it depends on the grid. 0 gives x0 back; 1 starts from noise alone, without x0,
    and is a fresh sample bit for bit. `noise` is that of the samples (`ebb.Noise`).

    For Gaussian data N(m, S) the edit is N(m + α·G·(x0 − m), σ²·G·Gᵀ) with G = S^½·(α²S + σ²I)^−½.
    """
    made = steps_for(strength, len(scheme.times) - 1)
    if made == 0:
        return x0
    if strength == 1:
        return scheme.fresh(x0, cond, noise)
    scheme = replace(scheme, times=scheme.times[-made - 1 :])
    x = at(scheme.denoiser.path, float(scheme.times[0])).mix(x0, noise(START, x0))
    return last(scheme(x, cond, noise))
