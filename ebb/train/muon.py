"""Muon: momentum, made orthogonal, for the matrices of a network; AdamW for everything else."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ebb.machine import multiplies_bf16
from ebb.train.optimiser import AdamW, Grouped, Memory, Pairs, Rule, by_decay

NARROWEST = 32
"""A weight with fewer inputs or outputs is at the edge of the network, and not moved as a matrix."""

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Of the quintic X ← aX + b(XXᵀ)X + c(XXᵀ)²X, whose fifth power brings singular values near 1 (Jordan et al. 2024)."""


def orthogonal(x: Tensor, rounds: int = 5) -> Tensor:
    """The nearest matrices to x [n, rows, columns] with all singular values about 1 (0.7 to 1.2).

    Newton–Schulz iteration of Jordan et al. 2024, "Muon": U·Vᵀ of the singular value decomposition, without one. In
    bf16, or in float32 where the device cannot multiply bf16 (`ebb.machine.multiplies_bf16`).
    """
    a, b, c = COEFFICIENTS
    tall = x.shape[-2] > x.shape[-1]
    x = x / (torch.linalg.matrix_norm(x, keepdim=True) + 1e-12)
    x = x.bfloat16() if multiplies_bf16(x.device) else x.float()
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


@dataclass(frozen=True, kw_only=True)
class Muon:
    """The rule for matrices: they move by lr·0.2·√max(rows, columns)·orthogonal(momentum).

    The factor gives an update the size of AdamW's (Liu et al. 2025, eq. 4), so one learning rate and one decay serve
    both.
    """

    weight_decay: float = 0.0
    momentum: float = 0.95

    def move(self, pairs: Pairs, lr: float, memory: Memory, bad: Tensor) -> None:
        """As `Rule` says, matrices of one shape together; the memory of a parameter is its "momentum"."""
        shapes = defaultdict[tuple[int, int], list[tuple[Tensor, Tensor]]](list)
        skip, fine = bad > 0, 1 - bad  # here, not for each matrix: every line is a launch
        share, remaining = (1 - self.momentum) * fine, 1 - lr * self.weight_decay * fine
        for p, grad in pairs:
            if not memory[p]:
                memory[p]["momentum"] = torch.zeros_like(p)
            momentum = memory[p]["momentum"]
            grad = torch.where(skip, momentum, grad)
            momentum.lerp_(grad, share)
            ahead = grad.lerp(momentum, self.momentum)  # Nesterov's
            shapes[p.shape[0], p[0].numel()].append((p, ahead.reshape(len(p), -1)))
        for (rows, columns), alike in shapes.items():
            size = lr * 0.2 * max(rows, columns) ** 0.5 * fine
            turned = orthogonal(torch.stack([ahead for _, ahead in alike]))
            for (p, _), update in zip(alike, turned, strict=True):
                p.mul_(remaining)
                p.sub_(update.reshape(p.shape) * size)


def for_matrices(rule: Rule, model: nn.Module, lr: float, weight_decay: float) -> Grouped:
    """`rule` for the `matrices` of a model, AdamW with this weight decay for everything else."""
    inside = matrices(model)
    seen = {id(p) for p in inside}
    rest = by_decay((p for p in model.parameters() if id(p) not in seen), AdamW(weight_decay=weight_decay))
    return Grouped([(inside, rule), *rest], lr)


def muon(model: nn.Module, lr: float, weight_decay: float = 0.0) -> Grouped:
    """`Muon` for the `matrices` of a model, AdamW for everything else."""
    return for_matrices(Muon(weight_decay=weight_decay), model, lr, weight_decay)
