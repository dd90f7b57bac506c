"""Autoguidance: a model guided by a worse version of itself."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ebb.guide.cfg import Guide, Stretch
from ebb.process.denoiser import Cond, Denoiser, Wrapped, answer, retime
from ebb.process.moment import Time
from ebb.shapes import Float


@dataclass(frozen=True)
class Autoguided(Wrapped):
    """x̂0 = weak + scale·(strong − weak), or bent by another `stretch`."""

    weak: Denoiser
    scale: float
    stretch: Stretch

    def __call__(self, x: Float[Tensor, "b *d"], t: Time, cond: Cond) -> Float[Tensor, "b *d"]:
        """The guided x̂0: one call of each denoiser."""
        return self.stretch(answer(self.weak, x, t, cond), answer(self.denoiser, x, t, cond), self.scale)


def autoguide(weak: Denoiser, scale: float, stretch: Stretch = torch.lerp) -> Guide:
    """Guide away from the errors of a `weak` model: weak + scale·(strong − weak) (Karras et al. 2024, eq. 3).

    `weak` is a smaller or less trained model of the same data, on any path (it is asked through `retime`), given the
    same conditions. `scale` 1 is off and 0 is the weak model. `stretch` as in `cfg`.
    """
    if scale == 1:
        return lambda denoiser: denoiser

    def guide(denoiser: Denoiser) -> Denoiser:
        known = weak if weak.path == denoiser.path else retime(weak, denoiser.path)
        return Autoguided(denoiser, known, scale, stretch)

    return guide
