"""Energy guidance: any differentiable function pulls the samples downhill, as a factor exp(−E) on their density."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from ebb.errors import UsageError
from ebb.guide.cfg import Guide
from ebb.process.denoiser import Cond, Denoiser, Wrapped, answer
from ebb.process.moment import Moment, Time, each, where
from ebb.process.path import C, Path, spread
from ebb.shapes import Float

NSR_MAX = 20.0
"""The largest noise-to-signal ratio ν = σ/α at which a gradient with respect to x_t is taken (`capped`)."""


def capped(path: Path, x: Float[Tensor, "b *d"], t: Time) -> tuple[Tensor, Time]:
    """(x, t), or where ν > NSR_MAX the same point at ν = NSR_MAX: x/√(α² + σ²) is kept.

    A factor g(x_t) on the density adds σ²/α·∇ log g to x̂0. At α = 0 that is ∞·0: x_t says nothing of x0, the gradient
    is 0, and yet the product has a limit. Near it, σ²/α magnifies what an imperfect network's gradient has wrong beyond
    the size of the data. A posterior mean depends on ν and x/√(α² + σ²) only, and by ν = NSR_MAX it is within
    1/NSR_MAX of the data's spread of its limit, so that is where it is asked; samples of an exact denoiser hardly
    change by it.
    """
    last = where(path, -math.log(NSR_MAX))
    if isinstance(t, Moment):
        return (x, t) if t.time <= last.time else (x * (last.norm / t.norm), last)
    quiet = t.clamp(max=last.time)
    return spread(path.norm(quiet) / path.norm(t), x) * x, quiet


def weighted(path: Path, t: Time, x: Tensor, of: Callable[[C, C], C]) -> float | Tensor:
    """of(α, σ), to multiply `x` by: a number where the batch shares its time, [b, 1, …] where it does not."""
    if isinstance(t, Moment):
        return of(t.alpha, t.sigma)  # type: ignore[arg-type]
    return spread(of(path.alpha(t), path.sigma(t)), x)  # type: ignore[arg-type]


def tilted(
    path: Path, x0: Float[Tensor, "b *d"], gradient: Float[Tensor, "b *d"], t: Time, scale: float = 1.0
) -> Float[Tensor, "b *d"]:
    """x̂0 + scale·σ²/α·∇_x log g(x_t): the posterior mean when p_t(x_t) gets the factor g(x_t)^scale.

    Tweedie, x̂0 = (x_t + σ²·∇ log p_t)/α, for both densities. Divides by α; `capped` keeps it away from 0.
    """
    return x0 + weighted(path, t, x0, lambda alpha, sigma: scale * sigma**2 / alpha) * gradient


def watched(x: Tensor) -> tuple[Tensor, bool]:
    """`x` to be differentiated by, and whether a gradient taken around this one goes on through it.

    Sampling runs without gradients, so x becomes a leaf and what follows from it is forgotten afterwards; a guide
    around this one that differentiates its denoiser finds the graph it needs.
    """
    onwards = torch.is_grad_enabled() and x.requires_grad
    return (x if onwards else x.detach().requires_grad_()), onwards


def twice(onwards: bool) -> AbstractContextManager[None]:
    """Where a gradient will itself be differentiated, attention by its formula: the fused kernels cannot do that."""
    return sdpa_kernel(SDPBackend.MATH) if onwards else nullcontext()


def gradient(function: Callable[[Tensor], Tensor], x: Float[Tensor, "b *d"]) -> Float[Tensor, "b *d"]:
    """∇ of `function` (x [b, *d] → [b]) for each sample, also where gradients are switched off.

    Raises UsageError for a function that does not answer with one number a sample, or cannot be differentiated.
    """
    leaf, onwards = watched(x)
    with torch.enable_grad(), twice(onwards):
        value = function(leaf)
        if value.shape != x.shape[:1]:
            raise UsageError(
                f"a function to guide by gives one number for each sample, [{len(x)}]; got {list(value.shape)}",
                "sum over all axes but the first: value.flatten(1).sum(1)",
            )
        if not value.requires_grad:
            raise UsageError("the function to guide by does not depend on its argument by differentiable steps")
        (slope,) = torch.autograd.grad(value.sum(), leaf, create_graph=onwards)
    return slope


def linearised(
    denoiser: Denoiser, x: Float[Tensor, "b *d"], t: Time, cond: Cond
) -> tuple[Float[Tensor, "b *d"], Callable[[Tensor], Tensor]]:
    """(x̂0, u → Jᵀu) with J = ∂x̂0/∂x_t: the denoiser's answer, and a way back through it to be gone any number of times.

    Raises UsageError for a denoiser that cannot be differentiated.
    """
    leaf, onwards = watched(x)
    with torch.enable_grad(), twice(onwards):
        x0 = answer(denoiser, leaf, t, cond)
    if not x0.requires_grad:
        raise UsageError(
            f"this guide differentiates the denoiser, and {type(denoiser).__name__} gives no gradient",
            "no torch.no_grad or .detach inside it, and no torch.inference_mode around it",
        )

    def back(u: Tensor) -> Tensor:
        with torch.enable_grad():
            (pulled,) = torch.autograd.grad(x0, leaf, u.to(x0), retain_graph=True, create_graph=onwards)
        return pulled

    return (x0 if onwards else x0.detach()), back


@dataclass(frozen=True)
class EnergyOfNoisy(Wrapped):
    """x̂0 − scale·σ²/α·∇_x E(x_t, t)."""

    energy: Callable[[Tensor, Tensor], Tensor]
    scale: float

    def __call__(self, x: Float[Tensor, "b *d"], t: Time, cond: Cond) -> Float[Tensor, "b *d"]:
        """The guided x̂0; one call of the denoiser without, one of the energy with a gradient."""
        x, t = capped(self.path, x, t)
        times = each(t, len(x))
        slope = gradient(lambda noisy: self.energy(noisy, times), x)
        return tilted(self.path, answer(self.denoiser, x, t, cond), slope, t, -self.scale)


@dataclass(frozen=True)
class EnergyOfClean(Wrapped):
    """x̂0 − scale·σ²/α·Jᵀ∇E(x̂0), J = ∂x̂0/∂x_t."""

    energy: Callable[[Tensor], Tensor]
    scale: float

    def __call__(self, x: Float[Tensor, "b *d"], t: Time, cond: Cond) -> Float[Tensor, "b *d"]:
        """The guided x̂0; one call of the denoiser and one way back through it."""
        x, t = capped(self.path, x, t)
        x0, back = linearised(self.denoiser, x, t, cond)
        return tilted(self.path, x0, back(gradient(self.energy, x0)), t, -self.scale)


def energy(function: Callable[..., Tensor], scale: float = 1.0, on: str = "x0") -> Guide:
    """Guide towards low `function`: from data p(x0) to p(x0)·exp(−scale·E(x0)). Scale 0 is off.

    on = "x0": E(x0 [b, *d]) → [b] of the denoiser's answer, differentiated through the denoiser (Bansal et al. 2023,
    eq. 6; Song et al. 2023, loss-guided diffusion, with one sample). It puts E(E[x0 | x_t]) in place of
    −log E[exp(−E(x0)) | x_t]: exact for linear E on Gaussian data, elsewhere the better the less noise there is.

    on = "x": E(x_t [b, *d], t [b]) → [b] of the noisy data and its time (Zhao et al. 2022); exact where it is that
    −log E[exp(−E(x0)) | x_t]. The denoiser is not differentiated. Where ν > NSR_MAX, both are asked there (`capped`).

    Raises UsageError for another `on`, and when called, for an energy that is not one number a sample.
    """
    if on not in ("x0", "x"):
        raise UsageError(f"an energy is a function of 'x0' or of 'x', got on={on!r}")
    if scale == 0:
        return lambda denoiser: denoiser
    if on == "x":
        return lambda denoiser: EnergyOfNoisy(denoiser, function, scale)
    return lambda denoiser: EnergyOfClean(denoiser, function, scale)
