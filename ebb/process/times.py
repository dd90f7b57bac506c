"""Times for training (densities) and for sampling (grids).

A density is its quantile function: `density(path, u)` maps u uniform in (0, 1) to times in (0, end]. Evenly spread u
give evenly spread times, which is how the objectives lower the variance of a batch (Kingma et al. 2021, appendix I.1).
A grid is `grid(path, steps)`: float64 [steps + 1], falling from the noise end to exactly 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ebb.errors import UsageError
from ebb.process.path import Path
from ebb.recipe.limits import whole
from ebb.shapes import Float

Density = Callable[[Path, Tensor], Tensor]
Grid = Callable[[Path, int], Tensor]

SHORTEST = 1e-5
"""The smallest share of a path's end at which a network is trained: at t = 0 there is nothing to denoise."""

PLACES = 4096
"""Noise levels between which a density that has no quantile function is interpolated."""


def uniform(path: Path, u: Float[Tensor, "b"]) -> Float[Tensor, "b"]:
    """t uniform in (0, end]."""
    return path.end * u.clamp(min=SHORTEST)


@dataclass(frozen=True)
class Discrete:
    """t uniform over the `steps` times n·end/steps, n = 1 … steps (Ho et al. 2020, algorithm 1)."""

    steps: int = 1000

    def __call__(self, path: Path, u: Float[Tensor, "b"]) -> Float[Tensor, "b"]:
        """⌈u·steps⌉·end/steps."""
        return path.end * torch.ceil(u * self.steps).clamp(1, self.steps) / self.steps


@dataclass(frozen=True)
class LogitNormal:
    """logit(t/end) ~ N(mean, std²) (Esser et al. 2024, eq. 19). On the linear path log ν = logit(t)."""

    mean: float = 0.0
    std: float = 1.0

    def __call__(self, path: Path, u: Float[Tensor, "b"]) -> Float[Tensor, "b"]:
        """end·sigmoid(mean + std·Φ⁻¹(u))."""
        return path.end * torch.sigmoid(self.mean + self.std * torch.special.ndtri(u)).clamp(min=SHORTEST)


@dataclass(frozen=True)
class LogNormal:
    """log ν ~ N(mean, std²) (Karras et al. 2022, table 1: P_mean = −1.2, P_std = 1.2), on any path."""

    mean: float = -1.2
    std: float = 1.2

    def __call__(self, path: Path, u: Float[Tensor, "b"]) -> Float[Tensor, "b"]:
        """time(exp(mean + std·Φ⁻¹(u)))."""
        return path.time(torch.exp(self.mean + self.std * torch.special.ndtri(u)))


@dataclass(frozen=True)
class LongTailed:
    """log ν ~ N(mean, std²), but a `share` of times evenly in log ν from `faintest` to 1, on any path.

    A variational bound weighs all levels alike in log ν (Kingma et al. 2021, eq. 15), samples do not.
    """

    mean: float = 0.0
    std: float = 1.0
    share: float = 0.3
    faintest: float = 0.01

    def __post_init__(self) -> None:
        if not (0 < self.share < 1 and 0 < self.faintest < 1 and self.std > 0):
            raise UsageError(
                f"a long tail has a share and a faintest level between 0 and 1 and a std above 0, got {self}",
                "long_tailed(share=0.3, faintest=0.01)",
            )

    def __call__(self, path: Path, u: Float[Tensor, "b"]) -> Float[Tensor, "b"]:
        """time(ν) where share·(1 − log ν/log faintest) + (1 − share)·Φ((log ν − mean)/std) = u, each within 0 to 1."""
        widest, floor = 8 * self.std, math.log(self.faintest)
        low, high = min(floor, self.mean - widest), max(0.0, self.mean + widest)
        log_nsr = torch.linspace(low, high, PLACES, dtype=torch.float64, device=u.device)
        even, body = (1 - log_nsr / floor).clamp(0, 1), torch.special.ndtr((log_nsr - self.mean) / self.std)
        reached = self.share * even + (1 - self.share) * body
        after = torch.searchsorted(reached, u.double()).clamp(1, PLACES - 1)
        before, here = reached[after - 1], reached[after]
        part = ((u - before) / (here - before).clamp(min=1e-300)).clamp(0, 1)
        return path.time(torch.exp(torch.lerp(log_nsr[after - 1], log_nsr[after], part))).to(u.dtype)


@dataclass(frozen=True)
class Shifted:
    """Uniform times with the ratio multiplied, ν → shift·ν: more noise for larger data (Esser et al. 2024, eq. 23).

    On the linear path t → shift·t/(1 + (shift − 1)·t).
    """

    shift: float = 3.0

    def __call__(self, path: Path, u: Float[Tensor, "b"]) -> Float[Tensor, "b"]:
        """time(shift·ν(end·u))."""
        return path.time(self.shift * path.nsr(uniform(path, u)))


DENSITIES: dict[str, Density] = {
    "uniform": uniform,
    "discrete": Discrete(),
    "logit_normal": LogitNormal(),
    "log_normal": LogNormal(),
    "long_tailed": LongTailed(),
    "shifted": Shifted(),
}


def counted(steps: int) -> int:
    """`steps` if there may be so many; UsageError else."""
    return whole("solver steps", steps)


def even(steps: int) -> Float[Tensor, "n"]:
    """1, …, 1/steps, 0 in float64."""
    return torch.linspace(counted(steps), 0, steps + 1, dtype=torch.float64) / steps


