import math

import pytest
import torch

from ebb import testing
from ebb.edit import translate as home
from ebb.edit.translate import direction, translate
from ebb.errors import UsageError
from ebb.process.exact import Mixture
from ebb.process.path import PATHS, Cosine, Linear
from ebb.sample.ddim import DDIM, DDPM
from ebb.sample.heun import Heun
from ebb.sample.invert import invert
from ebb.sample.multistep import DPMpp2M
from ebb.sample.scheme import Scheme, last


def astray(path, solver, steps):
    """How far a Gaussian's pictures are from themselves, taken to their noise and back."""
    gauss, x0 = testing.normal(path), torch.tensor([[0.2, -0.5], [1.3, 0.4], [-0.6, -1.0]], dtype=torch.float64)
    scheme = Scheme(gauss, solver, testing.graded(path, steps))
    back = translate(scheme, scheme, x0, {}, {})
    return float((back - x0).abs().max())


@pytest.mark.parametrize(
    ("path", "solver"),
    [(path, Heun()) for path in ("cosine", "ddpm_linear", "variance_exploding")]
    + [("cosine", DDIM()), ("edm", DPMpp2M())],
    ids=str,
)
def test_there_and_back_is_the_picture_to_the_solvers_order(path, solver):
    coarse, fine = (astray(PATHS[path], solver, steps) for steps in (16, 48))
    assert math.log(coarse / fine) / math.log(3) > solver.order - 0.35
    assert fine < 0.1


def check_counterpart(path, source, target):
    """From one hump to the other, the picture that lies as far out in standard deviations."""
    humps, x0 = testing.two_humps(path), torch.linspace(-1.8, 0.2, 5, dtype=torch.float64)[:, None]
    under, towards = ({"label": torch.full((5,), label)} for label in (source, target))
    labelled = Scheme(testing.TwoLabels(path), Heun(), testing.graded(path, 20))
    made = translate(labelled, labelled, x0, under, towards)
    expected = humps.means[1] + humps.stds[1] / humps.stds[0] * (x0 - humps.means[0])
    testing.close("the counterpart", made, expected, 1e-2)


@pytest.mark.parametrize("path", [Linear(), Cosine()], ids=str)
def test_a_picture_becomes_its_counterpart_under_another_label(path):
    check_counterpart(path, 0, 1)


@pytest.mark.parametrize(("source", "target"), [(1, 0), (2, 1)])
def test_other_labels_are_caught(source, target):
    with pytest.raises(AssertionError, match="the counterpart: off by"):
        check_counterpart(Cosine(), source, target)


def moved(scale, count=300):
    """The share of the left of two narrow humps that lands in the right one, moved by the direction between them."""
    path = Linear()
    means = torch.tensor([[-2.0, 0.5], [2.0, 0.5]], dtype=torch.float64)
    data = Mixture(path, means, torch.full((2,), 0.2), torch.full((2,), 0.5))
    spread = 0.2 * torch.randn(2, count, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    left, right = means[:, None] + spread
    scheme = Scheme(data, Heun(), testing.graded(path, 24))
    minus, plus = (last(invert(data, Heun(), scheme.times, x, {})) for x in (left, right))
    towards = direction(plus, minus)
    made = translate(scheme, scheme, left, {}, {}, scale * towards)
    return towards, float((made[:, 0] > 0).double().mean()), made


def check_arithmetic():
    """The noise of either hump is half of a normal; the directions's length is 2·√(2/π), and P(|z| < that) crosses."""
    towards, share, _ = moved(1.0)
    testing.close("the direction", towards, torch.tensor([[2 * math.sqrt(2 / math.pi), 0.0]]).double(), 0.1)
    assert share == pytest.approx(math.erf(2 / math.sqrt(math.pi)), abs=0.06)


def test_a_direction_moves_one_hump_onto_the_other():
    check_arithmetic()
    _, all_of_them, made = moved(2.0)
    assert all_of_them > 0.98
    assert (made[:, 0] - 2).abs().max() < 5 * 0.2, "in the hump, if at its far side"
    assert float(made[:, 1].mean()) == pytest.approx(0.5, abs=0.05), "the other axis has no part in it"
    assert moved(0.0)[1] == 0


def test_a_direction_the_wrong_way_is_caught(monkeypatch):
    monkeypatch.setitem(globals(), "direction", lambda plus, minus: home.direction(minus, plus))
    with pytest.raises(AssertionError, match="the direction: off by"):
        check_arithmetic()


def test_a_solver_that_draws_noise_is_refused():
    scheme = Scheme(testing.normal(Cosine()), DDPM(), testing.graded(Cosine(), 8))
    x0 = torch.zeros(1, 2, dtype=torch.float64)
    with pytest.raises(UsageError, match="from noise to data only"):
        translate(scheme, scheme, x0, {}, {})
