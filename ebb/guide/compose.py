"""Several conditions at once: a product of the densities that each describes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from ebb.guide.ask import ask, null_for
from ebb.guide.cfg import Guide
from ebb.process.denoiser import Cond, Wrapped
from ebb.process.moment import Time, combine
from ebb.shapes import Float


@dataclass(frozen=True, eq=False)
class Composed(Wrapped):
    """x̂0 = Σ weight_i·D(x, t, cond_i), the weights adding up to 1, from one batched call."""

    terms: tuple[tuple[float, Cond], ...]

    def __call__(self, x: Float[Tensor, "b *d"], t: Time, cond: Cond) -> Float[Tensor, "b *d"]:
        """The composed x̂0; conditions that no term names stay as given. Raises UsageError as `ask` does."""
        weights, conds = zip(*self.terms, strict=True)
        answers = ask(self.denoiser, x, t, [{**cond, **term} for term in conds])
        return combine(*zip(weights, answers, strict=True))


def compose(terms: Sequence[tuple[float, Cond]], null: Cond) -> Guide:
    """x̂0 = null + Σ w_i·(cond_i − null): conditions joined (w > 0) or negated (w < 0) (Liu et al. 2022, eq. 11 and 13).

    Scores add up the same way, so at every noise level this is exactly the (x + σ²·score)/α of the density
    p_t(x)·Π (p_t(x | cond_i)/p_t(x))^{w_i}. Noising the product of the clean densities gives another density (the same
    only for one w_i = 1), so what is sampled along the flow is near that product, not exactly of it (Du et al. 2023).

    `terms` holds (w_i, cond_i) and `null` one row for every name in them. A condition is {name: rows}, one row for all
    samples or one for each; a name that it leaves out is null there, so [(1, {"shape": …}), (1, {"hue": …})] joins two
    kinds. Of the conditions given when sampling, only names that `null` has not are used. One term is `cfg` with a
    fixed condition, off at w = 1; an answer of weight 0 is not asked for. Raises UsageError for a name without null.
    """
    null_for((name for _, cond in terms for name in cond), null)
    base = 1 - math.fsum(scale for scale, _ in terms)
    weighted = ((base if abs(base) > 1e-12 else 0.0, null), *((scale, {**null, **cond}) for scale, cond in terms))
    return lambda denoiser: Composed(denoiser, tuple(term for term in weighted if term[0] != 0))
