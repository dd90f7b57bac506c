"""Distilled guidance (Meng et al. 2023): a network hears the scale and answers as the guided one would, in one call."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ebb.errors import UsageError
from ebb.guide.ask import null_for, rows
from ebb.guide.cfg import Guide
from ebb.process.denoiser import Cond, Wrapped, answer
from ebb.process.moment import Time, each
from ebb.process.path import spread
from ebb.shapes import Float

GUIDANCE = "guidance"
"""The condition by which a network is told the guidance scale (`share_of`); without it the scale is 1."""


def share_of(scale: Float[Tensor, "b"]) -> Float[Tensor, "b"]:
    """1 − 1/scale in [0, 1): how a guidance scale of at least 1 is told."""
    return 1 - 1 / scale


@dataclass(frozen=True)
class Distilled(Wrapped):
    """x̂0 of a network that is told the guidance scale (Meng et al. 2023, §3.1): one evaluation in place of two."""

    scale: float

    def __call__(self, x: Float[Tensor, "b *d"], t: Time, cond: Cond) -> Float[Tensor, "b *d"]:
        """The network's x̂0 at this scale."""
        share = share_of(torch.full((len(x),), self.scale, dtype=torch.float32, device=x.device))
        return answer(self.denoiser, x, t, {**cond, GUIDANCE: share})


def distilled(scale: float, among: tuple[float, float] | None = None) -> Guide:
    """Tell the network the guidance `scale`. Raises UsageError below 1, or above what it learned `among`."""
    if scale < 1:
        raise UsageError(f"a model that is told its guidance knows scales from 1 on, got {scale:g}")
    if among is not None and scale > among[1]:
        raise UsageError(
            f"this model was told guidance up to {among[1]:g}, got {scale:g}",
            f"distil it for more: ebb train DATA --kind few_step --teacher RUN --guidances 1 {scale:g}",
        )
    return lambda denoiser: Distilled(denoiser, scale)


@dataclass(frozen=True)
class TeachingGuidance(Wrapped):
    """x̂0 = null + w·(cond − null), w of each sample as the condition `GUIDANCE` has it: what such a network learns.

    Samples of scale 1 are not asked with the null.
    """

    null: Cond

    def __call__(self, x: Float[Tensor, "b *d"], t: Time, cond: Cond) -> Float[Tensor, "b *d"]:
        """The guided x̂0, of a denoiser that is not told."""
        rest = {name: value for name, value in cond.items() if name != GUIDANCE}
        guided, t = cond[GUIDANCE].nonzero()[:, 0], each(t, len(x))
        nulls = {name: rows(name, value, len(x)) for name, value in null_for(rest, self.null).items()}
        batch = {name: torch.cat([rest[name], nulls[name][guided]]) for name in rest}
        both = answer(self.denoiser, torch.cat([x, x[guided]]), torch.cat([t, t[guided.to(t.device)]]), batch)
        x0, null = both[: len(x)], both[len(x) :]
        return x0.index_add(0, guided, spread(1 / (1 - cond[GUIDANCE][guided]) - 1, null) * (x0[guided] - null))
