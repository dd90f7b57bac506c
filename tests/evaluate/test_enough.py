"""Data or samples too few for a figure: said before anything is drawn, with what can be done instead."""

import json

import numpy as np
import pytest
from PIL import Image

from ebb.errors import UsageError
from ebb.evaluate.enough import decisive, worthwhile
from ebb.evaluate.evaluate import evaluate
from ebb.evaluate.sweep import Candidates, sweep
from ebb.events import finished
from ebb.recipe.recipe import Recipe
from ebb.run.train import train

from ..command import ebb


def run_on(folder, count, side=8, classes=1):
    """A run of one update on so many pictures."""
    rng = np.random.default_rng(0)
    for i in range(count):
        place = folder / "data" / f"{i % classes}"
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (side, side), dtype=np.uint8)).save(place / f"{i}.png")
    recipe = Recipe(network={"width": 8, "depth": 1}, batch=8, precision="fp32", steps=1, sheets=1, sample={"steps": 1})
    return finished(train(folder / "data", recipe, run=folder / "run"))


@pytest.fixture(scope="module")
def few(tmp_path_factory):
    return run_on(tmp_path_factory.mktemp("few"), 3)


@pytest.fixture(scope="module")
def some(tmp_path_factory):
    return run_on(tmp_path_factory.mktemp("some"), 40)


@pytest.fixture
def nothing_drawn(monkeypatch):
    def drawn(*_, **__):
        raise AssertionError("samples were drawn")

    monkeypatch.setattr("ebb.system.sampler.Sampler.__call__", drawn)


@pytest.mark.parametrize("verb", ["evaluate", "sweep"])
def test_a_run_of_three_pictures_is_not_measured_and_it_is_said_at_once(verb, few, nothing_drawn, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    assert ebb(verb, few) == 3
    said = "".join(capsys.readouterr())
    assert "has 3 training images, and a figure needs 20" in said
    assert f"ebb sample {few}" in said
    assert f"ebb doctor {few}" in said


def test_what_is_worth_measuring_can_be_measured(some):
    assert (worthwhile(19), worthwhile(20), worthwhile(60_000)) == (None, 10, 1000)
    found = finished(evaluate(str(some), worthwhile(40), likelihood=0))
    assert "kernel distance" in found.figures.distances
    assert not any("the floor has" in warning for warning in found.figures.warnings)


def test_labelled_pictures_too_small_for_a_classifier_are_judged_without_one(tmp_path, monkeypatch):
    monkeypatch.setattr("ebb.evaluate.evaluate.parts", lambda _: [])
    found = finished(evaluate(run_on(tmp_path, 40, side=4, classes=2), 20, likelihood=0))
    assert found.figures.features.startswith("random network")


def test_a_sweep_of_few_samples_keeps_no_default(some, nothing_drawn):
    with pytest.raises(UsageError, match=r"(?s)16 samples rank settings by chance.*256 samples or more.*--no-keep"):
        finished(sweep(some, Candidates(["ddim"], [1], [1.0]), 16))
    with pytest.raises(UsageError, match=r"(?s)20 real images to compare with.*more images than features.*--no-keep"):
        finished(sweep(some, Candidates(["ddim"], [1], [1.0]), 300))
    assert not (some / "sampling.json").exists()


def test_a_sweep_that_keeps_nothing_measures_and_says_what_overlaps(some, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    words = ("--solvers", "ddim", "euler", "--steps", 1, 2, "--n", 16, "--no-search")
    assert ebb("sweep", some, *words, "--no-keep") == 0
    said = capsys.readouterr().out
    assert "cheapest" in said
    assert "default" not in said
    assert "lie within the interval of the best one" in said
    assert "16 images are few for 128 features" in said
    assert len(json.loads((some / "sweep.json").read_text())["cells"]) == 4
    assert "Measured only, and not kept" in (some / "sweep.html").read_text()
    assert not (some / "sampling.json").exists()


def test_enough_is_enough(tmp_path):
    decisive(tmp_path, 256, 129, 128)
    for count, reference in ((255, 129), (256, 128)):
        with pytest.raises(UsageError):
            decisive(tmp_path, count, reference, 128)


def test_bad_numbers_are_refused_before_the_data_is_read(tmp_path):
    for work in (evaluate(tmp_path, 5), sweep(tmp_path, Candidates(["ddim"], [1]), 5)):
        with pytest.raises(UsageError, match="n must be between 10 and 10,000,000, got 5"):
            finished(work)
