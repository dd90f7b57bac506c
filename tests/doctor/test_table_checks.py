"""Checks of tables: each finds its fault where it was planted, and nothing in a clean table."""

import numpy as np
import pytest

from ebb.doctor.diagnose import diagnose


def table(path, rows, names="abc"):
    np.savetxt(path, rows, delimiter=",", header=",".join(names), comments="", fmt="%.6g")
    return str(path)


def clean(count=400):
    return np.random.default_rng(0).normal(size=(count, 3))


def constant(rows):
    rows[:, 1] = 4


def equal(rows):
    rows[:, 2] = 3 - 2 * rows[:, 0]


def far(rows):
    rows[7, 1] = -999


def copies(rows):
    rows[:40] = rows[40:80]


@pytest.mark.parametrize(
    ("fault", "found", "names"),
    [
        (constant, "constant columns", "b"),
        (equal, "equal columns", "a and c"),
        (far, "far values", "b of #7"),
        (copies, "equal rows", "40 of"),
    ],
)
def test_a_planted_fault_is_found_and_named(tmp_path, fault, found, names):
    rows = clean()
    fault(rows)
    findings = {each.name: each for each in diagnose(table(tmp_path / "t.csv", rows)).findings}
    assert [*findings] == [found]
    assert names in findings[found].evidence


def test_nothing_is_found_in_a_clean_table_and_too_few_rows_are_named(tmp_path):
    good = diagnose(table(tmp_path / "t.csv", clean()))
    assert (good.findings, good.unchecked) == ([], [])
    (few,) = diagnose(table(tmp_path / "few.csv", clean(50))).findings
    assert few.name == "too few rows"


def test_series_are_looked_at_by_channel(tmp_path):
    rows = np.cumsum(np.random.default_rng(0).normal(size=(300, 12)), 1)
    found = diagnose(table(tmp_path / "s.csv", rows, [f"t{at}" for at in range(12)]))
    assert (found.findings, found.unchecked) == ([], [])
