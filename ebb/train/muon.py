"""Muon: momentum, made orthogonal, for the matrices of a network; AdamW for everything else."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

NARROWEST = 32
"""A weight with fewer inputs or outputs is at the edge of the network, and not moved as a matrix."""

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Of the quintic X ← aX + b(XXᵀ)X + c(XXᵀ)²X, whose fifth power brings singular values near 1 (Jordan 2024)."""


def orthogonal(x: Tensor, rounds: int = 5) -> Tensor:
    """The nearest matrices to x [n, rows, columns] with all singular values about 1 (0.7 to 1.2), in bf16.

    Newton–Schulz iteration of Jordan et al. 2024, "Muon": U·Vᵀ of the singular value decomposition, without one.
    """
    a, b, c = COEFFICIENTS
    tall = x.shape[-2] > x.shape[-1]
    x = (x / (torch.linalg.matrix_norm(x, keepdim=True) + 1e-12)).bfloat16()
    x = x.mT if tall else x
    for _ in range(rounds):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x


def matrices(model: nn.Module) -> list[nn.Parameter]:
    """The weights that Muon moves: linear and convolutional ones inside the network, as [out, all that enters]."""
    tables = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    return [
        p for p in model.parameters() if p.ndim > 1 and min(p.shape[0], p.shape[1]) >= NARROWEST and id(p) not in tables
    ]


class Muon(torch.optim.Optimizer):
    """Matrices move by lr·0.2·√max(rows, columns)·orthogonal(momentum), all others by AdamW.

    The factor gives an update the size of AdamW's (Liu et al. 2025, eq. 4), so one learning rate and one decay serve
    both. It obeys `found_inf` as fused optimisers do: a bad update changes nothing, and nothing waits for it.
    """

    found_inf: Tensor
    _step_supports_amp_scaling = True

    def __init__(
        self, model: nn.Module, lr: float, weight_decay: float = 0.0, momentum: float = 0.95, beta2: float = 0.99
    ) -> None:
        inside = matrices(model)
        seen = {id(p) for p in inside}
        others = [p for p in model.parameters() if id(p) not in seen]
        groups = [
            {"params": inside, "weight_decay": weight_decay, "orthogonal": True},
            {"params": [p for p in others if p.ndim > 1], "weight_decay": weight_decay, "orthogonal": False},
            {"params": [p for p in others if p.ndim <= 1], "weight_decay": 0.0, "orthogonal": False},
        ]
        defaults = {"lr": lr, "momentum": momentum, "betas": (0.9, beta2), "eps": 1e-8}
        super().__init__(groups, defaults | {"fused": True})  # which brings the counts of a checkpoint to the device

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        """One update of every parameter that has a gradient."""
        for group in self.param_groups:
            pairs = [(p, p.grad) for p in group["params"] if p.grad is not None]
            if pairs:
                bad = getattr(self, "found_inf", torch.zeros((), device=pairs[0][0].device))
                (self.turn if group["orthogonal"] else self.adamw)(group, pairs, bad)

    def turn(self, group: dict[str, Any], pairs: list[tuple[Tensor, Tensor]], bad: Tensor) -> None:
        """The matrices, those of one shape together."""
        fine, shapes = 1 - bad, defaultdict[tuple[int, int], list[tuple[Tensor, Tensor]]](list)
        for p, grad in pairs:
            if not self.state[p]:
                self.state[p]["momentum"] = torch.zeros_like(p)
            memory = self.state[p]["momentum"]
            grad = torch.where(bad > 0, memory, grad)
            memory.lerp_(grad, (1 - group["momentum"]) * fine)
            ahead = grad.lerp(memory, group["momentum"])  # Nesterov's
            shapes[p.shape[0], p[0].numel()].append((p, ahead.reshape(len(p), -1)))
        for (rows, columns), alike in shapes.items():
            size = group["lr"] * 0.2 * max(rows, columns) ** 0.5
            turned = orthogonal(torch.stack([ahead for _, ahead in alike]))
            for (p, _), update in zip(alike, turned, strict=True):
                p.mul_(1 - group["lr"] * group["weight_decay"] * fine)
                p.sub_(update.reshape(p.shape) * (size * fine))

    def adamw(self, group: dict[str, Any], pairs: list[tuple[Tensor, Tensor]], bad: Tensor) -> None:
        """The others (Loshchilov & Hutter 2019), in one fused pass."""
        moved, grads = ([pair[i] for pair in pairs] for i in (0, 1))
        for p in moved:
            if not self.state[p]:
                self.state[p] |= {"step": torch.zeros((), device=p.device)}
                self.state[p] |= {name: torch.zeros_like(p) for name in ("exp_avg", "exp_avg_sq")}
        mean, square, steps = ([self.state[p][name] for p in moved] for name in ("exp_avg", "exp_avg_sq", "step"))
        torch._foreach_add_(steps, 1 - bad)
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
