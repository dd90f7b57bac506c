"""The contract of an objective, and what can be wrapped around any of them."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from ebb.data.loader import Batch
from ebb.errors import UsageError
from ebb.guide.ask import null_for
from ebb.process.denoiser import Cond


class Loss(NamedTuple):
    """A scalar to descend, named parts of it to log (detached), and each noise level's share of it (detached).

    `levels`, float32 [2, BINS] on the device, holds the sum of the samples' losses in each bin of the log-SNR and their
    count (`ebb.process.bins.tally`).
    """

    value: Tensor
    terms: Mapping[str, Tensor] = {}  # immutable by type
    levels: Tensor | None = None


@runtime_checkable
class Objective(Protocol):
    """(model, batch, generator) → Loss. It receives the model itself, so distillation needs nothing special."""

    def __call__(self, model: Any, batch: Batch, generator: torch.Generator) -> Loss:
        """The loss of one batch; all its randomness comes from `generator`."""
        ...


class ObjectiveState(nn.Module):
    """What an objective remembers from update to update: it is saved in every checkpoint beside the model."""

    @abstractmethod
    def advance(self, step: int, averaged: nn.Module) -> None:
        """Be as it has to be before update number `step` (from 0), where the averaged model is `averaged`."""


@dataclass(frozen=True)
class ConditionDropout:
    """`objective` with each sample's conditions replaced by the null at `rate`, as guidance needs (Ho & Salimans 2022).

    All of a sample's together at that rate, and, where there are several, each alone at the same rate besides: so that
    every one of them can be asked for without the others.

    `null` holds one row for each condition.
    """

    objective: Objective
    null: Cond
    rate: float = 0.1

    def __post_init__(self) -> None:
        if not 0 <= self.rate < 1:
            raise UsageError(f"condition dropout is a share from 0 to below 1, got {self.rate}")

    def __call__(self, model: Any, batch: Batch, generator: torch.Generator) -> Loss:
        """The loss of the batch with some of its conditions dropped."""
        count = len(batch.cond)
        shape = 1 + count * (count > 1), len(batch.x0)
        drops = torch.rand(shape, generator=generator, device=generator.device) < self.rate
        cond, null = {}, null_for(batch.cond, self.null)
        for i, (name, value) in enumerate(batch.cond.items(), 1):
            drop = drops[0] | drops[i] if count > 1 else drops[0]
            row = drop.to(value.device).reshape((-1,) + (1,) * (value.ndim - 1))
            cond[name] = torch.where(row, null[name].to(value.device), value)
        return self.objective(model, replace(batch, cond=cond), generator)
