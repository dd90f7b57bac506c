"""What may be wrong with a table or series: columns that say nothing or the same, values far off, too few rows."""

from __future__ import annotations

import numpy as np
import torch

from ebb.data.dataset import Dataset
from ebb.data.series import Series, Vectors
from ebb.doctor.data_checks import check_class_imbalance
from ebb.doctor.data_subject import DataSubject, Noted, some, worst
from ebb.doctor.finding import Check, Finding, Suspect
from ebb.errors import DataError

FEW_ROWS = 200
"""Rows below which none is held out, and a network soon knows each by heart."""

FAR = 10.0
"""Deviations from the mean at which a value is far off: of a normal distribution 1 in 10²³ lies there."""

SAME = 0.9999
"""The correlation from which two columns say the same."""

MOST_NAMED = 100
"""Values far off that are shown, at most."""

LOOKED_AT = 10_000
"""Examples that are looked at, at most."""


def varying(dataset: Dataset) -> list[str]:
    """The names of the columns or channels that are learnt; DataError where the data has no columns."""
    if not isinstance(dataset.modality, Vectors | Series):
        raise DataError(f"{dataset.modality.things} have no columns")
    scale = dataset.modality.scale
    return [scale.names[at] for at in scale.varying]


CONSTANT_COLUMNS = Noted(
    "constant columns",
    ("constant column",),
    "some columns hold one value alone",
    "{count}: {names}",
    "a setting or a unit that never changed, or a sensor that stood still",
    "nothing need be done: they are not learnt, and are written as they were; or leave them out of the file",
)


def check_equal_columns(data: DataSubject) -> Finding | None:
    """Pairs of columns of rows that correlate by SAME or more."""
    dataset = data.read
    if len(dataset.modality.axes) != 1 or dataset.summary.shape[0] < 2:
        return None
    x = dataset.x(some(len(dataset.rows), LOOKED_AT)).double()
    alike = torch.corrcoef(x.T).abs().triu(1) >= SAME
    names = varying(dataset)
    pairs = [f"{names[a]} and {names[b]}" for a, b in alike.nonzero().tolist()]
    if not pairs:
        return None
    return Finding(
        "equal columns",
        "some columns say the same as another",
        f"{len(pairs)} pairs correlate by {SAME} or more: {worst(pairs)}",
        "one quantity in two units, or a column that was computed from another",
        "leave one of each out: samples will not obey the relation exactly, and it can be computed again",
    )


def check_far_values(data: DataSubject) -> Finding | None:
    """Values of more than FAR deviations from the mean of their column or channel."""
    dataset = data.read
    x = dataset.x(chosen := some(len(dataset.rows), LOOKED_AT)).numpy()
    far = np.argwhere(np.abs(x) > FAR)
    if not len(far):
        return None
    names = varying(dataset)
    places = [f"{names[at[1]]} of #{chosen[at[0]]}: {x[tuple(at)]:+.0f} deviations" for at in far[:5]]
    return Finding(
        "far values",
        "some values lie very far from the others of their column",
        f"{len(far):,} beyond {FAR:g} deviations: {worst(places)}",
        "a mark for missing values such as -999, a slip of the pen, or a quantity that spans many orders of magnitude",
        "correct or leave out such rows; of a quantity that spans orders of magnitude give the logarithm",
        "error" if len(far) * 1000 > x.size else "warning",
        suspects=tuple(
            Suspect((int(chosen[at[0]]),), f"{names[at[1]]}: {x[tuple(at)]:+.0f} deviations") for at in far[:MOST_NAMED]
        ),
    )


EQUAL_ROWS = Noted(
    "equal rows",
    ("exact duplicate",),
    "some rows are there more than once",
    "{count} of {total} equal an earlier one: {names}",
    "a file put together from several that overlap, or values rounded coarsely",
    "delete the copies, unless they are what was measured: what is seen twice as often is memorised first",
    share=1 / 100,
)


def check_too_few_rows(data: DataSubject) -> Finding | None:
    """Fewer than FEW_ROWS examples."""
    count = len(data.read.rows)
    if count >= FEW_ROWS:
        return None
    return Finding(
        "too few rows",
        "there is little to learn from",
        f"{count:,} {data.read.modality.things}; below {FEW_ROWS} none is held out, and a model repeats them",
        "a network has thousands of numbers to keep each in",
        "add rows, train for less time, or take a narrower network: --network.width 32",
    )


TABLE_CHECKS: list[Check[DataSubject]] = [
    CONSTANT_COLUMNS,
    check_equal_columns,
    check_far_values,
    EQUAL_ROWS,
    check_class_imbalance,
    check_too_few_rows,
]
"""Every check of a table, in the order in which they are made."""
