"""What was changed of a denoiser and what was not: its answers with an adapter and without, to the same noise."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ebb.errors import UsageError
from ebb.networks.evaluating import evaluating
from ebb.process.denoiser import Denoiser
from ebb.train.from_base import Probe, answers, squares

LEVELS = 10
"""Noise levels at which both are asked, evenly in τ = σ/(α + σ)."""

RESAMPLES = 1000
"""Sets of examples, drawn anew, of which an interval is made."""

AT_ONCE = 64
"""Examples that are asked about at once."""


@dataclass(frozen=True)
class Estimate:
    """A share with its 95 % interval, by bootstrap over the examples."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.1%} [{self.low:.1%}, {self.high:.1%}]"


@dataclass(frozen=True)
class Change:
    """Of `count` examples: how far answers moved, and by how much of their error they are better.

    `size` is the root mean square of x̂0 with less x̂0 without, over that of x̂0 without; `gain` is the share of the mean
    of |x̂0 − x0|² that is gone, below 0 where there is more of it.
    """

    name: str
    count: int
    size: Estimate
    gain: Estimate


def changes(without: Denoiser, with_it: Denoiser, probes: Sequence[Probe], seed: int = 0) -> list[Change]:
    """The change of each probe, from noise that is the same for both, keyed by seed + example.

    Raises UsageError for a probe without examples.
    """
    return [change(without, with_it, probe, seed) for probe in probes]


def change(without: Denoiser, with_it: Denoiser, probe: Probe, seed: int = 0) -> Change:
    """The change of one."""
    if not len(probe.x0):
        raise UsageError(f"there is no example of {probe.name} to ask about")
    with torch.no_grad(), evaluating(without), evaluating(with_it):
        sums = torch.cat([
            summed(without, with_it, probe.part(at, AT_ONCE), seed + at) for at in range(0, len(probe.x0), AT_ONCE)
        ])  # fmt: skip
    return Change(probe.name, len(sums), estimated(moved, sums, seed), estimated(gained, sums, seed))


def moved(sums: Tensor) -> Tensor:
    """`Change.size` of the sums of `summed` over examples [*, 4]."""
    return (sums[..., 0] / sums[..., 1].clamp(min=1e-30)).sqrt()


def gained(sums: Tensor) -> Tensor:
    """`Change.gain` of them."""
    return 1 - sums[..., 3] / sums[..., 2].clamp(min=1e-30)


def estimated(statistic: Callable[[Tensor], Tensor], sums: Tensor, seed: int) -> Estimate:
    """A statistic of the sums of examples [n, 4], with the interval of RESAMPLES sets of as many."""
    draws = torch.randint(len(sums), (RESAMPLES, len(sums)), generator=torch.Generator().manual_seed(seed))
    low, high = statistic(sums[draws].sum(1)).quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return Estimate(float(statistic(sums.sum(0))), low, high)


def summed(without: Denoiser, with_it: Denoiser, probe: Probe, seed: int) -> Tensor:
    """Of each example, over LEVELS: |x̂0 with − x̂0 without|², |x̂0 without|², and the errors of both, [n, 4]."""
    x0, total = probe.x0, torch.zeros(len(probe.x0), 4, dtype=torch.float64)
    for level in range(LEVELS):
        share = torch.full((len(x0),), (level + 0.5) / LEVELS, dtype=torch.float64)
        old, new = answers(without, x0, probe.without, share, seed), answers(with_it, x0, probe.with_it, share, seed)
        total += torch.stack([squares(each) for each in (new - old, old, old - x0, new - x0)], 1)
    return total
