"""Progressive distillation in phases: which ways are learned when, who teaches, and that a run goes on bit for bit."""

import numpy as np
import pytest
import torch

from ebb.errors import UsageError
from ebb.events import Update, finished
from ebb.networks.mlp import MLP
from ebb.networks.ports import SharePort
from ebb.process.denoiser import NetworkDenoiser
from ebb.process.flow_map import WAY, TwoTimes
from ebb.process.path import PATHS
from ebb.process.predict import velocity
from ebb.recipe.document import from_yaml
from ebb.recipe.recipe import DiffusionRecipe, FewStepRecipe
from ebb.run.train import train
from ebb.store import checkpoint
from ebb.train.objectives.map_matching import Noised
from ebb.train.objectives.progressive import REPEATED, Progressive

LINEAR = PATHS["linear"]


def student():
    torch.manual_seed(0)
    return NetworkDenoiser(MLP(3, width=16, depth=1, ports={WAY: SharePort()}), LINEAR, velocity)


def halving(steps=16, updates=400):
    return Progressive(steps).begun(student(), updates)


def test_the_phases_take_equally_many_updates_and_the_average_teaches():
    made, averaged = halving(), student()
    phases, weights = [], []
    for step in range(400):
        with torch.no_grad():
            next(averaged.parameters()).add_(1)
        made.advance(step, averaged)
        phases.append(int(made.phase))
        first, other = (next(model.parameters()).detach().flatten()[0] for model in (made.teacher, averaged))
        weights.append(float(first - other))
    assert [phases.count(k) for k in range(4)] == [100, 100, 100, 100]
    assert weights[100] == 0, "it is the average as it is then"
    assert weights[199] == pytest.approx(-99, abs=1e-3), "and stays so for a phase"


def test_new_ways_are_on_the_grid_and_old_ones_are_asked_again():
    made, count = halving(), 4000
    made.phase.fill_(2)
    generator = torch.Generator().manual_seed(0)
    t, u = torch.rand(2, count, generator=generator, dtype=torch.float64)
    far, near = made.between(LINEAR, t, u)
    lengths = far - near
    new = lengths > 0.4
    assert float(new.double().mean()) == pytest.approx(1 - REPEATED, abs=0.03)
    known = torch.tensor([0.125, 0.25, 0.5], dtype=torch.float64)
    assert float((lengths[:, None] - known).abs().min(1).values.max()) < 2e-4, "the noise end is just short of 1"
    assert float((near / lengths - (near / lengths).round()).abs().max()) < 1e-2, "where steps of that length begin"


def test_old_ways_are_answered_as_the_teacher_does():
    made = halving()
    made.phase.fill_(3)
    for weight in made.teacher.parameters():  # a fresh network says 0
        weight.add_(0.1 * torch.randn_like(weight))
    x, t = torch.randn(4, 3), torch.tensor([1.0, 1.0, 0.5, 0.5], dtype=torch.float64)
    s = torch.tensor([0.0, 0.5, 0.0, 0.25], dtype=torch.float64)
    with torch.no_grad():
        teacher = TwoTimes(made.teacher)
        aim, own = made(teacher, Noised(x, x, x, t, s, {}), None), teacher(x, t, s, {})
    assert torch.equal(aim[1:], own[1:])
    assert not torch.equal(aim[0], own[0]), "a new way is two of the teacher's"


@pytest.mark.parametrize("steps", [0, 1, 3, 12])
def test_steps_that_cannot_be_halved_are_refused(steps):
    with pytest.raises(UsageError, match="halved down to one"):
        Progressive(steps)


def test_a_run_in_phases_goes_on_bit_for_bit(tmp_path):
    rng, small = np.random.default_rng(0), {"batch": 8, "precision": "fp32", "sheets": 1}
    np.savez(tmp_path / "data.npz", images=rng.integers(0, 255, (24, 8, 8), dtype=np.uint8))
    network = {"width": 16, "depth": 1}
    finished(train(tmp_path / "data.npz", DiffusionRecipe(network=network, steps=1, **small), run=tmp_path / "one"))
    asked = FewStepRecipe(teacher=str(tmp_path / "one"), method="progressive(steps=4)", steps=6, **small)

    def trained(name, until=None):
        work = train(tmp_path / "data.npz", asked, run=tmp_path / name)
        for event in work:
            if isinstance(event, Update) and event.step == until:
                work.close()
                return None
        return checkpoint.newest(tmp_path / name / "checkpoints")

    whole = trained("whole")
    for until in (3, 4):  # at the end of a phase, and within one
        assert trained("parts", until) is None
    parts = trained("parts")
    for part in ("model", "ema", "memory"):
        one, other = (checkpoint.read(where, part) for where in (whole, parts))
        assert all(torch.equal(one[name], other[name]) for name in one), part
    assert int(checkpoint.read(whole, "memory")["phase"]) == 1
    assert from_yaml(tmp_path / "whole" / "run.yaml")[0].sample.solver == "jump"
