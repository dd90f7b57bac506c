"""The training loop: it knows no diffusion, only a model, an objective and batches that are functions of the step."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ebb.data.loader import Batch
from ebb.errors import DamagedError
from ebb.machine import ready
from ebb.train.ema import EMA
from ebb.train.guard import Guard, update_unless
from ebb.train.objectives.objective import Objective


@dataclass
class Training:
    """All that changes while training, and so all that a checkpoint holds."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    ema: EMA
    step: int = 0
    seen: int = 0
    guard: Guard = field(default_factory=Guard)

    def state(self) -> dict[str, dict[str, Tensor]]:
        """Everything as named tensors, by file: model, ema, optim, rng."""
        moments = self.optimizer.state_dict()["state"]
        flat = {f"{index}.{name}": torch.as_tensor(value) for index, s in moments.items() for name, value in s.items()}
        counts = {"step": torch.tensor(self.step), "seen": torch.tensor(self.seen), "torch": torch.get_rng_state()}
        counts["guard"] = self.guard.memory
        if torch.cuda.is_available():
            counts["cuda"] = torch.cuda.get_rng_state()
        return {
            "model": self.model.state_dict(),
            "ema": self.ema.model.state_dict(),
            "optim": flat,
            "rng": counts,
        }

    def restore(self, state: dict[str, dict[str, Tensor]]) -> None:
        """Continue from `state()`: bit for bit what an uninterrupted run would have been."""
        try:
            self.model.load_state_dict(state["model"])
            self.ema.model.load_state_dict(state["ema"])
        except RuntimeError as error:
            raise DamagedError(
                f"the checkpoint does not fit the model: {str(error).splitlines()[-1].strip()}"
            ) from error
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        moments: dict[int, dict[str, Tensor]] = {}
        for key, value in state["optim"].items():
            index, name = key.split(".", 1)
            like = parameters[int(index)]
            if value.shape == like.shape:  # fused optimisers walk memory, so a moment must lie as its parameter does
                value = torch.empty_like(like, dtype=value.dtype, requires_grad=False).copy_(value)
            moments.setdefault(int(index), {})[name] = value
        self.optimizer.load_state_dict(self.optimizer.state_dict() | {"state": moments})
        torch.set_rng_state(state["rng"]["torch"])
        if "cuda" in state["rng"] and torch.cuda.is_available():
            torch.cuda.set_rng_state(state["rng"]["cuda"])
        self.guard = Guard()
        if "guard" in state["rng"]:  # checkpoints of older versions have none
            self.guard.memory = state["rng"]["guard"].clone()
        self.step, self.seen = int(state["rng"]["step"]), int(state["rng"]["seen"])


@dataclass(frozen=True)
class Step:
    """What one update did; all tensors stay on the device until they are read.

    `levels` is the objective's own (`ebb.train.objectives.objective.Loss`). Where `skipped` [] is True the guard found
    the update bad, and it was not made.
    """

    number: int
    loss: Tensor
    terms: dict[str, Tensor]
    grad_norm: Tensor
    rate: float
    seen: int
    levels: Tensor | None
    skipped: Tensor


def seed_of(seed: int, step: int, part: int) -> int:
    """A 63-bit seed for one part of one step: all randomness is a function of (seed, step, part) and needs no state."""
    key = np.array([seed, part], dtype=np.uint64)
    return int(np.random.Philox(key=key, counter=step).random_raw()) >> 1


@dataclass(frozen=True)
class Descent:
    """How an update comes to its gradient."""

    seed: int = 0
    """of all that the objective draws"""
    accumulate: int = 1
    """batches in an update"""
    clip: float = 1.0
    """the largest norm of a gradient"""
    autocast: torch.dtype | None = None
    """what the forward pass computes in"""


def updates(
    training: Training,
    objective: Objective,
    batches: Callable[[int], Batch],
    how: Descent = Descent(),
    *,
    steps: int,
    rate: Callable[[int], float] | None = None,
) -> Iterator[Step]:
    """Update until `steps` in all have been made, yielding after each; continue from wherever `training` is.

    `batches(number)` gives batch number `step·accumulate + part`. `rate(step)` sets the learning rate (else the
    optimiser's own stays). An update that `training.guard` finds bad changes nothing but the counters.
    """
    ready()
    model, optimizer = training.model, training.optimizer
    device = next(model.parameters()).device
    generator, accumulate = torch.Generator(device), how.accumulate
    while training.step < steps:
        step = training.step
        if rate is not None:
            for group in optimizer.param_groups:
                group["lr"] = rate(step)
        total, terms, levels, images = torch.zeros((), device=device), dict[str, Tensor](), None, 0
        for part in range(accumulate):
            batch = batches(step * accumulate + part)
            generator.manual_seed(seed_of(how.seed, step, part))
            with torch.autocast(device.type, how.autocast) if how.autocast else nullcontext():
                loss = objective(model, batch, generator)
            (loss.value / accumulate).backward()  # type: ignore[no-untyped-call]
            total += loss.value.detach() / accumulate
            add(terms, loss.terms, accumulate)
            if loss.levels is not None:
                levels = loss.levels if levels is None else levels + loss.levels
            images += len(batch.x0)
        norm = nn.utils.clip_grad_norm_(model.parameters(), how.clip)
        bad = training.guard(total, norm)
        update_unless(bad, optimizer)
        optimizer.zero_grad(set_to_none=True)
        training.step, training.seen = step + 1, training.seen + images
        training.ema.update(model, images, training.seen, bad)
        lr = optimizer.param_groups[0]["lr"]
        yield Step(training.step, total, terms, norm, lr, training.seen, levels, bad)


def add(terms: dict[str, Tensor], more: Any, accumulate: int) -> None:
    """Add this part's share of the named terms."""
    for name, value in more.items():
        terms[name] = terms.get(name, torch.zeros_like(value)) + value / accumulate
