"""Class labels as conditions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from ebb.encode.condition import each
from ebb.errors import UsageError, nearest
from ebb.networks.ports import ClassPort, Port


@dataclass(frozen=True)
class Labels:
    """The label names of a data set, in the order of their indices; empty when there are none."""

    names: tuple[str, ...] = ()

    @property
    def port(self) -> Port:
        """One of the labels."""
        return ClassPort(len(self.names))

    @property
    def turns(self) -> Sequence[str]:
        """Every label."""
        return self.names

    @cached_property
    def places(self) -> dict[str, int]:
        """The index of each name."""
        return {name: at for at, name in enumerate(self.names)}

    def index(self, label: str | int) -> int:
        """The index of a label given by its name, or by its number where no name is one. Raises UsageError."""
        if str(label) in self.places:
            return self.places[str(label)]
        numbered = any(name.isdecimal() for name in self.names)  # then a number is a name, never a position
        if not numbered and str(label).isdecimal() and int(label) < len(self.names):
            return int(label)
        if not self.names:
            raise UsageError(f"this model was trained without labels, so it cannot be asked for {label!r}")
        raise UsageError(f"there is no label {label!r}", nearest(str(label), self.names))

    def given(self, asked: Any, count: int) -> list[str | None]:
        """The names of labels that are asked for by name or number."""
        every = each(asked, count, "label", str | int)
        return [None if label is None else self.names[self.index(label)] for label in every]

    def __call__(self, given: Sequence[str | int | None]) -> Tensor:
        """The indices of labels, int64 [b]; the one after the last for none."""
        none = len(self.names)
        return torch.tensor([none if label is None else self.index(label) for label in given], dtype=torch.int64)

    def examples(self) -> Tensor:
        """Every label."""
        return torch.arange(len(self.names))

    def to_json(self) -> dict[str, Any]:
        """Plain values from which `from_json` makes it again."""
        return asdict(self)

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> Labels:
        """The labels of a contract. Raises KeyError, TypeError where it holds none."""
        return cls(tuple(map(str, found["names"])))
