"""Every few-step target leaves the closed-form flow map of a Gaussian where it is, on every path; wrong ones do not."""

import math
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

import ebb
from ebb.process.exact import Gaussian
from ebb.process.flow_map import GaussianFlow, Toward, shares
from ebb.process.path import PATHS
from ebb.recipe.names import parse
from ebb.train.objectives.consistency import SMALLEST, Consistency, nearer, shrink
from ebb.train.objectives.consistency_trajectory import ConsistencyTrajectory, multistep
from ebb.train.objectives.lagrangian import Lagrangian
from ebb.train.objectives.map_matching import Noised
from ebb.train.objectives.mean_flow import MeanFlow
from ebb.train.objectives.progressive import Progressive
from ebb.train.objectives.trajectories import Trajectories
from ebb.train.objectives.two_halves import Shortcut, TwoHalves

OBJECTIVES = Path(ebb.__file__).parent / "train" / "objectives"

MEAN, STD = 0.3, 0.5
TIMES = ((0.9, 0.4), (0.6, 0.0), (0.5, 0.45), (0.25, 0.1))
"""(t, s) as shares σ/(α + σ)."""


def gaussian(path):
    return Gaussian(path, torch.tensor([MEAN], dtype=torch.float64), torch.tensor([[STD**2]], dtype=torch.float64))


def quadrature(path, between=None, at=None):
    """Every pair of (t, s) with 6×6 Gauss–Hermite points of (x0, ε): exact for polynomials; their weights, [b]."""
    nodes, mass = np.polynomial.hermite_e.hermegauss(6)
    z, w = torch.tensor(nodes), torch.tensor(mass / mass.sum())
    x0, eps = (MEAN + STD * z).repeat_interleave(6)[:, None], z.repeat(6)[:, None]
    count, weights = len(TIMES), (w[:, None] * w).flatten()
    if at is not None:
        t, s = (torch.full((36,), one, dtype=torch.float64) for one in at)
        return Noised(x0, eps, path.mix(x0, eps, t), t, s, {}), weights
    share = torch.tensor(TIMES, dtype=torch.float64).repeat_interleave(36, 0)
    t, s = (path.time(one / (1 - one)) for one in share.T)
    t, s = (t, s) if between is None else between(path, t, torch.full_like(t, 0.5))
    x0, eps = x0.repeat(count, 1), eps.repeat(count, 1)
    return Noised(x0, eps, path.mix(x0, eps, t), t, s, {}), weights.repeat(count)


def pull(path, target, teacher=None):
    """The largest |E[(f − target)·φ(x)]| over the pairs of times and φ ∈ {1, x}: the gradient of the squared error."""
    flow = GaussianFlow(gaussian(path))
    at, weights = quadrature(path, None if target.anywhere else target.between)
    gap = (flow(at.x, at.t, at.s, {}) - target(flow, at, teacher))[:, 0]
    scaled = at.x[:, 0] / path.norm(at.t)
    parts = [(weights * gap * phi).reshape(len(TIMES), -1).sum(1) for phi in (torch.ones_like(gap), scaled)]
    return float(torch.stack(parts).abs().max())


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


