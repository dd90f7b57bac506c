"""bench/incident.py, low_times.py, rounded.py and suspects.py: what they plant is what they say, and what they count is there."""

import sys
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from ebb.data.scan import read
from ebb.doctor.data_checks import check_near_duplicates
from ebb.doctor.looks import sharpness
from ebb.events import finished
from ebb.process.bins import BINS
from ebb.process.path import PATHS
from ebb.recipe.recipe import Recipe
from ebb.run.train import train
from ebb.train.objectives.weights import WEIGHTS

NAMES = ("incident", "low_times", "rounded", "suspects")


@pytest.fixture(scope="module")
def bench():
    """The scripts, as modules by name."""
    folder = str(Path(__file__).parents[1] / "bench")
    sys.path.insert(0, folder)
    try:
        yield SimpleNamespace(**{name: import_module(name) for name in NAMES})
    finally:
        sys.path.remove(folder)
        for name in NAMES:
            sys.modules.pop(name, None)


def course(last, rising):
    """Thirty lines of a log that fall to 1 and end at `last`, all of the rise in one bin of the log-SNR."""
    lines = [*np.linspace(3, 1, 20), *np.linspace(1, last, 10)]
    tallies = [np.stack([np.ones(BINS), np.ones(BINS)]) for _ in lines]
    for line, tally in zip(lines[20:], tallies[20:], strict=True):
        tally[0, rising] = 1 + BINS * (line - 1)
    return lines, tallies


def test_a_run_has_diverged_where_its_loss_left_its_lowest_for_good(bench, monkeypatch):
    def check():
        found = bench.incident.outcome(*course(4.0, 3), "")
        assert 20 * bench.incident.LINE < found.step <= 27 * bench.incident.LINE
        assert found.level.startswith("-7.5 to -6 (")
        assert bench.incident.outcome(*course(1.2, 3), "").step is None

    check()
    for threshold in (1.01, 100.0):  # mutants: every wobble, and nothing at all
        monkeypatch.setattr(bench.incident, "ROSE", threshold)
        with pytest.raises((AssertionError, TypeError)):
            check()


def test_what_is_not_finite_has_diverged(bench):
    lines, tallies = course(1.0, 3)
    assert bench.incident.outcome([*lines[:-1], float("nan")], tallies, "").step == 30 * bench.incident.LINE


def test_the_factor_that_is_said_to_pass_a_thousand_is_a_hundred(bench):
    path, t = PATHS["ddpm_linear"], torch.tensor([0.001, 0.5, 1.0], dtype=torch.float64)
    det = path.alpha(t)
    factor = bench.incident.by_noise(path, t, det) / WEIGHTS["simple"](path, t, det)
    torch.testing.assert_close(factor, 1 / path.sigma(t))
    assert float(factor.max()) == pytest.approx(100, rel=1e-3)


def test_a_case_says_what_is_other_in_it_and_changes_that_alone(bench):
    Case = bench.incident.Case
    assert str(Case()) == "as it is"
    assert str(Case(lr=3.0, weight="vlb")) == "lr 3.0, weight vlb"
    said = [str(case) for case in bench.incident.FIRST]
    assert len(set(said)) == len(said)
    for axis in ("path", "lr", "warmup", "weight", "precision"):
        assert len({getattr(case, axis) for case in bench.incident.FIRST}) > 1, axis


def test_a_case_is_trained(bench):
    found = bench.incident.course(bench.incident.Case(), 100)
    assert found.step is None
    assert 0 < found.last < 1.5


def test_a_weight_is_on_its_own_levels(bench):
    path, t = PATHS["linear"], torch.tensor([0.05, 0.5, 0.95], dtype=torch.float64)  # log-SNR 5.9, 0 and -5.9

    def check(low, noisy):
        assert low(path, t, t).tolist() == [10.0, 1.0, 1.0]
        assert noisy(path, t, t).tolist() == [1.0, 1.0, 10.0]

    louder = bench.low_times.Louder
    check(louder(10.0), louder(10.0, noise=True))
    with pytest.raises(AssertionError):  # a mutant that takes one for the other
        check(louder(10.0, noise=True), louder(10.0))


def test_bf16_is_held_against_fp32_in_both_states_of_a_run(bench, pictures, tmp_path, monkeypatch):
    small = {"width": 8, "depth": 1, "multipliers": (1,)}
    asked = Recipe(steps=5, batch=8, precision="fp32", sheets=1, network=small)
    finished(train(str(pictures), asked, run=tmp_path / "run"))

    def check():
        found = bench.rounded.inexact(tmp_path / "run")
        shares = [share for state in found.values() for share in state if share is not None]
        assert len(found) == 2
        assert len(shares) > 6
        assert all(1e-4 < share < 0.1 for share in shares)
        assert bench.rounded.table(found).count("\n") == 1 + len(shares) // 2

    check()
    monkeypatch.setattr(torch, "bfloat16", torch.float32)  # a mutant that compares fp32 with itself
    with pytest.raises(AssertionError):
        check()


@pytest.fixture(scope="module")
def digits():
    return read("digits", hold_back=False)


def test_a_planted_change_is_in_its_share_of_the_pictures_alone(bench, digits):
    rows, _ = bench.suspects.drawn(digits, 7)
    for change in (bench.suspects.blurred, bench.suspects.shifted):
        spoilt = bench.suspects.spoilt(change, digits, 7).read.rows
        other = (np.asarray(spoilt) != rows).any((1, 2, 3))
        assert other.mean() == pytest.approx(bench.suspects.SHARE, abs=0.005)
    blurred = bench.suspects.spoilt(bench.suspects.blurred, digits, 7).read.rows
    other = np.flatnonzero((np.asarray(blurred) != rows).any((1, 2, 3)))
    sharp, soft = (sharpness(torch.from_numpy(np.asarray(each)[other]).float()).mean() for each in (rows, blurred))
    assert soft < sharp


def test_labels_are_changed_to_others(bench, digits):
    _, labels = bench.suspects.drawn(digits, 3, bench.suspects.JUDGED)
    planted = bench.suspects.relabelled(digits, 3).read
    assert (planted.labels != labels).mean() == pytest.approx(2 * bench.suspects.SHARE, abs=0.015)
    assert np.array_equal(np.asarray(planted.rows), bench.suspects.drawn(digits, 3, bench.suspects.JUDGED)[0])


def test_planted_copies_are_beside_what_they_are_of(bench):
    cells = np.random.default_rng(0).integers(40, 220, (300, 1, 4, 4), dtype=np.uint8)
    data = SimpleNamespace(rows=np.kron(cells, np.ones((8, 8), np.uint8)), labels=None)
    planted = bench.suspects.copied(data, 0)
    assert len(planted.read.rows) == 300 + 18
    found = check_near_duplicates(planted)
    assert found is not None
    assert {max(one.rows) for one in found.suspects} <= set(range(300, 318))
    calm = bench.suspects.subject(data, *bench.suspects.drawn(data, 1))
    assert bench.suspects.finding_of(check_near_duplicates, calm) is None
