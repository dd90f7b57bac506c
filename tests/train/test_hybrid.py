"""Learned variance: of exact Gaussian data the best variance is known, and the hybrid loss leads there and nowhere else."""

import pytest
import torch
from torch import nn

from ebb.data.loader import Batch
from ebb.errors import UsageError
from ebb.networks.dit import DiT
from ebb.networks.mlp import MLP
from ebb.networks.unet import UNet
from ebb.process.denoiser import NetworkDenoiser, fraction
from ebb.process.learned import LearnedVariance, step_divergence
from ebb.process.moment import at
from ebb.process.path import PATHS, Cosine, Linear
from ebb.process.predict import PREDICTIONS
from ebb.sample.ddim import noise_ratio
from ebb.train.objectives.denoising import Denoising
from ebb.train.objectives.hybrid import OBJECTIVES, Hybrid, HybridLoss

STEPS, C = 10, 0.25
"""Steps of the chain, and the variance of the data, N(0, C)."""


def best(path, t):
    """The share f of the exact variance of x_s given x_t, from the posterior of the Gaussian, in another way than ours."""
    t, s = at(path, t), at(path, t - path.end / STEPS)
    share = noise_ratio(t, s)
    small, large = (m.sigma**2 * (1 - share**2) for m in (s, t))
    aim = s.alpha - s.sigma * share * t.alpha / t.sigma
    exact = torch.tensor(small + aim**2 * C * t.sigma**2 / (t.alpha**2 * C + t.sigma**2))
    return float(torch.log(exact / small) / torch.log(torch.tensor(large / small)))


class Exact(nn.Module):
    """F of the exact denoiser of N(0, C), and beside it v, a number for each step of the chain."""

    def __init__(self, path, prediction):
        super().__init__()
        self.settings = {"answers": 2}
        self.path, self.prediction = path, prediction
        self.v, self.scale = nn.Parameter(torch.zeros(STEPS + 1).double()), nn.Parameter(torch.ones(1).double())

    def forward(self, x, time, cond):
        t = time.double() * self.path.end
        alpha, sigma = (f(t)[:, None] for f in (self.path.alpha, self.path.sigma))
        x0 = alpha * C / (alpha**2 * C + sigma**2) * x
        a, b = (c[:, None] for c in self.prediction(self.path, t))
        eps = (x - alpha * x0) / sigma
        v = self.v[(time * STEPS).round().long()]
        return torch.cat([self.scale * (a * x0 + b * eps), v[:, None].expand_as(x)], 1)


def denoiser_of(path, prediction="v"):
    network = Exact(path, PREDICTIONS[prediction])
    return NetworkDenoiser(network, path, PREDICTIONS[prediction], fraction).double()


def at_steps(path, u):
    """The times of the chain, n·end/STEPS for n = 2 … STEPS − 1."""
    return path.end * (2 + (u * (STEPS - 2)).floor()) / STEPS


def batch(count=80_000):
    return Batch((C**0.5 * torch.randn(count, 1, generator=torch.Generator().manual_seed(0)).double()), {})


def gradients(path, shares, weight=1.0, objective=HybridLoss, prediction="v"):
    """∂loss/∂v at each step from 2 to STEPS − 1, where v states these shares; and that of the mean's own scale."""
    model = denoiser_of(path, prediction)
    with torch.no_grad():
        model.network.v[2:STEPS] = 2 * torch.tensor(shares) - 1
    loss = objective(Denoising(at_steps), Hybrid(STEPS, weight))(model, batch(), torch.Generator().manual_seed(1))
    loss.value.backward()
    return model.network.v.grad[2:STEPS], float(model.network.scale.grad)


@pytest.mark.parametrize("path", ["linear", "cosine", "edm"])
def test_the_loss_is_least_at_the_exact_variance(path):
    """Its slope is 0 there to within the noise, and a tenth to either side it is not."""
    path = PATHS[path]
    exact = [best(path, n * path.end / STEPS) for n in range(2, STEPS)]
    there, below, above = (gradients(path, [f + d for f in exact])[0] for d in (0.0, -0.1, 0.1))
    assert (there.abs() < 0.3 * torch.minimum(-below, above)).all()
    assert (below < 0).all()
    assert (above > 0).all()


