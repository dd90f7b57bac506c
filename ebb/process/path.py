"""Gaussian paths: x_t = α(t)·x0 + σ(t)·ε, from data at t = 0 to noise at t = end.

A path states three functions of time; everything that can be derived from them is written once, in the base class.
Times have shape [b] and are float64 by convention: coefficients are computed in the precision of `t`, and only the
finished coefficient is cast to the precision of the data (`spread`).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor
from torch.func import jvp

from ebb.errors import UsageError
from ebb.process.betas import log_alpha_bars, log_area
from ebb.shapes import Float


def spread(c: Float[Tensor, "b"], x: Float[Tensor, "b *d"]) -> Float[Tensor, "b *one"]:
    """A coefficient per sample, [b], shaped [b, 1, …] to multiply `x`, on its device and in its precision."""
    return c.reshape(c.shape + (1,) * (x.ndim - 1)).to(device=x.device, dtype=x.dtype)


C = TypeVar("C", float, Tensor)


def noise_factors(alpha: C, sigma: C) -> tuple[C, C]:
    """(1/σ, −α/σ): what `noise` multiplies x and x0 by, as numbers or as tensors [b]."""
    return 1 / sigma, -alpha / sigma


def score_factors(alpha: C, sigma: C) -> tuple[C, C]:
    """(−1/σ², α/σ²): what `score` multiplies x and x0 by."""
    return -1 / sigma**2, alpha / sigma**2


def jump_factors(alpha_t: C, sigma_t: C, alpha_s: C, sigma_s: C) -> tuple[C, C]:
    """(r, α_s − r·α_t) with r = σ_s/σ_t: what `jump` multiplies x and x0 by."""
    r = sigma_s / sigma_t
    return r, alpha_s - r * alpha_t


def weighed(
    factors: tuple[Float[Tensor, "b"], Float[Tensor, "b"]], x: Float[Tensor, "b *d"], y: Float[Tensor, "b *d"]
) -> Float[Tensor, "b *d"]:
    """The sum of two tensors, each times its factor for each sample."""
    return spread(factors[0], x) * x + spread(factors[1], y) * y


LOUDEST = 1e4
"""The largest noise-to-signal ratio at which a network is trained or told the time; some paths go on to ∞."""


class Path(ABC):
    """x_t = α(t)·x0 + σ(t)·ε with α(0) = 1, σ(0) = 0; the ratio ν = σ/α rises and is the coordinate all paths share.

    A path is a frozen dataclass, since what follows from it is remembered. `end` is the time of (almost) pure noise.
    Only `nsr` divides by α (∞ at α = 0); nothing divides by σ(0).
    """

    end: float

    @abstractmethod
    def alpha(self, t: Float[Tensor, "b"]) -> Float[Tensor, "b"]:
        """α(t), the factor of the data."""

    @abstractmethod
    def sigma(self, t: Float[Tensor, "b"]) -> Float[Tensor, "b"]:
        """σ(t), the standard deviation of the noise."""

    @abstractmethod
    def time(self, nsr: Float[Tensor, "b"]) -> Float[Tensor, "b"]:
        """The inverse of ν(t) = σ/α. Ratios beyond the path's last (∞ included) give `end`."""

    def nsr(self, t: Float[Tensor, "b"]) -> Float[Tensor, "b"]:
        """ν(t) = σ(t)/α(t), the noise-to-signal ratio; ∞ where α = 0."""
        return self.sigma(t) / self.alpha(t)

    def log_snr(self, t: Float[Tensor, "b"]) -> Float[Tensor, "b"]:
        """log(α²/σ²), in nats (Kingma et al. 2021, eq. 2)."""
        return -2 * torch.log(self.nsr(t))

    def norm(self, t: Float[Tensor, "b"]) -> Float[Tensor, "b"]:
        """√(α² + σ²): 1 on a variance-preserving path."""
        return torch.hypot(self.alpha(t), self.sigma(t))

    def rates(self, t: Float[Tensor, "b"]) -> tuple[Float[Tensor, "b"], Float[Tensor, "b"]]:
        """(dα/dt, dσ/dt), by forward-mode differentiation of the two functions themselves."""
        t = t.contiguous()  # a shared time is one number in memory, which forward mode cannot write tangents beside
        one = torch.ones_like(t)
        return jvp(self.alpha, (t,), (one,))[1], jvp(self.sigma, (t,), (one,))[1]

    def mix(
        self, x0: Float[Tensor, "b *d"], eps: Float[Tensor, "b *d"], t: Float[Tensor, "b"]
    ) -> Float[Tensor, "b *d"]:
        """x_t = α·x0 + σ·ε."""
        return weighed((self.alpha(t), self.sigma(t)), x0, eps)

    def noise(
        self, x: Float[Tensor, "b *d"], x0: Float[Tensor, "b *d"], t: Float[Tensor, "b"]
    ) -> Float[Tensor, "b *d"]:
        """ε = (x − α·x0)/σ, for t > 0."""
        return weighed(noise_factors(self.alpha(t), self.sigma(t)), x, x0)

    def score(
        self, x: Float[Tensor, "b *d"], x0: Float[Tensor, "b *d"], t: Float[Tensor, "b"]
    ) -> Float[Tensor, "b *d"]:
        """∇ log p_t(x) = −ε/σ when x0 = E[x0 | x_t] (Tweedie; Song et al. 2021), for t > 0."""
        return weighed(score_factors(self.alpha(t), self.sigma(t)), x, x0)

    def velocity(
        self, x: Float[Tensor, "b *d"], x0: Float[Tensor, "b *d"], t: Float[Tensor, "b"]
    ) -> Float[Tensor, "b *d"]:
        """dx/dt = α̇·x0 + σ̇·ε, the probability-flow velocity when x0 = E[x0 | x_t] (Lipman et al. 2023, eq. 15)."""
        alpha_rate, sigma_rate = self.rates(t)
        return spread(alpha_rate, x) * x0 + spread(sigma_rate, x) * self.noise(x, x0, t)

    def jump(
        self, x: Float[Tensor, "b *d"], x0: Float[Tensor, "b *d"], t: Float[Tensor, "b"], s: Float[Tensor, "b"]
    ) -> Float[Tensor, "b *d"]:
        """The flow from t to s if x0 were constant: x_s = r·x_t + (α_s − r·α_t)·x0, r = σ_s/σ_t.

        It is DDIM (Song et al. 2021, eq. 12 with σ = 0), and what every exponential integrator adds corrections to.
        Divides by σ(t) only, so it starts at α = 0 and lands on σ = 0 exactly.
        """
        return weighed(jump_factors(self.alpha(t), self.sigma(t), self.alpha(s), self.sigma(s)), x, x0)


