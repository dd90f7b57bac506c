"""A family is added in one file, here a Gaussian: what is trained, how it draws, and what can be found out about it."""

from __future__ import annotations

from typing import Literal

import numpy as np
import pytest
import torch
from torch import nn

from ebb.data.loader import Loader
from ebb.data.scan import read
from ebb.errors import UsageError
from ebb.evaluate.evaluate import evaluate
from ebb.events import finished
from ebb.recipe.document import from_yaml, validated
from ebb.recipe.groups import OptimiserRecipe
from ebb.recipe.recipe import RECIPES, Recipe, resolved
from ebb.recipe.starting import completed
from ebb.run.train import train
from ebb.sample.noise import Noise
from ebb.sample.trajectory import Point
from ebb.system.families.families import FAMILIES
from ebb.system.families.family import Family, Trainable, training_of
from ebb.system.model import Model
from ebb.system.system import load
from ebb.train.objectives.objective import Loss

DEPTH = 1e-6


class GaussianRecipe(Recipe):
    """N(mean, covariance) of the data."""

    kind: Literal["gaussian"] = "gaussian"
    ridge: float = DEPTH
    """added to every variance"""


class Sums(nn.Module):
    """Count, sum and sum of products of flat examples [n]: all that a Gaussian is fitted by."""

    def __init__(self, n, ridge):
        super().__init__()
        self.n, self.ridge = n, ridge
        self.anchor = nn.Parameter(torch.zeros(()))  # the loop wants a gradient
        for name, value in {"count": torch.zeros(()), "sum": torch.zeros(n), "square": torch.zeros(n, n)}.items():
            self.register_buffer(name, value.double())

    def moments(self):
        mean = self.sum / self.count
        return mean, self.square / self.count - mean[:, None] * mean + self.ridge * torch.eye(self.n)


class Gaussian(Model):
    """mean + L·ε, L·Lᵀ the covariance: one point."""

    family = "gaussian"

    def __init__(self, sums):
        self.sums = sums

    @property
    def module(self):
        return self.sums

    def draw(self, shape, sampling, guides=(), *, compiled=False):
        mean, covariance = self.sums.moments()
        factor = torch.linalg.cholesky(covariance)

        def points(cond, noise):
            eps = noise.start(shape).flatten(1).double()
            x = (mean + eps @ factor.T).float().reshape(-1, *shape)
            yield Point(0.0, x, x)

        return points

    def forward(self, x, cond):
        return x

    def card(self):
        return "A Gaussian", f"moments: of {self.sums.n} numbers"

    def contract(self):
        return {"n": self.sums.n, "ridge": self.sums.ridge}


def fit(model, batch, generator):
    """Take a batch in; the loss is what is left of the examples beside their mean."""
    x = batch.x0.flatten(1).double()
    model.count += len(x)
    model.sum += x.sum(0)
    model.square += x.T @ x
    left = (x - model.sum / model.count).square().mean().float()
    return Loss(left + 0 * model.anchor, {})


class GaussianFamily(Family[GaussianRecipe]):
    name = "gaussian"

    def complete(self, asked, facts):
        usual = GaussianRecipe(batch=facts.count, optimiser=OptimiserRecipe(kind="adamw", lr=1e-9, warmup=0))
        return completed(asked, facts, usual.model_dump(), "a Gaussian sees all at once")

    def build(self, recipe, data, device):
        sums = Sums(int(np.prod(data.shape)), recipe.ridge)
        training = training_of(sums, recipe)
        loader = Loader(data.examples, resolved(recipe.batch), recipe.seed, recipe.data.flip, device)
        return Trainable(Gaussian(sums), training, fit, loader, lambda: Gaussian(sums))

    def load(self, contract, space):
        return Gaussian(Sums(contract["n"], contract["ridge"]))


@pytest.fixture
def family(monkeypatch):
    monkeypatch.setitem(FAMILIES, "gaussian", GaussianFamily())
    monkeypatch.setitem(RECIPES, "gaussian", GaussianRecipe)


def pictures(folder):
    """48 grey pictures of 4×4 in uint8, mid-grey on average."""
    pixels = np.random.default_rng(0).integers(90, 170, (48, 4, 4), dtype=np.uint8)
    np.savez(folder / "data.npz", images=pixels)
    return folder / "data.npz", pixels


def test_a_family_is_added_in_one_file_trained_sampled_and_measured(family, tmp_path):
    data, _ = pictures(tmp_path)
    asked = Recipe(kind="gaussian", steps=2, precision="fp32", sheets=1)
    assert isinstance(asked, GaussianRecipe)
    run = finished(train(data, asked, run=tmp_path / "run"))
    assert from_yaml(run / "run.yaml")[0].kind == "gaussian"
    assert "A Gaussian" in (run / "card.md").read_text()
    system = load(run, "model")
    x = flat_images(data)
    mean, covariance = system.model.sums.moments()
    np.testing.assert_allclose(mean, x.mean(0), atol=1e-6)
    np.testing.assert_allclose(covariance, np.cov(x.T, bias=True) + DEPTH * np.eye(16), atol=1e-6)
    eps = Noise.of(3, 5).start((1, 4, 4)).flatten(1).double()
    expected = (mean + eps @ torch.linalg.cholesky(covariance).T).float().reshape(5, 1, 4, 4).clamp(-1, 1)
    torch.testing.assert_close(system.sample(5, seed=3), expected)
    found = finished(evaluate(run, 16))
    assert found.memorisation is not None
    assert (found.levels, found.likelihood, found.reconstruction) == (None, None, None)
    assert found.cost.evaluations == 0


def flat_images(data):
    """The training images, flat, in [−1, 1]."""
    return read(str(data)).rows.reshape(-1, 16) / 127.5 - 1


def test_what_another_family_has_does_not_exist_for_it(family):
    with pytest.raises(
        UsageError, match=r"path is of diffusion, few_step and adapter; this recipe is of gaussian: --kind diffusion"
    ):
        validated({"kind": "gaussian", "path": "linear"}, "a file")
