import math

import pytest
import torch

import ebb.understand.likelihood
from ebb import testing
from ebb.errors import UsageError
from ebb.networks.mlp import MLP
from ebb.process.denoiser import NetworkDenoiser
from ebb.process.exact import Gaussian, Mixture
from ebb.process.moment import where
from ebb.process.path import PATHS, Cosine, DDPMLinear, Linear
from ebb.process.predict import PREDICTIONS
from ebb.sample.adaptive import Adaptive
from ebb.sample.noise import Noise
from ebb.understand.likelihood import QUIETEST, Hutchinson, SampleFlow, bits_per_dim, log_density, log_density_at


def cloud(path):
    means = torch.tensor([[-1.0, 0.5], [0.8, 0.2], [0.0, -1.0]], dtype=torch.float64)
    return Mixture(path, means, torch.tensor([0.4, 0.6, 0.2]).double(), torch.tensor([0.3, 0.5, 0.2]).double())


def check_likelihood(mixture, tolerance=1e-3, **settings):
    """log p_0 is that of the mixture, in nats, for its own samples and for points far out."""
    x = mixture.sample(24, torch.Generator().manual_seed(0))
    x[:4] *= 2
    exact = mixture.log_density(x, torch.zeros(24).double())
    found = log_density(mixture, x, {}, **settings)
    off = float((found.nats - exact).abs().max())
    if not off < tolerance:
        raise AssertionError(f"the log-likelihood on {mixture.path} is off by {off:.2g} nats")
    return found


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("make", [testing.two_humps, cloud])
def test_log_likelihood_is_the_exact_mixtures(make, path):
    check_likelihood(make(PATHS[path]))


def negative(right):
    def answer(denoiser, cond, probes, weight, dtype):
        return right(denoiser, cond, probes, -weight, dtype)

    return answer


def test_mutants_are_caught(monkeypatch):
    """The divergence with the wrong sign; the prior that forgets the data that is left at the end."""
    with monkeypatch.context() as patch:
        patch.setattr(ebb.understand.likelihood, "traced", negative(ebb.understand.likelihood.traced))
        with pytest.raises(AssertionError, match="is off by"):
            check_likelihood(cloud(Cosine()))

    def plain(answer, x, end):
        return -0.5 * ((x / end.sigma) ** 2 + math.log(2 * math.pi * end.sigma**2)).sum(1)

    monkeypatch.setattr(ebb.understand.likelihood, "prior", plain)
    check_likelihood(cloud(Cosine()))  # where nothing is left, it is the prior
    with pytest.raises(AssertionError, match="is off by"):
        check_likelihood(cloud(DDPMLinear()))


def test_an_earlier_end_costs_little():
    """What is left of the data at ν = 30 is in the prior, to second order in 1/ν."""
    check_likelihood(cloud(Cosine()), span=(QUIETEST, 30.0))


def check_with_noise(path):
    """log p_t of a mixture with noise at ν = 0.2 is that of the wider mixture."""
    mixture, there = cloud(path), where(path, -math.log(0.2))
    x0 = mixture.sample(24, torch.Generator().manual_seed(0))
    x = there.mix(x0, torch.randn(x0.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64))
    exact = mixture.log_density(x, there.shared(24))
    off = float((log_density_at(mixture, x, {}, span=(0.2, math.inf)).nats - exact).abs().max())
    if not off < 1e-3:
        raise AssertionError(f"log p_t on {path} is off by {off:.2g} nats")


@pytest.mark.parametrize("path", PATHS)
def test_with_noise_the_density_is_that_of_its_level(path):
    check_with_noise(PATHS[path])


def test_a_density_of_what_was_not_rescaled_is_caught(monkeypatch):
    """log p of z = x/√(α² + σ²) in place of that of x."""
    monkeypatch.setattr(SampleFlow, "followed", lambda *given, right=SampleFlow.followed: unscaled(right(*given)))

    def unscaled(found):
        return found._replace(nats=found.nats + found.noise[0].numel() * math.log(math.hypot(1 / 1.2, 0.2 / 1.2)))

    with pytest.raises(AssertionError, match="is off by"):
        check_with_noise(Linear())


