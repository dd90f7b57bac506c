"""From a run to a model of few steps: it begins as its teacher, and whatever cannot be is refused in one line."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from ebb.data.held_out import LEAST
from ebb.data.reading import as_asked
from ebb.errors import UsageError
from ebb.events import Message, Update, finished
from ebb.networks.ports import ShareEmbedding
from ebb.process.flow_map import two_times
from ebb.recipe.document import from_yaml
from ebb.recipe.recipe import DiffusionRecipe, FewStepRecipe
from ebb.run.build import build, updates_of
from ebb.run.distil import asked_of, beside
from ebb.run.inherited import inherited
from ebb.run.plan import resolve
from ebb.run.prepare import prepared
from ebb.run.train import train
from ebb.store import checkpoint
from ebb.system.families.families import FAMILIES
from ebb.system.families.family import facts_of
from ebb.system.system import load
from ebb.train.landing import Landing
from ebb.train.objectives.methods import METHODS

CPU = torch.device("cpu")
SMALL = {"batch": 8, "precision": "fp32", "sheets": 1, "steps": 2}


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    root, rng = tmp_path_factory.mktemp("few"), np.random.default_rng(0)
    source = root / "data.npz"
    np.savez(source, images=rng.integers(0, 255, (24, 8, 8), dtype=np.uint8), labels=np.arange(24) % 2)
    network = {"width": 16, "depth": 1}
    finished(train(source, DiffusionRecipe(network=network, sample={"steps": 2}, **SMALL), run=root / "first"))
    data, asked = asked_of(root / "first", FewStepRecipe(teacher=str(root / "first"), **SMALL))
    finished(train(data, asked, run=beside(root / "first")))
    return root


def gains_of(denoiser):
    """By how much it hears what it is told besides."""
    return {float(part.gain) for part in denoiser.network.modules() if isinstance(part, ShareEmbedding)}


def test_what_is_distilled_begins_as_its_teacher(home):
    asked = inherited(FewStepRecipe(teacher=str(home / "first"), **SMALL))
    dataset = as_asked(str(home / "data.npz"), asked, home)
    learnt = finished(prepared(asked, dataset, cache=home))
    recipe, _ = finished(resolve(asked, learnt, CPU, 0.0))
    student, teacher = build(recipe, learnt, CPU).system.denoiser, load(home / "first").denoiser
    x, cond = torch.randn(6, 1, 8, 8, generator=torch.Generator().manual_seed(0)), {"label": torch.arange(6) % 2}
    t, s = torch.linspace(0.3, 1, 6).double(), torch.linspace(0, 0.5, 6).double()
    assert torch.equal(two_times(student)(x, t, s, cond), teacher(x, t, cond))
    assert gains_of(student) == {8.0}
    assert torch.equal(student(x, t, {**cond, "guidance": torch.full((6,), 0.5)}), teacher(x, t, cond))


@pytest.mark.parametrize("method", METHODS)
def test_every_method_learns_and_samples(home, method):
    asked = FewStepRecipe(teacher=str(home / "first"), method=method, **SMALL)
    run = finished(train(home / "data.npz", asked, run=home / method, fresh=True))
    system = load(run)
    assert from_yaml(run / "run.yaml")[0].method == method
    for steps in (1, 2, 4):
        assert torch.isfinite(system.sample(4, label=1, steps=steps, solver="jump")).all()
    plain = system.sample(4, label=1, steps=4, solver="ddim")
    assert torch.isfinite(plain).all()


def test_updates_are_timed_before_their_number_is_known(home):
    asked = inherited(FewStepRecipe(teacher=str(home / "first"), method="progressive", **SMALL | {"steps": None}))
    learnt = finished(prepared(asked, as_asked(str(home / "data.npz"), asked, home), cache=home))
    recipe, _ = FAMILIES["few_step"].complete(asked, facts_of(learnt))
    parts = build(recipe, learnt, CPU)
    assert next(updates_of(recipe, parts, steps=1)).number == 1


def test_it_needs_no_teacher(home):
    asked = FewStepRecipe(network={"width": 16, "depth": 1}, method="mean_flow", **SMALL)
    run = finished(train(home / "data.npz", asked, run=home / "alone"))
    assert from_yaml(run / "run.yaml")[0].guidances is None
    assert gains_of(load(run).denoiser) == {1.0}, "there is nothing that has long been learned"
    assert load(run).sample(3, steps=1).shape == (3, 1, 8, 8)


@pytest.mark.parametrize(
    ("chosen", "among", "scale"),
    [
        ({"guidance": 1.5}, None, 1.5),
        ({"guidance": 9}, None, 3.0),
        ({"guidance": 2, "guides": ["within(0.3, 3)"]}, None, 1.0),
        ({"guidance": 1.5}, (1, 5), 1.5),
        ({"guidance": 9}, (1, 5), 5.0),
        ({"guidance": 1.5}, (2, 5), 2.0),
    ],
)
def test_it_samples_by_the_guidance_of_its_teacher(home, tmp_path, chosen, among, scale):
    """As far as that is a scale alone, and one that it is told."""
    teacher = shutil.copytree(home / "first", tmp_path / "guided")
    (teacher / "sampling.json").write_text(json.dumps({"sampling": load(teacher).sampling.model_dump() | chosen}))
    asked = inherited(FewStepRecipe(teacher=str(teacher), guidances=among, **SMALL))
    learnt = finished(prepared(asked, as_asked(str(home / "data.npz"), asked, home), cache=home))
    recipe, why = FAMILIES["few_step"].complete(asked, facts_of(learnt))
    assert recipe.sample.guidance == scale
    assert ("sample.guidance" in why) == (scale != 1)
    assert recipe.sample.solver == "jump"


def test_guidance_is_told(home):
    system = load(beside(home / "first"))
    calls = []
    system.denoiser.network.register_forward_pre_hook(lambda _, args: calls.append(args))
    system.sample(2, label=0, steps=1, guidance=2.0)
    ((x, _, cond),) = calls
    assert len(x) == 2, "one evaluation"
    assert cond["guidance"].tolist() == [0.5, 0.5]
    with pytest.raises(UsageError, match="scales from 1 on"):
        system.sample(2, label=0, steps=1, guidance=0.5)
    with pytest.raises(UsageError, match=r"told guidance up to 3, got 4.*\n.*--guidances 1 4"):
        system.sample(2, label=0, steps=1, guidance=4.0)


def test_the_solver_of_few_steps_is_refused_elsewhere(home):
    with pytest.raises(UsageError, match=r"few-step models.*\n.*ebb distil"):
        load(home / "first").sample(2, label=0, solver="jump")


def test_what_cannot_teach_is_refused(home, tmp_path):
    def refused(match, **asked):
        with pytest.raises((UsageError, ValidationError), match=match):
            finished(train(home / "data.npz", FewStepRecipe(**SMALL | asked), run=tmp_path / "no"))

    refused("there is no run", teacher=str(tmp_path / "nothing"))
    refused("few-step model already", teacher=str(beside(home / "first")))
    refused("learns from a teacher", method="progressive")
    refused("no method called 'consistancy'", method="consistancy")
    refused("network is that of", teacher=str(home / "first"), network={"width": 32})
    refused("two scales that rise", teacher=str(home / "first"), guidances=(2.0, 1.0))
    refused("learned from a teacher", guidances=(1.0, 2.0))
    other = tmp_path / "other.npz"
    np.savez(other, images=np.zeros((24, 8, 8), np.uint8))
    with pytest.raises(UsageError, match="trained on other data"):
        finished(train(other, FewStepRecipe(teacher=str(home / "first"), **SMALL), run=tmp_path / "no"))


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """So many examples that some are held out."""
    source = tmp_path_factory.mktemp("many") / "data.npz"
    np.savez(source, images=np.random.default_rng(1).integers(0, 255, (LEAST, 8, 8), dtype=np.uint8))
    return source


def trained(data, monkeypatch, place, figures, left=None):
    """A run of six updates whose averages land so far off after two, four and six, gone on with after it was `left`."""
    landed, texts = iter(figures), []
    monkeypatch.setattr(Landing, "__call__", lambda self, model: 1.0 if model.training else next(landed))
    asked = FewStepRecipe(network={"width": 16, "depth": 1}, **SMALL | {"steps": 6})
    for event in (work := train(data, asked, run=place)):
        if isinstance(event, Update) and event.step == left:
            work.close()
    before = averaged(place)
    finished(train(data, asked, run=place), texts.append)
    assert next(landed, None) is None
    return before, averaged(place), [event.text for event in texts if isinstance(event, Message)]


def averaged(run):
    return checkpoint.read(checkpoint.newest(run / "checkpoints"), "ema")


def same(one, other):
    return all(torch.equal(value, other[name]) for name, value in one.items())


def test_samples_are_of_the_average_that_landed_nearest(many, monkeypatch, tmp_path):
    """Also where the run was left on the way: it is in the checkpoint."""
    fourth, chosen, texts = trained(many, monkeypatch, tmp_path / "left", (0.3, 0.1, 0.2), left=4)
    assert same(fourth, chosen)
    assert any("the average after update 4, which lands nearer" in text for text in texts)
    whole, again, _ = trained(many, monkeypatch, tmp_path / "whole", (0.3, 0.1, 0.2))
    assert same(whole, chosen)
    assert same(again, chosen)
    last, _, _ = trained(many, monkeypatch, tmp_path / "last", (0.3, 0.2, 0.1))
    assert not same(last, chosen)


def test_where_samples_land_is_in_the_log(many, tmp_path):
    asked = FewStepRecipe(network={"width": 16, "depth": 1}, **SMALL)
    run = finished(train(many, asked, run=tmp_path / "run"))
    (line,) = [each for each in map(json.loads, (run / "log.jsonl").open()) if each["step"] == 2]
    assert 0 < line["validation_ema"] < 3
