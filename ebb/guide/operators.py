"""Operators A of measurements y = A·x0 + n, as functions; derivative and adjoint follow from the function."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Protocol, runtime_checkable

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from ebb.errors import UsageError
from ebb.shapes import Float

CONVOLVE = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}


class Tangent(NamedTuple):
    """What a measurement at x is, and how it changes with x: `push` u → A'·u and `pull` v → A'ᵀ·v."""

    measured: Tensor
    push: Callable[[Tensor], Tensor]
    pull: Callable[[Tensor], Tensor]


@runtime_checkable
class Measurement(Protocol):
    """What can be measured of samples x [b, *d], with its derivative."""

    def at(self, x: Tensor) -> Tangent:
        """The measurement of x, and its derivative there."""


@dataclass(frozen=True)
class Operator:
    """A linear map of each sample, x [b, *d] → y [b, *m], from any function that is linear and differentiable.

    Operators follow each other as functions do: Operator(lambda x: downsample(2)(blur(kernel)(x))).
    """

    function: Callable[[Tensor], Tensor]

    def __call__(self, x: Float[Tensor, "b *d"]) -> Float[Tensor, "b *m"]:
        """A·x."""
        return self.function(x)

    def at(self, x: Float[Tensor, "b *d"]) -> Tangent:
        """A·x and A, which is its own derivative everywhere."""
        return Tangent(self(x), self, lambda v: self.adjoint(v, x))

    def adjoint(self, y: Float[Tensor, "b *m"], like: Float[Tensor, "b *d"]) -> Float[Tensor, "b *d"]:
        """Aᵀ·y, shaped `like` x: the derivative of ⟨A·x, y⟩ by x, which for a linear map is the same everywhere."""
        pulled: Tensor = torch.func.vjp(self.function, torch.zeros_like(like))[1](y.to(like.dtype))[0]
        return pulled


@dataclass(frozen=True)
class Curved:
    """A measurement by any differentiable function, such as A of what a latent stands for.

    It is taken for its derivative at the place that is looked at, as in the method of Gauss and Newton.
    """

    function: Callable[[Tensor], Tensor]

    def __call__(self, x: Float[Tensor, "b *d"]) -> Float[Tensor, "b *m"]:
        """The measurement of x."""
        return self.function(x)

    def at(self, x: Float[Tensor, "b *d"]) -> Tangent:
        """The measurement of x, and its derivative there."""
        measured, back = torch.func.vjp(self.function, x)  # type: ignore[misc]
        return Tangent(
            measured,
            lambda u: torch.func.jvp(self.function, (x,), (u,))[1],
            lambda v: back(v.to(measured))[0],
        )


def mask(seen: Tensor) -> Operator:
    """The entries of x where `seen` [*d] is true (or not 0), as y [b, m]."""
    index = torch.nonzero(seen.flatten()).flatten()

    def measured(x: Tensor) -> Tensor:
        if x.shape[1:] != seen.shape:
            raise UsageError(f"this mask is for samples of shape {list(seen.shape)}, got {list(x.shape[1:])}")
        return x.flatten(1).index_select(1, index.to(x.device))

    return Operator(measured)


def blur(kernel: Tensor) -> Operator:
    """Each place's neighbourhood weighted by `kernel` [*k], over x's last axes, as many as the kernel's; 0 outside.

    (A·x)[i] = Σ_j kernel[j]·x[i + j − (k − 1)/2]; raises UsageError unless the kernel has 1 to 3 axes of odd size.
    """
    dims = kernel.ndim
    if dims not in CONVOLVE or any(size % 2 == 0 for size in kernel.shape):
        raise UsageError(f"a blurring kernel has 1 to 3 axes of odd size, got {list(kernel.shape)}")

    def measured(x: Tensor) -> Tensor:
        planes = x.reshape(-1, 1, *x.shape[-dims:])
        return CONVOLVE[dims](planes, kernel.to(x)[None, None], padding="same").reshape(x.shape)

    return Operator(measured)


def downsample(factor: int, dims: int = 2) -> Operator:
    """The mean of every block of `factor`^dims along x's last `dims` axes, whose sizes `factor` must divide."""

    def measured(x: Tensor) -> Tensor:
        if any(size % factor for size in x.shape[-dims:]) or x.ndim <= dims:
            raise UsageError(
                f"downsampling by {factor} along {dims} axes does not fit samples of shape {list(x.shape[1:])}"
            )
        for axis in range(-dims, 0):
            x = torch.unflatten(x, axis, (-1, factor)).mean(axis)
        return x

    return Operator(measured)


def sensing(matrix: Float[Tensor, "m n"]) -> Operator:
    """y = matrix·x, x [b, *d] read as [b, n]."""

    def measured(x: Tensor) -> Tensor:
        if x[0].numel() != matrix.shape[1]:
            raise UsageError(f"a matrix {list(matrix.shape)} does not fit samples of shape {list(x.shape[1:])}")
        return x.flatten(1) @ matrix.to(x).T

    return Operator(measured)
