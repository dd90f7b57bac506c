"""How much each noise level counts: a weight on the target's squared error, for any path and prediction.

With x̂0 − x0 = −σ(F̂ − F)/det (`ebb.process.predict.determinant`), a weight w on the error of x0 is w·σ²/det² on the
error of F. Each weighting states w·σ², in which the division by σ has been carried out, so the only
singularity left is that of a target that cannot tell x0 (det = 0); `Denoising` stays below ν = LOUDEST, short of it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ebb.process.path import Path
from ebb.shapes import Float

Weighting = Callable[[Path, Tensor, Tensor], Tensor]
"""(path, t [b], determinant [b]) → [b], the weight on (F̂ − F)²."""


def unit(path: Path, t: Float[Tensor, "b"], det: Float[Tensor, "b"]) -> Float[Tensor, "b"]:
    """The target's own squared error."""
    return torch.ones_like(t)


def simple(path: Path, t: Float[Tensor, "b"], det: Float[Tensor, "b"]) -> Float[Tensor, "b"]:
    """L_simple, the squared error of ε (Ho et al. 2020, eq. 14): SNR on x0."""
    return path.alpha(t) ** 2 / det**2


def vlb(path: Path, t: Float[Tensor, "b"], det: Float[Tensor, "b"]) -> Float[Tensor, "b"]:
    """The variational bound in continuous time under uniform t, ½·(−dλ/dt) on ε (Kingma et al. 2021, §5.1)."""
    alpha, sigma = path.alpha(t), path.sigma(t)
    alpha_rate, sigma_rate = path.rates(t)
    return alpha * (sigma_rate * alpha - alpha_rate * sigma) / (sigma * det**2)


@dataclass(frozen=True)
class MinSNR:
    """min(SNR, γ) on x0 (Hang et al. 2023, eq. 5)."""

    gamma: float = 5.0

    def __call__(self, path: Path, t: Float[Tensor, "b"], det: Float[Tensor, "b"]) -> Float[Tensor, "b"]:
        """min(α², γσ²)/det²."""
        return torch.minimum(path.alpha(t) ** 2, self.gamma * path.sigma(t) ** 2) / det**2


@dataclass(frozen=True)
class EDMWeight:
    """(ν² + s²)/(νs)² on x0 (Karras et al. 2022, table 1); 1 on the error of the `edm` prediction."""

    sigma_data: float = 0.5

    def __call__(self, path: Path, t: Float[Tensor, "b"], det: Float[Tensor, "b"]) -> Float[Tensor, "b"]:
        """(σ² + s²α²)/s²/det²."""
        return (path.sigma(t) ** 2 / self.sigma_data**2 + path.alpha(t) ** 2) / det**2


def inverse_snr(path: Path, t: Float[Tensor, "b"], det: Float[Tensor, "b"]) -> Float[Tensor, "b"]:
    """1/(1 + SNR) on ε: P2 with k = γ = 1 (Choi et al. 2022, eq. 8)."""
    alpha, sigma = path.alpha(t), path.sigma(t)
    return (alpha * sigma) ** 2 / (alpha**2 + sigma**2) / det**2


WEIGHTS: dict[str, Weighting] = {
    "unit": unit,
    "simple": simple,
    "vlb": vlb,
    "min_snr": MinSNR(),
    "edm": EDMWeight(),
    "inverse_snr": inverse_snr,
}
