import math

import pytest
import torch
from torch import nn

import ebb
from ebb import testing
from ebb.data.loader import Batch
from ebb.errors import UsageError
from ebb.process.bins import centres
from ebb.process.denoiser import NetworkDenoiser
from ebb.process.path import EDM, PATHS, Cosine, Linear
from ebb.process.predict import PREDICTIONS, Preconditioned, data, determinant, noise, velocity
from ebb.process.times import DENSITIES, LogitNormal, LogNormal
from ebb.train.objectives.denoising import Denoising, spaced
from ebb.train.objectives.objective import ConditionDropout, Loss
from ebb.train.objectives.weights import WEIGHTS, EDMWeight, MinSNR, simple

MADE = PREDICTIONS
INSIDE = LogNormal(-0.2, 0.5)
"""Times away from the ends, where no target is singular."""


class Exact(nn.Module):
    """The exact denoiser of a Gaussian, read as a network's F, plus a bias to learn: at 0 nothing is to be gained."""

    def __init__(self, path, prediction, order="right"):
        super().__init__()
        self.path, self.prediction = path, prediction
        self.gauss, self.bias, self.gain = (
            testing.normal(path),
            nn.Parameter(torch.zeros(2)),
            nn.Parameter(torch.ones(1)),
        )

    def raw(self, x, t, cond):
        x0 = self.gauss(x.double(), t, cond)
        a, b = (c[:, None] for c in self.prediction(self.path, t))
        F = a * x0 + b * self.path.noise(x.double(), x0, t)
        return (self.gain * F + self.bias).float()


def gradient(model, objective, generator, size=60_000):
    x0 = (
        model.gauss.mean
        + torch.randn(size, 2, generator=generator, dtype=torch.float64)
        @ torch.linalg.cholesky(model.gauss.covariance).mT
    )
    objective(model, Batch(x0.float(), {}), generator).value.backward()
    return torch.cat([p.grad.flatten() for p in model.parameters()])


@pytest.mark.parametrize("weight", WEIGHTS)
@pytest.mark.parametrize("name", MADE)
def test_the_expected_gradient_vanishes_at_the_exact_denoiser(name, weight, generator):
    objective = Denoising(INSIDE, WEIGHTS[weight])
    model = Exact(Cosine(), MADE[name])
    scale = objective(model, Batch(torch.randn(2000, 2, generator=generator), {}), generator).value.item()
    assert gradient(model, objective, generator).abs().max().item() < 0.03 * max(1, scale)


@pytest.mark.parametrize("path", PATHS)
def test_it_vanishes_on_every_path(path, generator):
    model = Exact(PATHS[path], MADE["v"])
    assert gradient(model, Denoising(INSIDE), generator).abs().max().item() < 0.03


def test_a_target_with_a_flipped_sign_does_not_vanish(generator):
    """The mutant: the model knows v, the objective trains for −a."""
    model = Exact(Cosine(), MADE["v"])
    model.prediction = lambda path, t: tuple(s * c for s, c in zip((-1, 1), MADE["v"](path, t), strict=True))
    right = Exact(Cosine(), MADE["v"])
    model.raw = right.raw
    model.bias, model.gain = right.bias, right.gain
    assert gradient(model, Denoising(INSIDE), generator).abs().max().item() > 0.1


def weighted(weight, prediction, path, t):
    """The loss of one x0 error of 1, by weight on F: weight·(det/σ)², hence the weight on x0."""
    det = determinant(path, t, *prediction(path, t))
    return weight(path, t, det) * (det / path.sigma(t)) ** 2


@pytest.mark.parametrize("name", MADE)
def test_a_weighting_means_the_same_for_every_prediction(name):
    t, path = torch.tensor([0.2, 0.5, 0.8], dtype=torch.float64), Cosine()
    snr = (path.alpha(t) / path.sigma(t)) ** 2
    prediction = MADE[name]
    torch.testing.assert_close(weighted(simple, prediction, path, t), snr)
    torch.testing.assert_close(weighted(MinSNR(5.0), prediction, path, t), snr.clamp(max=5))
    torch.testing.assert_close(weighted(WEIGHTS["inverse_snr"], prediction, path, t), snr / (1 + snr))


