"""The loss at each noise level against closed forms: exact Gaussians, brute force over a finite set, autograd by hand."""

import dataclasses
import math

import pytest
import torch
from torch import nn

from ebb import testing
from ebb.data.loader import Batch
from ebb.errors import UsageError
from ebb.networks.mlp import MLP
from ebb.process.bins import centres
from ebb.process.denoiser import NetworkDenoiser, target_error
from ebb.process.exact import finite
from ebb.process.moment import where
from ebb.process.path import EDM, PATHS, Cosine, Linear, VarianceExploding
from ebb.process.predict import PREDICTIONS, data, determinant, noise, v, velocity
from ebb.sample.noise import Noise
from ebb.understand.levels import Levels, Posterior, levels


@pytest.fixture(autouse=True)
def at_once(monkeypatch):
    """Small samples need no blocks; the tests of blocks set their own."""
    monkeypatch.setattr("ebb.understand.levels.BLOCK", 4000)


class Read:
    """A denoiser read as the F of a prediction."""

    def __init__(self, denoiser, prediction):
        self.denoiser, self.path, self.prediction = denoiser, denoiser.path, prediction

    def raw(self, x, t, cond):
        x0 = self.denoiser(x.double(), t, cond)
        a, b = (c[:, None] for c in self.prediction(self.path, t))
        return (a * x0 + b * self.path.noise(x.double(), x0, t)).float()


def of_gauss(gauss, count, generator):
    eps = torch.randn(count, 2, generator=generator, dtype=torch.float64)
    return (gauss.mean + eps @ torch.linalg.cholesky(gauss.covariance).mT).float()


def closed(gauss, prediction, log_snr):
    """(loss of the exact denoiser, loss of the mean): det²/σ² times the posterior's, or the prior's, variance."""
    now = where(gauss.path, log_snr / 2)
    t = torch.tensor([now.time], dtype=torch.float64)
    unit = float(determinant(gauss.path, t, *prediction(gauss.path, t)) / now.sigma) ** 2
    prior = torch.linalg.eigvalsh(gauss.covariance)
    after = prior * now.sigma**2 / (now.alpha**2 * prior + now.sigma**2)
    return unit * float(after.mean()), unit * float(prior.mean())


def near(found, expected):
    return all(abs(f / e - 1) < 0.06 for f, e in zip(found, expected, strict=True) if f is not None)


@pytest.mark.parametrize("name", ["noise", "data", "velocity", "edm"])
def test_the_exact_denoiser_of_a_gaussian_has_its_closed_form_at_every_level(name, generator):
    gauss = testing.normal(Cosine())
    x0 = of_gauss(gauss, 2500, generator)
    found = levels(Read(gauss, PREDICTIONS[name]), Batch(x0, {}), Batch(x0[:500], {}), bins=8)
    model, trivial = zip(*(closed(gauss, PREDICTIONS[name], centre) for centre in centres(8)), strict=True)
    assert near(found.loss, model)
    assert near(found.trivial, trivial)
    assert found.grad_norm == [None] * 8
    assert not near(found.loss, trivial), "the mutant: an answer that ignores x"
    assert not near(found.trivial, [value / 1.2 for value in trivial])


def test_the_references_enclose_a_model_that_cannot_be_improved(generator):
    """ideal ≤ exact ≤ trivial, each level of every path; a mutant that is wrong by a constant leaves the range."""
    for path in (Linear(), Cosine(), EDM()):
        gauss = testing.normal(path)
        x0 = of_gauss(gauss, 1000, generator)
        found = levels(Read(gauss, v), Batch(x0, {}), Batch(x0, {}), bins=8)
        reached = [row for row in zip(found.ideal, found.loss, found.trivial, strict=True) if row[0] is not None]
        assert len(reached) >= 7
        assert all(ideal <= 1.001 * loss <= 1.02 * trivial for ideal, loss, trivial in reached)
        assert reached[-1][0] < 0.2 * reached[-1][1], "at little noise the set is known by heart"


@pytest.mark.parametrize("name", ["linear", "variance_exploding"])
def test_the_ideal_is_the_posterior_mean_of_the_set_by_brute_force(name, generator, monkeypatch):
    monkeypatch.setattr("ebb.understand.levels.CHUNK", 7)
    known, path = torch.randn(30, 1, 4, 4, generator=generator), PATHS[name]
    x0 = torch.cat([known[:5], torch.randn(5, 1, 4, 4, generator=generator)])
    model = NetworkDenoiser(nn.Identity(), path, data)
    model.network.forward = lambda x, told, cond: 0 * x
    found, eps = levels(model, Batch(x0, {}), Batch(known, {}), seed=4), Noise.of(4, 10)(0, x0)
    for centre, ideal in zip(found.log_snr, found.ideal, strict=True):
        now = where(path, centre / 2)
        if ideal is None:
            continue
        t = now.shared(10)
        exact = finite(path, known)(path.mix(x0.double(), eps.double(), t), t, {})
        assert ideal == pytest.approx(float((exact - x0).square().mean()), rel=1e-4, abs=1e-11)
    assert sum(value is not None for value in found.ideal) >= 10


def test_the_posterior_without_the_squares_is_refused(generator):
    """The mutant: images of another norm would be told apart wrongly."""
    known = torch.randn(30, 6, generator=generator) * torch.linspace(0.2, 3, 30)[:, None]
    eps = torch.randn(30, 6, generator=generator)
    posterior, now = Posterior.of(known, eps, known, None), where(Linear(), 0.5)
    t = now.shared(30)
    exact = finite(Linear(), known)(Linear().mix(known.double(), eps.double(), t), t, {})
    truth = float((exact - known).square().mean())
    assert posterior.error(now) == pytest.approx(truth, rel=1e-4)
    for wrong in ({"squares": 0 * posterior.squares}, {"noise": -posterior.noise}):
        assert dataclasses.replace(posterior, **wrong).error(now) != pytest.approx(truth, rel=0.05)


