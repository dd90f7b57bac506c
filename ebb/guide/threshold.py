"""Dynamic thresholding: x̂0 that guidance drove out of the data's range is brought back without saturating."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ebb.errors import UsageError
from ebb.guide.cfg import Guide
from ebb.process.denoiser import Cond, Wrapped, answer
from ebb.process.moment import Time
from ebb.process.path import spread
from ebb.shapes import Float


@dataclass(frozen=True)
class Thresholded(Wrapped):
    """clamp(x̂0, −q, q)·limit/q, q the larger of `limit` and the sample's quantile of |x̂0|."""

    share: float
    limit: float

    def __call__(self, x: Float[Tensor, "b *d"], t: Time, cond: Cond) -> Float[Tensor, "b *d"]:
        """x̂0 within [−limit, limit], each sample by its own quantile."""
        x0 = answer(self.denoiser, x, t, cond)
        sizes = x0.abs().flatten(1)
        rank = max(1, math.ceil(self.share * sizes.shape[1]))
        q = spread(torch.kthvalue(sizes, rank, dim=1).values.clamp(min=self.limit), x0)
        return torch.clamp(x0, -q, q) * (self.limit / q)


def dynamic_threshold(share: float = 0.995, limit: float = 1.0) -> Guide:
    """Dynamic thresholding (Saharia et al. 2022, §2.3): clamp x̂0 to ±q and divide by q, in each sample by itself.

    q is the ⌈share·n⌉-th smallest of a sample's n sizes |x̂0|, but at least `limit`, the largest size in the data: 1 for
    data in [−1, 1]; a sample inside stays as it is, and limit = ∞ is off. It goes around the guide that exaggerates:
    `dynamic_threshold()(cfg(7.5, null)(denoiser))`. Not for latents, whose range has no bound. Static thresholding is
    `constrain(Box(-1, 1))`. Raises UsageError for a share outside (0, 1] or a limit that is not above 0.
    """
    if not (0 < share <= 1 and limit > 0):
        raise UsageError(f"expected a share in (0, 1] and a limit above 0, got {share:g} and {limit:g}", "0.995 and 1")
    if limit == math.inf:
        return lambda denoiser: denoiser
    return lambda denoiser: Thresholded(denoiser, share, limit)
