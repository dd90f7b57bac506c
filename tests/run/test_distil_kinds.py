"""Every kind of run becomes one of few steps: with captions, in latents, of numbers and what stands beside, of rows."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ebb.errors import UsageError
from ebb.events import finished
from ebb.recipe.document import from_yaml
from ebb.recipe.recipe import FewStepRecipe
from ebb.run.distil import asked_of
from ebb.run.train import train
from ebb.system.system import load

from ..system.test_heard import write as write_all
from ..toys import trained
from ..toys import write as write_captions

QUICK = {"batch": 8, "precision": "fp32", "sheets": 1, "steps": 1}
SERIES = "\n".join(["a,b", *(f"{np.sin(i / 5):.4f},{np.cos(i / 7):.4f}" for i in range(200))])


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A run of each kind, of one update; "ae" is the autoencoder of the latent one."""
    root, one = tmp_path_factory.mktemp("kinds"), {"steps": 1}
    write_captions(root / "captions")
    write_all(root / "beside", lambda _, blocks: blocks, 16, others=True)
    (root / "series.csv").write_text(SERIES)
    trained(root / "captions", root / "text", **one)
    trained(root / "captions", root / "ae", kind="autoencoder", **one)
    trained(root / "captions", root / "latent", autoencoder=str(root / "ae"), **one)
    trained(root / "beside", root / "all", numbers=("light", "dark"), beside=("mask",), **one)
    trained("iris", root / "rows", **one | {"network": {"kind": "mlp", "width": 16, "depth": 1}})
    trained(root / "series.csv", root / "times", **one)
    return root


@pytest.mark.parametrize("kind", ["text", "latent", "all", "rows", "times"])
def test_a_run_of_any_kind_is_distilled(home, kind):
    data, asked = asked_of(home / kind, FewStepRecipe(teacher=str(home / kind), **QUICK))
    run = finished(train(data, asked, run=home / f"{kind}-few"))
    system, teacher = load(run), load(home / kind)
    assert from_yaml(run / "run.yaml")[0].guidances == ((1.0, 3.0) if teacher.null() else None)
    assert (system.conditioner, system.inner) == (teacher.conditioner, teacher.inner)
    made = system.sample(4, steps=1)
    assert made.shape == teacher.sample(4, steps=2).shape
    assert torch.isfinite(made).all()
    if teacher.null():
        assert torch.isfinite(system.sample(4, steps=2, guidance=2.0)).all()


def test_an_autoencoder_cannot_teach(home, tmp_path):
    with pytest.raises(UsageError, match="is of kind autoencoder, and --teacher is of a diffusion model"):
        finished(train(home / "captions", FewStepRecipe(teacher=str(home / "ae"), **QUICK), run=tmp_path / "no"))


def test_a_teacher_that_was_trained_anew_is_noticed(home, tmp_path):
    asked = FewStepRecipe(teacher=str(tmp_path / "one"), **QUICK)
    trained(home / "captions", tmp_path / "one", steps=1)
    finished(train(home / "captions", asked, run=tmp_path / "few"))
    trained(home / "captions", tmp_path / "one", fresh=True, steps=1, seed=1)
    with pytest.raises(UsageError, match="the teacher has been trained anew"):
        finished(train(home / "captions", asked, run=tmp_path / "few"))
