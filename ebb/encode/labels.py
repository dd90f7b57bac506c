"""Class labels as conditions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ebb.errors import UsageError, nearest


@dataclass(frozen=True)
class Labels:
    """The label names of a data set, in the order of their indices; empty when there are none."""

    names: tuple[str, ...] = ()

    @property
    def none(self) -> int:
        """The index that asks for no label: the one after the last."""
        return len(self.names)

    def index(self, label: str | int) -> int:
        """The index of a label given by its name, or by its number where no name is one."""
        if str(label) in self.names:
            return self.names.index(str(label))
        numbered = any(name.isdecimal() for name in self.names)  # then a number is a name, never a position
        if not numbered and str(label).isdecimal() and int(label) < len(self.names):
            return int(label)
        if not self.names:
            raise UsageError(f"this model was trained without labels, so it cannot be asked for {label!r}")
        raise UsageError(f"there is no label {label!r}", nearest(str(label), self.names))

    def __call__(self, indices: Sequence[int]) -> Mapping[str, Tensor]:
        """The condition of a batch, {"label": int64 [b]}; {} when there are no labels.

        Raises UsageError for what is no index of a label nor `none`.
        """
        if not self.names:
            return {}
        rows = [one.__index__() if hasattr(one, "__index__") else -1 for one in indices]
        if not all(0 <= row <= self.none for row in rows):
            raise UsageError(
                f"indices of labels are whole numbers from 0 to {self.none}, the last of which is none, got"
                f" {list(indices)!r:.60}",
                "ask by name: system.wishes(count, label=...)",
            )
        return {"label": torch.tensor(rows, dtype=torch.int64)}

    def null(self) -> Mapping[str, Tensor]:
        """One row of "no label", {"label": int64 [1]}: the row after the last label."""
        return self([self.none])
