"""Rows of numbers and time series: the modalities of tables."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from ebb.data.curves import curves, scatters
from ebb.errors import DataError
from ebb.shapes import Float


@dataclass(frozen=True)
class Scale:
    """The mean and deviation of each of k columns, by which they are made unit; a deviation of 0 is a constant column,
    which is not learnt and comes back as it was. `whole` columns hold whole numbers alone."""

    names: tuple[str, ...]
    mean: tuple[float, ...]
    deviation: tuple[float, ...]
    whole: tuple[bool, ...]

    @classmethod
    def of(cls, names: Sequence[str], columns: Sequence[NDArray[np.float64]]) -> Scale:
        """The scale of columns of values, of any shape each."""
        constant = [bool((values == values.flat[0]).all()) for values in columns]
        return cls(
            tuple(names),
            tuple(float(v.flat[0] if same else v.mean()) for v, same in zip(columns, constant, strict=True)),
            tuple(0.0 if same else float(v.std()) for v, same in zip(columns, constant, strict=True)),
            tuple(bool((values == np.rint(values)).all()) for values in columns),
        )

    @property
    def constant(self) -> tuple[str, ...]:
        """The names of constant columns."""
        return tuple(name for name, deviation in zip(self.names, self.deviation, strict=True) if deviation == 0)

    @property
    def varying(self) -> list[int]:
        """Where the others stand."""
        return [at for at, deviation in enumerate(self.deviation) if deviation != 0]

    def unit(self, stored: Tensor) -> Float[Tensor, "n d *size"]:
        """(stored − mean) / deviation of the columns [n, k, *size] that vary, float32."""
        if stored.shape[1:2] != (len(self.names),):
            raise DataError(f"expected values [n, {len(self.names)}, …], one for each column, got {list(stored.shape)}")
        mean, deviation = self._beside(stored)
        return ((stored[:, self.varying].double() - mean) / deviation).float()

    def stored(self, x: Float[Tensor, "n d *size"]) -> NDArray[np.float64]:
        """mean + deviation·x, with the constant columns in their places, float64 [n, k, *size]."""
        mean, deviation = self._beside(x)
        found = np.empty((len(x), len(self.names), *x.shape[2:]))
        found[:, self.varying] = (mean + deviation * x.double()).cpu().numpy()
        for at, name in enumerate(self.names):
            if name in self.constant:
                found[:, at] = self.mean[at]
            elif self.whole[at]:
                found[:, at] = np.rint(found[:, at])
        return found

    def _beside(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and deviation of the columns that vary, to be broadcast."""
        shape = (-1, *[1] * (values.ndim - 2))
        chosen = [[row[at] for at in self.varying] for row in (self.mean, self.deviation)]
        mean, deviation = (torch.tensor(row, dtype=torch.float64, device=values.device) for row in chosen)
        return mean.reshape(shape), deviation.reshape(shape)

    @classmethod
    def from_json(cls, plain: Mapping[str, Any]) -> Scale:
        """The scale of a contract."""
        names, mean, deviation, whole = (tuple(plain[name]) for name in ("names", "mean", "deviation", "whole"))
        return cls(names, mean, deviation, whole)


@dataclass(frozen=True)
class Heading:
    """The first line of a table: its columns in order, of which one may be the label; untitled ones are not written."""

    columns: tuple[str, ...]
    label: str | None = None
    titled: bool = True

    @property
    def values(self) -> tuple[str, ...]:
        """All columns but the label."""
        return tuple(name for name in self.columns if name != self.label)

    def text(self, rows: NDArray[np.float64], labels: Sequence[str]) -> str:
        """Rows [n, k] of the values as a table, the label in its place, "" where one is not known."""
        made = io.StringIO()
        write = csv.writer(made, lineterminator="\n").writerow
        if self.titled:
            write(self.columns)
        at = None if self.label is None else self.columns.index(self.label)
        for i, row in enumerate(rows):
            cells = [f"{value:.9g}" for value in row]
            write(cells if at is None else [*cells[:at], labels[i] if labels else "", *cells[at:]])
        return made.getvalue()

    @classmethod
    def from_json(cls, plain: Mapping[str, Any]) -> Heading:
        """The heading of a contract."""
        return cls(tuple(plain["columns"]), plain["label"], bool(plain["titled"]))


