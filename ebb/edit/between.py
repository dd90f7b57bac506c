"""From one sample to another: noise along a great circle, conditions by mixing the answers to both."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ebb.guide.cfg import Guide
from ebb.guide.compose import compose
from ebb.process.denoiser import Cond
from ebb.process.path import spread
from ebb.sample.noise import Noise
from ebb.shapes import Float

STRAIGHT = 1e-6
"""The sine of an angle below which no arc is computed: a short one is a line to rounding, a half circle not unique."""


def slerp(a: Float[Tensor, "b *d"], b: Float[Tensor, "b *d"], share: Float[Tensor, "b"]) -> Float[Tensor, "b *d"]:
    """(sin((1 − s)θ)·a + sin(sθ)·b)/sin θ, θ the angle between a and b, for each sample (Shoemake 1985).

    A share 0 gives a, 1 gives b, exactly; between unit Gaussians of many dimensions, which have nearly the same length
    and stand nearly at right angles, every point is nearly one again, where the middle of the line would be √2 times
    too short (Song et al. 2021, DDIM, appendix D.5). The line where a and b point the same way or opposite ways.
    """
    one, other = a.double().flatten(1), b.double().flatten(1)
    lengths = torch.linalg.vector_norm(one, dim=1) * torch.linalg.vector_norm(other, dim=1)
    cosine = (one * other).sum(1) / torch.where(lengths > 0, lengths, 1)
    theta, s = torch.acos(cosine.clamp(-1, 1)), share.to(one)
    sine = torch.sin(theta)
    curved = sine > STRAIGHT
    by = torch.where(curved, sine, 1)
    near = torch.where(curved, torch.sin((1 - s) * theta) / by, 1 - s)
    far = torch.where(curved, torch.sin(s * theta) / by, s)
    return spread(near, a) * a + spread(far, b) * b


@dataclass(frozen=True)
class Between:
    """The noise of one seed turned towards that of another: sample i is `shares[i]` of the way, at every draw.

    At the shares 0 and 1 it is the noise of the seeds themselves, so a stochastic solver ends on their samples too.
    """

    seeds: tuple[int, int]
    shares: tuple[float, ...]

    def __call__(self, step: int, like: Tensor, part: int = 0) -> Tensor:
        """The noise of a step (of its draw number `part`), shaped and placed `like` [b, *d]."""
        first, second = (Noise((seed,))(step, like[:1], part).expand_as(like) for seed in self.seeds)
        return slerp(first, second, torch.tensor(self.shares, dtype=torch.float64))


def blend(first: Cond, second: Cond, share: float, null: Cond, scale: float = 1.0) -> Guide:
    """x̂0 = null + scale·((1 − share)·(D(x, t, first) − null) + share·(D(x, t, second) − null)).

    Conditions themselves have no middle (half of label 3 and half of label 8 is no label); the answers to them do. It
    is `compose` of both: scores are averaged, and samples are near p(x | first)^{1 − share}·p(x | second)^share. At the
    shares 0 and 1 it is `cfg` of that scale, and the other condition is not asked for.
    """
    return compose([(scale * (1 - share), first), (scale * share, second)], null)


def frames(count: int) -> tuple[float, ...]:
    """`count` ≥ 2 shares, evenly from 0 to 1."""
    return tuple(i / (count - 1) for i in range(count))
