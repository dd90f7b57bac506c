"""A condition: one kind of thing that a model can be asked for, between what a user says and what a network hears."""

from __future__ import annotations

from collections.abc import Sequence
from types import UnionType
from typing import Any, Protocol, runtime_checkable

import numpy as np
from torch import Tensor

from ebb.errors import UsageError
from ebb.networks.ports import Port


@runtime_checkable
class Condition(Protocol):
    """One kind of thing that a model can be asked for; a frozen object. A model has conditions by name.

    What a user says of one sample is a plain value: a label's name, a text, a row of numbers, the file of a picture.
    None says nothing, whatever the kind. A network hears rows of its `port`, each kind of which has one that says
    nothing.
    """

    @property
    def port(self) -> Port:
        """What a network hears it by."""
        ...

    @property
    def turns(self) -> Sequence[Any]:
        """What samples are asked for in turn where a user asks for nothing at all; () where that is nothing."""
        ...

    def given(self, asked: Any, count: int, /) -> Sequence[Any]:
        """A value for each of `count` samples, of what a user asks for: one for all, or one for each.

        Raises UsageError for what the model does not know, and for another number of values.
        """
        ...

    def __call__(self, given: Sequence[Any], /) -> Tensor:
        """The rows [b, …] of values: of those that a user gives, and of those that data has."""
        ...

    def examples(self) -> Tensor:
        """Some rows that differ, such as a model can be tried with."""
        ...


def each(asked: Any, count: int, what: str, kinds: type | UnionType) -> list[Any]:
    """`asked` for each of `count` samples: one for all, or a list, an array or a tensor of them; None says nothing.

    Raises UsageError for another number of them than samples, and for what is not of these kinds.
    """
    asked = own(asked)
    found = [own(one) for one in asked] if isinstance(asked, list | tuple | range) else [asked] * count
    for one in found:
        if one is not None and (not isinstance(one, kinds) or isinstance(one, bool)):
            kind = getattr(kinds, "__name__", str(kinds)).replace("|", "or")
            raise UsageError(f"a {what} is of the kind {kind}, got {one!r:.60}")
    if len(found) != count:
        raise UsageError(f"expected one {what} for each of {count} images, got {len(found)}")
    return found


def own(value: Any) -> Any:
    """A tensor's or an array's values as Python's own; anything else as it is."""
    return value.tolist() if isinstance(value, Tensor | np.ndarray | np.generic) else value
