"""Which blocks of a network what it is told of the time, or of a condition, does not reach: found by exchanging it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

SAME = 1e-6
"""Two outputs of a block nearer than this share of their size are the same, to within rounding."""


@dataclass(frozen=True)
class Call:
    """The last call of a module: what it was given, and what it answered."""

    given: tuple[tuple[Any, ...], Mapping[str, Any]]
    answer: Any


def calls_of(network: nn.Module, ask: Callable[[], object]) -> dict[str, Call]:
    """The last call of each part of a network while it is asked, by the part's name."""
    found = dict[str, Call]()

    def note(name: str, given: tuple[Any, ...], named: Mapping[str, Any], answer: Any) -> None:
        found[name] = Call((given, dict(named)), answer)

    with ExitStack() as stack:
        for name, part in network.named_modules():
            if name:
                hook = part.register_forward_hook(
                    lambda _, given, named, answer, name=name: note(name, given, named, answer), with_kwargs=True
                )
                stack.callback(hook.remove)
        ask()
    return found


def alike(a: Any, b: Any) -> bool:
    """Whether two values, of tensors inside each other, are the same to within rounding."""
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        if a.shape != b.shape or not a.is_floating_point():
            return bool(torch.equal(a, b))
        return float((a - b).double().norm()) <= SAME * max(1e-30, float(a.double().norm()))
    if isinstance(a, tuple | list) and isinstance(b, tuple | list):
        return len(a) == len(b) and all(map(alike, a, b))
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        return a.keys() == b.keys() and all(alike(a[name], b[name]) for name in a)
    return bool(a is b or a == b)


def exchanged(a: Any, b: Any, elsewhere: Any) -> Any:
    """`a` with those of its tensors that do not depend on x, which are the same `elsewhere`, as they are in `b`."""
    if isinstance(a, Tensor):
        return b if alike(a, elsewhere) else a
    if isinstance(a, tuple | list):
        parts = [exchanged(*each) for each in zip(a, b, elsewhere, strict=True)]
        return type(a)(*parts) if hasattr(a, "_fields") else type(a)(parts)
    if isinstance(a, Mapping):
        return {name: exchanged(a[name], b[name], elsewhere[name]) for name in a}
    return a


def unreached(
    network: nn.Module, ask: Callable[[], object], other: Callable[[], object], elsewhere: Callable[[], object]
) -> list[str]:
    """The names of blocks that do not notice what differs between `ask` and `other`, while blocks of their kind do.

    A block is called again with what it was given, but for what does not depend on x (the same in `elsewhere`, which
    differs from `ask` in x alone): that it is given as in `other`. If its answer stays, the difference reaches it by x
    alone, if at all. Blocks are parts that are numbered, as those of a list are (`block1`, `blocks.1`). Of one kind are
    those of one class whose answers depend on x; and of parts that know nothing of x, such as maps of an embedding,
    those of one class in one list, where most notice it. Where none of a kind does, none has to. All three are asked in
    evaluation mode, of a network whose parameters are not 0.
    """
    one, two, three = (calls_of(network, each) for each in (ask, other, elsewhere))
    kinds: dict[tuple[str, ...], dict[str, bool]] = {}
    for name, part in network.named_modules():
        parent, _, place = name.rpartition(".")
        if not place[-1:].isdigit() or not all(name in calls for calls in (one, two, three)):
            continue
        a, b, c = one[name], two[name], three[name]
        given, named = exchanged(a.given, b.given, c.given)
        notices = not alike(part(*given, **named), a.answer)
        kind = (type(part).__name__,) if not alike(a.answer, c.answer) else (parent, type(part).__name__)
        kinds.setdefault(kind, {})[name] = notices
    return [
        name
        for kind, parts in kinds.items()
        if sum(parts.values()) > (len(parts) / 2 if len(kind) > 1 else 0)
        for name, notices in parts.items()
        if not notices
    ]
