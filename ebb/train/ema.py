"""The exponential moving average of the weights, which is what one samples from."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn


class EMA:
    """A copy of `model` that follows it with a half-life of min(`halflife`, `ramp`·seen) images.

    The ramp keeps the average short while little has been learnt (Karras et al. 2022, code; Karras et al. 2024, EDM2,
    §3.1 for why), so it is right for a minute's training as for a week's. Half-lives are in images, so they do not
    depend on the batch.
    """

    def __init__(self, model: nn.Module, halflife: float = 500_000, ramp: float = 0.05) -> None:
        self.model = copy.deepcopy(model).requires_grad_(False).eval()
        self.halflife, self.ramp = halflife, ramp

    @torch.no_grad()
    def update(self, model: nn.Module, images: int, seen: int, skip: Tensor | None = None) -> None:
        """Move towards `model` after a step of `images`, the last of `seen` in all; stay where `skip` [] is True.

        A skipped update reads no weight, so one that is not finite does no harm; nothing waits for `skip`.
        """
        share = 1 - 0.5 ** (images / max(min(self.halflife, self.ramp * seen), 1e-8))
        mine: list[Tensor] = list(self.model.parameters())
        theirs: list[Tensor] = [p.detach() for p in model.parameters()]
        skip = torch.zeros((), dtype=torch.bool, device=mine[0].device) if skip is None else skip
        # m ← m − share·(m − θ): descent on ½‖m‖² − θ·m, whose fused kernel obeys a flag on the device
        torch._fused_sgd_(
            mine,
            theirs,
            [],
            weight_decay=1.0,
            momentum=0.0,
            lr=share,
            dampening=0.0,
            nesterov=False,
            maximize=True,
            is_first_step=False,
            found_inf=skip.float(),
        )
        for buffer, theirs_buffer in zip(self.model.buffers(), model.buffers(), strict=True):
            buffer.copy_(torch.where(skip, buffer, theirs_buffer))