@dataclass(frozen=True)
class Linear(Path):
    """α = 1 − t, σ = t: rectified flow (Liu et al. 2023, eq. 1) and the OT path of Lipman et al. 2023."""

    end = 1.0

    def alpha(self, t: Tensor) -> Tensor:
        """1 − t."""
        return 1 - t

    def sigma(self, t: Tensor) -> Tensor:
        """The time itself."""
        return t

    def time(self, nsr: Tensor) -> Tensor:
        """ν/(1 + ν), written so that ν = ∞ gives 1."""
        return 1 / (1 + 1 / nsr)


@dataclass(frozen=True)
class Cosine(Path):
    """α = cos(θ + φ)/cos φ with θ = (π/2)·t/(1 + s), φ = (π/2)·s/(1 + s), and α² + σ² = 1.

    Without the offset s, as VDM++ (§2) has it, α = cos(πt/2) and σ = sin(πt/2). With s = 0.008 it is ᾱ = f(t)/f(0) of
    Nichol & Dhariwal 2021, eq. 17; their table of β, capped at 0.999, is `BetaTable("squared_cosine")`.
    """

    s: float = 0.0
    end = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.s < math.inf:
            raise UsageError(f"the cosine path expected an offset s ≥ 0, got {self.s}", "the published one is s=0.008")

    @property
    def offset(self) -> float:
        """φ, where the cosine begins, in radians."""
        return math.pi / 2 * self.s / (1 + self.s)

    def alpha(self, t: Tensor) -> Tensor:
        """cos(θ + φ)/cos φ, as a ratio of sines so that it is exactly 1 at t = 0 and 0 at t = 1."""
        quarter = math.pi / 2 / (1 + self.s)
        return torch.sin(quarter * (1 - t)) / torch.sin(torch.full_like(t, quarter))

    def sigma(self, t: Tensor) -> Tensor:
        """√(sin θ·sin(θ + 2φ))/cos φ, of which no digits are lost near the data."""
        theta = math.pi / 2 / (1 + self.s) * t
        if not self.s:
            return torch.sin(theta)
        return torch.sqrt(torch.sin(theta) * torch.sin(theta + 2 * self.offset)) / math.cos(self.offset)

    def time(self, nsr: Tensor) -> Tensor:
        """θ = atan(cos φ/((r + q)(q·r + cos²φ/ν))) with q = sin φ/ν and r = √(1 + q²): atan ν without the offset."""
        if not self.s:
            return 2 / math.pi * torch.atan(nsr)
        sine, cosine = math.sin(self.offset), torch.full_like(nsr, math.cos(self.offset))
        q, r = sine / nsr, torch.hypot(torch.ones_like(nsr), sine / nsr)
        theta = torch.atan2(cosine, (r + q) * (sine * r + cosine**2 / nsr))
        return 2 / math.pi * (1 + self.s) * theta


