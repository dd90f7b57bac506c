"""What small or blurred pictures were made by, and how well what is restored agrees with them."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from ebb.errors import UsageError
from ebb.guide.operators import Operator, blur
from ebb.shapes import Float


def disagreement(operator: Operator, x: Float[Tensor, "b *d"], y: Float[Tensor, "b *m"]) -> float:
    """√(mean (A·x − y)²), in the values' units: near the `error` that `ebb.mmps` is told."""
    return float((operator(x) - y).square().mean().sqrt())


def softened(sigma: float, dims: int = 2) -> Operator:
    """Blur by a Gaussian of standard deviation `sigma` places along x's last `dims` axes, edges repeated outside.

    The kernel ∝ exp(−k²/2σ²) is cut at 3σ, along one axis after the other. Raises UsageError unless sigma > 0.
    """
    if not 0 < sigma < math.inf:
        raise UsageError(f"a blur is wider than 0, got sigma {sigma:g}", "try --sigma 1.5")
    reach = math.ceil(3 * sigma)
    weights = torch.exp(-0.5 * (torch.arange(-reach, reach + 1, dtype=torch.float64) / sigma) ** 2)
    along = [weights.reshape([-1 if axis == at else 1 for axis in range(dims)]) for at in range(dims)]
    passes = [blur(kernel / weights.sum()) for kernel in along]

    def measured(x: Tensor) -> Tensor:
        if x.ndim != dims + 2:
            raise UsageError(f"a blur along {dims} axes is for samples of {dims + 1} axes, got {list(x.shape[1:])}")
        size = x.shape[2:]
        x = F.pad(x, (reach,) * 2 * len(size), mode="replicate")
        for one in passes:
            x = one(x)
        for axis, length in enumerate(size):
            x = x.narrow(2 + axis, reach, length)
        return x

    return Operator(measured)
