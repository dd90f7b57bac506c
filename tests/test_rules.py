"""bench/rules.py and bench/mistakes.py: what is compared is what is said, and what is there is not made again."""

import json
import sys
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from ebb.data.loader import Examples, Loader
from ebb.networks.unet import UNet
from ebb.process.denoiser import CLOCKS, NetworkDenoiser
from ebb.process.path import PATHS
from ebb.process.predict import PREDICTIONS
from ebb.recipe.recipe import DiffusionRecipe
from ebb.run.build import names_known
from ebb.train.ema import EMA

BENCH = Path(__file__).parents[1] / "bench"


@pytest.fixture(scope="module")
def bench():
    """Both scripts, as modules."""
    sys.path.insert(0, str(BENCH))
    try:
        yield SimpleNamespace(rules=import_module("rules"), mistakes=import_module("mistakes"))
    finally:
        sys.path.remove(str(BENCH))
        for name in ("rules", "mistakes"):
            sys.modules.pop(name, None)


@dataclass(frozen=True)
class Parts:
    """Of `ebb.run.build.Built` what a mistake looks at."""

    training: Any
    loader: Loader


@pytest.fixture
def parts():
    """A small model with a loader of two pictures, as far as a mistake looks at them."""
    torch.manual_seed(0)
    model = NetworkDenoiser(UNet(1, width=8, depth=1), PATHS["linear"], PREDICTIONS["v"], CLOCKS["fraction"], 0.5)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.1)
    pixels = np.random.default_rng(0).integers(0, 256, (2, 1, 16, 16), dtype=np.uint8)
    training = SimpleNamespace(model=model, ema=EMA(model))
    return Parts(training, Loader(Examples(pixels), 2, 3))


RECIPE = DiffusionRecipe(optimiser={"kind": "adamw", "lr": 1e-3})


def test_every_row_is_a_recipe_that_can_be_trained(bench):
    for rows in bench.rules.TABLES.values():
        for settings in rows.values():
            fields = {name: value for name, value in bench.rules.learnt(settings).items() if name != "mistake"}
            names_known(DiffusionRecipe.model_validate(fields))
            assert settings.get("mistake", "cropped") in bench.mistakes.MISTAKES


def test_batch_norm_takes_every_place_and_the_average_has_it_too(bench, parts):
    recipe, after = bench.mistakes.batch_norm(RECIPE, parts)
    for model in (after.training.model, after.training.ema.model):
        kinds = [type(module) for module in model.modules()]
        assert nn.GroupNorm not in kinds
        assert nn.BatchNorm2d in kinds
    trained = {id(p) for group in after.training.optimizer.param_groups for p in group["params"]}
    assert {id(p) for p in after.training.model.parameters()} == trained
    assert recipe == RECIPE


def test_half_the_range_is_that_of_zero_to_one(bench, parts):
    before = parts.loader(0).x0
    _, after = bench.mistakes.half_range(RECIPE, parts)
    x0 = after.loader(0).x0
    assert 0 <= x0.min() < 0.1
    assert 0.9 < x0.max() <= 1
    torch.testing.assert_close(bench.mistakes.widened(x0), before)
    assert after.training.model.sigma_data == after.training.ema.model.sigma_data == 0.25
    with pytest.raises(AssertionError):  # a mutant: what was drawn stays in half of the range
        torch.testing.assert_close(x0, before)


def test_without_time_the_network_answers_alike_at_all_times(bench, parts):
    x, early, late = torch.randn(2, 1, 8, 8), torch.full((2,), 0.5), torch.full((2,), 0.5001)
    assert not torch.equal(parts.training.model.raw(x, early, {}), parts.training.model.raw(x, late * 1.9, {}))
    _, after = bench.mistakes.timeless(RECIPE, parts)
    for model in (after.training.model, after.training.ema.model):
        model.sigma_data = None
        assert torch.equal(model.raw(x, early, {}), model.raw(x, late * 1.9, {}))


def test_a_crop_is_the_picture_moved(bench, parts):
    _, after = bench.mistakes.cropped(RECIPE, parts)
    moved, whole = after.loader(5).x0, parts.loader(5).x0
    assert not torch.equal(moved, whole)
    for mine, theirs in zip(moved, whole, strict=True):
        wide = nn.functional.pad(theirs[None], (2,) * 4, mode="replicate")[0]
        places = [wide[:, i : i + 16, j : j + 16] for i in range(5) for j in range(5)]
        assert sum(torch.equal(mine, place) for place in places) == 1
    assert torch.equal(after.loader(5).x0, moved), "a function of the step"


def test_no_clipping_is_a_norm_that_nothing_reaches(bench, parts):
    recipe, after = bench.mistakes.unclipped(RECIPE, parts)
    assert recipe.optimiser.clip == 1e9
    assert after is parts


KEY = {"data": "digits", "updates": 1, "n": 2}


def line(settings, seed, value, **more):
    figure = {"value": value, "low": value - 0.1, "high": value + 0.2, "floor": 0.05}
    rest = {name: figure for name in ("Fréchet distance", "recall", "label accuracy")}
    return KEY | {"seed": seed, "settings": settings, "levels": [value] * 6} | rest | more


def test_rows_of_one_training_are_made_together_and_not_again(bench, tmp_path):
    rules, results = bench.rules, tmp_path / "results.jsonl"
    of_bench = SimpleNamespace(key=KEY)
    groups = rules.missing(of_bench, ["guidance", "mistakes"], 0, results)
    assert [len(group) for group in groups][:2] == [7, 1], "five scales, the default and the one without an average"
    with results.open("a") as file:
        for row in groups[0][1:]:
            file.write(json.dumps(line(row, 0, 1.0)) + "\n")
    assert [len(group) for group in rules.missing(of_bench, ["guidance"], 0, results)] == [1]
    assert len(rules.missing(of_bench, ["guidance"], 1, results)[0]) == 5, "another seed is another training"


def test_a_table_has_the_seeds_together_and_what_real_images_score(bench):
    rules = bench.rules
    rows = rules.TABLES["targets"]
    lines = [line(rows["noise"], 0, 1.0), line(rows["noise"], 1, 2.0), line(rows["v"], 0, 3.0)]
    text = rules.table("targets", lines).splitlines()
    assert text[2].startswith(
        "| noise | digits | 1.50 (0.90 to 2.20) | 1.50 (0.90 to 2.20) | 150% (90% to 220%) | 1.5 |"
    )
    assert text[3].startswith("| v | digits | 3.00 (2.90 to 3.20) |")
    assert text[4].startswith("| real images | digits | 0.05 | 0.05 | 5% |")
    assert len({row.count("|") for row in text}) == 1
    page = rules.filled("a\n<!-- targets -->\nold\n<!-- /targets -->\nb", {"targets": "new"})
    assert page == "a\n<!-- targets -->\nnew\n<!-- /targets -->\nb"
