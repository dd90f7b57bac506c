"""The doctor on models of few steps: each fault is found where it is planted, and none in the flow map itself."""

from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from ebb.doctor import run_few_steps as checks
from ebb.doctor.diagnose import checks_of
from ebb.doctor.finding import NothingToExamineError, called
from ebb.doctor.run_subject import DRAWN, RunSamples, RunSubject
from ebb.doctor.run_training import check_overfitting
from ebb.process.exact import Gaussian
from ebb.process.flow_map import GaussianFlow, Toward, placed, shares
from ebb.process.path import PATHS
from ebb.recipe.recipe import DiffusionRecipe, FewStepRecipe, Sampling

LINEAR, SIDE, STD = PATHS["linear"], 4, 0.5
CLASSES = np.arange(400) % 2


def examples(labels, seed):
    """Pictures [n, 1, SIDE, SIDE] of N(±0.5, 0.5²), the mean by their label."""
    noise = torch.randn(len(labels), 1, SIDE, SIDE, generator=torch.Generator().manual_seed(seed))
    return STD * noise + (torch.from_numpy(labels) - 0.5)[:, None, None, None]


@dataclass(frozen=True)
class Flow:
    """The flow map of N(0, 0.5²) on pictures, with what is wrong with it: an offset, and waves by the time."""

    offset: float = 0.0
    waves: float = 0.0
    path = LINEAR

    def __call__(self, x, t, s, cond):
        flat = SIDE * SIDE
        exact = GaussianFlow(Gaussian(LINEAR, torch.zeros(flat).double(), STD**2 * torch.eye(flat).double()))
        said = exact(x.flatten(1).double(), t, s, {}).reshape(x.shape).to(x)
        wave = self.waves * torch.sin(60 * (shares(LINEAR, t) - shares(LINEAR, s))).to(x)
        return said + self.offset + wave[:, None, None, None]

    def toward(self, s):
        return Toward(self, s)


class StandIn(RunSubject):
    """A run of which all facts are set."""

    asked = np.arange(DRAWN) % 2
    dataset = property(lambda self: self.__dict__["data_set"])


def run_of(flow=Flow(), raw=Flow(), one=None, several=None):
    """A run of few steps with these flow maps, averaged and raw, and these samples in one step and in its own two."""
    run, real = StandIn(Path("runs/few")), examples(CLASSES, 0)
    drawn = [examples(run.asked, 1) if x is None else x for x in (one, several)]
    system = SimpleNamespace(
        denoiser=flow, inner=(1, SIDE, SIDE), device=torch.device("cpu"), conditions=lambda given, count: {},
        sampling=Sampling(), settled=lambda **changed: Sampling(**changed),
    )  # fmt: skip
    document = FewStepRecipe(steps=10, batch=8, optimiser={"lr": 3e-3}), {"data": "d", "command": "ebb train d"}
    stand_in = {
        "system": system, "raw": SimpleNamespace(denoiser=raw), "averaged": True, "real": real, "clean": real,
        "data_set": SimpleNamespace(labels=CLASSES, rows=real), "given": {},
        "drawn": RunSamples(drawn[1], []), "draw": lambda count, how: RunSamples(drawn[0], []),
        "some": lambda dataset, count: (real[:count], {}), "document": document,
        "log": [{"step": 10, "images": 80, "seconds": 1.0}],
    }  # fmt: skip
    run.__dict__.update(stand_in)
    return run


def found(run):
    return {finding.name: finding for check in checks.FEW_STEP_CHECKS if (finding := check(run))}


def collapsed():
    """Samples as far from the mean of all as the data, those of one label alike: two pictures over and over."""
    two = examples(np.arange(2), 3)
    return two[np.arange(DRAWN) % 2] + 0.1 * examples(np.arange(DRAWN) % 2, 4)


