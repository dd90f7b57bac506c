"""A few-step run by the number of its steps, beside its teacher; and what theory says of the spread of a Gaussian."""

import json
import math
import shutil

import numpy as np
import pytest
import torch

from ebb.evaluate import by_steps as room
from ebb.evaluate.by_steps import renewed
from ebb.evaluate.evaluate import as_table, evaluate
from ebb.events import finished
from ebb.recipe.recipe import DiffusionRecipe, FewStepRecipe
from ebb.run.distil import asked_of
from ebb.run.train import train
from ebb.train.objectives.consistency import Consistency
from ebb.train.objectives.mean_flow import MeanFlow

SMALL = {"batch": 8, "precision": "fp32", "sheets": 1, "steps": 2}


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    root, rng = tmp_path_factory.mktemp("steps"), np.random.default_rng(0)
    np.savez(root / "data.npz", images=rng.integers(0, 255, (48, 8, 8), dtype=np.uint8), labels=np.arange(48) % 2)
    network = {"width": 16, "depth": 1}
    finished(train(root / "data.npz", DiffusionRecipe(network=network, sample={"steps": 3}, **SMALL), run=root / "one"))
    data, asked = asked_of(root / "one", FewStepRecipe(teacher=str(root / "one"), **SMALL))
    finished(train(data, asked, run=root / "one-few"))
    return root


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(room, "COUNTS", (1, 2))


def measured(run):
    return finished(evaluate(run, 20, likelihood=0))


def test_steps_are_measured_beside_the_teacher(home):
    found = measured(home / "one-few")
    first, second, teacher = found.steps.rows
    assert [row.name for row in found.steps.rows] == ["1 step", "2 steps", "teacher, 3 steps"]
    assert [row.evaluations for row in found.steps.rows] == [1, 2, 3]
    assert teacher.expected is None
    assert 0.9 < first.expected < 1 > second.expected > 0.9
    assert "recall" in first.distances
    assert "two-sample test" in first.distances
    assert second.distances["recall"] == found.figures.distances["recall"], "its own way is 2 steps"
    table = dict(as_table(found))
    assert "a Gaussian's" in table["1 step"]
    assert "told apart" in table["teacher, 3 steps"]
    assert json.loads((home / "one-few" / "evaluation.json").read_text())["steps"]["count"] == 20
    page = (home / "one-few" / "report.html").read_text()
    assert "<h2>Steps</h2>" in page
    assert "teacher, 3 steps" in page


def test_a_teacher_that_is_gone_or_another_is_named(home, tmp_path):
    run = shutil.copytree(home / "one-few", tmp_path / "one-few")
    shutil.rmtree(run / "evaluation")
    settings = (run / "run.yaml").read_text()
    (run / "run.yaml").write_text(settings.replace(str(home / "one"), str(tmp_path / "gone")))
    found = measured(run)
    assert [row.steps for row in found.steps.rows] == [1, 2]
    assert any("gone is not there" in line for line in found.figures.warnings)
    shutil.copytree(home / "one-few", tmp_path / "gone")
    found = measured(run)
    assert len(found.steps.rows) == 2
    assert any("trained anew" in line for line in found.figures.warnings)


def simulated(q, levels, std, count=200_000):
    """The spread of samples of the best linear maps, drawn: each answers with the flow's slope, less what q loses."""
    x0 = np.zeros(count)
    for level, noise in zip(levels, np.random.default_rng(0).standard_normal((len(levels), count)), strict=True):
        lost = float(Consistency(q).shrink(torch.tensor([std]), level, False))
        x0 = std / math.hypot(std, level) * lost * (x0 + level * noise)
    return x0.std() / std


@pytest.mark.parametrize("levels", [[80.0], [80.0, 1.0], [80.0, 3.0, 1.0, 0.3]])
def test_the_spread_of_a_gaussian_is_what_drawing_gives(levels):
    std = torch.tensor([0.5])
    assert renewed(Consistency(8.0), std, levels, False) == pytest.approx(simulated(8.0, levels, 0.5), rel=0.01)
    assert renewed(MeanFlow(), std, levels, False) == pytest.approx(1, rel=1e-3), "no bias"
    assert renewed(Consistency(8.0), std, levels, True) > 0.9
