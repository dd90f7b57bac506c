"""The optimiser and its learning rate over a run."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


class AdamW(torch.optim.Optimizer):
    """AdamW (Loshchilov & Hutter 2019), fused into one pass; biases and norms are not decayed.

    It obeys `found_inf` as fused optimisers do: a bad update changes nothing, and nothing waits for it.
    """

    found_inf: Tensor
    _step_supports_amp_scaling = True

    # torch keeps these out of compiled code by importing all of its compiler at their first call: a second of every
    # run, for code that is never compiled here. So they are taken as they were written.
    add_param_group = inspect.unwrap(torch.optim.Optimizer.add_param_group)
    load_state_dict = inspect.unwrap(torch.optim.Optimizer.load_state_dict)
    state_dict = inspect.unwrap(torch.optim.Optimizer.state_dict)
    zero_grad = inspect.unwrap(torch.optim.Optimizer.zero_grad)

    def __init__(self, model: nn.Module, lr: float, weight_decay: float = 0.0, beta2: float = 0.99) -> None:
        defaults = {"lr": lr, "betas": (0.9, beta2), "eps": 1e-8}
        # "fused" brings the counts of a checkpoint to the device
        super().__init__(self.groups(model, weight_decay), defaults | {"fused": True})

    def groups(self, model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
        """All parameters, as `torch.optim.Optimizer` takes them."""
        return by_decay(model.parameters(), weight_decay)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        """One update of every parameter that has a gradient."""
        for group in self.param_groups:
            pairs = [(p, p.grad) for p in group["params"] if p.grad is not None]
            if pairs:
                self.move(group, pairs, getattr(self, "found_inf", torch.zeros((), device=pairs[0][0].device)))

    def move(self, group: dict[str, Any], pairs: list[tuple[Tensor, Tensor]], bad: Tensor) -> None:
        """The parameters of a group by their gradients, unless the update is `bad`."""
        moved, grads = ([pair[i] for pair in pairs] for i in (0, 1))
        for p in moved:
            if not self.state[p]:
                moments = {name: torch.zeros_like(p) for name in ("exp_avg", "exp_avg_sq")}
                self.state[p] |= {"step": torch.zeros((), device=p.device), **moments}
        mean, square, steps = ([self.state[p][name] for p in moved] for name in ("exp_avg", "exp_avg_sq", "step"))
        torch._foreach_add_(steps, 1)
        torch._fused_adamw_(
            moved,
            grads,
            mean,
            square,
            [],
            steps,
            lr=group["lr"],
            beta1=group["betas"][0],
            beta2=group["betas"][1],
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            amsgrad=False,
            maximize=False,
            found_inf=bad,
        )
        torch._foreach_sub_(steps, [bad] * len(steps))  # one tensor alone would be read, which waits for the device


def by_decay(parameters: Iterable[nn.Parameter], weight_decay: float) -> list[dict[str, Any]]:
    """Two groups: the parameters that are decayed, and biases and norms, which are not."""
    every = list(parameters)
    return [
        {"params": [p for p in every if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in every if p.ndim <= 1], "weight_decay": 0.0},
    ]


@dataclass(frozen=True)
class WarmupDecay:
    """The learning rate at a step: `peak`, reached over `warmup` steps, then falling linearly to 0 at `steps`.

    It falls over the last `decay` of the steps and is level before (Hägele et al. 2024, §3: a cooldown).
    """

    peak: float
    steps: int
    warmup: int
    decay: float = 1.0

    @property
    def level(self) -> int:
        """The steps until it begins to fall, which are those that do not depend on `steps`."""
        return max(self.warmup, int((1 - self.decay) * self.steps))

    def __call__(self, step: int) -> float:
        """The rate of step number `step`, counted from 0."""
        rising = (step + 1) / max(1, self.warmup)
        falling = (self.steps - step) / max(1, self.steps - self.level)
        return self.peak * max(0.0, min(1.0, rising, falling))
