"""Every few-step target leaves the closed-form flow map of a Gaussian where it is, on every path; wrong ones do not."""

import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

import ebb
from ebb.process.exact import Gaussian
from ebb.process.flow_map import GaussianFlow
from ebb.process.path import PATHS
from ebb.recipe.names import parse
from ebb.train.objectives.consistency import Consistency, shrink
from ebb.train.objectives.lagrangian import Lagrangian
from ebb.train.objectives.map_matching import Noised
from ebb.train.objectives.mean_flow import ContinuousConsistency, MeanFlow
from ebb.train.objectives.two_halves import Shortcut, TwoHalves

OBJECTIVES = Path(ebb.__file__).parent / "train" / "objectives"

MEAN, STD = 0.3, 0.5
TIMES = ((0.9, 0.4), (0.6, 0.0), (0.5, 0.45), (0.25, 0.1))
"""(t, s) as shares σ/(α + σ)."""


def gaussian(path):
    return Gaussian(path, torch.tensor([MEAN], dtype=torch.float64), torch.tensor([[STD**2]], dtype=torch.float64))


def quadrature(path, s_of=None):
    """Every pair of (t, s) with 6×6 Gauss–Hermite points of (x0, ε): exact for polynomials; their weights, [b]."""
    nodes, mass = np.polynomial.hermite_e.hermegauss(6)
    z, w = torch.tensor(nodes), torch.tensor(mass / mass.sum())
    x0, eps = (MEAN + STD * z).repeat_interleave(6)[:, None], z.repeat(6)[:, None]
    count, weights = len(TIMES), (w[:, None] * w).flatten()
    share = torch.tensor(TIMES, dtype=torch.float64).repeat_interleave(36, 0)
    t, s = (path.time(one / (1 - one)) for one in share.T)
    s = s if s_of is None else s_of(path, t, torch.full_like(t, 0.5))
    x0, eps = x0.repeat(count, 1), eps.repeat(count, 1)
    return Noised(x0, eps, path.mix(x0, eps, t), t, s, {}), weights.repeat(count)


def pull(path, target, teacher=None):
    """The largest |E[(f − target)·φ(x)]| over the pairs of times and φ ∈ {1, x}: the gradient of the squared error."""
    flow = GaussianFlow(gaussian(path))
    at, weights = quadrature(path, target.destination if type(target) in FIXED else None)
    gap = (flow(at.x, at.t, at.s, {}) - target(flow, at, teacher))[:, 0]
    scaled = at.x[:, 0] / path.norm(at.t)
    parts = [(weights * gap * phi).reshape(len(TIMES), -1).sum(1) for phi in (torch.ones_like(gap), scaled)]
    return float(torch.stack(parts).abs().max())


FIXED = (Consistency, ContinuousConsistency)

PATH_NAMES = ("linear", "cosine", "variance_exploding", "edm")


CASES = {
    "mean flow": (MeanFlow("forward"), False),
    "mean flow of a teacher": (MeanFlow("forward"), True),
    "lagrangian": (Lagrangian("forward"), False),
    "lagrangian of a teacher": (Lagrangian("forward"), True),
    "two halves": (TwoHalves(), False),
    "shortcut": (Shortcut(), False),
}


@pytest.mark.parametrize("name", PATH_NAMES)
@pytest.mark.parametrize("what", CASES)
def test_the_flow_map_is_where_every_target_rests(name, what):
    path, (target, taught) = parse(name, PATHS, "path"), CASES[what]
    limit = 1e-4 if "lagrangian" in what else 1e-8  # which keeps 1e-5 from the data
    assert pull(path, target, gaussian(path) if taught else None) < limit


@pytest.mark.parametrize("name", PATH_NAMES)
def test_by_difference_nearly_so(name):
    path = parse(name, PATHS, "path")
    assert pull(path, MeanFlow()) < 2e-4
    assert pull(path, Lagrangian()) < 2e-4


MUTANTS = {
    "the share that x0 has": ("mean_flow", "spread(keep, own)", "spread(aim, own)"),
    "the derivative's sign": ("mean_flow", "(own - x0) - spread", "(own - x0) + spread"),
    "the pace left out": ("mean_flow", "aim * pace(path, at.t)", "aim"),
    "asked where it began": ("lagrangian", "flow_map(landing, s, s, at.cond)", "flow_map(at.x, s, s, at.cond)"),
    "the change left out": ("lagrangian", "aim * pace(path, s)", "0 * s"),
    "one half only": ("two_halves", "middle, at.s)\n    return", "middle, middle)\n    return"),
}


@pytest.mark.parametrize("what", MUTANTS)
def test_a_wrong_target_pulls(what, monkeypatch):
    """Each formula with one mistake in it pulls the exact map away."""
    name, right, wrong = MUTANTS[what]
    source = (OBJECTIVES / f"{name}.py").read_text(encoding="utf8")
    assert source.count(right) == 1
    module = ModuleType(name)
    monkeypatch.setitem(sys.modules, name, module)  # where a dataclass looks its annotations up
    exec(compile(source.replace(right, wrong), name, "exec", dont_inherit=True), module.__dict__)
    made = {"mean_flow": "MeanFlow", "lagrangian": "Lagrangian", "two_halves": "TwoHalves"}[name]
    assert pull(PATHS["linear"], getattr(module, made)()) > 1e-2


@pytest.mark.parametrize(("q", "expected"), [(2, 0.597), (8, 0.862), (64, 0.985), (256, 0.996)])
def test_what_consistency_tuning_loses_is_known(q, expected):
    assert shrink(q, 0.5) == pytest.approx(expected, abs=1e-3)
