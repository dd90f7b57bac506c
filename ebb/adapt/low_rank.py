"""LoRA and DoRA: the change of one weight as a product of two thin matrices.

A change is a function of the weight, W ↦ W′, and not of the layer's output, so that it is right for every module that
has a weight, linear or convolution, however that module uses it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class LowRank(nn.Module):
    """W + w·s·B·A (Hu et al. 2022, eq. 3): A is `down` [r, in, *kernel], B is `up` [out, r], s is `scale`.

    B is zero at first, so that W′ = W to the bit; A is uniform as torch draws a layer's weight. Of a convolution B·A is
    a convolution by A to r channels and one by B at each place. `amount`, w, is how much of the change is put on: 1 as
    it was trained, 0 none; `adapter` is the name of what it is part of.
    """

    def __init__(self, shape: Sequence[int], rank: int, scale: float = 1.0) -> None:
        super().__init__()
        out, *rest = shape
        self.down = nn.Parameter(torch.empty(rank, *rest))
        self.up = nn.Parameter(torch.zeros(out, rank))
        nn.init.kaiming_uniform_(self.down, a=math.sqrt(5))
        self.scale, self.amount, self.adapter = scale, 1.0, ""
        self.users = 0
        self.last: Tensor | None = None
        """how many ask for it again and again just now (`once`), and what was computed for them"""

    @property
    def rank(self) -> int:
        """r."""
        return self.up.shape[1]

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the weight that is changed."""
        return (self.up.shape[0], *self.down.shape[1:])

    def change(self) -> Tensor:
        """s·B·A, of the weight's shape, in its own precision."""
        with torch.autocast(self.up.device.type, enabled=False):
            return (self.scale * self.up @ self.down.flatten(1)).view(self.shape)

    def forward(self, weight: Tensor) -> Tensor:
        """The weight with the change."""
        if self.amount == 0:
            return weight
        if not self.users or torch.is_grad_enabled() or torch.compiler.is_compiling():
            return self.changed(weight)
        if self.last is None:
            self.last = self.changed(weight)
        return self.last

    def changed(self, weight: Tensor) -> Tensor:
        """The weight with the change, computed."""
        return weight + (self.amount * self.change()).to(weight.dtype)


class LowRankDirection(LowRank):
    """DoRA (Liu et al. 2024, eq. 5): m·V/‖V‖ of each output, with V = W + s·B·A and a length m, `magnitude` [out].

    ‖V‖ is a constant to the gradient (§ 4.3). m is ‖W‖ at first, so that W′ = W to the bit. `amount` goes the straight
    way from W to W′.
    """

    def __init__(self, weight: Tensor, rank: int, scale: float = 1.0) -> None:
        super().__init__(weight.shape, rank, scale)
        self.magnitude = nn.Parameter(lengths(weight.detach().float()))

    def changed(self, weight: Tensor) -> Tensor:
        """The weight with the change, computed."""
        moved = weight + self.change().to(weight.dtype)
        share = self.magnitude / lengths(moved.detach().float())
        turned = moved * share.to(weight.dtype).view(-1, *[1] * (weight.dim() - 1))
        return turned if self.amount == 1 else weight + self.amount * (turned - weight)


@contextmanager
def once(network: nn.Module) -> Iterator[None]:
    """Every change of a network's weights is computed once while this lasts, as long as no gradient is asked for.

    For what asks a network many times and changes nothing of it meanwhile, such as sampling.
    """
    changes = [part for part in network.modules() if isinstance(part, LowRank)]
    for change in changes:
        change.users += 1
    try:
        yield
    finally:
        for change in changes:
            change.users -= 1
            change.last = change.last if change.users else None


def lengths(weight: Tensor) -> Tensor:
    """The norm of what reaches each output, [out]."""
    found: Tensor = weight.flatten(1).norm(dim=1)
    return found


def factors(change: Tensor, rank: int) -> tuple[LowRank, Tensor]:
    """The nearest change of a rank to a given one [out, in, *kernel], and all its singular values, falling.

    Nearest in the sum of squares, which misses Σ_{i>r} σᵢ² (Eckart & Young 1936). Both factors have √σᵢ.
    """
    u, values, vh = torch.linalg.svd(change.double().flatten(1), full_matrices=False)
    near = LowRank(change.shape, rank).requires_grad_(False)
    root = values[:rank].sqrt()
    near.up.copy_(u[:, :rank] * root)
    near.down.copy_((root[:, None] * vh[:rank]).view_as(near.down))
    return near, values


def rank_for(values: Tensor, missing: float) -> int:
    """The least rank whose factors miss at most a share of a change, by its norm, given its singular values [k]."""
    tails = values.square().flip(0).cumsum(0).flip(0)
    enough = torch.nonzero(tails <= (missing * values.norm()) ** 2)
    return int(enough[0]) if len(enough) else len(values)


def surviving(weight: Tensor, change: Tensor, dtype: torch.dtype) -> float:
    """The share of a change's entries that move a weight kept in `dtype` at all when it is merged.

    The others are rounded away: bf16 has 8 bits, so what is smaller than a few thousandths of an entry is lost there.
    """
    moves = (weight.to(dtype).double() + change.double()).to(dtype) != weight.to(dtype)
    return float(moves[change != 0].double().mean()) if bool((change != 0).any()) else 1.0
