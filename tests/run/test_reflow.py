"""Reflow: the pairs are the model's own, they are what is learnt, and a run of other data or path is refused."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import torch

import ebb
from ebb.data.loader import Batch
from ebb.data.scan import read
from ebb.errors import UsageError
from ebb.events import finished
from ebb.recipe.document import from_yaml, validated
from ebb.recipe.recipe import Recipe
from ebb.run.build import build
from ebb.run.inherited import inherited
from ebb.run.prepare import prepared
from ebb.run.train import train
from ebb.sample.scheme import last
from ebb.store import checkpoint
from ebb.system.model import scheme_of
from ebb.system.system import load, locate
from ebb.train.objectives.denoising import Denoising

CPU = torch.device("cpu")
SMALL = {"batch": 8, "precision": "fp32", "sheets": 1, "steps": 4, "sample": {"steps": 3}}


def data(folder, seed=0):
    rng = np.random.default_rng(seed)
    np.savez(folder, images=rng.integers(0, 255, (24, 8, 8), dtype=np.uint8), labels=np.arange(24) % 2)
    return str(folder)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    root = tmp_path_factory.mktemp("reflow")
    source = data(root / "data.npz")
    finished(train(source, Recipe(network={"width": 16, "depth": 1}, **SMALL), run=root / "first"))
    asked = Recipe(reflow=str(root / "first"), pairs=20, **SMALL)
    finished(train(source, asked, run=root / "second"))
    return root


def learnt(root):
    recipe = inherited(from_yaml(root / "second" / "run.yaml")[0])
    return recipe, finished(prepared(recipe, read(str(root / "data.npz")), cache=root))


def test_the_pairs_are_samples_of_the_run_with_the_noise_they_began_from(home):
    recipe, found = learnt(home)
    loader = build(recipe, found, CPU).loader
    batch, first = loader(0), load(home / "first")
    end = last(scheme_of(first.denoiser, first.sampling)(batch.eps, batch.cond, ebb.Noise.of(0, len(batch.eps))))
    torch.testing.assert_close(end, batch.x0, atol=3e-3, rtol=3e-3)  # pairs are kept in half precision
    assert not torch.allclose(end, batch.x0.roll(1, 0), atol=0.1), "each with its own"
    assert len(found.examples.x0) == 20
    assert recipe.times == "uniform"
    assert recipe.network.width == 16
    assert build(recipe, found, CPU).validation is None


def test_a_teacher_that_changed_is_noticed_and_named(home, tmp_path, monkeypatch):
    """Its pairs would be others: a run that went on with them would be neither of the two."""
    shutil.copytree(home / "first", tmp_path / "first")
    source, asked = str(home / "data.npz"), Recipe(reflow=str(tmp_path / "first"), pairs=20, **SMALL)
    finished(train(source, asked, run=tmp_path / "second", fresh=True))
    (origin,) = from_yaml(tmp_path / "second" / "run.yaml")[1]["origins"]
    weights = locate(tmp_path / "first") / "ema.safetensors"
    assert origin == {"run": str(tmp_path / "first"), "sha256": checkpoint.sha256(weights), "role": "teacher"}
    finished(train(source, asked, run=tmp_path / "second"))
    first = Recipe(network={"width": 16, "depth": 1}, seed=1, **SMALL)
    finished(train(source, first, run=tmp_path / "first", fresh=True))
    with pytest.raises(
        UsageError, match=rf"teacher has been trained anew .*{tmp_path / 'first'} had sha256 {origin['sha256'][:12]}"
    ) as refused:
        finished(train(source, asked, run=tmp_path / "second"))
    assert "--fresh" in refused.value.hint
    monkeypatch.setattr("ebb.run.train.unchanged", lambda *_: None)
    finished(train(source, asked, run=tmp_path / "second"))  # the mutant: nothing else would notice


def test_training_begins_with_the_weights_of_the_run(home):
    recipe, found = learnt(home)
    begun = build(recipe, found, CPU).system.denoiser.state_dict()
    own = load(home / "first").denoiser.state_dict()
    assert all(torch.equal(begun[name], own[name]) for name in own)
    trained = load(home / "second").denoiser.state_dict()
    assert any(not torch.equal(trained[name], own[name]) for name in own)


class Straight:
    """A denoiser of one pair: its velocity is that pair's ε − x0 everywhere, which only the own noise makes right."""

    path, prediction = ebb.Linear(), staticmethod(ebb.PREDICTIONS["velocity"])

    def __init__(self, x0, eps):
        self.velocity = eps - x0

    def raw(self, x, t, cond):
        return self.velocity


def test_the_noise_of_a_pair_is_the_one_that_is_learnt(generator):
    x0, eps = torch.randn(2, 16, 3, generator=generator)
    model = Straight(x0, eps)
    assert Denoising()(model, Batch(x0, {}, eps), generator).value.item() == pytest.approx(0, abs=1e-10)
    assert Denoising()(model, Batch(x0, {}), generator).value.item() > 0.5


def test_a_run_of_other_data_another_path_or_other_settings_is_refused(home, tmp_path):
    asked = Recipe(reflow=str(home / "first"), **SMALL)
    with pytest.raises(UsageError, match="trained on other data"):
        finished(train(data(tmp_path / "other.npz", seed=1), asked, run=tmp_path / "run"))
    with pytest.raises(UsageError, match="no run missing for --reflow"):
        inherited(Recipe(reflow="missing"))
    with pytest.raises(UsageError, match="path is that of"):
        inherited(asked.model_copy(update={"path": "cosine"}))
    with pytest.raises(UsageError, match="reflow is of diffusion; this recipe is of autoencoder"):
        validated({"reflow": "x", "kind": "autoencoder"}, "a file")
    source = str(home / "data.npz")
    finished(train(source, Recipe(path="cosine", network={"width": 16, "depth": 1}, **SMALL), run=tmp_path / "cosine"))
    with pytest.raises(UsageError, match="not a diffusion model on the linear path"):
        inherited(Recipe(reflow=str(tmp_path / "cosine")))
    assert inherited(Recipe()) == Recipe()
