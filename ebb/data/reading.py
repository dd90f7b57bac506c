"""From what a user has to a data set: tables of numbers as rows, series or windows of one, and else pictures."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from ebb.data import windows
from ebb.data.columns import Roles, roles
from ebb.data.dataset import DataNote, Dataset, Summary
from ebb.data.delimited import number
from ebb.data.extractors import extracted
from ebb.data.held_out import LEAST, held_back
from ebb.data.metadata import Fields
from ebb.data.pictures import Pictures
from ebb.data.scan import scanned
from ebb.data.series import Heading, Scale, Series, Vectors
from ebb.data.sources import named
from ebb.data.splits import Scan
from ebb.data.tables import METADATA
from ebb.data.tabular import Stored, tabled
from ebb.errors import DataError, UsageError
from ebb.recipe.recipe import Recipe
from ebb.store.memory import Progress

FEWEST = 8
"""The fewest rows that anything is learnt from."""

NEIGHBOURS, CORRELATED = 8, 0.5
"""A row is a series in time where it has so many columns, numbered or without names, whose neighbours correlate so."""


def as_asked(
    where: str, recipe: Recipe, cache: Path | None = None, *, progress: Progress | None = None, hold_back: bool = True
) -> Dataset:
    """The data at a place as a recipe asks for it (`read_as`); what has no labels is called as the recipe says, if it
    does. Raises UsageError where it says so of data that has labels."""
    dataset = read_as(where, recipe, cache, progress=progress, hold_back=hold_back)
    label = recipe.called(dataset.summary.name, dataset.labels is not None)
    if label is None:
        return dataset
    held_out = None if dataset.held_out is None else called(dataset.held_out, label)
    return replace(called(dataset, label), held_out=held_out)


def called(dataset: Dataset, label: str) -> Dataset:
    """Examples that all have one label."""
    return replace(dataset, labels=np.zeros(len(dataset.rows), np.int64), names=(label,))


def read_as(
    where: str, recipe: Recipe, cache: Path | None = None, *, progress: Progress | None = None, hold_back: bool = True
) -> Dataset:
    """The examples at a place as a recipe asks for them, with the labels that they have: a table
    (`ebb.data.tabular.tabled`), or pictures (`ebb.data.scan.read`, whose errors it raises). UsageError for an option
    that is of the other kind of data."""
    how, stored = recipe.data, tabled(where)
    if stored is None:
        if how.window is not None:
            raise UsageError(f"{where} is no table, and has no windows", "leave --data.window out")
        if where == "shapes" and how.sides and len({*how.sides}) > 1:
            raise UsageError("the scenes of shapes are square, and a crop would cut things off", "try --data.size 32")
        scan = Scan(where, cache) if progress is None else Scan(where, cache, progress)
        beside, extractors = recipe.shown()
        fields = Fields(recipe.metadata(), beside)
        if how.buckets and (beside or extractors):
            raise UsageError(
                "a picture that stands beside each has one shape, and buckets have several",
                "leave --data.buckets or it out",
            )
        return with_maps(scanned(scan, how, fields, hold_back=hold_back), extractors)
    pictured: dict[str, object] = {"data.size": how.size, "data.channels": how.channels, "data.flip": how.flip or None}
    pictured |= {"data.buckets": how.buckets or None}
    pictured |= {"numbers": recipe.metadata() or None, "beside": recipe.shown()[0] or None}
    pictured |= {"control": recipe.shown()[1] or None}
    if given := [name for name, value in pictured.items() if value is not None]:
        raise UsageError(f"--{given[0]} is of pictures, and {where} is a table", f"leave --{given[0]} out")
    return from_table(where, stored, window=how.window, hold_back=hold_back)


def with_maps(dataset: Dataset, extractors: Sequence[str]) -> Dataset:
    """Pictures with what extractors find in each beside it, by the name of the extractor; also those held out.

    Raises UsageError for an extractor that there is not, and where a picture beside has its name.
    """
    for extractor in extractors:
        name, found = extractor.partition("(")[0], extracted(extractor, dataset.rows)
        if name in dataset.metadata.beside:
            raise UsageError(f"{name} is a field of {METADATA} too", "call the field otherwise")
        maps = Pictures(found, np.arange(len(found)))
        metadata = replace(dataset.metadata, beside={**dataset.metadata.beside, name: maps})
        unseen = None if dataset.held_out is None else with_maps(dataset.held_out, (extractor,))
        dataset = replace(dataset, metadata=metadata, held_out=unseen)
    return dataset


@dataclass(frozen=True, eq=False)
class Known:
    """What is known of a table so far: kind of file, name, reasons of choices, and what was left out."""

    kind: str
    name: str
    chosen: dict[str, str]
    notes: list[DataNote]
    fingerprint: str = ""

    def because(self, **reasons: str) -> Known:
        """The same with more reasons, an underscore for a space."""
        return replace(self, chosen=self.chosen | {name.replace("_", " "): why for name, why in reasons.items()})


def from_table(where: str, stored: Stored, *, window: int | None = None, hold_back: bool = True) -> Dataset:
    """The data set that a table is: rows of numbers, a series in each row, or windows of one long series.

    `window` is the length of windows, 0 for a row as an example, None for what the table looks like.

    Raises DataError for too few rows and where nothing varies, UsageError for a length that does not fit.
    """
    known = Known(stored.kind, named(where), {}, [])
    if stored.table is None:
        return of_series(known, stored, hold_back)
    table, columns = stored.table, roles(stored.table, where)
    if len(table) < FEWEST:
        raise DataError(f"{where} has {len(table)} rows; expected {FEWEST} or more", "nothing is learnt from so few")
    left = [("column that counts the rows", columns.counters), ("column of words", columns.texts)]
    known.notes.extend(DataNote(kind, len(names), names[:5], "left out") for kind, names in left if names)
    if window if window is not None else windows.is_long(steady(columns)):
        return windowed(known, columns, window)
    heading = Heading(
        tuple(n for n in table.columns if n in (*columns.names, columns.label)), columns.label, table.titled
    )
    series, why = in_time(columns, table.titled)
    known = known.because(rows=why, labels=columns.reason)
    if series:
        names = stem(columns.names) if len(stem(columns.names)) == 1 else ("value",)
        return parted_by_hash(
            known,
            columns.values[:, None],
            columns.labels,
            hold_back,
            lambda rows: Series(scale_of(rows, names), heading, long=False),
        )
    return parted_by_hash(
        known, columns.values, columns.labels, hold_back, lambda rows: Vectors(scale_of(rows, columns.names), heading)
    )


def steady(columns: Roles) -> NDArray[np.float64]:
    """The values less the mean of their label, so that rows sorted by label are no series."""
    labels = np.unique(columns.labels, return_inverse=True)[1] if columns.labels else np.zeros(len(columns.values), int)
    means = np.stack([np.bincount(labels, column) / np.bincount(labels) for column in columns.values.T], 1)
    return columns.values - means[labels]


def in_time(columns: Roles, titled: bool) -> tuple[bool, str]:
    """Whether the columns of a row are one quantity in time, and why: numbered or without names, and alike as
    neighbours."""
    count = len(columns.names)
    numbered = not titled or len(stem(columns.names)) == 1
    if count < NEIGHBOURS or not numbered:
        return False, f"{count} columns of their own, each brought to mean 0 and deviation 1"
    deviation = columns.values.std(0)
    unit = (columns.values - columns.values.mean(0)) / np.where(deviation > 0, deviation, 1)
    alike = float((unit[:, 1:] * unit[:, :-1]).mean())
    if alike < CORRELATED:
        return False, f"{count} columns of their own: neighbours correlate by {alike:.2f} only"
    return True, f"each is a series of {count} times: neighbouring columns correlate by {alike:.2f}"


def stem(names: Sequence[str]) -> tuple[str, ...]:
    """The one name of columns that are numbered in order, such as t of t0, t1, t2; else all names."""
    parts = [re.fullmatch(r"(.*?)(\d+)", name) for name in names]
    stems = {part[1] for part in parts if part}
    numbers = [int(part[2]) for part in parts if part]
    if len(numbers) == len(names) and len(stems) == 1 and numbers == list(range(numbers[0], numbers[0] + len(names))):
        return (stems.pop().strip(" _-") or "value",)
    return tuple(names)


def scale_of(rows: NDArray[np.float64], names: Sequence[str]) -> Scale:
    """The scale of rows [n, k] or series [n, k, time] by column; DataError where none varies."""
    scale = Scale.of(names, list(rows.swapaxes(0, 1)))
    if not scale.varying:
        raise DataError(f"no column varies: {', '.join(names)}", "there is nothing to learn")
    return scale


def of_series(known: Known, stored: Stored, hold_back: bool) -> Dataset:
    """The data set of series [n, channel, time]."""
    if stored.series is None or len(stored.series) < FEWEST:
        raise DataError(f"{known.name} has fewer than {FEWEST} series", "nothing is learnt from so few")
    count, channels, times = stored.series.shape
    names = tuple(f"channel {at}" for at in range(1, channels + 1))
    known = known.because(rows=f"{count:,} series of {channels} channels and {times} times")
    return parted_by_hash(
        known,
        stored.series,
        stored.labels,
        hold_back,
        lambda rows: Series(scale_of(rows, names), Heading(names), long=True),
    )


def windowed(known: Known, columns: Roles, asked: int | None) -> Dataset:
    """The windows of one long series; its end is held out, and no row of it is trained on."""
    length, why = windows.length_of(columns.values, asked)
    if columns.label is not None:
        known.notes.append(DataNote("label of times", 1, (columns.label,), "left out: it marks rows, not windows"))
    rows = len(columns.values)
    stride = windows.stride_of(rows, length)
    train, aside = windows.cut(columns.values, length, stride)
    trained = columns.values[: (len(train) - 1) * stride + length]
    modality = Series(scale_of(trained, columns.names), Heading(columns.names), long=True)
    parting = [length] if stride == 1 else [length, stride]
    known = replace(known, fingerprint=fingerprint(columns.values, (), columns.names, parting))
    known = known.because(
        rows=f"one series of {rows:,}: from a row to the next its values change little",
        windows=f"{length} rows, at {'every place' if stride == 1 else f'one place in {stride}'}: {why}",
        labels="none: a window has none",
        held_out="none: the series is too short"
        if aside is None
        else f"{len(aside):,} windows of the last {(len(aside) - 1) * stride + length:,} rows, none of them trained on",
    )
    unseen = None if aside is None else data_set(replace(known, notes=[]), aside, None, (), modality)
    return replace(data_set(known, train, None, (), modality), held_out=unseen, apart=-(-length // stride))


def parted_by_hash(
    known: Known,
    rows: NDArray[np.float64],
    labels: Sequence[str],
    hold_back: bool,
    modality_of: Callable[[NDArray[np.float64]], Vectors | Series],
) -> Dataset:
    """The data set of rows [n, …], of which some are held out by their hash (`ebb.data.held_out`)."""
    names = ordered(labels)
    numbers = np.array([names.index(label) for label in labels], np.int64) if names else None
    back = held_back(rows, numbers) if hold_back else []
    left = np.setdiff1d(np.arange(len(rows)), back)
    few = f"none: fewer than {LEAST} examples" if len(rows) < LEAST else "none: no class can spare one"
    why = f"{len(back):,} of {len(rows):,}, by hash" if back else few if hold_back else "none: not asked for"
    known, modality = known.because(held_out=why), modality_of(rows[left])
    known.notes.extend(copies_of(rows[left]))
    said = [*names, *([] if numbers is None else numbers.tolist())]
    known = replace(known, fingerprint=fingerprint(rows, said, modality.heading.columns, back))

    def part(some: NDArray[np.int64], notes: list[DataNote]) -> Dataset:
        own = None if numbers is None else numbers[some]
        return data_set(replace(known, notes=notes), rows[some], own, names, modality)

    unseen = part(np.array(back), []) if back else None
    return replace(part(left, known.notes), held_out=unseen)


def ordered(labels: Sequence[str]) -> tuple[str, ...]:
    """The different labels, numbers by their size."""
    names = sorted({*labels})
    numbers = [number(name) for name in names]
    return tuple(names if None in numbers else sorted(names, key=float))


MEASURED = 4096
"""Examples that mean and deviation are measured on, at most."""


def data_set(
    known: Known,
    rows: NDArray[np.float64],
    labels: NDArray[np.int64] | None,
    names: tuple[str, ...],
    modality: Vectors | Series,
) -> Dataset:
    """Rows with their labels, summed up."""
    x = modality.unit(torch.from_numpy(rows[:: max(1, len(rows) // MEASURED)].copy())).numpy()
    rest = (0, *range(2, x.ndim))
    counts = {} if labels is None else {name: int((labels == at).sum()) for at, name in enumerate(names)}
    notes = [*known.notes]
    if constant := modality.scale.constant:
        notes.append(DataNote("constant column", len(constant), constant[:5], "not learnt; written as it was"))
    summary = Summary(
        known.kind,
        known.name,
        len(rows),
        x.shape[1:],
        counts,
        0,
        x.mean(rest).tolist(),
        x.std(rest).tolist(),
        [],
        known.fingerprint,
        known.chosen,
        tuple(notes),
        examples=known.fingerprint,
        things=modality.things,
    )
    return Dataset(rows, labels, names, summary, None, modality=modality)


def copies_of(rows: NDArray[np.float64]) -> list[DataNote]:
    """A note of the rows that equal an earlier one, if some do."""
    first = dict[bytes, int]()
    copies = [at for at, row in enumerate(rows) if first.setdefault(row.tobytes(), at) != at]
    examples = tuple(f"#{at}" for at in copies[:5])
    return [DataNote("exact duplicate", len(copies), examples, "kept")] if copies else []


def fingerprint(
    rows: NDArray[np.float64], labels: Sequence[str | int], columns: Sequence[str], parts: Sequence[int]
) -> str:
    """sha256 over values, labels, the names of the columns and how examples are parted."""
    said = json.dumps([rows.shape, list(labels), list(columns), list(parts)])
    found = hashlib.sha256(said.encode())
    found.update(np.ascontiguousarray(rows, "<f8").data)
    return found.hexdigest()