class Cumulative(Path):
    """A path by log ᾱ of a number of steps that is real: α = √ᾱ, σ = √(1 − ᾱ), at t = n/steps."""

    steps: int
    end = 1.0

    @abstractmethod
    def log_alpha_bar(self, n: Float[Tensor, "b"]) -> Float[Tensor, "b"]:
        """log ᾱ after n steps, for real n from 0 to `steps`."""

    def alpha(self, t: Tensor) -> Tensor:
        """√ᾱ."""
        return torch.exp(self.log_alpha_bar(t * self.steps) / 2)

    def sigma(self, t: Tensor) -> Tensor:
        """√(1 − ᾱ)."""
        return torch.sqrt(torch.expm1(self.log_alpha_bar(t * self.steps)).abs())

    def goal(self, nsr: Tensor) -> Tensor:
        """log ᾱ = −log(1 + ν²) at the ratio ν, at most that of the end."""
        last = self.nsr(torch.full_like(nsr, self.end))
        return -torch.log1p(torch.minimum(nsr, last) ** 2)


@dataclass(frozen=True)
class DDPMLinear(Cumulative):
    """ᾱ = Π(1 − β_k) with β rising linearly over `steps` steps (Ho et al. 2020, §4), continued smoothly between them.

    At t = n/steps the path equals the table's n-th cumulative product: log ᾱ is the Euler–Maclaurin sum of
    log(1 − β_k), which agrees with the table to 1e-12.
    """

    beta_start: float = 1e-4
    beta_end: float = 0.02
    steps: int = 1000

    def __post_init__(self) -> None:
        if not (0 < self.beta_start < self.beta_end < 1 and self.steps > 1):
            raise UsageError(
                f"betas must satisfy 0 < beta_start < beta_end < 1 over 2 or more steps, got {self.beta_start},"
                f" {self.beta_end}, {self.steps}",
                "the usual values are beta_start=1e-4, beta_end=0.02, steps=1000",
            )

    @property
    def slope(self) -> float:
        """β_{k+1} − β_k."""
        return (self.beta_end - self.beta_start) / (self.steps - 1)

    def log_alpha_bar(self, n: Tensor) -> Tensor:
        """Σ_{k<n} log(1 − β_k) for real n: ∫f − [f]/2 + [f']/12, f(k) = log(1 − β_start − k·slope).

        With 1 − β_n = (1 − β_start)·(1 − u) every term vanishes with n, so that few digits are lost where n is small.
        """
        first = 1 - self.beta_start
        u = n * self.slope / first
        area = n * math.log1p(-self.beta_start) + first * log_area(u) / self.slope
        ends, slopes = torch.log1p(-u) / 2, -self.slope / first * u / (1 - u) / 12
        return area - ends + slopes

    def time(self, nsr: Tensor) -> Tensor:
        """Newton's method on log ᾱ = −log(1 + ν²); concave and monotone, so it converges from the quadratic's root."""
        goal = self.goal(nsr)
        n = -2 * goal / (self.beta_start + torch.sqrt(self.beta_start**2 - 2 * self.slope * goal))
        for _ in range(6):
            n = n - (self.log_alpha_bar(n) - goal) / torch.log1p(-(self.beta_start + (n - 0.5) * self.slope))
        return torch.clamp(n / self.steps, 0, self.end)


@dataclass(frozen=True)
class BetaTable(Cumulative):
    """ᾱ_n = Π_{k≤n}(1 − β_k) of a table of β: "linear", "scaled_linear", "squared_cosine" or numbers of one's own.

    At t = n/steps it is the table; between, log ᾱ is linear. UsageError for what is no table (`ebb.process.betas`).
    """

    betas: str | tuple[float, ...] = "linear"

    def __post_init__(self) -> None:
        log_alpha_bars(self.betas)

    @property
    def steps(self) -> int:  # type: ignore[override]  # the table says it
        """How many β there are."""
        return len(log_alpha_bars(self.betas)) - 1

    def log_alpha_bar(self, n: Tensor) -> Tensor:
        """Between the sums before and after n."""
        table = log_alpha_bars(self.betas).to(n)
        before = n.floor().clamp(0, self.steps - 1)
        return torch.lerp(table[before.long()], table[before.long() + 1], n - before)

    def time(self, nsr: Tensor) -> Tensor:
        """The sums are searched for the step, which is linear."""
        table, goal = log_alpha_bars(self.betas).to(nsr), self.goal(nsr)
        n = (torch.searchsorted(-table, -goal.contiguous()) - 1).clamp(0, self.steps - 1)
        return (n + (goal - table[n]) / (table[n + 1] - table[n])) / self.steps


