"""The optimiser and its learning rate over a run."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

Pairs = list[tuple[Tensor, Tensor]]
"""Parameters with their gradients."""

Memory = Mapping[Tensor, dict[str, Any]]
"""What is remembered of each parameter, by name; {} before its first update."""


@runtime_checkable
class Rule(Protocol):
    """How parameters move by their gradients: settings, which are frozen; what it remembers is the optimiser's."""

    def move(self, pairs: Pairs, lr: float, memory: Memory, bad: Tensor) -> None:
        """Each parameter by its gradient, at the rate `lr`; nothing changes where `bad` [] is 1."""
        ...


class Grouped(torch.optim.Optimizer):
    """Parameters in groups, each moved by a rule of its own: `Grouped([(matrices, Muon()), (rest, AdamW())], lr)`.

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

    def __init__(self, parts: Iterable[tuple[Sequence[nn.Parameter], Rule]], lr: float) -> None:
        groups, self.rules = zip(*parts, strict=True)
        # "fused" brings the counts of a checkpoint to the device
        super().__init__([{"params": list(group)} for group in groups], {"lr": lr, "fused": True})

    def __getstate__(self) -> dict[str, Any]:
        """What a copy is made of; its rules are frozen, and no part of `state_dict`."""
        return super().__getstate__() | {"rules": self.rules}

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        """One update of every parameter that has a gradient."""
        for group, rule in zip(self.param_groups, self.rules, strict=True):
            pairs = [(p, p.grad) for p in group["params"] if p.grad is not None]
            if pairs:
                bad = getattr(self, "found_inf", torch.zeros((), device=pairs[0][0].device))
                rule.move(pairs, group["lr"], self.state, bad)


@dataclass(frozen=True, kw_only=True)
class AdamW:
    """The rule of AdamW (Loshchilov & Hutter 2019), fused into one pass."""

    weight_decay: float = 0.0
    betas: tuple[float, float] = (0.9, 0.99)
    eps: float = 1e-8

    def move(self, pairs: Pairs, lr: float, memory: Memory, bad: Tensor) -> None:
        """As `Rule` says; the memory of a parameter is its "step" and two moments."""
        moved, grads = ([pair[i] for pair in pairs] for i in (0, 1))
        for p in moved:
            if not memory[p]:
                moments = {name: torch.zeros_like(p) for name in ("exp_avg", "exp_avg_sq")}
                memory[p] |= {"step": torch.zeros((), device=p.device), **moments}
        mean, square, steps = ([memory[p][name] for p in moved] for name in ("exp_avg", "exp_avg_sq", "step"))
        torch._foreach_add_(steps, 1)
        torch._fused_adamw_(
            moved,
            grads,
            mean,
            square,
            [],
            steps,
            lr=lr,
            beta1=self.betas[0],
            beta2=self.betas[1],
            weight_decay=self.weight_decay,
            eps=self.eps,
            amsgrad=False,
            maximize=False,
            found_inf=bad,
        )
        torch._foreach_sub_(steps, [bad] * len(steps))  # one tensor alone would be read, which waits for the device


def by_decay(parameters: Iterable[nn.Parameter], rule: AdamW) -> list[tuple[list[nn.Parameter], AdamW]]:
    """Two groups: the parameters that decay as `rule` says, and biases and norms, which do not decay."""
    every = list(parameters)
    level = replace(rule, weight_decay=0.0)
    return [([p for p in every if p.ndim > 1], rule), ([p for p in every if p.ndim <= 1], level)]


def adamw(model: nn.Module, lr: float, weight_decay: float = 0.0, beta2: float = 0.99) -> Grouped:
    """AdamW for all of a model; biases and norms are not decayed."""
    rule = AdamW(weight_decay=weight_decay, betas=(0.9, beta2))
    return Grouped(by_decay(model.parameters(), rule), lr)


def straight(left: float) -> float:
    """The rate falls as a line."""
    return left


def half_cosine(left: float) -> float:
    """½(1 − cos π·left): slow, fast, slow (Loshchilov & Hutter 2017, eq. 5)."""
    return (1 - math.cos(math.pi * left)) / 2


@dataclass(frozen=True)
class WarmupDecay:
    """The learning rate at a step: `peak`, reached over `warmup` steps, then falling to 0 at step `steps`.

    It falls over the last `decay` of the steps and is level before (Hägele et al. 2024, §3: a cooldown), as `fall` maps
    the share of that stretch which is left to one of the peak. All of it is after the step `start`: a run that has
    fallen to 0 and goes on rises and falls once more (Ibrahim et al. 2024, §3.1: re-warming and re-decaying).
    """

    peak: float
    steps: int
    warmup: int
    decay: float = 1.0
    fall: Callable[[float], float] = straight
    start: int = 0

    @property
    def level(self) -> int:
        """The steps until it begins to fall, which are those that do not depend on `steps`."""
        return self.start + max(self.warmup, int((1 - self.decay) * (self.steps - self.start)))

    def __call__(self, step: int) -> float:
        """The rate of step number `step`, counted from 0."""
        rising = (step - self.start + 1) / max(1, self.warmup)
        left = (self.steps - step) / max(1, self.steps - self.level)
        return self.peak * min(1.0, rising, self.fall(max(0.0, min(1.0, left))))


SCHEDULES: dict[str, Callable[..., WarmupDecay]] = {
    "level_then_fall": WarmupDecay,
    "linear": partial(WarmupDecay, decay=1.0),
    "cosine": partial(WarmupDecay, decay=1.0, fall=half_cosine),
}
"""The forms of a learning rate, (peak, steps, warmup) → rate; `decay` belongs to the first."""
