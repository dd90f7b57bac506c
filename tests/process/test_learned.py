from itertools import pairwise

import pytest
import torch
from torch import nn

from ebb import testing
from ebb.errors import UsageError
from ebb.networks.mlp import MLP
from ebb.process.denoiser import NetworkDenoiser, fraction
from ebb.process.exact import Gaussian
from ebb.process.learned import LearnedVariance, VarianceDenoiser
from ebb.process.moment import at
from ebb.process.path import PATHS, Cosine, Linear
from ebb.process.predict import PREDICTIONS
from ebb.process.times import LogSNR
from ebb.sample.ddim import DDPM, noise_ratio
from ebb.sample.noise import Noise
from ebb.sample.trajectory import Denoise, trajectory


class Knows:
    """The exact denoiser of N(0, c·I), and the exact variance of each step of one grid."""

    def __init__(self, path, times, c=0.25):
        self.path, self.c = path, c
        self.gauss = Gaussian(path, torch.zeros(2).double(), c * torch.eye(2).double())
        self.next = dict(pairwise(times.tolist()))

    def __call__(self, x, t, cond):
        return self.gauss(x, t, cond)

    def with_share(self, x, t, cond):
        t, s = at(self.path, float(t[0])), at(self.path, self.next[float(t[0])])
        if s.sigma == 0:
            return self(x, t.shared(len(x)), cond), torch.zeros_like(x)
        share = noise_ratio(t, s)
        small, large = ((m.sigma**2) * (1 - share**2) for m in (s, t))
        aim = s.alpha - s.sigma * share * t.alpha / t.sigma
        total = t.alpha**2 * self.c + t.sigma**2
        exact = torch.tensor(small + aim**2 * self.c * t.sigma**2 / total).double()  # of x_s given x_t
        f = torch.log(exact / small) / torch.log(torch.tensor(large / small))
        return self(x, t.shared(len(x)), cond), f.expand_as(x)


def covariance(variance, path, steps=6):
    times = LogSNR(nsr_min=0.02)(path, steps)
    denoiser = Knows(path, times)
    _, covariance = testing.columns(DDPM(variance), denoiser, denoiser.gauss.mean, times)
    return covariance


@pytest.mark.parametrize("path", PATHS)
def test_the_exact_variance_gives_the_exact_covariance_in_six_steps(path):
    exact = 0.25 * torch.eye(2).double()
    testing.close("learned", covariance("learned", PATHS[path]), exact, 0.001)
    for variance in ("small", "large"):
        assert (covariance(variance, PATHS[path]) - exact).abs().max() > 0.02


def test_a_share_that_is_the_other_ones_is_caught(monkeypatch):
    right = Knows.with_share
    monkeypatch.setattr(Knows, "with_share", lambda *a: (right(*a)[0], 1 - right(*a)[1]))
    with pytest.raises(AssertionError, match="learned"):
        testing.close("learned", covariance("learned", Cosine()), 0.25 * torch.eye(2).double(), 0.001)


class Twice(nn.Module):
    """F and v = tanh of the input, from a network that counts its calls."""

    def __init__(self):
        super().__init__()
        self.mlp, self.calls = MLP(4), 0
        torch.nn.init.normal_(self.mlp.out.weight, std=0.1)

    def forward(self, x, time, cond):
        self.calls += 1
        return torch.cat([self.mlp(torch.cat([x, x], 1), time, cond)[:, :2], torch.tanh(x)], 1)


class First(nn.Module):
    def __init__(self, twice):
        super().__init__()
        self.twice = twice

    def forward(self, x, time, cond):
        return self.twice(x, time, cond)[:, :2]


@pytest.mark.parametrize("sigma_data", [None, 0.5])
@pytest.mark.parametrize("prediction", ["velocity", "v", "edm"])
def test_it_is_the_network_denoiser_with_a_second_answer(prediction, sigma_data):
    twice, given = Twice(), (Linear(), PREDICTIONS[prediction], fraction, sigma_data)
    both, plain = LearnedVariance(NetworkDenoiser(twice, *given)), NetworkDenoiser(First(twice), *given)
    assert isinstance(both, VarianceDenoiser)
    assert not isinstance(plain, VarianceDenoiser)
    x = torch.randn(5, 2)
    for t in (at(Linear(), 0.3), torch.linspace(0.1, 0.9, 5).double()):
        twice.calls = 0
        x0, f = both.with_share(x, t, {})
        assert twice.calls == 1
        torch.testing.assert_close(x0, plain(x, t, {}))
        torch.testing.assert_close(both(x, t, {}), x0)
        assert (f > 0).all()
        assert (f < 1).all()
        if sigma_data is None:
            torch.testing.assert_close(f, (torch.tanh(x) + 1) / 2)


def test_one_step_has_the_geometric_mean_of_the_variances():
    """log variance = f·log β + (1 − f)·log β̃ (Nichol & Dhariwal 2021, eq. 15)."""
    t, s = at(Cosine(), 0.6), at(Cosine(), 0.5)
    x, f, z = torch.randn(4, 2).double(), torch.rand(4, 2).double(), torch.randn(4, 2).double()

    class Stating:
        path = Cosine()

        def __call__(self, x, t, cond):
            return x / 2

        def with_share(self, x, t, cond):
            return x / 2, f

    def step(variance, z):
        return DDPM(variance).step(Denoise(Stating()), x, t, s, {}, None, lambda like: z).x

    mean, still = step("small", torch.zeros_like(z)), torch.ones_like(z)
    small, large = (step(variance, still) - mean for variance in ("small", "large"))
    by_hand = mean + torch.exp(f * large.log() + (1 - f) * small.log()) * z
    torch.testing.assert_close(step("learned", z), by_hand)


def test_a_denoiser_without_a_variance_is_refused():
    times = torch.tensor([1.0, 0.5, 0.0]).double()
    with pytest.raises(UsageError, match="needs a denoiser that states it, got Gaussian"):
        next(trajectory(testing.normal(Cosine()), DDPM("learned"), times, torch.zeros(1, 2), {}, Noise.of(0, 1)))


def test_a_network_that_is_not_twice_as_wide_is_refused():
    denoiser = LearnedVariance(NetworkDenoiser(MLP(2), Linear(), PREDICTIONS["v"]))
    with pytest.raises(UsageError, match=r"answers \[3, 4\] for \[3, 2\], got \[3, 2\]"):
        denoiser(torch.zeros(3, 2), torch.full((3,), 0.5).double(), {})
