"""Several conditions, each in its own part of what is made."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ebb.errors import UsageError
from ebb.guide.ask import ask, null_for
from ebb.guide.cfg import Guide
from ebb.process.denoiser import Cond, Wrapped
from ebb.process.moment import Time
from ebb.shapes import Float


@dataclass(frozen=True, eq=False)
class Regional(Wrapped):
    """x̂0 = null + Σ scale_i·mask_i·(D(x, t, cond_i) − null), from one batched call."""

    terms: tuple[tuple[float, Tensor, Cond], ...]
    null: Cond

    def __call__(self, x: Float[Tensor, "b *d"], t: Time, cond: Cond) -> Float[Tensor, "b *d"]:
        """The composed x̂0; conditions that no term names stay as given. Raises UsageError as `ask` does, and for a
        mask that does not fit x."""
        asked = [{**cond, **self.null}, *({**cond, **term} for _, _, term in self.terms)]
        null, *answers = ask(self.denoiser, x, t, asked)
        found = null
        for (scale, mask, _), answer in zip(self.terms, answers, strict=True):
            here = fitting(mask, x)
            found = torch.addcmul(found, scale * here, answer - null)
        return found


def fitting(mask: Tensor, x: Float[Tensor, "b *d"]) -> Tensor:
    """`mask` where x is; UsageError unless it broadcasts to x."""
    own, wanted = mask.shape[::-1], x.shape[::-1]  # broadcasting aligns the last axes
    if len(own) > len(wanted) or any(a not in (1, b) for a, b in zip(own, wanted, strict=False)):
        raise UsageError(
            f"a region's mask has the shape of a sample, {list(x.shape[1:])}, or of all, or 1 for any size of it;"
            f" got {list(mask.shape)}"
        )
    return mask.to(x)


def regions(terms: Sequence[tuple[float, Tensor, Cond]], null: Cond) -> Guide:
    """x̂0 = null + Σ scale_i·mask_i·(cond_i − null): every condition pulls in its own region only.

    `terms` holds (scale_i, mask_i, cond_i): a mask has values from 0 to 1 and broadcasts to one sample, such as [h,
    w], or, with one for each, to all, [b, 1, h, w]; where masks overlap their conditions are joined as by
    `ebb.guide.compose.compose`, where none is nothing is asked for. With masks of 1 throughout it is `compose`. Exact
    for densities whose parts in the regions are independent; a network's regions see each other through its receptive
    field, which is what fits them together (Bar-Tal et al. 2023 average the answers instead, which is this at scale 1
    with masks that add up to 1).

    Conditions are as in `compose`. Raises UsageError for a name without null.
    """
    null_for((name for _, _, cond in terms for name in cond), null)
    full = tuple((scale, mask, {**null, **cond}) for scale, mask, cond in terms)
    return lambda denoiser: Regional(denoiser, full, null)
