import pytest
import torch

from ebb import testing
from ebb.errors import UsageError
from ebb.process.denoiser import retime
from ebb.process.exact import Gaussian, Mixture, finite
from ebb.process.moment import at
from ebb.process.path import EDM, PATHS, Cosine, Linear, VarianceExploding

T = torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64)
X = torch.tensor([[0.3, -1.0], [2.0, 0.5], [-0.4, 0.1]], dtype=torch.float64)


def cloud(path):
    means = torch.tensor([[-1.0, 0.5], [0.8, 0.2], [0.0, -1.0]], dtype=torch.float64)
    return Mixture(path, means, torch.tensor([0.4, 0.6, 0.2]).double(), torch.tensor([0.3, 0.5, 0.2]).double())


def check_score(exact, t):
    """Two independent derivations: Tweedie from the posterior mean, and the gradient of the log density."""
    x = X.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(exact.log_density(x, t).sum(), x)
    testing.close("gradient of the density", exact.score(X, t), gradient, 1e-9)
    testing.close("Tweedie", exact.path.score(X, exact(X, t, {}), t), gradient, 1e-9)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("make", [testing.normal, cloud])
def test_posterior_mean_and_score_agree_with_the_density(make, path):
    check_score(make(PATHS[path]), T * PATHS[path].end)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("make", [testing.normal, cloud])
def test_a_time_that_the_batch_shares_is_answered_as_any_other(make, path):
    exact, t = make(PATHS[path]), at(PATHS[path], 0.3 * PATHS[path].end)
    for ask in (lambda t: exact(X, t, {}), lambda t: exact.score(X, t), lambda t: exact.log_density(X, t)):
        testing.close("at a shared time", ask(t), ask(t.shared(len(X))), 1e-12)


def test_the_flow_between_shared_times_is_that_between_any_other():
    gauss, (t, s) = testing.normal(Cosine()), (at(Cosine(), time) for time in (0.8, 0.3))
    testing.close("the flow", gauss.flow(X, t, s), gauss.flow(X, t.shared(len(X)), s.shared(len(X))), 1e-12)


def test_a_mutant_posterior_mean_is_caught(monkeypatch):
    monkeypatch.setattr(Gaussian, "__call__", lambda self, x, t, cond: self.mean.expand_as(x))
    with pytest.raises(AssertionError, match="Tweedie"):
        check_score(testing.normal(Cosine()), T)


def test_posterior_mean_by_brute_force(generator):
    """Bayes by hand: weigh draws of x0 by the likelihood of x."""
    exact = cloud(Cosine())
    x0 = exact.sample(400_000, generator)
    for x, t in zip(X, T, strict=True):
        alpha, sigma = exact.path.alpha(t), exact.path.sigma(t)
        weight = torch.exp(-((x - alpha * x0) ** 2).sum(1) / (2 * sigma**2))
        by_hand = (weight[:, None] * x0).sum(0) / weight.sum()
        torch.testing.assert_close(exact(x[None], t[None], {})[0], by_hand, atol=0.02, rtol=0)


def test_a_finite_set_at_little_noise_answers_with_its_nearest_point(generator):
    points = torch.randn(50, 3, 4, 4, generator=generator)
    answers = finite(Linear(), points)(points + 0.001, torch.full((50,), 0.01, dtype=torch.float64), {})
    torch.testing.assert_close(answers, points)


def test_at_pure_noise_every_exact_denoiser_says_the_mean():
    end = torch.ones(3, dtype=torch.float64)
    exact = cloud(Cosine())
    torch.testing.assert_close(exact(X, end, {}), (exact.weights @ exact.means).expand(3, 2))


def test_gaussian_flow_keeps_the_standard_score():
    exact, t, s = testing.normal(Cosine()), torch.full((3,), 0.8).double(), torch.full((3,), 0.2).double()
    there = exact.flow(X, t, s)
    torch.testing.assert_close(exact.flow(there, s, t), X)
    assert not torch.allclose(there, X)


@pytest.mark.parametrize(("own", "asked"), [(Linear(), Cosine()), (Cosine(), Linear()), (Linear(), EDM())])
def test_retimed_equals_the_denoiser_of_that_path(own, asked):
    t = T * asked.end
    torch.testing.assert_close(retime(cloud(own), asked)(X, t, {}), cloud(asked)(X, t, {}))


def test_retime_reaches_the_noise_end_and_saturates_beyond_its_own():
    end = torch.ones(3, dtype=torch.float64)
    torch.testing.assert_close(retime(cloud(Cosine()), Linear())(X, end, {}), cloud(Linear())(X, end, {}))
    beyond = retime(cloud(VarianceExploding()), Linear())(X, end, {})
    torch.testing.assert_close(beyond, cloud(Linear())(X, end, {}), atol=0.05, rtol=0)


def test_shapes_that_do_not_fit_are_named():
    with pytest.raises(UsageError, match=r"covariance \[n, n\], got \[2\], \[3, 3\]"):
        Gaussian(Linear(), torch.zeros(2), torch.eye(3))
    with pytest.raises(UsageError, match="for 2 means"):
        Mixture(Linear(), torch.zeros(2, 1), torch.zeros(3), torch.zeros(2))
