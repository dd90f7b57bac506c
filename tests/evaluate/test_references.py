"""A run's own way of sampling beside others: kinds, paired intervals, and how much of a sample its start decides."""

import json
import sys
from itertools import pairwise

import numpy as np
import pytest
import torch

from ebb.evaluate import references as room
from ebb.evaluate.compare import gap_of
from ebb.evaluate.references import OWN, Reference, as_rows, redrawn, references, share_decided
from ebb.evaluate.sweep import Trial
from ebb.events import finished
from ebb.judge.distances import estimate, frechet_counted
from ebb.process.moment import at
from ebb.process.path import PATHS
from ebb.process.times import GRIDS
from ebb.recipe.groups import UNetRecipe
from ebb.recipe.recipe import Recipe, Sampling
from ebb.run.train import train
from ebb.sample.ddim import DDIM, DDPM
from ebb.sample.noise import Noise
from ebb.sample.scheme import Scheme

from ..sample.test_louder import Centred, gain

FEW = {
    "DDIM, 3 steps": {"solver": "ddim", "grid": "uniform", "steps": 3},
    "DDPM, 6 steps": {"solver": "ddpm", "grid": "uniform", "steps": 6},
}


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """A run of a moment, measured with few steps; its folder, and what came of it."""
    folder = tmp_path_factory.mktemp("runs") / "digits"
    network, sample = UNetRecipe(width=16, depth=1), Sampling(steps=4)
    recipe = Recipe(steps=3, batch=16, sheets=1, precision="fp32", network=network, sample=sample)
    finished(train("digits", recipe, run=folder))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ebb.evaluate.judges.SECONDS", 0.1)
        patch.setattr(room, "REFERENCES", FEW)
        return folder, finished(references(folder, 24))


def test_the_runs_own_way_stands_first_and_the_others_beside_it(found):
    folder, result = found
    assert [one.name for one in result.ways] == [OWN, *FEW]
    own, ddim, ddpm = result.ways
    assert (own.difference, own.kind, ddim.kind, ddpm.kind) == (None, "deterministic", "deterministic", "stochastic")
    assert (ddim.evaluations, ddpm.evaluations) == (3, 6)
    for one in (ddim, ddpm):
        difference, low, high = one.difference
        assert difference == pytest.approx(one.distance - own.distance, rel=1e-6)
        assert low < difference < high
    assert own.start == ddim.start == 1
    assert ddpm.start < 1
    written = json.loads((folder / "references.json").read_text())
    assert [one["name"] for one in written["ways"]] == [OWN, *FEW]
    page = (folder / "report.html").read_text()
    assert "Ways of sampling" in page
    assert "by all its draws" in page
    assert [row[0] for row in as_rows(result)] == [OWN, *FEW]
    assert (
        own.says
        == "the run's own: deterministic, interpolates by its start; best for every day, interpolating, inverting, editing"
    )


def test_what_was_measured_before_an_interruption_is_not_measured_again(found, monkeypatch):
    folder, result = found
    drawn, usual = [], Trial.__call__

    def counted(trial, how):
        drawn.append(how.solver)
        return usual(trial, how)

    monkeypatch.setattr(Trial, "__call__", counted)
    monkeypatch.setattr("ebb.evaluate.judges.SECONDS", 0.1)  # others would judge otherwise, and nothing be the same
    monkeypatch.setattr(room, "REFERENCES", FEW)
    again = finished(references(folder, 24))
    assert drawn == [result.ways[0].sampling["solver"]], "its own way alone, which the others are held against"
    assert again.ways[1:] == result.ways[1:]
    drawn.clear()
    other = {**FEW, "DDPM, 6 steps": {**FEW["DDPM, 6 steps"], "steps": 5}}
    monkeypatch.setattr(room, "REFERENCES", other)
    assert finished(references(folder, 24)).ways[2].evaluations == 5
    assert drawn[1:] == ["ddpm"], "other settings are another way"


def share(solver, path, times, count=2000):
    """The share that starts decide of samples of N(0, s²), by drawing them twice."""
    scheme, like = Scheme(Centred(path), solver, times), torch.empty(count, 1, dtype=torch.float64)
    one, again = (scheme.fresh(like, {}, noise).numpy() for noise in (Noise.of(0, count), redrawn(0, count)))
    return share_decided(one, again)


def test_the_share_that_a_start_decides_is_that_of_the_recursion():
    """Ancestral steps of a Gaussian are x_s = m·x + c·z: the start decides (Π m)²·var x_t₀ / var x_0."""
    path = PATHS["linear"]
    times = GRIDS["uniform"](path, 2)
    moments = [at(path, time) for time in times.tolist()]
    start = everything = moments[0].sigma ** 2
    for t, s in pairwise(moments):
        old = s.sigma * t.alpha / (s.alpha * t.sigma)
        keep = s.sigma * old / t.sigma
        m = keep + (s.alpha - keep * t.alpha) * gain(t)
        start, everything = m**2 * start, m**2 * everything + s.sigma**2 * (1 - old**2)
    assert share(DDPM(), path, times) == pytest.approx(start / everything, abs=0.05)
    assert start < 0.9 * everything, "a share that is always 1 would pass"
    assert share(DDIM(), path, times) == 1


def test_a_share_of_what_is_drawn_on_the_way_is_caught(monkeypatch):
    """A mutant that keeps the other draws too: every start would decide all."""
    monkeypatch.setattr(sys.modules[__name__], "redrawn", Noise.of)
    with pytest.raises(AssertionError):
        test_the_share_that_a_start_decides_is_that_of_the_recursion()


def test_what_a_way_is_best_for_follows_from_its_interval():
    def way(kind, difference):
        return Reference("", {}, kind, 1.0, 1.0, 1.0, difference, 0.1)

    assert way("deterministic", None).best_for == "every day, interpolating, inverting, editing"
    assert way("stochastic", (-0.2, -0.3, -0.1)).best_for == "the smaller distance"
    assert way("stochastic", (0.1, -0.1, 0.3)).best_for == "comparing with papers; as good as the run's own"
    assert way("deterministic", (0.2, 0.1, 0.3)).best_for.endswith("comparing with papers; worse than the run's own")
    assert way("stochastic", None).interpolates == "by all its draws; its start decides 10%"


def test_a_way_compared_with_itself_is_not_apart():
    """Paired: what chance moves, it moves in both; the same samples in another order are no pairs."""
    rows, real = np.random.default_rng(0).normal(size=(2, 64, 4))
    gap = gap_of(frechet_counted, 4)
    assert estimate(gap, np.hstack([rows, rows]), real, resamples=20, seed=0) == pytest.approx((0, 0, 0), abs=1e-6)
    _, low, high = estimate(gap, np.hstack([rows, rows[::-1]]), real, resamples=20, seed=0)
    assert high - low > 0.05