PLANTED = {
    "target moves": lambda: run_of(raw=Flow(offset=0.3)),
    "tangents explode": lambda: run_of(flow=Flow(waves=0.1), raw=Flow(waves=0.1)),
    "means of several": lambda: run_of(one=0.3 * examples(np.arange(DRAWN) % 2, 1), several=collapsed()),
    "diversity lost": lambda: run_of(several=collapsed(), one=collapsed()),
}


def test_the_flow_map_itself_is_left_in_peace():
    assert found(run_of()) == {}


@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_fault_is_found_and_no_other(name):
    made = found(PLANTED[name]())
    assert list(made) == [name]
    assert any(letter.isdigit() for letter in made[name].evidence)
    assert all(line.startswith("ebb ") for line in made[name].commands)
    assert made[name].commands


@pytest.mark.parametrize(
    ("apart", "raw", "moves"), [(0.3, 0.051, False), (0.3, 0.04, False), (0.3, 0.08, True), (3.0, 0.05, True)]
)
def test_a_target_that_moves_lands_worse_than_its_average_or_anywhere(apart, raw, moves):
    """One that is still on its way has moved as far, and lands as near or nearer."""
    run = run_of(raw=Flow(offset=apart))
    early = {"step": 5, "validation": 0.4, "validation_ema": 0.1}
    run.__dict__["log"] = [early, {"step": 10, "validation": raw, "validation_ema": 0.05}, {"step": 10}]
    assert list(found(run)) == ["target moves"] * moves
    assert not moves or f"land {raw / 0.05:.2g} times as far" in found(run)["target moves"].evidence


def test_every_check_has_a_fault_and_a_row_in_the_handbook():
    page = (Path(__file__).parents[2] / "docs" / "diagnose.md").read_text(encoding="utf8")
    assert {called(check) for check in checks.FEW_STEP_CHECKS} == set(PLANTED)
    assert all(f"| {name} |" in page for name in PLANTED)


def test_along_the_flow_nothing_changes():
    """Whatever the time, a consistency function has no tangent along its own flow; a denoiser has."""
    x0 = examples(CLASSES[:32], 0)
    assert max(size for _, size in checks.tangents(Flow(), x0, {})) < 5e-3
    assert max(size for _, size in checks.tangents(Denoiser(), x0, {})) > 0.1


class Denoiser(Flow):
    """E[x0 | x_t], wherever it is asked to go."""

    def __call__(self, x, t, s, cond):
        return super().__call__(x, t, t, cond)


def test_within_is_the_deviation_of_one_label():
    labels = np.arange(20_000) % 2
    assert checks.within(examples(labels, 0), labels) == pytest.approx(STD, rel=0.02)
    assert placed(LINEAR, torch.tensor([checks.START])).item() == pytest.approx(checks.START, rel=1e-3)


def test_samples_that_land_farther_in_the_end_are_not_called_learnt_by_heart():
    """The nearest average is the one that is sampled from; the same course of a loss is overfitting."""
    run, course = run_of(), {60: 0.0198, 120: 0.0163, 180: 0.0182}
    lines = [{"step": k, "images": 8 * k, "loss": 1 / k} for k in range(1, 181)]
    run.__dict__ |= {"log": [line | {"validation_ema": course.get(line["step"])} for line in lines]}
    with pytest.raises(NothingToExamineError, match="where samples land"):
        check_overfitting(run)
    run.__dict__ |= {"document": (DiffusionRecipe(steps=180, batch=8), run.document[1]), "counted": {"count": 400}}
    assert "+12%" in check_overfitting(run).evidence


def test_only_a_run_of_few_steps_is_asked():
    run = run_of()
    run.system.modality, run.system.model = None, SimpleNamespace(reconstructs=False)
    assert set(checks.FEW_STEP_CHECKS) <= set(checks_of(run))
    run.__dict__["document"] = (DiffusionRecipe(), {})
    assert not set(checks.FEW_STEP_CHECKS) & set(checks_of(run))
