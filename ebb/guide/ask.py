"""A denoiser asked several things about the same x: one batched call, and the answer to each."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor

from ebb.errors import UsageError, nearest
from ebb.process.denoiser import Cond, Denoiser, answer
from ebb.process.flow_map import WAY
from ebb.process.moment import Time, repeated
from ebb.shapes import Float


def ask(
    denoiser: Denoiser, x: Float[Tensor, "b *d"], t: Time, conds: Sequence[Cond]
) -> tuple[Float[Tensor, "b *d"], ...]:
    """x̂0 under each of `conds`, from one call with a batch as many times as large.

    A condition holds a row for each sample, or one for all; every cond has the names of the first. Raises UsageError
    for another number of rows.
    """
    count = len(conds)
    batch = {name: torch.cat([rows(name, cond[name], len(x)) for cond in conds]) for name in conds[0]}
    return answer(denoiser, torch.cat([x] * count), repeated(t, count), batch).chunk(count)


def rows(name: str, value: Tensor, count: int) -> Tensor:
    """`value` [count, …], or [1, …] for all. Raises UsageError for another number of rows."""
    if len(value) == count:
        return value
    if len(value) != 1:
        raise UsageError(
            f"the condition {name!r} has {len(value)} rows for a batch of {count}",
            "give one row for all, or one for each sample",
        )
    return value.expand(count, *value.shape[1:])


def null_for(names: Iterable[str], null: Cond) -> Cond:
    """Of `null`, which holds a row for each condition, those of these names; UsageError for a name without.

    How far a network is asked to go (`WAY`) is nothing that can be left unsaid: of a mapping its own value stays.
    """
    found = {WAY: names[WAY]} if isinstance(names, Mapping) and WAY in names else {}
    for name in (name for name in names if name not in found):
        if name not in null:
            raise UsageError(f"there is no null for the condition {name!r}", nearest(name, null))
        found[name] = null[name]
    return found
