"""The reverse SDE step by step, and the corrector that lets a sample settle at one noise level."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor

from ebb.errors import UsageError
from ebb.process.denoiser import Cond
from ebb.process.moment import Moment, combine
from ebb.process.path import Path
from ebb.sample.ddim import DDIM, noise_ratio
from ebb.sample.trajectory import Denoise, Draw, Solver, Stepped


@dataclass(frozen=True)
class EulerMaruyama:
    """Euler–Maruyama on the reverse SDE of the path (Song et al. 2021, eq. 6), in the variable ℓ = log ν.

    Every Gaussian path has the forward SDE dx = (α̇/α)·x dt + √(dσ²/dt − 2(α̇/α)σ²) dw. For z = x/√(α² + σ²) and in ℓ
    it is the same for all of them, and its reverse has coefficients that are bounded everywhere:

        dz = [(2 − q)·z − 2p·x̂0] dℓ + √(2q) dw̄,   p = α/√(α² + σ²),  q = σ²/(α² + σ²),

    so one step of length h = ℓ_t − ℓ_s is z_s = z − h·[(2 − q)z − 2p·x̂0] + √(2hq)·ξ, of weak order 1, with no rate of
    the path and no division by α. A step of h ≥ 1 overshoots (|1 − 2h| ≥ 1 at the data end); `ddim(eta=1)` integrates
    the linear part exactly and has no such bound. The ends lie at ℓ = ±∞: a step from α = 0 draws from the posterior of
    x_s given x̂0, which is what it is there, and a step to σ = 0 is a jump.
    """

    order: ClassVar[int] = 1

    def start(self, path: Path) -> None:
        """No state."""

    def step(self, denoise: Denoise, x: Tensor, t: Moment, s: Moment, cond: Cond, state: None, draw: Draw) -> Stepped:
        """One denoiser call and one draw."""
        if noise_ratio(t, s) == 0:
            return DDIM(1.0).step(denoise, x, t, s, cond, None, draw)
        x0, h = denoise(x, t, cond), s.lam - t.lam
        p, q = t.alpha / t.norm, (t.sigma / t.norm) ** 2
        keep, aim = s.norm / t.norm * (1 - h * (2 - q)), s.norm * 2 * h * p
        return Stepped(combine((keep, x), (aim, x0), (s.norm * math.sqrt(2 * h * q), draw(x))), x0, None)


PREDICTORS: dict[str, Solver] = {"ddim": DDIM(), "ancestral": DDIM(1.0), "euler_maruyama": EulerMaruyama()}
"""The steps a corrector can follow: the probability flow, and two discretisations of the reverse SDE."""


@dataclass(frozen=True)
class PredictorCorrector:
    """A step of `predictor`, then `corrections` steps of Langevin dynamics at its destination (Song et al. 2021,
    algorithms 2 to 5): x ← x + e·∇log p_s(x) + √(2e)·z with e = 2·(snr·σ_s)².

    The paper has e = 2·(snr·‖z‖/‖∇log p‖)², its norms averaged over the batch. Here they have the values √d and √d/σ_s
    that they tend to where the noise outweighs the data: a sample then depends on no other, no step length depends on
    the draw it multiplies (which would change what the chain converges to), and e·‖∇² log p_s‖ ≤ 2·snr² keeps it
    stable. It widens a Gaussian's variance by at most snr²/(1 − snr²). At σ = 0 there is nothing to correct.
    """

    predictor: Literal["ddim", "ancestral", "euler_maruyama"] = "euler_maruyama"
    corrections: int = 1
    snr: float = 0.16
    order: ClassVar[int] = 1

    def __post_init__(self) -> None:
        if not (self.corrections >= 1 and 0 < self.snr < 1):
            raise UsageError(
                f"a corrector needs at least 1 correction and 0 < snr < 1, got {self.corrections}, {self.snr}",
                "the usual values are corrections=1, snr=0.16",
            )

    def start(self, path: Path) -> None:
        """No state."""

    def step(self, denoise: Denoise, x: Tensor, t: Moment, s: Moment, cond: Cond, state: None, draw: Draw) -> Stepped:
        """1 + corrections denoiser calls, and as many draws; one call and no correction to σ = 0."""
        noise_ratio(t, s)
        x, x0, _ = PREDICTORS[self.predictor].step(denoise, x, t, s, cond, None, draw)
        for part in range(1, self.corrections + 1 if s.sigma else 1):
            e = 2 * (self.snr * s.sigma) ** 2
            score = s.score(x, denoise(x, s, cond))
            x = combine((1, x), (e, score), (math.sqrt(2 * e), draw(x, part)))
        return Stepped(x, x0, None)