def network(prediction=velocity, path=Linear()):  # noqa: B008
    torch.manual_seed(0)
    model = NetworkDenoiser(MLP(3, ports={"label": "classes(count=2)"}), path, prediction)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.2, generator=torch.Generator().manual_seed(1))
    return model


def test_loss_gradient_and_scale_are_those_of_autograd_by_hand(generator, monkeypatch):
    monkeypatch.setattr("ebb.understand.levels.BLOCK", 8)
    model, x0 = network(), torch.randn(20, 3, generator=generator)
    cond, eps = {"label": torch.arange(20) % 2}, Noise.of(7, 20)(0, x0)
    found = levels(model, Batch(x0, cond), Batch(x0, {}), seed=7, bins=6)
    for at, centre in enumerate(centres(6)):
        t = torch.full((20,), where(model.path, centre / 2).time, dtype=torch.float64)
        loss = target_error(model, x0, eps, t, cond).square().mean()
        gradient = torch.autograd.grad(loss, list(model.parameters()), allow_unused=True)
        norm = math.sqrt(sum(float(g.square().sum()) for g in gradient if g is not None))
        assert found.loss[at] == pytest.approx(loss.item(), rel=1e-5)
        assert found.grad_norm[at] == pytest.approx(norm, rel=1e-4)
        scale = float(model.raw(model.path.mix(x0, eps, t), t, cond).detach().square().mean().sqrt())
        assert found.output_scale[at] == pytest.approx(scale, rel=1e-5)


def test_the_model_is_left_as_it_was(generator):
    model, x0 = network(), torch.randn(4, 3, generator=generator)
    model.requires_grad_(False).train()
    next(model.parameters()).requires_grad_(True).grad = torch.ones_like(next(model.parameters()))
    before = [(p.detach().clone(), p.requires_grad) for p in model.parameters()]
    state = torch.get_rng_state()
    one, two = (levels(model, Batch(x0, {"label": torch.ones(4).long()}), Batch(x0, {}), bins=3) for _ in range(2))
    assert one == two
    after = [(p.detach(), p.requires_grad) for p in model.parameters()]
    assert all(torch.equal(a[0], b[0]) and a[1] == b[1] for a, b in zip(before, after, strict=True))
    assert model.training
    assert bool((next(model.parameters()).grad == 1).all())
    assert torch.equal(torch.get_rng_state(), state)
    assert min(one.grad_norm) > 0


def test_levels_that_a_path_does_not_reach_are_left_out(generator):
    x0 = torch.randn(4, 2, generator=generator)
    for path, last in ((EDM(), math.log(80)), (VarianceExploding(), math.log(50))):
        found = levels(Read(testing.normal(path), v), Batch(x0, {}), Batch(x0, {}))
        assert found.log_snr == centres()
        missing = [centre for centre, loss in zip(centres(), found.loss, strict=True) if loss is None]
        assert missing == [centre for centre in centres() if -centre / 2 > last]
        for row in dataclasses.astuple(found)[1:]:
            assert len(row) == 16


def test_the_ideal_knows_the_condition_when_the_model_does(generator):
    known = torch.cat([torch.full((10, 2), -1.0), torch.full((10, 2), 1.0)])
    labels = torch.arange(20) // 10
    model = NetworkDenoiser(nn.Identity(), Linear(), noise)
    model.network.forward = lambda x, told, cond: 0 * x
    asked = {"label": labels}
    with_it = levels(model, Batch(known, asked), Batch(known, asked), bins=4)
    without = levels(model, Batch(known, asked), Batch(known, {}), bins=4)
    assert max(with_it.ideal) < 1e-8
    assert without.ideal[0] == pytest.approx(without.trivial[0], rel=0.2)
    text = {"text": torch.nn.functional.one_hot(labels, 3).float()}
    assert levels(model, Batch(known, text), Batch(known, text), bins=4).ideal == with_it.ideal
    silent = {"numbers": torch.where(labels[:, None] == 0, torch.nan, 2.0)}  # half of them say nothing
    assert levels(model, Batch(known, silent), Batch(known, silent), bins=4).ideal == with_it.ideal
    with pytest.raises(UsageError, match="a condition that no reference image has"):
        levels(model, Batch(known, {"label": labels + 1}), Batch(known, asked))


def test_a_weight_scales_all_losses_and_the_gradient(generator):
    model, x0 = network(noise), torch.randn(6, 3, generator=generator)
    cond = {"label": torch.zeros(6).long()}
    plain = levels(model, Batch(x0, cond), Batch(x0, {}), bins=4)
    twice = levels(model, Batch(x0, cond), Batch(x0, {}), bins=4, weight=lambda path, t, det: torch.full_like(t, 2.0))
    for name in ("loss", "grad_norm", "trivial", "ideal"):
        assert getattr(twice, name) == pytest.approx([2 * value for value in getattr(plain, name)])
    assert twice.output_scale == plain.output_scale


def test_what_cannot_be_measured_is_refused(generator):
    x0 = torch.randn(4, 3, generator=generator)
    for wrong in ((x0[:0], x0), (x0, x0[:0]), (x0, torch.zeros(4, 5))):
        with pytest.raises(UsageError, match="expected samples"):
            levels(network(), Batch(wrong[0], {}), Batch(wrong[1], {}))


def test_it_is_json(generator):
    import json

    x0 = torch.randn(4, 2, generator=generator)
    found = levels(Read(testing.normal(EDM()), v), Batch(x0, {}), Batch(x0, {}), bins=4)
    assert Levels(**json.loads(json.dumps(dataclasses.asdict(found)))) == found
