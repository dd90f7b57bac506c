"""Temperature: sharper or flatter data than the model was trained on."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ebb.errors import UsageError
from ebb.guide.cfg import Guide
from ebb.process.denoiser import Cond, Wrapped, answer
from ebb.process.moment import Moment, Time, where
from ebb.process.path import spread
from ebb.shapes import Float


@dataclass(frozen=True)
class Tempered(Wrapped):
    """D(x; α, σ/√τ): the answer to the same x if its noise were 1/√τ times as large."""

    tau: float

    def __call__(self, x: Float[Tensor, "b *d"], t: Time, cond: Cond) -> Float[Tensor, "b *d"]:
        """One call, at the u with ν(u) = ν(t)/√τ (the path's end beyond it) and with x brought to the norm of u."""
        root = math.sqrt(self.tau)
        if isinstance(t, Moment):
            then = where(self.path, t.lam + math.log(root))
            factor = then.norm / math.hypot(t.alpha, t.sigma / root)
            return answer(self.denoiser, x * factor, then, cond)
        u = self.path.time(self.path.nsr(t) / root)
        factors = self.path.norm(u) / torch.hypot(self.path.alpha(t), self.path.sigma(t) / root)
        return self.denoiser(spread(factors, x) * x, u, cond)


def temperature(tau: float) -> Guide:
    """Sample about p₀(x0)^{1/τ}: τ < 1 sharpens, τ > 1 flattens, 1 is off.

    The tempered data's posterior is p₀(x0)^{1/τ}·N(x; αx0, σ²) = (p₀(x0)·N(x; αx0, σ²/τ))^{1/τ} up to a factor: the
    model's own posterior at noise σ/√τ, to the power 1/τ. A power leaves a Gaussian's mean where it is, so x̂0 is the
    model's at noise σ/√τ: in scores, 1/τ times that of p_t at σ/√τ. Data N(m, Σ) become N(m, τΣ) exactly, along the
    whole path and with every solver. Other data do so as far as their posteriors are symmetric: modes narrow, and their
    weights move towards the power's. Of two humps at ±2, 0.3 wide and weighing 0.3 and 0.7, τ = ½ should make a width
    of 0.21 and 0.84 of the weight on the right; the flow makes 0.25 and 0.77, the reverse SDE 0.21 and 0.79.

    The score divided by τ at the same σ, x̂0 = (x + σ²·score/τ)/α, is something else, and ∞ at α = 0. From Gaussian data
    of variance s² on the path α = 1, the flow from ν_max would make variance ν_max²·(s²/(s² + ν_max²))^{1/τ}, which is
    next to nothing for τ < 1, and the reverse SDE s²·τ/(2 − τ); only Langevin steps at every noise level make it s²·τ.

    A network is asked beyond its training here: the data that it sees have √τ of the norm which it knows at ν(u). How
    far x leaves the forward process is told by `ebb.sample.drift`. Raises UsageError for τ ≤ 0.
    """
    if not 0 < tau < math.inf:
        raise UsageError(f"a temperature is above 0, got {tau:g}", "1 is off; try 0.9")
    if tau == 1:
        return lambda denoiser: denoiser
    return lambda denoiser: Tempered(denoiser, tau)
