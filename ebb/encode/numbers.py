"""Numbers as conditions: fields of a data set, of about unit size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, SupportsFloat

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ebb.errors import UsageError, nearest
from ebb.networks.ports import Port, VectorPort

Asked = Mapping[str, SupportsFloat | Sequence[SupportsFloat]]
"""Numbers by name: of each one for all samples, or one for each."""


@dataclass(frozen=True)
class Numbers:
    """(n − mean)/deviation of each of some named numbers, both measured where it is not missing; and its range there.

    They are asked for by name, and heard together: a row in which any number is missing (NaN) says nothing.
    """

    turns = ()

    names: tuple[str, ...]
    mean: tuple[float, ...]
    deviation: tuple[float, ...]
    least: tuple[float, ...]
    most: tuple[float, ...]

    @classmethod
    def of(cls, names: tuple[str, ...], values: NDArray[np.float64]) -> Numbers:
        """The numbers of data [n, k], NaN where missing; one that never changes has the deviation 1."""
        columns = [column[~np.isnan(column)] for column in values.T]
        ends = [(float(c.min()), float(c.max())) for c in columns]
        spread = [float(c.std()) if low < high else 1.0 for c, (low, high) in zip(columns, ends, strict=True)]
        return cls(names, tuple(float(c.mean()) for c in columns), tuple(spread), *zip(*ends, strict=True))

    def __str__(self) -> str:
        return ", ".join(f"{n} from {a:g} to {b:g}" for n, a, b in zip(self.names, self.least, self.most, strict=True))

    @property
    def port(self) -> Port:
        """All of them, as one vector."""
        return VectorPort(len(self.names))

    def __call__(self, given: Sequence[Sequence[float] | None] | NDArray[np.float64]) -> Tensor:
        """Rows of numbers, float32 [b, k] of about unit size, or all NaN."""
        rows = given if isinstance(given, np.ndarray) else [row or (np.nan,) * len(self.names) for row in given]
        values = np.asarray(rows, np.float64).reshape(len(rows), len(self.names))
        said = ~np.isnan(values).any(1, keepdims=True)
        scaled: NDArray[np.float64] = (values - self.mean) / self.deviation
        return torch.from_numpy(np.where(said, scaled, np.nan).astype(np.float32))

    def examples(self) -> Tensor:
        """The least and the most of each."""
        return self([self.least, self.most])

    def given(self, asked: Any, count: int) -> list[tuple[float, ...]]:
        """Rows of numbers by name: of each name one for all samples, or one for each.

        Raises UsageError for a name that is not known or not given, and for what is not that many finite numbers.
        """
        if not isinstance(asked, Mapping):
            raise UsageError(f"numbers are asked for by name, got {asked!r:.60}", f"such as {{{self.names[0]!r}: …}}")
        for name in asked:
            if name not in self.names:
                raise UsageError(f"this model hears no number {name!r}", nearest(name, self.names))
        if missing := [name for name in self.names if name not in asked]:
            every = " ".join(f"{name}={low:g}" for name, low in zip(self.names, self.least, strict=True))
            raise UsageError(
                f"numbers are heard together, and {', '.join(missing)} is not given", f"such as --numbers {every}"
            )
        columns = list[list[float]]()
        for name in self.names:
            try:
                given = np.asarray(asked[name], np.float64)
            except (TypeError, ValueError) as error:
                raise UsageError(f"{name} is a number, or one for each image, got {asked[name]!r:.60}") from error
            if given.shape not in ((), (count,)):
                raise UsageError(f"expected one {name} for each of {count} images, got {list(given.shape)}")
            column = np.broadcast_to(given, count)
            if (odd := column[~np.isfinite(column)]).size:
                raise UsageError(f"a number is finite, got {name}={odd[0]}", f"trained on: {self}")
            columns.append(column.tolist())
        return list(zip(*columns, strict=True))

    def beyond(self, asked: Asked) -> list[str]:
        """What was asked for outside of the range that was trained on."""
        found = []
        for name, low, high in zip(self.names, self.least, self.most, strict=True):
            values = np.asarray(asked[name], np.float64)
            if values.min() < low or values.max() > high:
                found.append(f"{name} was trained on from {low:g} to {high:g}")
        return found

    def to_json(self) -> dict[str, Any]:
        """Plain values from which `from_json` makes it again."""
        return asdict(self)

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> Numbers:
        """The numbers of a contract. Raises KeyError, TypeError, ValueError where it holds none."""
        parts = [tuple(map(float, found[name])) for name in ("mean", "deviation", "least", "most")]
        names = tuple(map(str, found["names"]))
        if {len(part) for part in parts} != {len(names)} or not np.isfinite(parts).all() or min(parts[1]) <= 0:
            raise ValueError(f"numbers {names} with {parts}")
        return cls(names, *parts)