def uniform_grid(path: Path, steps: int) -> Float[Tensor, "n"]:
    """Evenly spaced in t."""
    return path.end * even(steps)


def noise_share(path: Path, steps: int) -> Float[Tensor, "n"]:
    """Evenly spaced in τ = σ/(α + σ), whatever the path's clock; first, `end`. On the linear path evenly in t."""
    share = even(steps)
    return pinned(path, path.time(share / (1 - share)))


def quadratic(path: Path, steps: int) -> Float[Tensor, "n"]:
    """Evenly spaced in √t: finer near the data (Song et al. 2021, DDIM, appendix D.2)."""
    return path.end * even(steps) ** 2


def pinned(path: Path, times: Tensor) -> Tensor:
    """`times` with its ends exactly at `end` and 0."""
    times = times.clone()
    times[0], times[-1] = path.end, 0.0
    return times


def ratio_range(path: Path, nsr_min: float, nsr_max: float) -> tuple[float, float]:
    """(ν_min, ν_max) for a grid that is spaced in ν, which is infinite at the end of some paths."""
    last = path.nsr(torch.tensor([path.end], dtype=torch.float64)).item()
    return nsr_min, min(nsr_max, last)


@dataclass(frozen=True)
class Karras:
    """Evenly spaced in ν^{1/rho} between nsr_max and nsr_min, then 0 (Karras et al. 2022, eq. 5); first, `end`."""

    rho: float = 7.0
    nsr_min: float = 0.002
    nsr_max: float = 80.0

    def __call__(self, path: Path, steps: int) -> Float[Tensor, "n"]:
        """time((ν_max^{1/ρ} + i/(steps − 1)·(ν_min^{1/ρ} − ν_max^{1/ρ}))^ρ), 0."""
        low, high = (r ** (1 / self.rho) for r in ratio_range(path, self.nsr_min, self.nsr_max))
        ramp = torch.linspace(high, low, counted(steps), dtype=torch.float64) ** self.rho
        return pinned(path, torch.cat([path.time(ramp), torch.zeros(1, dtype=torch.float64)]))


@dataclass(frozen=True)
class LogSNR:
    """Evenly spaced in log ν between nsr_max and nsr_min, then 0 (Lu et al. 2022, §4); first, `end`."""

    nsr_min: float = 0.01
    nsr_max: float = 80.0

    def __call__(self, path: Path, steps: int) -> Float[Tensor, "n"]:
        """time(exp(linspace(log ν_max, log ν_min, steps))), 0."""
        low, high = (math.log(r) for r in ratio_range(path, self.nsr_min, self.nsr_max))
        ramp = torch.exp(torch.linspace(high, low, counted(steps), dtype=torch.float64))
        return pinned(path, torch.cat([path.time(ramp), torch.zeros(1, dtype=torch.float64)]))


@dataclass(frozen=True)
class Trailing:
    """`steps` of the `of` times of a discrete schedule, counted back from its last (Lin et al. 2024, table 2)."""

    of: int = 1000

    def __call__(self, path: Path, steps: int) -> Float[Tensor, "n"]:
        """round(of·(1 − i/steps))·end/of."""
        return path.end * torch.round(self.of * even(at_most(steps, self.of))) / self.of


@dataclass(frozen=True)
class Leading:
    """`steps` of the `of` times, counted up from the first: 1 + i·⌊of/steps⌋ (Ho et al. 2020's index 0 is n = 1).

    It starts below the end of the path: kept for models and settings from elsewhere (Lin et al. 2024, §3.3).
    """

    of: int = 1000

    def __call__(self, path: Path, steps: int) -> Float[Tensor, "n"]:
        """(1 + i·⌊of/steps⌋)·end/of for i = steps − 1 … 0, then 0."""
        index = torch.arange(at_most(steps, self.of) - 1, -1, -1, dtype=torch.float64)
        times = (1 + index * (self.of // steps)) * path.end / self.of
        return torch.cat([times, torch.zeros(1, dtype=torch.float64)])


@dataclass(frozen=True)
class Given:
    """These `times` and no other, as a search for a model and a number of steps finds them (`ebb.tune`).

    They are shares of the path's end, falling from 1 to 0.
    """

    times: tuple[float, ...] = (1.0, 0.0)

    def __post_init__(self) -> None:
        falling = list(self.times) == sorted(set(self.times), reverse=True)
        if len(self.times) < 2 or not falling or self.times[0] > 1 or self.times[-1] < 0:
            raise UsageError(f"times fall strictly, from at most 1 to at least 0, got {self.times}")

    def __call__(self, path: Path, steps: int) -> Float[Tensor, "n"]:
        """The times; raises UsageError for another number of steps."""
        if steps != len(self.times) - 1:
            raise UsageError(
                f"this grid was made for {len(self.times) - 1} steps, got {steps}", "name another --grid, e.g. log_snr"
            )
        return path.end * torch.tensor(self.times, dtype=torch.float64)


def at_most(steps: int, of: int) -> int:
    """`steps` if a schedule of `of` times has that many; raises UsageError else."""
    if steps > of:
        raise UsageError(f"a schedule of {of} times cannot be sampled in {steps} steps", f"try --steps {of}")
    return counted(steps)


GRIDS: dict[str, Grid] = {
    "uniform": uniform_grid,
    "noise_share": noise_share,
    "quadratic": quadratic,
    "karras": Karras(),
    "log_snr": LogSNR(),
    "trailing": Trailing(),
    "leading": Leading(),
    "given": Given(),
}
