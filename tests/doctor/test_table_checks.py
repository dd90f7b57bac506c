"""Checks of tables: each finds its fault where it was planted, and nothing in a clean table."""

import re

import numpy as np
import pytest
import torch

import ebb
from ebb.doctor.data_subject import kind_of
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


PICTURED = re.compile(r"\b(image|picture|photo|pixel|dark|bright|colour)", re.IGNORECASE)


def signals(count=400, channels=3):
    """Noisy sines, each channel of its own phase."""
    draws, time = np.random.default_rng(0), np.linspace(0, 6, 48)
    phase = draws.uniform(0, 6, (count, channels, 1))
    return np.sin(time + phase) + 0.1 * draws.normal(size=(count, channels, len(time)))


def check_no_pictures(diagnosis, things):
    words = str(diagnosis)
    assert things in words
    assert not PICTURED.search(words), words


@pytest.mark.parametrize(
    ("array", "things"),
    [
        (signals(), "400 series (channel 3, time 48)"),
        (torch.from_numpy(signals(60)).float(), "60 series"),
        (signals()[:, 0], "400 series (channel 1, time 48)"),
        (clean(), "400 rows (value 3)"),
        (clean(50), "50 rows"),
    ],
    ids=["signals", "few", "one channel", "rows", "few rows"],
)
def test_arrays_of_numbers_are_spoken_of_as_what_they_are(array, things):
    check_no_pictures(diagnose(array), things)


def test_a_fault_of_signals_is_named_by_channel_and_none_is_made_up():
    assert diagnose(signals()).findings == []
    wrong = signals()
    wrong[7, 1, 5] = -999
    (finding,) = diagnose(wrong).findings
    assert "channel 2 of #7" in finding.evidence
    with pytest.raises(AssertionError):
        check_no_pictures(diagnose(np.random.default_rng(0).integers(0, 256, (40, 1, 16, 16), np.uint8)), "40 images")


def test_a_model_of_signals_is_not_one_of_images():
    """A path that does not end in noise, a network that hears no time: findings of any model, in words of this one."""
    network = ebb.UNet(2, width=16, dims=1)
    model = ebb.NetworkDenoiser(network, ebb.VarianceExploding(sigma_max=2.0), ebb.velocity)
    check_no_pictures(diagnose(model, shape=(2, 16)), "noise")


@pytest.mark.parametrize(
    ("shape", "kind"),
    [
        ((9, 5), "rows"),
        ((9, 1, 64), "series"),
        ((9, 8, 64), "series"),
        ((9, 28, 28), "images"),
        ((9, 24, 64), "images"),
        ((9, 3, 8, 8), "images"),
        ((9, 4, 8, 8), None),
        ((9,), None),
    ],
)
def test_arrays_are_told_apart_by_their_axes(shape, kind):
    assert kind_of(np.zeros(shape)) == kind
    assert kind_of(np.full(shape, np.nan)) == (kind if kind == "images" else None)
