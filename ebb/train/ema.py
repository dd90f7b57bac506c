"""The exponential moving average of the weights, which is what one samples from."""

from __future__ import annotations

import copy

import torch
from torch import nn


class EMA:
    """A copy of `model` that follows it with a half-life of min(`halflife`, `ramp`·seen) images.

    The ramp keeps the average short while little has been learnt (Karras et al. 2022, code; 2024, §3.1 for why), so it
    is right for a minute's training as for a week's. Half-lives are in images, so they do not depend on the batch.
    """

    def __init__(self, model: nn.Module, halflife: float = 500_000, ramp: float = 0.05) -> None:
        self.model = copy.deepcopy(model).requires_grad_(False).eval()
        self.halflife, self.ramp = halflife, ramp

    @torch.no_grad()
    def update(self, model: nn.Module, images: int, seen: int) -> None:
        """Move towards `model` after a step of `images`, the last of `seen` in all."""
        share = 1 - 0.5 ** (images / max(min(self.halflife, self.ramp * seen), 1e-8))
        mine: list[torch.Tensor] = list(self.model.parameters())
        theirs: list[torch.Tensor] = list(model.parameters())
        torch._foreach_lerp_(mine, theirs, share)
        for buffer, theirs_buffer in zip(self.model.buffers(), model.buffers(), strict=True):
            buffer.copy_(theirs_buffer)