@dataclass(frozen=True)
class Sigmoid(Path):
    """ᾱ falls like a sigmoid from `start` to `stop` (Jabri et al. 2022, appendix B, temperature 1); α² + σ² = 1.

    ᾱ(t) = (S(stop) − S(start + t(stop − start)))/(S(stop) − S(start)); differences of sigmoids are written with sinh,
    so neither end loses digits.
    """

    start: float = -3.0
    stop: float = 3.0
    end = 1.0

    def __post_init__(self) -> None:
        if not self.start < self.stop:
            raise UsageError(f"sigmoid needs start < stop, got {self.start}, {self.stop}")

    @property
    def half(self) -> float:
        """Half the range of the sigmoid's argument."""
        return (self.stop - self.start) / 2

    def squared(self, share: Tensor, t: Tensor, far: float) -> Tensor:
        """sinh(share·half)/sinh(half) · cosh(far/2)/cosh(at(t)/2): one end's share of the squared norm."""
        at = self.start + t * (self.stop - self.start)
        return torch.sinh(share * self.half) / math.sinh(self.half) * math.cosh(far / 2) / torch.cosh(at / 2)

    def alpha(self, t: Tensor) -> Tensor:
        """√ᾱ."""
        return torch.sqrt(self.squared(1 - t, t, self.start))

    def sigma(self, t: Tensor) -> Tensor:
        """√(1 − ᾱ)."""
        return torch.sqrt(self.squared(t, t, self.stop))

    def time(self, nsr: Tensor) -> Tensor:
        """From ν² = sinh(t·half)/sinh((1 − t)·half)·c: tanh(t·half) = sinh(half)/(c/ν² + cosh(half))."""
        c = math.cosh(self.stop / 2) / math.cosh(self.start / 2)
        return torch.atanh(math.sinh(self.half) / (c / nsr**2 + math.cosh(self.half))).clamp(max=self.half) / self.half


@dataclass(frozen=True)
class VarianceExploding(Path):
    """α = 1, σ² = σ_min²·((σ_max/σ_min)^{2t} − 1): the exact marginal of the VE SDE (Song et al. 2021, eq. 30)."""

    sigma_min: float = 0.01
    sigma_max: float = 50.0
    end = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.sigma_min < self.sigma_max:
            raise UsageError(f"expected 0 < sigma_min < sigma_max, got {self.sigma_min}, {self.sigma_max}")

    @property
    def growth(self) -> float:
        """2·log(σ_max/σ_min), the rate of σ² in nats per unit of time."""
        return 2 * math.log(self.sigma_max / self.sigma_min)

    def alpha(self, t: Tensor) -> Tensor:
        """1."""
        return torch.ones_like(t)

    def sigma(self, t: Tensor) -> Tensor:
        """σ_min·√((σ_max/σ_min)^{2t} − 1)."""
        return self.sigma_min * torch.sqrt(torch.expm1(self.growth * t))

    def time(self, nsr: Tensor) -> Tensor:
        """log(1 + (ν/σ_min)²)/(2·log(σ_max/σ_min))."""
        return (torch.log1p((nsr / self.sigma_min) ** 2) / self.growth).clamp(max=self.end)


@dataclass(frozen=True)
class EDM(Path):
    """α = 1, σ = t up to `sigma_max` (Karras et al. 2022, table 1, "ours")."""

    sigma_max: float = 80.0

    def __post_init__(self) -> None:
        if not self.sigma_max > 0:
            raise UsageError(f"expected sigma_max > 0, got {self.sigma_max}")

    @property
    def end(self) -> float:  # type: ignore[override]  # the only path whose end is chosen
        """σ_max."""
        return self.sigma_max

    def alpha(self, t: Tensor) -> Tensor:
        """1."""
        return torch.ones_like(t)

    def sigma(self, t: Tensor) -> Tensor:
        """The time itself."""
        return t

    def time(self, nsr: Tensor) -> Tensor:
        """ν."""
        return nsr.clamp(max=self.sigma_max)


PATHS: dict[str, Path] = {
    "linear": Linear(),
    "cosine": Cosine(),
    "ddpm_linear": DDPMLinear(),
    "beta_table": BetaTable(),
    "sigmoid": Sigmoid(),
    "variance_exploding": VarianceExploding(),
    "edm": EDM(),
}
