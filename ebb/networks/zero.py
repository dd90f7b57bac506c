"""The network that has nothing to learn."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ebb.shapes import Float


class Zero(nn.Module):
    """0 for any x: with v prediction the exact denoiser of N(0, I), where E[v | x_t] = 0 at every noise level.

    (v = (α·ε − σ·x0)/√(α² + σ²) and x_t = α·x0 + σ·ε are uncorrelated.) An autoencoder with a normal prior on its
    latents samples by it, as a latent diffusion model whose latents need no denoiser.
    """

    def __init__(self) -> None:
        super().__init__()
        self.settings: dict[str, Any] = {}
        self.zero = nn.Parameter(torch.zeros(()), requires_grad=False)

    def forward(self, x: Float[Tensor, "b *d"], time: Float[Tensor, "b"], cond: Mapping[str, Tensor]) -> Tensor:
        """Zeros of the shape of x."""
        return self.zero.to(x.dtype) * torch.zeros_like(x)