def test_edm_weight_is_one_on_its_own_prediction():
    t = torch.tensor([0.01, 1.0, 50.0], dtype=torch.float64)
    det = determinant(EDM(), t, *Preconditioned(0.5)(EDM(), t))
    torch.testing.assert_close(EDMWeight(0.5)(EDM(), t, det), torch.ones(3, dtype=torch.float64))


def test_vlb_weight_is_half_the_rate_of_log_snr():
    t, path = torch.tensor([0.2, 0.5, 0.8], dtype=torch.float64), Cosine()
    step = 1e-6
    rate = -(path.log_snr(t + step) - path.log_snr(t - step)) / (2 * step)
    det = path.alpha(t)  # of noise prediction, so this is the weight on epsilon
    torch.testing.assert_close(WEIGHTS["vlb"](path, t, det), rate / 2, rtol=1e-6, atol=0)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("name", MADE)
def test_no_combination_of_parts_gives_a_loss_that_is_not_a_number(name, path, generator):
    """Every path × prediction × weighting × density, with a batch that reaches both ends of the path."""
    model = NetworkDenoiser(nn.Identity(), PATHS[path], MADE[name])
    model.network.forward = lambda x, time, cond: torch.zeros_like(x)
    x0 = torch.randn(4000, 2, generator=generator)
    for weight in WEIGHTS.values():
        for density in DENSITIES.values():
            loss = Denoising(density, weight)(model, Batch(x0, {}), generator).value
            assert torch.isfinite(loss), (density, weight)


def test_times_cover_every_level_in_every_batch(generator):
    u = spaced(64, generator)
    assert sorted((u * 64).floor().long().tolist()) == list(range(64))


def test_all_randomness_comes_from_the_generator():
    model = NetworkDenoiser(nn.Identity(), Linear(), velocity)
    model.network.forward = lambda x, time, cond: x
    batch = Batch(torch.ones(4, 2), {})
    losses = [Denoising(LogitNormal())(model, batch, torch.Generator().manual_seed(s)).value for s in (0, 0, 1)]
    assert losses[0] == losses[1] != losses[2]


def test_noise_and_data_losses_are_the_textbook_ones(generator):
    """Predicting 0 for ε costs E[ε²] = 1; predicting 0 for x0 costs E[x0²]."""
    model = NetworkDenoiser(nn.Identity(), Cosine(), noise)
    model.network.forward = lambda x, time, cond: torch.zeros_like(x)
    x0 = torch.full((4000, 3), 0.7)
    assert Denoising()(model, Batch(x0, {}), generator).value.item() == pytest.approx(1, abs=0.05)
    model.prediction = data
    assert Denoising()(model, Batch(x0, {}), generator).value.item() == pytest.approx(0.49, abs=1e-5)


class Seen:
    def __call__(self, model, batch, generator):
        self.cond = batch.cond
        return Loss(batch.x0.sum())


def test_several_conditions_are_hidden_together_and_each_alone(generator):
    """Together with chance r, each of the others alone with r besides: so each can be asked for without the other."""
    inner, null = Seen(), {"label": torch.tensor([9]), "text": torch.zeros(1, 2, dtype=torch.int64)}
    cond = {"label": torch.zeros(40_000, dtype=torch.int64), "text": torch.ones(40_000, 2, dtype=torch.int64)}
    ConditionDropout(inner, null, 0.2)(None, Batch(torch.zeros(40_000, 1), cond), generator)
    label, text = inner.cond["label"] == 9, (inner.cond["text"] == 0).all(1)
    assert (label & text).float().mean().item() == pytest.approx(0.2 + 0.8 * 0.2**2, abs=0.01)
    assert (label & ~text).float().mean().item() == pytest.approx(0.8 * 0.2 * 0.8, abs=0.01)
    assert (~label & text).float().mean().item() == pytest.approx(0.8 * 0.2 * 0.8, abs=0.01)


