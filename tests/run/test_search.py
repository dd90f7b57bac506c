"""The forms of a learning rate against their formulas, and the search for its peak."""

import json
import math

import numpy as np
import pytest

import ebb.run.search
from ebb.cli import main
from ebb.errors import UsageError
from ebb.events import finished
from ebb.recipe.document import from_yaml, validated
from ebb.recipe.recipe import Recipe
from ebb.run.build import names_known
from ebb.run.plan import rate_of, undecided
from ebb.run.search import lowest
from ebb.train.optimiser import SCHEDULES, WarmupDecay


def recipe(schedule, **how):
    return Recipe(steps=100, batch=8, optimiser={"lr": 2.0, "warmup": 10, "schedule": schedule, **how})


def test_the_forms_are_their_formulas():
    left = {step: (100 - step) / 90 for step in range(10, 100)}
    rates = {name: rate_of(recipe(name)) for name in SCHEDULES}
    for step, share in left.items():
        assert rates["linear"](step) == pytest.approx(2 * share)
        assert rates["cosine"](step) == pytest.approx(2 * (1 + math.cos(math.pi * (1 - share))) / 2)
        assert rates["level_then_fall"](step) == pytest.approx(2 * min(1.0, (100 - step) / 25))
    for rate in rates.values():
        assert [rate(step) for step in range(9)] == pytest.approx([0.2 * (step + 1) for step in range(9)])
        assert rate(100) == rate(200) == 0
    assert rates["level_then_fall"] == WarmupDecay(2.0, 100, 10, 0.25), "as it was before there were others"


def test_only_a_level_rate_leaves_the_length_open():
    assert {name: undecided(recipe(name)) for name in SCHEDULES} == {"level_then_fall": 75, "linear": 10, "cosine": 10}


@pytest.mark.parametrize("best", [0.005, 0.01, 0.09, 0.2])
def test_the_search_ends_at_the_lowest_loss(best):
    """A bowl in the logarithm of the rate, within the factors, and beyond them on either side."""
    found = finished(lowest(lambda rate: abs(math.log(rate / best)), 0.02))
    chosen = min(found, key=found.__getitem__)
    assert abs(math.log2(chosen / best)) <= 0.5
    assert len(found) <= 7
    assert not {0.005, 0.01, 0.02, 0.04, 0.08} - {round(rate, 6) for rate in found}


def test_a_search_that_stops_at_its_edge_is_caught(monkeypatch):
    monkeypatch.setattr(ebb.run.search, "BEYOND", 0)
    with pytest.raises(AssertionError):
        test_the_search_ends_at_the_lowest_loss(0.2)


def test_what_diverges_is_never_chosen():
    found = finished(lowest(lambda rate: math.inf if rate > 0.01 else 1 / rate, 0.02))
    assert min(found, key=found.__getitem__) == pytest.approx(0.01)


def test_the_command_line_searches_before_it_trains(tmp_path, monkeypatch):
    monkeypatch.setattr(ebb.run.search, "FEWEST", 8)
    monkeypatch.setattr(ebb.run.search, "SECONDS", 0)
    images = np.random.default_rng(0).integers(0, 255, (24, 8, 8), dtype=np.uint8)
    np.savez(tmp_path / "data.npz", images=images)
    how = ["--network.width", "16", "--network.depth", "1", "--steps", "2", "--sheets", "1", "--batch", "8"]
    how += ["--precision", "fp32", "--sample.steps", "2", "--optimiser.search", "--run", str(tmp_path / "run")]
    main(["train", str(tmp_path / "data.npz"), *how])
    chosen = json.loads((tmp_path / "run" / "choices.json").read_text())["optimiser.lr"]
    tried = dict(line.split(": ") for line in chosen["reason"].partition("start ")[2].split(", "))
    assert chosen["reason"].startswith("loss after 8 updates from the same start")
    assert 5 <= len(tried) <= 7
    assert float(tried[f"{chosen['value']:.2g}"]) == min(map(float, tried.values()))
    saved = from_yaml(tmp_path / "run" / "run.yaml")[0]
    assert saved.optimiser.lr == chosen["value"]
    assert not saved.optimiser.search, "what is repeated from it has the rate that was found"
    main(["train", str(tmp_path / "data.npz"), *how])  # resumes: the same words, and nothing is searched again


def test_what_does_not_go_together_is_refused():
    with pytest.raises(UsageError, match="falls over the whole run"):
        validated({"optimiser": {"schedule": "cosine", "decay": 0.5}}, "it")
    with pytest.raises(UsageError, match="searched for or given"):
        names_known(recipe("linear", search=True))
