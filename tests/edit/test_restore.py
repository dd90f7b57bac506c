import numpy as np
import pytest
import torch

from ebb import testing
from ebb.edit import restore as home
from ebb.edit.restore import disagreement, softened
from ebb.errors import UsageError
from ebb.guide.inverse import mmps
from ebb.guide.operators import Operator, downsample
from ebb.process.exact import Gaussian
from ebb.process.path import Cosine
from ebb.sample.ddim import DDIM
from ebb.sample.noise import Noise
from ebb.sample.scheme import Scheme

from .known import Given, axes

N, PATH = 8, Cosine()
OPERATORS = {
    "downsample": downsample(2, dims=1),
    "softened": Operator(lambda x: softened(0.7, dims=1)(x[:, None])[:, 0]),
}


def smooth():
    """Gaussian data whose neighbours are alike, as pictures' are."""
    places = torch.arange(N, dtype=torch.float64)
    return Gaussian(PATH, 0.1 * places, 0.4 * torch.exp(-0.5 * ((places[:, None] - places) / 1.5) ** 2))


def given(prior, operator, y, error):
    """p(x | y) in closed form: again a Gaussian."""
    A = operator(torch.eye(N, dtype=torch.float64)).T
    inner = A @ prior.covariance @ A.T + error**2 * torch.eye(len(A), dtype=torch.float64)
    gain = torch.linalg.solve(inner, A @ prior.covariance).T
    return Gaussian(PATH, prior.mean + gain @ (y - A @ prior.mean), prior.covariance - gain @ A @ prior.covariance)


def restored(prior, times, guide, like, noise):
    return Scheme(prior, DDIM(), times).guided(guide).fresh(like, {}, noise)


def check_restored(name, error=0.1):
    """What is made of each noise is what the exact conditional denoiser makes of it."""
    prior, operator = smooth(), OPERATORS[name]
    y = operator(prior.mean[None] + torch.randn(1, N, generator=torch.Generator().manual_seed(1)).double() / 2)
    times, like, noise = testing.graded(PATH, 10), torch.empty(N + 1, N, dtype=torch.float64), Given(axes(N))
    made = restored(prior, times, mmps(y.expand(N + 1, -1), operator, error, N), like, noise)
    exact = Scheme(given(prior, operator, y[0], error), DDIM(), times).fresh(like, {}, noise)
    testing.close("what is restored", made, exact, 5e-3)


@pytest.mark.parametrize("name", OPERATORS)
def test_gaussian_data_are_restored_as_the_conditional_gaussian_is_sampled(name):
    check_restored(name)


@pytest.mark.parametrize("mistake", ["error", "sign", "unguided"])
def test_another_posterior_is_caught(mistake, monkeypatch):
    right = mmps
    wrong = {
        "error": lambda y, operator, error, iterations: right(y, operator, 5 * error, iterations),
        "sign": lambda y, operator, error, iterations: right(-y, operator, error, iterations),
        "unguided": lambda *_: lambda denoiser: denoiser,
    }
    monkeypatch.setitem(globals(), "mmps", wrong[mistake])
    with pytest.raises(AssertionError, match="what is restored: off by"):
        check_restored("downsample")


@pytest.mark.parametrize("error", [0.03, 0.3])
def test_the_restored_agree_with_the_measurement_to_about_its_error(error):
    prior, operator, count = smooth(), OPERATORS["downsample"], 32
    root = torch.linalg.cholesky(prior.covariance + 1e-9 * torch.eye(N))
    draws = torch.randn(count, 2 * N, generator=torch.Generator().manual_seed(2)).double()
    y = operator(prior.mean + draws[:, :N] @ root.T) + error * draws[:, N : N + N // 2]
    like, noise = torch.empty(count, N, dtype=torch.float64), Noise.of(0, count)
    made = restored(prior, testing.graded(PATH, 24), mmps(y, operator, error, N), like, noise)
    assert disagreement(operator, made, y) == pytest.approx(error, rel=0.25)


def reference(x, sigma):
    """Each axis by itself: edges repeated, then the weighted sum, place by place."""
    reach = int(np.ceil(3 * sigma))
    weights = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    for axis in range(2, x.ndim):
        x = np.apply_along_axis(
            lambda row: np.convolve(np.pad(row, reach, "edge"), weights / weights.sum(), "valid"), axis, x
        )
    return x


def check_softened(shape, sigma=0.8):
    x = torch.randn(2, *shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    expected = torch.from_numpy(reference(x.numpy(), sigma))
    testing.close("the blur", softened(sigma, len(shape) - 1)(x), expected, 1e-6)


@pytest.mark.parametrize("shape", [(2, 9), (3, 7, 6), (1, 4, 5, 3)])
def test_the_blur_is_gaussian_along_every_axis_with_edges_repeated(shape):
    check_softened(shape)


def test_a_blur_with_nothing_outside_is_caught(monkeypatch):
    right = home.F.pad
    monkeypatch.setattr(home.F, "pad", lambda x, around, mode: right(x, around))
    with pytest.raises(AssertionError, match="the blur: off by"):
        check_softened((3, 7, 6))


def test_the_blur_is_linear_and_has_its_adjoint(generator):
    operator, (x, y) = softened(1.2), torch.randn(2, 3, 2, 6, 7, generator=generator, dtype=torch.float64)
    torch.testing.assert_close((operator(x) * y).sum(), (x * operator.adjoint(y, x)).sum())


@pytest.mark.parametrize("sigma", [0.0, -1.0, float("nan"), float("inf")])
def test_a_blur_of_no_width_is_refused(sigma):
    with pytest.raises(UsageError, match="wider than 0"):
        softened(sigma)


def test_samples_without_a_channel_are_refused():
    with pytest.raises(UsageError, match="for samples of 3 axes"):
        softened(1.0)(torch.zeros(2, 5, 5))
