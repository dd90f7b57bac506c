"""Filling in: part of a picture is made new, inside it or around it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from ebb.guide.inpaint import inpaint
from ebb.process.denoiser import Cond
from ebb.recipe.limits import whole
from ebb.sample.repaint import Resample
from ebb.sample.scheme import Scheme
from ebb.shapes import Float


def fill(
    scheme: Scheme,
    x0: Float[Tensor, "b *d"],
    new: Tensor,
    cond: Cond,
    noise: Callable[..., Tensor],
    repeats: int = 1,
) -> Float[Tensor, "b *d"]:
    """A sample that is x0, bit for bit, where `new` is false or 0: one mask for all [*d], or [b, *d].

    `inpaint` holds the known part, and with `repeats` > 1 each step is made that often with noise put back in between,
    so that the new part goes with it (`Resample`; Lugmayr et al. 2022): as many times the calls.
    """
    solver = Resample(scheme.solver, repeats) if repeats != 1 else scheme.solver
    return replace(scheme, solver=solver).guided(inpaint(x0, new == 0)).fresh(x0, cond, noise)


def canvas(x0: Float[Tensor, "b c *size"], border: int) -> tuple[Float[Tensor, "b c *more"], Tensor]:
    """x0 with its edges repeated into `border` more places on every side, and where those are: bool [*more].

    Raises UsageError for a border out of its limits.
    """
    around = (whole("border", border),) * 2 * (x0.ndim - 2)
    known = torch.zeros(x0.shape[2:], dtype=torch.bool, device=x0.device)
    return F.pad(x0, around, mode="replicate"), F.pad(known, around, value=True)
