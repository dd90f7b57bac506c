"""An objective of a network that is compiled."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

import torch

from ebb.data.loader import Batch
from ebb.errors import ResourceError
from ebb.process.denoiser import NetworkDenoiser
from ebb.train.objectives.objective import Loss, Objective

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class Compiled:
    """`objective`, asking `denoiser` whatever model it is called with: that of `compiled`, which shares its weights.

    Forward and backward pass are compiled in the first update, which takes up to a minute.
    """

    objective: Objective
    denoiser: NetworkDenoiser

    def __call__(self, model: Any, batch: Batch, generator: torch.Generator) -> Loss:
        """The loss of one batch."""
        return self.objective(self.denoiser, batch, generator)


def compiled(denoiser: NetworkDenoiser) -> NetworkDenoiser:
    """The same denoiser with the same weights, its network compiled for batches of one size."""
    network: Any = torch.compile(denoiser.network, dynamic=False)
    return NetworkDenoiser(network, denoiser.path, denoiser.prediction, denoiser.clock, denoiser.sigma_data)


def compiling(steps: Iterator[T]) -> Iterator[T]:
    """`steps`, of which the first compiles; ResourceError where that fails, in the forward or the backward pass."""
    from torch._dynamo.exc import TorchDynamoException  # with all of the compiler, so only here

    try:
        yield from steps
    except TorchDynamoException as error:
        why = " ".join(str(error).strip().splitlines()[:2])  # what failed, and how
        raise ResourceError(f"the network cannot be compiled here: {why}", "train with --engine eager") from error
