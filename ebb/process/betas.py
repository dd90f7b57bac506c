"""Tables of β, as published: what a step of a discrete schedule takes of the signal."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from ebb.errors import UsageError, nearest
from ebb.shapes import Float

STEPS = 1000
"""Steps of every table here."""


def linear() -> Float[Tensor, "n"]:
    """β from 1e-4 to 0.02, evenly (Ho et al. 2020, §4)."""
    return torch.linspace(1e-4, 0.02, STEPS, dtype=torch.float64)


def scaled_linear() -> Float[Tensor, "n"]:
    """√β from √0.00085 to √0.012, evenly (Rombach et al. 2022, code): its last ᾱ is 0.0047, which is not pure noise."""
    return torch.linspace(0.00085**0.5, 0.012**0.5, STEPS, dtype=torch.float64) ** 2


def squared_cosine() -> Float[Tensor, "n"]:
    """1 − f(k)/f(k − 1), at most 0.999, f(k) = cos²((k/1000 + s)/(1 + s)·π/2) with s = 0.008.

    Nichol & Dhariwal 2021, eq. 17 and below.
    """
    shares = torch.linspace(0, 1, STEPS + 1, dtype=torch.float64)
    f = torch.cos((shares + 0.008) / 1.008 * torch.pi / 2) ** 2
    return (1 - f[1:] / f[:-1]).clamp(max=0.999)


def log_area(beta: Tensor) -> Tensor:
    """∫ log(1 − β) dβ = −(1 − β)·log(1 − β) − β, which is 0 at β = 0."""
    return -(1 - beta) * torch.log1p(-beta) - beta


TABLES = {"linear": linear, "scaled_linear": scaled_linear, "squared_cosine": squared_cosine}


@lru_cache(maxsize=32)
def log_alpha_bars(betas: str | tuple[float, ...]) -> Float[Tensor, "n"]:
    """log ᾱ_n = Σ_{k≤n} log(1 − β_k) for n = 0 … N, float64, of a table by name or by its numbers.

    Raises UsageError for a name that is not known, for no numbers, and for one outside (0, 1).
    """
    if isinstance(betas, str) and betas not in TABLES:
        raise UsageError(f"there is no table of betas called {betas!r}", nearest(betas, TABLES))
    table = TABLES[betas]() if isinstance(betas, str) else torch.tensor(betas, dtype=torch.float64)
    if not len(table) or not bool(((table > 0) & (table < 1)).all()):
        raise UsageError(
            f"betas are numbers between 0 and 1, one for each step, got {betas!r:.60}",
            f"or name a table: {', '.join(TABLES)}",
        )
    return torch.cat([table.new_zeros(1), torch.log1p(-table).cumsum(0)])
