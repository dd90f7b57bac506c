"""What a run says it has chosen: what another run beside it has otherwise first, and each reason once."""

import os

import pytest

from ebb.recipe.document import to_yaml
from ebb.recipe.recipe import Recipe
from ebb.run.folder import chosen_for

MADE = Recipe(steps=9, batch=32, network={"width": 64, "depth": 2}, optimiser={"lr": 0.006})
REASONS = {
    "batch": "small: images of 28×28",
    "sigma_data": "the standard deviation of the data",
    "network.width": "small: images of 28×28",
    "network.depth": "small: images of 28×28",
    "steps": "10m at 900 images/s",
}


@pytest.fixture
def runs(tmp_path):
    """runs(name=recipe, …): run folders, the later the newer."""

    def runs(**recipes):
        for age, (name, recipe) in enumerate(recipes.items()):
            (tmp_path / name).mkdir()
            (tmp_path / name / "run.yaml").write_text(recipe if isinstance(recipe, str) else to_yaml(recipe))
            os.utime(tmp_path / name / "run.yaml", (age, age))
        return tmp_path / "new"

    return runs


def test_each_reason_stands_once(runs):
    table = chosen_for(MADE, REASONS, runs())
    assert table.heads == ("chosen", "value", "because")
    assert [row[0] for row in table.rows] == ["batch", "network.width", "network.depth", "sigma_data", "steps"]
    reasons = [row[-1] for row in table.rows]
    assert reasons == ["small: images of 28×28", "", "", "the standard deviation of the data", "10m at 900 images/s"]


def test_what_the_newest_other_run_of_the_kind_has_otherwise_comes_first(runs):
    wide = MADE.model_copy(update={"network": MADE.network.model_copy(update={"width": 96}), "steps": 7})
    place = runs(old=MADE, wide=wide, damaged="recipe: [", coder=Recipe(kind="autoencoder"), new=MADE)
    table = chosen_for(MADE, REASONS, place)
    assert table.heads == ("chosen", "value", "wide", "because")
    assert table.rows == (
        ("network.width", "64", "96", "small: images of 28×28"),
        ("steps", "9", "7", "10m at 900 images/s"),
        ("batch", "32", "", "as network.width"),
        ("network.depth", "2", "", ""),
        ("sigma_data", "None", "", "the standard deviation of the data"),
    )


def test_where_nothing_differs_there_is_nothing_to_compare(runs):
    assert chosen_for(MADE, REASONS, runs(same=MADE)) == chosen_for(MADE, REASONS, runs())
