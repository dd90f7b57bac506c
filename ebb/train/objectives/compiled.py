"""An objective of a network that is compiled."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from ebb.data.loader import Batch
from ebb.errors import ResourceError
from ebb.process.denoiser import NetworkDenoiser
from ebb.train.objectives.objective import Loss, Objective


@dataclass(frozen=True, eq=False)
class Compiled:
    """`objective`, asking `denoiser` in place of the model whose weights it shares, as `compiled` makes it.

    Forward and backward pass are compiled at the first batch, which takes up to a minute; after it their kernels are
    fused and fewer. Raises ResourceError where they cannot be compiled.
    """

    objective: Objective
    denoiser: NetworkDenoiser

    def __call__(self, model: Any, batch: Batch, generator: torch.Generator) -> Loss:
        """The loss of one batch, but for rounding that of the model."""
        from torch._dynamo.exc import TorchDynamoException  # with all of the compiler, so only here

        try:
            return self.objective(self.denoiser, batch, generator)
        except TorchDynamoException as error:
            why = " ".join(str(error).strip().splitlines()[:2])  # what failed, and how
            raise ResourceError(f"the network cannot be compiled here: {why}", "train with --engine eager") from error


def compiled(denoiser: NetworkDenoiser) -> NetworkDenoiser:
    """The same denoiser with the same weights, its network compiled for batches of one size."""
    network: Any = torch.compile(denoiser.network, dynamic=False)
    return NetworkDenoiser(network, denoiser.path, denoiser.prediction, denoiser.clock, denoiser.sigma_data)
