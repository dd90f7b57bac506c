import pytest
import torch

from ebb import testing
from ebb.errors import UsageError
from ebb.guide import energy as home
from ebb.guide.cfg import cfg
from ebb.guide.energy import NSR_MAX, capped, energy, linearised
from ebb.networks.unet import UNet
from ebb.process.denoiser import NetworkDenoiser
from ebb.process.exact import Gaussian
from ebb.process.moment import at
from ebb.process.path import PATHS, Cosine, Linear, spread
from ebb.process.predict import velocity
from ebb.process.times import uniform_grid
from ebb.sample.noise import Noise
from ebb.sample.solvers import SOLVERS
from ebb.sample.trajectory import trajectory

SLOPE = torch.tensor([0.7, -0.4], dtype=torch.float64)
PATH_NAMES = list(PATHS)


def points(path, count=9):
    """Noisy places at times inside the path, the last at its end."""
    t = torch.cat([testing.inside(path, count), torch.tensor([path.end], dtype=torch.float64)])
    generator = torch.Generator().manual_seed(0)
    return torch.randn(count + 1, 2, generator=generator, dtype=torch.float64) * path.norm(t)[:, None], t


def of_x0(path):
    """Off by how much, at each place: a linear energy on Gaussian data moves its mean by Σ·slope, and no more."""
    data, (x, t) = testing.normal(path), points(path)
    exact = Gaussian(path, data.mean + data.covariance @ SLOPE, data.covariance)
    return (energy(lambda x0: -(x0 * SLOPE).sum(1))(data)(x, t, {}) - exact(x, t, {})).abs().amax(1)


def of_x(path):
    """The same for the energy −log p(y | x_t) of a second look at the data, y ~ N(x0, 0.3²)."""
    data, (x, t) = testing.normal(path), points(path)
    y, noise = torch.tensor([0.2, 0.5], dtype=torch.float64), 0.09 * torch.eye(2, dtype=torch.float64)
    gain = data.covariance @ torch.linalg.inv(data.covariance + noise)
    exact = Gaussian(path, data.mean + gain @ (y - data.mean), data.covariance - gain @ data.covariance)

    def unlikely(x, t):
        alpha, sigma = path.alpha(t)[:, None, None], path.sigma(t)[:, None, None]
        variance = alpha**2 * data.covariance + sigma**2 * torch.eye(2)
        left = data.covariance - alpha**2 * data.covariance @ torch.linalg.solve(variance, data.covariance)
        return -torch.distributions.MultivariateNormal(data(x, t, {}), left + noise).log_prob(y)

    return (energy(unlikely, on="x")(data)(x, t, {}) - exact(x, t, {})).abs().amax(1)


@pytest.mark.parametrize("path", PATH_NAMES)
@pytest.mark.parametrize("error", [of_x0, of_x])
def test_energies_with_a_closed_form_are_exact_up_to_the_loudest_noise(error, path):
    off = error(PATHS[path])
    assert off[:-1].max() < 1e-9
    assert off[-1] < (1e-9 if at(PATHS[path], PATHS[path].end).nsr <= NSR_MAX else 2 / NSR_MAX)


@pytest.mark.parametrize(
    ("error", "mistake"),
    [(error, mistake) for error in (of_x0, of_x) for mistake in ("sign", "factor", "alpha")] + [(of_x0, "jacobian")],
)
def test_mutants_are_caught(error, mistake, monkeypatch):
    right, back = home.tilted, home.linearised
    if mistake == "sign":
        monkeypatch.setattr(home, "tilted", lambda path, x0, g, t, scale: right(path, x0, g, t, -scale))
    elif mistake == "factor":
        monkeypatch.setattr(home, "tilted", lambda path, x0, g, t, scale: x0 + scale * g)
    elif mistake == "alpha":
        monkeypatch.setattr(
            home, "tilted", lambda path, x0, g, t, scale: x0 + scale * spread(path.sigma(t) ** 2, x0) * g
        )
    else:
        monkeypatch.setattr(home, "linearised", lambda *a: (back(*a)[0], lambda u: u))
    assert error(Cosine())[:-1].max() > 0.05


@pytest.mark.parametrize("time", [0.3, 0.999, 1.0])
def test_a_shared_time_gives_what_separate_times_give(time):
    path = Cosine()
    data, x = testing.normal(path), torch.randn(5, 2, dtype=torch.float64)
    guided = energy(lambda x0: (x0**2).sum(1), 0.7)(data)
    shared = guided(x, at(path, time), {})
    assert torch.isfinite(shared).all()
    torch.testing.assert_close(shared, guided(x, torch.full((5,), time, dtype=torch.float64), {}))