def test_the_noise_is_where_the_flow_ends():
    gauss = testing.normal(Linear())
    x = gauss.mean + torch.randn(8, 2, generator=torch.Generator().manual_seed(0)).double()
    found = log_density(gauss, x, {}, rule=Adaptive(1e-6))
    begin, end = torch.zeros(8).double(), torch.ones(8).double()
    testing.close("the noise", found.noise, gauss.flow(x, begin, end), 1e-4)
    testing.close("nats", found.nats, gauss.log_density(x, begin), 1e-4)
    assert (found.attempts.calls > 10).all()


def test_estimated_divergence_is_exact_for_equal_variances():
    """vᵀ(c·I)v = c·d for signs v: one probe is enough."""
    d = 20
    gauss = Gaussian(Cosine(), torch.zeros(d).double(), 0.25 * torch.eye(d).double())
    x = 0.5 * torch.randn(4, d, generator=torch.Generator().manual_seed(0)).double()
    found = log_density(gauss, x, {}, trace=Hutchinson(1, Noise.of(0, 4)), rule=Adaptive(1e-5))
    torch.testing.assert_close(found.nats, gauss.log_density(x, torch.zeros(4).double()), atol=2e-3, rtol=0)


def test_estimated_divergence_is_right_in_the_mean():
    mixture = cloud(Cosine())
    x = torch.tensor([0.3, -0.4]).double().expand(400, 2)
    exact = mixture.log_density(x[:1], torch.zeros(1).double())
    found = log_density(mixture, x, {}, trace=Hutchinson(1, Noise.of(0, 400)), rule=Adaptive(1e-3)).nats
    assert found.std() > 0.01
    assert abs(float(found.mean() - exact)) < 4 * float(found.std()) / 20 + 1e-3
    more = log_density(mixture, x[:100], {}, trace=Hutchinson(8, Noise.of(0, 100)), rule=Adaptive(1e-3)).nats
    assert more.std() < 0.6 * found.std()


def test_a_sample_has_the_same_likelihood_in_any_batch():
    mixture = cloud(Linear())
    x = mixture.sample(6, torch.Generator().manual_seed(0))

    def nats(indices):
        noise = Noise(tuple(indices))
        return log_density(mixture, x[list(indices)], {}, trace=Hutchinson(2, noise), rule=Adaptive(1e-3)).nats

    testing.same_by_batch(nats, 6, 1e-9)


def test_a_network_has_a_likelihood_in_any_shape():
    torch.manual_seed(0)
    mlp = MLP(3)
    torch.nn.init.normal_(mlp.out.weight, std=0.1)
    denoiser = NetworkDenoiser(mlp, Linear(), PREDICTIONS["velocity"])
    exactly = log_density(denoiser, torch.randn(2, 3), {}, rule=Adaptive(1e-3))
    assert torch.isfinite(exactly.nats).all()
    assert all(parameter.grad is None for parameter in denoiser.parameters())
    noisy = NetworkDenoiser(mlp, Linear(), PREDICTIONS["noise"])
    with pytest.raises(UsageError, match="says nothing about x0"):
        log_density(noisy, torch.randn(2, 3), {}, rule=Adaptive(1e-3))
    assert torch.isfinite(
        log_density(noisy, torch.randn(2, 3), {}, rule=Adaptive(1e-3), span=(QUIETEST, 80.0)).nats
    ).all()
    two_axes = cloud(Cosine())
    grown = Mixture(Cosine(), two_axes.means[:, :, None], two_axes.stds, two_axes.weights)
    x = two_axes.sample(3, torch.Generator().manual_seed(0))
    torch.testing.assert_close(log_density(grown, x[:, :, None], {}).nats, log_density(two_axes, x, {}).nats)


def test_bits_per_dim():
    """A uniform density over the range of 256 values costs 8 bits for each."""
    d, width = 12, 2 / 255
    nats = torch.tensor([-d * math.log(256 * width)]).double()
    torch.testing.assert_close(bits_per_dim(nats, d, width), torch.tensor([8.0]).double())


def test_an_estimate_without_probes_is_refused():
    with pytest.raises(UsageError, match="one probe or more"):
        Hutchinson(0, Noise.of(0, 1))


def test_the_piece_below_nsr_min_is_half_a_step_of_the_velocity():
    """Visible where that piece is long: on a wide Gaussian its error is of fourth order in nsr_min/std."""
    wide = Mixture(Cosine(), torch.zeros(1, 1).double(), torch.ones(1).double(), torch.ones(1).double())
    check_likelihood(wide, tolerance=2e-3, span=(0.3, math.inf), rule=Adaptive(1e-6))
