import pytest
import torch

from ebb import testing
from ebb.errors import UsageError
from ebb.guide.cfg import cfg
from ebb.guide.constrain import Ball, Box, Constrained, HalfSpace, Intersection, constrain
from ebb.guide.energy import energy
from ebb.process.moment import at
from ebb.process.path import PATHS, Cosine, Linear
from ebb.process.times import uniform_grid
from ebb.sample.noise import Noise
from ebb.sample.solvers import SOLVERS
from ebb.sample.trajectory import trajectory

NORMAL = torch.tensor([1.0, -2.0], dtype=torch.float64)
CENTRE = torch.tensor([0.3, 0.1], dtype=torch.float64)


def on_the_grid(x):
    """The nearest point with both coordinates a multiple of a quarter: not convex."""
    return torch.round(4 * x) / 4


SETS = {
    "box": (Box(-0.2, 0.4), lambda x: ((x >= -0.2) & (x <= 0.4)).all(1)),
    "box of tensors": (Box(-CENTRE, CENTRE), lambda x: ((x >= -CENTRE) & (x <= CENTRE)).all(1)),
    "ball": (Ball(CENTRE, 0.5), lambda x: torch.linalg.vector_norm(x - CENTRE, dim=1) <= 0.5 + 1e-12),
    "half-space": (HalfSpace(NORMAL, 0.1), lambda x: x @ NORMAL <= 0.1 + 1e-12),
    "intersection": (
        Intersection((HalfSpace(NORMAL, -0.3), Box(0.0, 0.5))),
        lambda x: (x @ NORMAL <= -0.3 + 1e-9) & ((x >= 0) & (x <= 0.5)).all(1),
    ),
    "function": (on_the_grid, lambda x: (4 * x == (4 * x).round()).all(1)),
}
CONVEX = [name for name in SETS if name != "function"]


def scattered(count=200):
    return 2 * torch.randn(count, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.mark.parametrize("name", SETS)
def test_projections_land_inside_and_leave_the_inside_alone(name):
    project, inside = SETS[name]
    x = scattered()
    assert not inside(x).all()
    landed = project(x)
    assert inside(landed).all()
    torch.testing.assert_close(project(landed), landed, rtol=0, atol=1e-9)
    torch.testing.assert_close(project(x[3:4]), landed[3:4], rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", CONVEX)
def test_the_projection_is_the_nearest_point(name):
    """⟨x − P(x), z − P(x)⟩ ≤ 0 for every z of the set: what marks the projection onto a convex set."""
    project, _ = SETS[name]
    x, others = scattered(), project(scattered(400)[200:])
    landed = project(x)
    angles = (x - landed) @ others.T - ((x - landed) * landed).sum(1, keepdim=True)
    assert angles.max() < 1e-6


def test_alternating_projections_would_fail_that():
    """The mutant: without Dykstra's corrections a point of the intersection is found, not the nearest."""
    project, inside = SETS["intersection"]
    x = alternating = scattered()
    for _ in range(50):
        for one in project.sets:
            alternating = one(alternating)
    assert inside(alternating).all()
    further = torch.linalg.vector_norm(alternating - x, dim=1) - torch.linalg.vector_norm(project(x) - x, dim=1)
    assert further.min() > -1e-9
    assert further.max() > 0.01


@pytest.mark.parametrize("path", ["linear", "cosine", "edm"])
@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("name", SETS)
def test_the_sample_lies_in_the_set_for_every_solver(name, solver, path):
    (project, inside), path, noise = SETS[name], PATHS[path], Noise.of(0, 8)
    x = noise.start((2,)).double() * at(path, path.end).sigma
    for point in trajectory(
        constrain(project)(testing.normal(path)), SOLVERS[solver], uniform_grid(path, 5), x, {}, noise
    ):
        x = point.x
    assert inside(x).all()


def test_a_guide_that_projects_the_input_instead_is_caught(monkeypatch):
    monkeypatch.setattr(Constrained, "__call__", lambda self, x, t, cond: self.denoiser(self.project(x), t, cond))
    with pytest.raises(AssertionError):
        test_the_sample_lies_in_the_set_for_every_solver("half-space", "ddim", "cosine")


def test_a_set_that_holds_the_answer_changes_nothing():
    data, t = testing.normal(Cosine()), at(Cosine(), 0.5).shared(200)
    x = scattered()
    guided = constrain(Intersection((Box(-50.0, 50.0), Ball(0.0, 100.0), HalfSpace(NORMAL, 100.0))))(data)
    torch.testing.assert_close(guided(x, t, {}), data(x, t, {}), rtol=0, atol=0)


def test_balls_and_half_spaces_take_samples_of_any_shape():
    x = torch.randn(3, 2, 4, 5)
    landed = Ball(torch.zeros(2, 4, 5), 1.0)(x)
    torch.testing.assert_close(torch.linalg.vector_norm(landed.flatten(1), dim=1), torch.ones(3))
    normal = torch.randn(2, 4, 5)
    assert ((HalfSpace(normal, -1.0)(x) * normal).sum((1, 2, 3)) <= -1 + 1e-5).all()


def test_it_composes_with_cfg_and_energies():
    path, null = Linear(), {"label": torch.tensor([2])}
    plain, t = testing.TwoLabels(path), testing.inside(path, 6)
    x, cond = torch.linspace(-2, 2, 6, dtype=torch.float64)[:, None], {"label": torch.tensor([0, 1] * 3)}
    box = constrain(Box(-0.5, 0.5))
    around = box(cfg(4.0, null)(plain))(x, t, cond)
    torch.testing.assert_close(around, cfg(4.0, null)(plain)(x, t, cond).clamp(-0.5, 0.5))
    assert cfg(4.0, null)(box(plain))(x, t, cond).abs().max() > 0.5  # only the outermost guide has the last word
    pulled = box(energy(lambda x0: -9 * x0.sum(1))(box(plain)))(x, t, cond)
    assert torch.isfinite(pulled).all()
    assert pulled.abs().max() <= 0.5


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Box(1.0, 0.0), "low ≤ high"),
        (lambda: Ball(0.0, 0.0), "radius above 0"),
        (lambda: HalfSpace(torch.zeros(2), 1.0), "normal of a half-space"),
        (lambda: Intersection(()), "1 or more sets"),
        (lambda: constrain(lambda x: x[:, :1])(testing.normal(Linear()))(scattered(2), torch.ones(2).double() / 2, {}), "keeps the shape"),
    ],
)  # fmt: skip
def test_sets_that_cannot_be_are_refused(make, message):
    with pytest.raises(UsageError, match=message):
        make()