def agreed(known: Sequence[str], given: Sequence[str], what: str) -> None:
    """Raise DataError, with the name, where a column is missing, is new or stands in another place than was learnt."""
    columns = f"columns as they were: {', '.join(known[:20])}{', …' if len(known) > 20 else ''}"
    if missing := [name for name in known if name not in given]:
        raise DataError(f"{what} has no column {missing[0]!r}, which the model was trained with", columns)
    if new := [name for name in given if name not in known]:
        raise DataError(f"{what} has a column {new[0]!r}, which the model was not trained with", columns)
    for at, (one, other) in enumerate(zip(known, given, strict=True), 1):
        if one != other:
            raise DataError(f"{what} has its columns in another order: column {at} is {other!r}, not {one!r}", columns)


@dataclass(frozen=True)
class Vectors:
    """Rows of k numbers; x [n, value] holds those that vary, each of mean 0 and deviation 1."""

    scale: Scale
    heading: Heading

    axes: ClassVar = ("value",)
    things: ClassVar = "rows"
    forms: ClassVar = ("sheet", "arrays", "table")

    def unit(self, stored: Tensor) -> Float[Tensor, "n d"]:
        """Rows [n, k] as x."""
        return self.scale.unit(stored)

    def bounded(self, x: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
        """x: any number may be."""
        return x

    def stored(self, x: Float[Tensor, "n d"]) -> NDArray[np.float64]:
        """x in the units of the columns, whole numbers rounded, constant columns in their places."""
        return self.scale.stored(x)

    def sheet(
        self, stored: NDArray[np.float64], columns: int | None = None, captions: Sequence[str] = ()
    ) -> Image.Image:
        """Columns against one another, one point for each row."""
        return scatters(stored, self.scale.names)

    def arrays(self, stored: NDArray[np.float64]) -> dict[str, NDArray[Any]]:
        """Rows with the names of their columns."""
        return {"rows": stored, "names": np.array(self.scale.names, str)}

    def table(self, stored: NDArray[np.float64], labels: Sequence[str] = ()) -> str:
        """Rows as the table that they were in."""
        return self.heading.text(stored, labels)

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)

    @classmethod
    def from_json(cls, plain: Mapping[str, Any]) -> Vectors:
        """The vectors of a contract."""
        return cls(Scale.from_json(plain["scale"]), Heading.from_json(plain["heading"]))


@dataclass(frozen=True)
class Series:
    """Series of one or more channels; x [n, channel, time], each channel of mean 0 and deviation 1 over all times.

    In a table a series is a line where the heading has a column for each time, else (`long`) a line for each time.
    """

    scale: Scale
    heading: Heading
    long: bool

    axes: ClassVar = ("channel", "time")
    things: ClassVar = "series"
    forms: ClassVar = ("sheet", "arrays", "table")

    def unit(self, stored: Tensor) -> Float[Tensor, "n c t"]:
        """Series [n, k, t] as x."""
        return self.scale.unit(stored)

    def bounded(self, x: Float[Tensor, "n c t"]) -> Float[Tensor, "n c t"]:
        """x: any number may be."""
        return x

    def stored(self, x: Float[Tensor, "n c t"]) -> NDArray[np.float64]:
        """x in the units of the channels."""
        return self.scale.stored(x)

    def sheet(
        self, stored: NDArray[np.float64], columns: int | None = None, captions: Sequence[str] = ()
    ) -> Image.Image:
        """Curves."""
        return curves(stored, columns, captions)

    def arrays(self, stored: NDArray[np.float64]) -> dict[str, NDArray[Any]]:
        """Series with the names of their channels."""
        return {"series": stored, "names": np.array(self.scale.names, str)}

    def table(self, stored: NDArray[np.float64], labels: Sequence[str] = ()) -> str:
        """Series as the table that they were in; long ones one after the other, numbered in a column `series`."""
        if not self.long:
            return self.heading.text(stored[:, 0], labels)
        lines = stored.swapaxes(1, 2).reshape(-1, stored.shape[1])
        numbers = np.repeat(np.arange(len(stored)), stored.shape[2])
        heading = Heading(("series", *self.heading.columns))
        return heading.text(np.concatenate([numbers[:, None], lines], 1), ())

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)

    @classmethod
    def from_json(cls, plain: Mapping[str, Any]) -> Series:
        """The series of a contract."""
        return cls(Scale.from_json(plain["scale"]), Heading.from_json(plain["heading"]), bool(plain["long"]))
