"""Noise levels in equal bins of the log-SNR, log(α²/σ²): the axis on which every path, target and schedule compare."""

from __future__ import annotations

import torch
from torch import Tensor

from ebb.process.path import Path
from ebb.shapes import Float, Int

BINS = 16
"""How many bins there are."""

EDGE = 12.0
"""The log-SNR is binned over [−EDGE, EDGE], ν from 403 to 0.0025; what lies beyond belongs to the bin at that end."""


def level_of(path: Path, t: Float[Tensor, "b"]) -> Int[Tensor, "b"]:
    """The bin of each time's log-SNR, int64: 0 is the loudest noise, BINS − 1 the faintest. Waits for no device."""
    place = (path.log_snr(t) + EDGE) * (BINS / (2 * EDGE))
    return place.floor().clamp(0, BINS - 1).long()


def centres(bins: int = BINS) -> list[float]:
    """The log-SNR in the middle of each of so many bins, rising."""
    return [(2 * bin + 1) * EDGE / bins - EDGE for bin in range(bins)]


def tally(path: Path, t: Float[Tensor, "b"], losses: Float[Tensor, "b"]) -> Float[Tensor, "rows bins"]:
    """[2, BINS] float32 on the losses' device: the sum of `losses` in each bin, and how many there are.

    A loss that is not finite stays in its own bin. The sums are in a fixed order, which scattered adds are not.
    """
    bins = torch.arange(BINS, device=losses.device)
    here = level_of(path, t).to(losses.device)[:, None] == bins
    sums = torch.where(here, losses.detach().float()[:, None], 0.0).sum(0)
    return torch.stack([sums, here.sum(0).float()])