@pytest.mark.parametrize("prediction", ["noise", "data", "velocity"])
def test_it_is_least_there_whatever_is_predicted(prediction):
    exact = [best(Cosine(), n / STEPS) for n in range(2, STEPS)]
    there, above = (gradients(Cosine(), [f + d for f in exact], prediction=prediction)[0] for d in (0.0, 0.1))
    assert (there.abs() < 0.3 * above).all()


def test_a_loss_without_the_error_of_the_mean_is_caught(monkeypatch):
    """The mutant ends at β̃, the posterior's variance given x0."""
    right = Hybrid.divergence
    monkeypatch.setattr(Hybrid, "divergence", lambda self, *a: right(self, *a[:-1], torch.zeros_like(a[-1])))
    exact = [best(Linear(), n / STEPS) for n in range(2, STEPS)]
    assert (gradients(Linear(), exact)[0].abs() > 1e-3).any()
    with pytest.raises(AssertionError):
        test_the_loss_is_least_at_the_exact_variance("linear")


def test_the_mean_learns_from_the_denoising_loss_alone():
    """Eq. 16's L_vlb has the mean stopped: F has the same gradient whatever the weight; the mutant lets it through."""
    shares = [0.3] * (STEPS - 2)
    of = {weight: gradients(Cosine(), shares, weight)[1] for weight in (0.0, 1.0, 10.0)}
    assert of[1.0] == pytest.approx(of[0.0], rel=1e-9)
    assert of[10.0] == pytest.approx(of[0.0], rel=1e-9)
    assert float(gradients(Cosine(), shares, 0.0)[0].abs().max()) == 0


def test_the_divergence_is_that_of_two_gaussians():
    path, t, s = Cosine(), torch.tensor([0.6, 0.9]).double(), torch.tensor([0.5, 0.7]).double()
    x0, hat, share = (
        torch.tensor([[0.3], [-1.0]]).double(),
        torch.tensor([[0.1], [0.5]]).double(),
        torch.tensor([[0.2], [0.9]]).double(),
    )
    for row, (a, b) in enumerate(zip(t.tolist(), s.tolist(), strict=True)):
        now, then = at(path, a), at(path, b)
        old = noise_ratio(now, then)
        small, large = then.sigma**2 * (1 - old**2), now.sigma**2 * (1 - old**2)
        aim = then.alpha - then.sigma * old * now.alpha / now.sigma
        f = float(share[row])
        q = torch.distributions.Normal(aim * x0[row], small**0.5)
        p = torch.distributions.Normal(aim * hat[row], (large**f * small ** (1 - f)) ** 0.5)
        found = step_divergence(path, t, s, share, (x0 - hat) ** 2)[row]
        torch.testing.assert_close(found, torch.distributions.kl_divergence(q, p))


def test_the_last_step_of_the_chain_has_none():
    share, square = torch.ones(3, 2).double(), torch.ones(3, 2).double()
    found = Hybrid(10).divergence(Linear(), torch.tensor([0.01, 0.19, 0.2]).double(), share, square)
    assert (found[:2] == 0).all()
    assert (found[2] > 0).all()


@pytest.mark.parametrize(
    ("network", "shape"),
    [(MLP(2, answers=2), (2,)), (UNet(1, width=16, depth=1, patch=2, answers=2), (1, 6, 6)), (DiT(1, width=32, depth=1, patch=2, head=16, answers=2), (1, 6, 6))],
    ids=lambda value: type(value).__name__,
)  # fmt: skip
def test_networks_answer_with_two_and_the_denoiser_reads_the_first(network, shape):
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.2)
    denoiser, x, t = (
        NetworkDenoiser(network, Linear(), PREDICTIONS["velocity"]),
        torch.randn(3, *shape),
        torch.full((3,), 0.4),
    )
    assert network(x, t, {}).shape == (3, 2 * shape[0], *shape[1:])
    assert denoiser.raw(x, t.double(), {}).shape == x.shape
    x0, share = LearnedVariance(denoiser).with_share(x, t.double(), {})
    torch.testing.assert_close(denoiser(x, t.double(), {}), x0)
    assert share.shape == x.shape


def test_it_is_spelled_and_refused_by_name():
    assert OBJECTIVES["hybrid"].of(Denoising()) == HybridLoss(Denoising(), Hybrid())
    assert OBJECTIVES["denoising"].of(Denoising()) == Denoising()
    with pytest.raises(UsageError, match="steps must be between 2"):
        Hybrid(1)
