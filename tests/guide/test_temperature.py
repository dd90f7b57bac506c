import math

import pytest
import torch

from ebb import testing
from ebb.errors import UsageError
from ebb.guide.cfg import cfg
from ebb.guide.temperature import Tempered, temperature
from ebb.process.exact import Gaussian, Mixture
from ebb.process.moment import at, where
from ebb.process.path import EDM, PATHS, Cosine, Linear, spread
from ebb.process.times import LogSNR
from ebb.sample.ddim import DDIM
from ebb.sample.drift import Drift, drift, warning
from ebb.sample.heun import Heun
from ebb.sample.noise import Noise
from ebb.sample.trajectory import Point, trajectory


def tempered(gauss, tau):
    return Gaussian(gauss.path, gauss.mean, tau * gauss.covariance)


def places(path, count=9):
    t = testing.inside(path, count)
    x = torch.randn(count, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    return x * path.norm(t)[:, None], t


@pytest.mark.parametrize("path", PATHS)
def test_temperature_keeps_the_contract_of_guides(path):
    testing.check_guide(temperature, PATHS[path], on=0.5)
    testing.check_guide(temperature, PATHS[path], on=1.6)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("tau", [0.3, 0.8, 2.0])
def test_gaussian_data_get_tau_times_their_covariance_at_every_noise_level(tau, path):
    path = PATHS[path]
    gauss, (x, t) = testing.normal(path), places(path)
    guided, exact = temperature(tau)(gauss), tempered(gauss, tau)
    torch.testing.assert_close(guided(x, t, {}), exact(x, t, {}), rtol=1e-9, atol=1e-9)
    for time in t.tolist():
        times = torch.full((len(x),), time, dtype=torch.float64)
        torch.testing.assert_close(guided(x, at(path, time), {}), exact(x, times, {}), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("path", PATHS)
def test_at_the_end_of_the_path_the_answer_is_the_mean_to_within_the_noise(path):
    path = PATHS[path]
    end, gauss = at(path, path.end), testing.normal(path)
    x = torch.tensor([[0.5, -1.0]], dtype=torch.float64) * math.hypot(end.alpha, end.sigma)
    for tau in (0.3, 2.0):
        off = temperature(tau)(gauss)(x, end.shared(1), {}) - tempered(gauss, tau)(x, end.shared(1), {})
        assert off.abs().max() < (1e-9 if math.isinf(end.nsr) else 2 / end.nsr)


def last(denoiser, solver, times, x):
    def noise(step, like, part=0):
        return torch.randn(like.shape, dtype=like.dtype, generator=torch.Generator().manual_seed(step + 1))

    return list(trajectory(denoiser, solver, times, x, {}, noise))[-1].x


@pytest.mark.parametrize("path", ["linear", "edm"])
@pytest.mark.parametrize("tau", [0.5, 1.5])
def test_sampling_ends_with_that_covariance(path, tau):
    path = PATHS[path]
    gauss = testing.normal(path)
    end, start = (torch.full((10_000,), time, dtype=torch.float64) for time in (path.end, 0.0))
    eps = torch.randn(10_000, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    x = path.mix(gauss.mean.expand(10_000, 2), eps, end)
    flowed = last(temperature(tau)(gauss), Heun(), testing.graded(path, 60), x[:50])
    torch.testing.assert_close(flowed, tempered(gauss, tau).flow(x, end, start)[:50], rtol=0, atol=5e-3)
    drawn = last(temperature(tau)(gauss), DDIM(1.0), testing.graded(path, 300), x)
    torch.testing.assert_close(drawn.mean(0), gauss.mean, rtol=0, atol=0.03)
    torch.testing.assert_close(torch.cov(drawn.T), tau * gauss.covariance, rtol=0, atol=0.04)


class Divided:
    """The score divided by τ at the same noise: (x + σ²·score/τ)/α."""

    def __init__(self, denoiser, tau):
        self.denoiser, self.tau, self.path = denoiser, tau, denoiser.path

    def __call__(self, x, t, cond):
        x0 = self.denoiser(x, t, cond)
        return x0 / self.tau + (1 - 1 / self.tau) * x / spread(self.path.alpha(t), x)


def test_dividing_the_score_makes_other_variances():
    """As the docstring says: by the flow next to nothing, by the reverse SDE s²·τ/(2 − τ)."""
    path, tau, s = EDM(20.0), 0.5, 0.7
    gauss = Gaussian(path, torch.zeros(1, dtype=torch.float64), torch.tensor([[s**2]], dtype=torch.float64))
    x = torch.randn(10_000, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * math.hypot(20, s)
    times = testing.graded(path, 300)
    flowed = last(Divided(gauss, tau), Heun(), times, x[:4])
    # at ν_max the variance of x is s² + ν_max² here
    expected = math.hypot(20, s) ** 2 * (s**2 / (s**2 + 20**2)) ** (1 / tau)
    torch.testing.assert_close((flowed / x[:4]) ** 2 * math.hypot(20, s) ** 2, torch.full((4, 1), expected).double(), rtol=0.02, atol=0)  # fmt: skip
    assert expected < 0.01 * tau * s**2
    drawn = last(Divided(gauss, tau), DDIM(1.0), times, x)
    assert drawn.var().item() == pytest.approx(s**2 * tau / (2 - tau), rel=0.05)


@pytest.mark.parametrize(
    ("solver", "steps", "width", "right"), [(Heun(), 60, 0.25, 0.77), (DDIM(1.0), 300, 0.21, 0.79)]
)
def test_of_two_humps_each_narrows_and_the_heavier_gains(solver, steps, width, right):
    """The power has width 0.3/√2 = 0.21 and 0.49/(0.09 + 0.49) = 0.84 of the weight on the right."""
    path = Cosine()
    humps = Mixture(
        path,
        torch.tensor([[-2.0], [2.0]], dtype=torch.float64),
        torch.full((2,), 0.3, dtype=torch.float64),
        torch.tensor([0.3, 0.7], dtype=torch.float64),
    )
    eps = torch.randn(10_000, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    x = last(temperature(0.5)(humps), solver, testing.graded(path, steps), eps)[:, 0]
    assert x[x > 0].std().item() == pytest.approx(width, abs=0.015)
    assert (x > 0).double().mean().item() == pytest.approx(right, abs=0.015)


@pytest.mark.parametrize("tau", [0.0, -1.0, math.inf, math.nan])
def test_a_temperature_is_a_positive_number(tau):
    with pytest.raises(UsageError, match="a temperature is above 0"):
        temperature(tau)


def upside_down(self, x, t, cond):
    return Tempered.__call__(Tempered(self.denoiser, 1 / self.tau), x, t, cond)


def without_rescaling(self, x, t, cond):
    u = where(self.path, t.lam + math.log(self.tau) / 2)
    return self.denoiser(x, u, cond)


def divided(self, x, t, cond):
    return Divided(self.denoiser, self.tau)(x, t.shared(len(x)), cond)


@pytest.mark.parametrize("mutant", [upside_down, without_rescaling, divided])
def test_mutants_are_caught(mutant):
    path, tau = Linear(), 0.8
    gauss, time = testing.normal(path), at(Linear(), 0.4)
    x = torch.tensor([[0.4, -1.2]], dtype=torch.float64)
    exact = tempered(gauss, tau)(x, time.shared(1), {})
    torch.testing.assert_close(temperature(tau)(gauss)(x, time, {}), exact)
    with pytest.raises(AssertionError):
        torch.testing.assert_close(mutant(Tempered(gauss, tau), x, time, {}), exact)


# --- the range of the forward process ---------------------------------------------------------------------------------


def run(guide, path, count=64, size=16, steps=24):
    """Readings of a trajectory of independent numbers with two humps, and their root mean square."""
    noise = Noise.of(0, count)
    cond = {"label": torch.arange(count) % 2}
    x = noise.start((size,)).double() * float(path.sigma(torch.tensor([path.end])))
    points = trajectory(guide(testing.TwoLabels(path)), DDIM(), LogSNR()(path, steps), x, cond, noise)
    humps = testing.two_humps(path)
    rms = math.sqrt(float(((humps.means[:, 0] ** 2 + humps.stds**2) / 2).sum()))
    return list(drift(points, path, rms))


@pytest.mark.parametrize("path", ["linear", "edm", "ddpm_linear"])
def test_plain_sampling_stays_in_the_range_and_strong_guidance_does_not(path):
    path = PATHS[path]
    assert warning(run(lambda d: d, path)) == ""
    text = warning(run(cfg(8.0, {"label": torch.tensor([2])}), path))
    assert "steps\n  first at t = " in text
    assert "of 24 steps" in text


def test_temperature_far_from_one_is_told_where_the_data_show():
    hot, cold = (run(temperature(tau), Linear()) for tau in (3.0, 0.1))
    for readings, sign in ((hot, 1), (cold, -1)):
        strayed = [reading for reading in readings if reading.strays(0.1)]
        assert strayed
        assert all(sign * (float(r.rms) - r.expected) > 0 for r in strayed)
        assert not readings[0].strays(0.1)  # all noise yet
        assert strayed[0].point.t < 0.8


def test_readings_pass_the_points_on_and_say_what_the_forward_process_has():
    path = Linear()
    x = torch.tensor([[3.0, -4.0], [0.0, 0.0]])
    points = [Point(0.5, x, x), Point(0.0, x, x)]
    first, final = drift(points, path, 0.6, limit=1.0)
    assert first.point is points[0]
    assert (first.rms, first.least, first.most) == (2.5, -4.0, 3.0)
    assert isinstance(first.rms, torch.Tensor)  # nothing waits for it yet
    assert first.expected == pytest.approx(math.hypot(0.3, 0.5))
    assert first.bound == pytest.approx(0.5 + 0.5 * math.sqrt(2 * math.log(4000)))
    assert (final.expected, final.bound) == (0.6, 1.0)
    assert str(first).startswith("t = 0.5: norm 2.5, forward process 0.583 (+329%); values from -4 to 3, forward ±")


@pytest.mark.parametrize("path", PATHS)
def test_the_forward_process_itself_does_not_stray_and_neither_bound_is_loose(path):
    path, generator = PATHS[path], torch.Generator().manual_seed(0)
    times = torch.cat([testing.inside(path, 12), torch.tensor([path.end, 0.0], dtype=torch.float64)])
    x0 = torch.rand(128, 32, dtype=torch.float64, generator=generator) * 2 - 1
    points = []
    for time in times.tolist():
        eps = torch.randn(128, 32, dtype=torch.float64, generator=generator)
        x = path.mix(x0, eps, torch.full((128,), time, dtype=torch.float64))
        points.append(Point(time, x, x0))
    readings = list(drift(points, path, math.sqrt(1 / 3), 1.0))
    assert warning(readings) == ""
    for reading in readings:
        assert max(float(reading.most), -float(reading.least)) > 0.6 * reading.bound
    larger = [Point(p.t, 1.15 * p.x, p.x0) for p in points]
    assert all(reading.strays(0.1) for reading in drift(larger, path, math.sqrt(1 / 3), 1.0))
    for point in points:
        point.x[3, 4] = 1.2 * next(drift([point], path, math.sqrt(1 / 3), 1.0)).bound
    assert all(reading.strays(0.1) for reading in drift(points, path, math.sqrt(1 / 3), 1.0))


def test_what_is_not_a_number_strays_and_bad_arguments_are_named():
    x = torch.full((2, 3), math.nan)
    assert "at 1 of 1 steps" in warning(drift([Point(0.5, x, x)], Linear(), 1.0))
    with pytest.raises(UsageError, match="sigma_data and limit above 0"):
        next(drift([], Linear(), 0.0))


def test_a_forward_norm_without_the_noise_is_caught(monkeypatch):
    monkeypatch.setattr(Drift, "strays", lambda self, tolerance: abs(float(self.rms) / 0.9 - 1) > tolerance)
    with pytest.raises(AssertionError):
        test_the_forward_process_itself_does_not_stray_and_neither_bound_is_loose("linear")
