"""Contracts of what a run is trained with and read by: weights, conditions, objectives and trackers."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ebb.data.loader import Batch
from ebb.encode.condition import Condition
from ebb.errors import UsageError
from ebb.events import (
    Done,
    Event,
    Failed,
    Figure,
    Message,
    Overview,
    Preview,
    Progress,
    RolledBack,
    Saved,
    Skipped,
    Update,
)
from ebb.process.path import Path
from ebb.process.predict import PREDICTIONS, determinant
from ebb.testing.of_sampling import close, inside


def check_weight(weight: Callable[[Path, Tensor, Tensor], Tensor], path: Path) -> None:
    """`weight(path, t [b], determinant [b])` → [b]: finite, nowhere negative, not 0 everywhere, each time for itself.

    It is a weight on the target's squared error, and asked so for every prediction (`ebb.process.predict.PREDICTIONS`).
    """
    t = inside(path)
    for name, prediction in PREDICTIONS.items():
        det = determinant(path, t, *prediction(path, t))
        w = weight(path, t, det)
        if w.shape != t.shape:
            raise AssertionError(f"expected a weight for each of {len(t)} times, got {list(w.shape)}")
        if not bool(torch.isfinite(w).all()) or bool((w < 0).any()) or not bool(w.any()):
            raise AssertionError(f"weights of {name} are finite, at least 0 and not all 0, got {w}")
        alone = torch.cat([weight(path, t[i : i + 1], det[i : i + 1]) for i in range(len(t))])
        close(f"a weight of {name} alone and in a batch", alone, w, 1e-9)


def check_condition(condition: object, values: Sequence[Any]) -> None:
    """One row for each value, the same alone and in a batch, others for others, and one, of None, that says nothing.

    `values` are two or more that a user may say of a sample. The rows are what the port takes, whose layers tell them
    apart from each other and from the silent one; what is asked for reaches every sample, and a wrong count is refused.
    """
    if not isinstance(condition, Condition):
        raise AssertionError(f"a condition has port, turns, given and examples, and is called with values: {condition}")
    every = [*values, None]
    rows = condition(every)
    if len(rows) != len(every):
        raise AssertionError(f"expected a row for each of {len(every)} values, got {list(rows.shape)}")
    for i, value in enumerate(every):
        close(
            f"the row of {value!r} alone and in a batch", condition([value]).nan_to_num(), rows[i][None].nan_to_num(), 0
        )
    if list(condition.given(values[0], 3)) != [values[0]] * 3 or list(condition.given(every, len(every))) != every:
        raise AssertionError("what is asked for is a value for all samples, or one for each, None among them")
    try:
        condition.given(every, len(every) + 1)
    except UsageError:
        pass
    else:
        raise AssertionError("another number of values than samples is a UsageError")
    torch.manual_seed(0)
    layers = condition.port.build(8)
    with torch.no_grad():
        for parameter in layers.parameters():
            parameter.add_(torch.randn_like(parameter))
        heard = next(part for part in layers(rows) if part is not None).flatten(1)
    for i in range(len(every)):
        for j in range(i):
            if torch.equal(heard[i], heard[j]):
                raise AssertionError(f"a network hears {every[i]!r} as it hears {every[j]!r}")
    if len(condition.examples()) < 1:
        raise AssertionError("examples are one row or more, such as a model can be tried with")


def check_objective(
    objective: Callable[[Any, Batch, torch.Generator], Any], model: torch.nn.Module, batch: Batch
) -> None:
    """A finite scalar that reaches the weights; its randomness is the generator's alone; the batch stays the same."""

    def loss(seed: int) -> Any:
        return objective(model, batch, torch.Generator().manual_seed(seed))

    before, state = copy.deepcopy(batch), torch.get_rng_state()
    first = loss(0)
    if first.value.shape != () or not bool(torch.isfinite(first.value)):
        raise AssertionError(f"expected a finite scalar, got {first.value}")
    if not torch.equal(state, torch.get_rng_state()):
        raise AssertionError("the global generator was moved: draw from the one that is given")
    if not torch.equal(first.value, loss(0).value):
        raise AssertionError("the same generator gives another loss")
    if torch.equal(first.value, loss(1).value):
        raise AssertionError("another generator gives the same loss: are noise and times drawn from it?")
    if any(term.requires_grad for term in first.terms.values()):
        raise AssertionError("the terms of a loss are detached, since they are only shown")
    grads = torch.autograd.grad(first.value, [*model.parameters()], allow_unused=True)
    if all(grad is None or not bool(grad.any()) for grad in grads):
        raise AssertionError("no weight has a gradient")
    pairs = [(batch.x0, before.x0), *((batch.cond[name], before.cond[name]) for name in before.cond)]
    if batch.cond.keys() != before.cond.keys() or not all(torch.equal(now, then) for now, then in pairs):
        raise AssertionError("the batch was written to")


EVENTS: tuple[Event, ...] = (
    Message("a → b", warning=True),
    Overview("found", (("a", "1"), ("b", "2")), ("what", "value")),
    Progress("sampling", 3, 10, 1.5),
    Update(2, 4, {"loss": 0.5, "levels": [None, 0.25]}, 4, 3.0),
    Preview(2, "samples/step-000002.png"),
    Saved(2, "checkpoints/step-00000002"),
    Skipped((2, 3), "the loss is nan"),
    RolledBack(5, 2, 0.5, "a weight is not finite"),
    Figure("cost", {"seconds": 0.1, "parts": [1, 2]}),
    Done("runs/digits"),
    Failed("no pictures", "name a folder", 3),
)
"""One of each kind, such as a run reports."""


def check_tracker(tracker: Callable[[Event], object]) -> None:
    """It takes every kind of event, and stops the work at none."""
    for event in EVENTS:
        try:
            tracker(event)
        except Exception as error:
            raise AssertionError(f"{type(event).__name__} was too much for it: {error!r}") from error
