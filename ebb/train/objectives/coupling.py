"""Which noise goes with which data: a coupling is a function (x0 [b, *d], generator) → noise [b, *d]."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ebb.errors import UsageError
from ebb.shapes import Float

Coupling = Callable[[Tensor, torch.Generator], Tensor]


def independent(x0: Float[Tensor, "b *d"], generator: torch.Generator) -> Float[Tensor, "b *d"]:
    """ε ~ N(0, I), whatever x0 is."""
    return torch.randn(x0.shape, generator=generator, device=generator.device).to(x0)


@dataclass(frozen=True)
class Nearest:
    """Of `candidates` draws for each x0, the one that lies nearest to it (Li et al. 2024, "Immiscible diffusion")."""

    candidates: int = 4

    def __post_init__(self) -> None:
        if self.candidates < 1:
            raise UsageError(f"a noise is chosen among 1 or more candidates, got {self.candidates}")

    def __call__(self, x0: Float[Tensor, "b *d"], generator: torch.Generator) -> Float[Tensor, "b *d"]:
        """argmin over the candidates ε of ‖ε − x0‖²."""
        shape = (self.candidates, *x0.shape)
        eps = torch.randn(shape, generator=generator, device=generator.device).to(x0)
        distance = (eps - x0).square().flatten(2).sum(2)
        return eps[distance.argmin(0), torch.arange(len(x0), device=x0.device)]


COUPLINGS: dict[str, Coupling] = {"independent": independent, "nearest": Nearest()}