@pytest.mark.parametrize("path", PATH_NAMES)
def test_what_is_heard_is_the_same_point_no_louder(path):
    path = PATHS[path]
    x, t = points(path)
    quiet, when = capped(path, x, t)
    assert path.nsr(when).max() <= NSR_MAX * (1 + 1e-9)
    torch.testing.assert_close(quiet / path.norm(when)[:, None], x / path.norm(t)[:, None])
    torch.testing.assert_close(quiet[:-1], x[:-1])


def test_scale_zero_is_off_and_sampling_keeps_no_graph():
    data = testing.normal(Linear())
    assert energy(lambda x0: x0.sum(1), 0)(data) is data
    with torch.no_grad():
        x0 = energy(lambda x0: x0.sum(1))(data)(*points(Linear()), {})
    assert not x0.requires_grad


def test_a_guided_denoiser_can_be_differentiated_by_the_next_guide():
    """Two linear energies, one through the other, are one with the sum of the slopes."""
    data, (x, t) = testing.normal(Linear()), points(Linear())
    first, second = (lambda x0: -x0[:, 0]), (lambda x0: (0.5 * x0).sum(1))
    for inner in (energy(second), energy(lambda x, t: 0.2 * x.sum(1), on="x")):
        separately = energy(first)(data)(x, t, {}) + inner(data)(x, t, {}) - data(*capped(Linear(), x, t), {})
        torch.testing.assert_close(energy(first)(inner(data))(x, t, {}), separately)


def test_it_composes_with_cfg_either_way_round():
    """Both are affine in the denoiser when the energy is linear, so the order does not matter."""
    plain, path = testing.TwoLabels(Linear()), Linear()
    t, x = testing.inside(path, 5), torch.linspace(-1, 1, 5, dtype=torch.float64)[:, None]
    cond, null = {"label": torch.tensor([0, 1, 0, 1, 0])}, {"label": torch.tensor([2])}
    pull = energy(lambda x0: -x0.sum(1), 0.5)
    inside, outside = cfg(2.0, null)(pull(plain)), pull(cfg(2.0, null)(plain))
    torch.testing.assert_close(inside(x, t, cond), outside(x, t, cond))
    assert not torch.allclose(outside(x, t, cond), cfg(2.0, null)(plain)(x, t, cond))


@pytest.mark.parametrize("solver", SOLVERS)
def test_every_solver_goes_downhill(solver):
    data, noise = testing.normal(Linear()), Noise.of(0, 16)
    ends = []
    for denoiser in (data, energy(lambda x0: -3 * x0[:, 0])(data)):
        for point in trajectory(
            denoiser, SOLVERS[solver], uniform_grid(Linear(), 8), noise.start((2,)).double(), {}, noise
        ):
            end = point.x
        ends.append(end[:, 0].mean())
    assert ends[1] > ends[0] + 0.5


def test_a_network_is_differentiated_whether_its_weights_are_trained_or_not():
    torch.manual_seed(0)
    layer = torch.nn.Linear(2, 2)

    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = layer

        def forward(self, x, told, cond):
            return self.layer(x)

    model, x, t = NetworkDenoiser(Net(), Linear(), velocity), torch.randn(3, 2), at(Linear(), 0.5).shared(3)
    answers = []
    for trained in (True, False):
        layer.requires_grad_(trained)
        with torch.no_grad():
            answers.append(energy(lambda x0: (x0**2).sum(1))(model)(x, t, {}))
        assert all(p.grad is None for p in layer.parameters())
    torch.testing.assert_close(*answers)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda x0: (x0**2).mean(), "one number for each sample"),
        (lambda x0: x0, "one number for each sample"),
        (lambda x0: x0.detach().sum(1), "by differentiable steps"),
    ],
)
def test_functions_that_cannot_guide_are_refused(function, message):
    with pytest.raises(UsageError, match=message):
        energy(function)(testing.normal(Linear()))(*points(Linear()), {})


def test_denoisers_and_places_that_cannot_be_used_are_refused():
    class Stubborn:
        path = Linear()

        def __call__(self, x, t, cond):
            return x.detach()

    with pytest.raises(UsageError, match="Stubborn gives no gradient"):
        linearised(Stubborn(), *points(Linear()), {})
    with pytest.raises(UsageError, match="on='noise'"):
        energy(lambda x: x.sum(1), on="noise")


def test_a_network_with_attention_can_be_differentiated_twice():
    torch.manual_seed(0)
    network = UNet(1, width=8, multipliers=(1,), depth=1, attention=(0,))
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    model, pull = NetworkDenoiser(network, Linear(), velocity), energy(lambda x0: (x0**2).flatten(1).sum(1), 0.1)
    x, t = torch.randn(2, 1, 4, 4), at(Linear(), 0.5).shared(2)
    with torch.no_grad():
        twice = pull(pull(model))(x, t, {})
    assert torch.isfinite(twice).all()
    assert not torch.allclose(twice, pull(model)(x, t, {}))
