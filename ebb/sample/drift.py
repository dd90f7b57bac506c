"""Does sampling stay where the denoiser was trained? Norm and range of x at each step against the forward process."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from ebb.errors import UsageError
from ebb.process.moment import at
from ebb.process.path import Path
from ebb.sample.trajectory import Point


@dataclass(frozen=True, slots=True)
class Drift:
    """A point of a trajectory and what of it the forward process would have.

    `rms` is the root mean square of x over the batch, `least` and `most` its smallest and largest value, tensors [] on
    the device of x, so that reading them later waits for nothing now.
    """

    point: Point
    rms: Tensor
    least: Tensor
    most: Tensor
    expected: float
    """√(α²s² + σ²)"""
    bound: float
    """α·limit + σ·√(2·log(1000·n)): |x| of n values of the forward process passes it once in 1,000 times"""

    def strays(self, tolerance: float) -> bool:
        """Whether the norm is off by more than the share `tolerance`, or the range by that beyond its bound, or NaN."""
        rms, most = float(self.rms), max(float(self.most), -float(self.least))
        near = abs(rms / self.expected - 1) <= tolerance
        return not (near and most <= self.bound * (1 + tolerance))

    def __str__(self) -> str:
        rms, least, most = (float(value) for value in (self.rms, self.least, self.most))
        return (
            f"t = {self.point.t:.3g}: norm {rms:.3g}, forward process {self.expected:.3g}"
            f" ({rms / self.expected - 1:+.0%}); values from {least:.3g} to {most:.3g}, forward ±{self.bound:.3g}"
        )


def drift(points: Iterable[Point], path: Path, sigma_data: float, limit: float = math.inf) -> Iterator[Drift]:
    """A Drift for each point of a trajectory as it is made; `reading.point.x` is x.

    `sigma_data` s is the root mean square of the data, and `limit` its largest size (1 for data in [−1, 1], ∞ where it
    has no bound). The forward process has the norm √(α²s² + σ²) at every noise level; guidance at large scales,
    temperatures far from 1 and steps that are too long leave it, and what the network answers there was never trained.
    Raises UsageError unless both are above 0.
    """
    if not (sigma_data > 0 and limit > 0):
        raise UsageError(f"expected sigma_data and limit above 0, got {sigma_data:g} and {limit:g}")
    for point in points:
        now = at(path, point.t)
        x = point.x.detach()
        least, most = torch.aminmax(x)
        loudest = now.sigma * math.sqrt(2 * math.log(1000 * x.numel()))
        bound = now.alpha * limit + loudest if now.alpha else loudest
        norm = torch.linalg.vector_norm(x) / math.sqrt(x.numel())
        yield Drift(point, norm, least, most, math.hypot(now.alpha * sigma_data, now.sigma), bound)


def warning(readings: Iterable[Drift], tolerance: float = 0.1) -> str:
    """What to tell the user: "" where no step strays, else how many do, the first and the worst, and what to try.

    The norm is judged over a batch, and near the data the batch's own norm varies: give it 16 samples or more, or a
    wider `tolerance`.
    """
    everything = list(readings)
    strayed = [reading for reading in everything if reading.strays(tolerance)]
    if not strayed:
        return ""
    worst = max(strayed, key=lambda reading: abs(math.log(max(float(reading.rms), 1e-30) / reading.expected)))
    return (
        f"x left the range that the denoiser was trained on at {len(strayed)} of {len(everything)} steps\n"
        f"  first at {strayed[0]}\n  most at {worst}\n"
        "  → try a temperature nearer to 1, a smaller guidance scale or one that is rescaled, or more steps"
    )