def test_condition_dropout_hides_its_share(generator):
    inner, null = Seen(), {"label": torch.tensor([9])}
    batch = Batch(torch.zeros(20_000, 1), {"label": torch.arange(20_000) % 9})
    ConditionDropout(inner, null, 0.2)(None, batch, generator)
    label = inner.cond["label"]
    hidden = label == 9
    assert hidden.float().mean().item() == pytest.approx(0.2, abs=0.01)
    assert (label[~hidden] == batch.cond["label"][~hidden]).all()
    with pytest.raises(UsageError, match="from 0 to below 1, got 1"):
        ConditionDropout(inner, null, 1.0)
    with pytest.raises(UsageError, match="no null for the condition 'text'"):
        ConditionDropout(inner, null, 0.1)(None, Batch(torch.zeros(2, 1), {"text": torch.zeros(2)}), generator)


@pytest.mark.parametrize("weight", WEIGHTS)
def test_the_levels_of_a_loss_add_up_to_it(weight, generator):
    model = NetworkDenoiser(nn.Identity(), Linear(), velocity)
    model.network.forward = lambda x, time, cond: x
    batch = Batch(torch.randn(512, 2, generator=generator), {})
    objective = ConditionDropout(Denoising(INSIDE, WEIGHTS[weight]), {}, 0.5)
    value, _, (sums, counts) = objective(model, batch, generator)
    assert counts.sum().item() == 512
    assert (sums.sum() / 512).item() == pytest.approx(value.item(), rel=1e-5)


def test_the_level_of_a_loss_is_that_of_its_noise(generator):
    """A model that errs at one noise level only, and a mutant which counts time the other way round."""
    model = NetworkDenoiser(nn.Identity(), Linear(), noise)
    model.network.forward = lambda x, time, cond: (time > 0.7)[:, None] * 5.0 + 0 * x
    model.prediction = lambda path, t: (torch.zeros_like(t), torch.zeros_like(t))
    sums, counts = Denoising()(model, Batch(torch.randn(2000, 2, generator=generator), {}), generator).levels
    errs = sums > 0
    quietest = -2 * math.log(0.7 / 0.3)
    lowest = torch.tensor([centre - 0.75 for centre in centres()])
    assert errs.tolist() == ((lowest < quietest) & (counts > 0)).tolist()
    assert errs.flip(0).tolist() != errs.tolist()


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ({"weight": lambda path, t: t}, r"a loss weight is called as f\(path, t, det\); <lambda> cannot: too many"),
        ({"weight": 2.0}, r"a loss weight is called as f\(path, t, det\); got 2.0"),
        ({"times": lambda u: u}, r"a density of times is called as f\(path, u\)"),
        ({"coupling": lambda x0: x0}, r"a coupling is called as f\(x0, generator\)"),
    ],
)
def test_a_part_of_ones_own_that_cannot_be_called_is_refused_when_it_is_given(part, message, unchecked):
    unchecked()
    with pytest.raises(UsageError, match=message):
        Denoising(**part)


def test_a_weight_of_ones_own_is_that_of_the_targets_error(generator):
    """w0 on the error of x0 is w0·σ²/det² on that of the target; with the noise target det = α."""
    own = Denoising(weight=lambda path, t, det: path.sigma(t) ** 2 / det**2)  # w0 = 1
    model, batch = NetworkDenoiser(ebb.MLP(2), Cosine(), PREDICTIONS["noise"]), Batch(torch.randn(16, 2), {})
    t, eps = torch.linspace(0.1, 0.9, 16, dtype=torch.float64), torch.randn(16, 2)
    x = model.path.mix(batch.x0, eps, t)
    expected = (model(x, t, {}) - batch.x0) ** 2
    torch.testing.assert_close(own.losses(model, batch, t, eps), expected, rtol=1e-4, atol=1e-5)
