"""Inpainting: part of the sample is known, the rest is made to go with it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ebb.errors import UsageError
from ebb.guide.cfg import Guide
from ebb.process.denoiser import Cond, Wrapped, answer
from ebb.process.moment import Time
from ebb.shapes import Float


def rows(value: Tensor, x: Tensor, what: str) -> Tensor:
    """`value` for each sample of `x` [b, *d]: one for all ([*d] or [1, *d]), or one each ([b, *d]), on x's device.

    A guide outside may ask about several copies of the batch at once; then `value` is repeated as the batch is. Raises
    UsageError, naming `what`, for a shape that fits neither.
    """
    each = value.ndim == x.ndim and len(value) > 1
    copies = len(x) // len(value) if each and len(x) % len(value) == 0 else 1
    value = value.to(x.device).repeat(copies, *(1,) * (value.ndim - 1)) if copies > 1 else value.to(x.device)
    try:
        fits = torch.broadcast_shapes(value.shape, x.shape) == x.shape  # type: ignore[no-untyped-call]
    except RuntimeError:
        fits = False
    if not fits:
        raise UsageError(
            f"{what} of shape {list(value.shape)} does not fit samples of shape {list(x.shape)}",
            f"one for all, {list(x.shape[1:])}, or one for each, {list(x.shape)}",
        )
    return value


@dataclass(frozen=True)
class Inpainted(Wrapped):
    """x̂0 where mask = 0, `known` where mask = 1."""

    known: Tensor
    mask: Tensor

    def __call__(self, x: Float[Tensor, "b *d"], t: Time, cond: Cond) -> Float[Tensor, "b *d"]:
        """x̂0 with the known part in place."""
        x0 = answer(self.denoiser, x, t, cond)
        return torch.where(rows(self.mask, x0, "a mask") != 0, rows(self.known, x0, "known data").to(x0.dtype), x0)


def inpaint(known: Tensor, mask: Tensor) -> Guide:
    """Keep `known` where `mask` is true (or not 0): each [*d], one for all samples, or [b, *d].

    Exact: the known part of the sample, for every solver whose last step lands on x̂0; and on the way, where x̂0 is
    known, every solver moves x_t as the forward process from `known` does (α·known + σ·ε with the sample's own ε), so
    the denoiser sees noisy known data of the right level (the replacement of Song et al. 2021, appendix I.2; Lugmayr et
    al. 2022, eq. 8) without being told so.

    Not exact: the unknown part. The denoiser knows the known part only through its noise, so early steps do not heed
    it, and later ones cannot quite make up for that: the spread is too wide, and what should go together may not.
    `Resample` (ebb.sample.repaint) repeats steps to mend that; `mmps` (ebb.guide.inverse) with the operator `mask` uses
    the known values themselves, and is exact for Gaussian data.
    """
    return lambda denoiser: Inpainted(denoiser, known, mask)