@pytest.mark.parametrize("name", PATH_NAMES)
def test_a_teachers_trajectory_leads_to_the_flow_with_the_square_of_its_steps(name):
    """Its own map for the rest of the way adds nothing where it is exact; the solver's error falls by four."""
    path = parse(name, PATHS, "path")
    for share in (1, 4):
        coarse, fine = (pull(path, ConsistencyTrajectory(steps // share, steps), gaussian(path)) for steps in (64, 128))
        assert fine < 1e-3
        assert 2.5 < coarse / fine < 6


def trajectory_gap(path, target):
    """The largest |f − target| over ways of the exact flow's own trajectories, f being exact."""
    flow, generator = GaussianFlow(gaussian(path)), torch.Generator().manual_seed(0)
    eps = torch.randn(64, 1, generator=generator, dtype=torch.float64)
    half = torch.full((64,), 0.5, dtype=torch.float64)
    at = Noised(eps, eps, eps, half, half / 2, {"number": torch.arange(64)})
    asked, aim = target.posed(flow, at, gaussian(path), generator)
    assert (asked.s < asked.t).all()
    assert (asked.cond["number"] % target.ways == 0).all()  # that of the sample whose noise was followed
    assert torch.equal(asked.eps[:, 0], eps[asked.cond["number"], 0])
    assert {True} == {bool((asked.t == asked.t.max()).any()), bool((asked.s == 0).any())}
    return float((flow(asked.x, asked.t, asked.s, {}) - aim).abs().max())


@pytest.mark.parametrize("name", PATH_NAMES)
def test_ways_of_a_teachers_trajectory_lie_on_the_flow(name):
    path = parse(name, PATHS, "path")
    coarse, fine = (trajectory_gap(path, Trajectories(steps, ways=2)) for steps in (64, 256))
    assert fine < 5e-3
    assert coarse / fine > 3


@pytest.mark.parametrize(("steps", "nsr"), [(6, 80.0), (6, 1.0), (12, 0.5)])
def test_what_a_teachers_steps_lose_is_known(steps, nsr):
    """By the affine denoiser itself, along the same times."""
    path, target = parse("edm(sigma_max=1e4)", PATHS, "path"), Trajectories(steps)
    share = nsr / (1 + nsr)
    times = target.times(path, (steps * share + 0.5) % 1)
    first = int((shares(path, times) - share).abs().argmin())
    x = times[:1, None] * torch.ones(1, 1)
    at = Noised(x, x, x.double() + MEAN, times[:1], times[:1], {})
    passed = multistep(gaussian(path), at, times[:, None])[:, 0, 0] - MEAN
    flow = STD / math.hypot(STD, float(path.nsr(times[first])))
    made = float(target.shrink(torch.tensor([STD]), nsr, True))
    assert made == pytest.approx(float(passed[-1] / passed[first]) / flow, rel=2e-3)


MUTANTS = {
    "the share that x0 has": ("mean_flow", "spread(keep, own)", "spread(aim, own)"),
    "the derivative's sign": ("mean_flow", "(own - x0) - spread", "(own - x0) + spread"),
    "the pace left out": ("mean_flow", "aim * pace(path, at.t)", "aim"),
    "asked where it began": ("lagrangian", "flow_map(landing, s, s, at.cond)", "flow_map(at.x, s, s, at.cond)"),
    "the change left out": ("lagrangian", "aim * pace(path, s)", "0 * s"),
    "extrapolated backwards": ("consistency_trajectory", "x0 + spread(ahead", "x0 - spread(ahead"),
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
    made = {"mean_flow": "MeanFlow", "lagrangian": "Lagrangian", "two_halves": "TwoHalves"}
    made = made.get(name, "ConsistencyTrajectory")
    path = PATHS["linear"]
    assert pull(path, getattr(module, made)(), gaussian(path) if name == "consistency_trajectory" else None) > 1e-2


@pytest.mark.parametrize(("q", "expected"), [(2, 0.597), (8, 0.862), (64, 0.985), (256, 0.996)])
def test_what_consistency_tuning_loses_is_known(q, expected):
    assert float(shrink(q, torch.tensor([0.5]))) == pytest.approx(expected, abs=1e-3)


@dataclass(frozen=True)
class Affine:
    """f(x, t, s) = mean + gain(t)·(x − α_t·mean): a model that knows some times."""

    path: object
    gains: dict

    def __call__(self, x, t, s, cond):
        gain = torch.tensor([self.gain(math.log(one)) for one in t.tolist()], dtype=torch.float64)
        return MEAN + gain[:, None] * (x - self.path.alpha(t)[:, None] * MEAN)

    def gain(self, log):
        """That of the nearest known time: of others nothing is used."""
        return self.gains[min(self.gains, key=lambda known: abs(known - log))] if self.gains else 0.0

    def toward(self, s):
        return Toward(self, s)


def fitted(target, x, weights):
    """The slope of the best affine map x → target."""
    centred = x - (weights * x).sum()
    return float((weights * centred * target).sum() / (weights * centred**2).sum())


@pytest.mark.parametrize("taught", [False, True])
@pytest.mark.parametrize("q", [2, 8, pytest.param(64, marks=pytest.mark.full)])
def test_a_tuned_gaussian_has_the_standard_deviation_that_is_predicted(q, taught):
    """The best affine answer at each time of the chain, from the data up, by the objective's own targets."""
    path, method, chain = PATHS["edm"], Consistency(float(q)), [60.0]
    while chain[-1] > 2e-3:
        chain.append(float(nearer(torch.tensor(chain[-1], dtype=torch.float64), q)))
    times = [time for time in reversed(chain) if time > SMALLEST * path.end]
    gains = {math.log(times[0]): 1.0} if times[0] < 2e-3 else {}  # so near to the data x is the data
    for t in times[len(gains) :]:
        at, weights = quadrature(path, at=(t, 0.0))
        aim = method(Affine(path, gains), at, gaussian(path) if taught else None)
        gains[math.log(t)] = fitted(aim[:, 0], at.x[:, 0], weights)
    made = gains[math.log(60.0)] * math.hypot(60.0, STD) / STD
    assert made == pytest.approx(float(method.shrink(torch.tensor([STD]), 60.0, taught)), rel=0.01)


def test_a_teachers_steps_lose_less_than_none():
    """Heun's step is of second order: at q = 8 a seventh is lost without a teacher, a twentieth with one."""
    std = torch.tensor([0.05, 0.5, 2.0])
    alone, taught = (1 - shrink(8, std, taught=way) for way in (False, True))
    assert (taught.abs() < alone / 2).all()
    assert (TwoHalves().shrink(std, 60.0, True) == 1).all(), "no bias"


def test_progressive_distillation_of_an_affine_teacher_is_the_product_of_its_steps():
    """16 → 8 → 4 → 2 → 1: the last student lands in one jump where the first teacher does in 16."""
    path = PATHS["linear"]
    x = torch.linspace(-2, 2, 7, dtype=torch.float64)[:, None]
    teacher, steps = gaussian(path), 16
    end = x
    for k in range(16, 0, -1):
        t, s = (torch.full((7,), share / 16, dtype=torch.float64) for share in (k, k - 1))
        end = path.jump(end, teacher(end, t, {}), t, s)
    while steps > 1:
        teacher = Halved(path, Progressive(steps), teacher)
        steps //= 2
    t, s = torch.ones(7, dtype=torch.float64), torch.zeros(7, dtype=torch.float64)
    student = path.jump(x, teacher(x, t, s, {}), t, s)
    torch.testing.assert_close(student, end, atol=1e-9, rtol=1e-9)
    true = GaussianFlow(gaussian(path))(x, t, s, {})
    assert float((student - true).abs().max()) > 1e-3, "which is not the flow itself"


@dataclass(frozen=True)
class Halved:
    """The student that answers what its objective asks."""

    path: object
    target: Progressive
    teacher: object

    def __call__(self, x, t, s, cond):
        return self.target(None, Noised(x, x, x, t, s, cond), self.teacher)

    def toward(self, s):
        return Toward(self, s)
