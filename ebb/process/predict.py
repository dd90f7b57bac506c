"""What a network is trained to output is two numbers: F = a·x0 + b·ε.

The training target needs no division, and one inverse, `recover`, serves every target. A new target is one line.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ebb.errors import UsageError
from ebb.process.path import Path, spread
from ebb.shapes import Float

Prediction = Callable[[Path, Tensor], tuple[Tensor, Tensor]]


def noise(path: Path, t: Float[Tensor, "b"]) -> tuple[Float[Tensor, "b"], Float[Tensor, "b"]]:
    """F = ε (Ho et al. 2020, eq. 14). Says nothing about x0 where α = 0."""
    return torch.zeros_like(t), torch.ones_like(t)


def data(path: Path, t: Float[Tensor, "b"]) -> tuple[Float[Tensor, "b"], Float[Tensor, "b"]]:
    """F = x0."""
    return torch.ones_like(t), torch.zeros_like(t)


def velocity(path: Path, t: Float[Tensor, "b"]) -> tuple[Float[Tensor, "b"], Float[Tensor, "b"]]:
    """F = dx/dt = α̇·x0 + σ̇·ε (Lipman et al. 2023, eq. 15); ε − x0 on the linear path."""
    return path.rates(t)


def v(path: Path, t: Float[Tensor, "b"]) -> tuple[Float[Tensor, "b"], Float[Tensor, "b"]]:
    """F = (α·ε − σ·x0)/√(α² + σ²) (Salimans & Ho 2022, §4, there with α² + σ² = 1)."""
    norm = path.norm(t)
    return -path.sigma(t) / norm, path.alpha(t) / norm


def score(path: Path, t: Float[Tensor, "b"]) -> tuple[Float[Tensor, "b"], Float[Tensor, "b"]]:
    """F = −ε/σ, the conditional score (Song et al. 2021, eq. 7)."""
    return torch.zeros_like(t), -1 / path.sigma(t)


@dataclass(frozen=True)
class Preconditioned:
    """F = (x0 − c_skip·x)/c_out = (σ/s·x0 − s·α·ε)/√(σ² + s²α²) (Karras et al. 2022, eq. 7 and table 1).

    `sigma_data` s is the data's standard deviation; with it F has unit variance at every noise level.
    """

    sigma_data: float = 0.5

    def __post_init__(self) -> None:
        if not self.sigma_data > 0:
            raise UsageError(f"expected sigma_data > 0, got {self.sigma_data}")

    def __call__(self, path: Path, t: Float[Tensor, "b"]) -> tuple[Float[Tensor, "b"], Float[Tensor, "b"]]:
        """(σ/s, −s·α)/√(σ² + s²α²)."""
        alpha, sigma = self.sigma_data * path.alpha(t), path.sigma(t)
        norm = torch.hypot(alpha, sigma)
        return sigma / (self.sigma_data * norm), -alpha / norm


def determinant(path: Path, t: Float[Tensor, "b"], a: Float[Tensor, "b"], b: Float[Tensor, "b"]) -> Float[Tensor, "b"]:
    """bα − aσ, of the system x = αx0 + σε, F = ax0 + bε; x̂0 − x0 = −σ(F̂ − F)/(bα − aσ)."""
    return b * path.alpha(t) - a * path.sigma(t)


def recover_factors(
    path: Path, prediction: Prediction, t: Float[Tensor, "b"]
) -> tuple[Float[Tensor, "b"], Float[Tensor, "b"]]:
    """(b, −σ)/(bα − aσ): what `recover` multiplies x and F by.

    Raises UsageError where the target cannot tell x0, as for noise prediction at α = 0.
    """
    a, b = prediction(path, t)
    det = determinant(path, t, a, b)
    if not torch.compiler.is_compiling() and bool((det == 0).any()):  # compiled code cannot look
        when = t[det == 0][0].item()
        raise UsageError(
            f"{getattr(prediction, '__name__', prediction)!s} prediction says nothing about x0 at t = {when:g},"
            f" where alpha = {path.alpha(t)[det == 0][0].item():g}",
            "start below the end of the path (ebb.process.predict.audible), or train with velocity or v",
        )
    return b / det, -path.sigma(t) / det


def recover(
    path: Path,
    prediction: Prediction,
    x: Float[Tensor, "b *d"],
    F: Float[Tensor, "b *d"],
    t: Float[Tensor, "b"],
) -> Float[Tensor, "b *d"]:
    """x̂0 = (b·x − σF)/(bα − aσ): the one inverse, for every target. Raises UsageError as `recover_factors` does."""
    of_x, of_F = recover_factors(path, prediction, t)
    return spread(of_x, x) * x + spread(of_F, x) * F


def audible(path: Path, prediction: Prediction, times: Float[Tensor, "n"]) -> Float[Tensor, "n"]:
    """A sampling grid whose first time is moved to where the target tells x0: to ν = 80, or half a step down if later.

    Unchanged where it does at once. Noise and score prediction need it on paths that end at α = 0.
    """
    if bool(determinant(path, times[:1], *prediction(path, times[:1])) != 0):
        return times
    first = torch.maximum(path.time(torch.full_like(times[:1], 80.0)), times[:2].mean()[None])
    return torch.cat([first, times[1:]])


PREDICTIONS: dict[str, Prediction] = {
    "noise": noise,
    "data": data,
    "velocity": velocity,
    "v": v,
    "score": score,
    "edm": Preconditioned(),
}


def target(
    factors: tuple[Tensor, Tensor], x0: Float[Tensor, "b *d"], eps: Float[Tensor, "b *d"]
) -> Float[Tensor, "b *d"]:
    """F = a·x0 + b·ε, what a model is trained to output, from the (a, b) of its prediction, [b] each."""
    a, b = factors
    return spread(a, x0) * x0 + spread(b, eps) * eps
