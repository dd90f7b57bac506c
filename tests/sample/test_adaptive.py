import math

import pytest
import torch

import ebb.sample.adaptive
from ebb import testing
from ebb.errors import UsageError
from ebb.networks.mlp import MLP
from ebb.process.denoiser import NetworkDenoiser
from ebb.process.exact import Mixture
from ebb.process.moment import at
from ebb.process.path import EDM, PATHS, Cosine, Linear
from ebb.process.predict import PREDICTIONS
from ebb.sample.adaptive import Adaptive, flow, follow, tried
from ebb.sample.noise import Noise
from ebb.sample.trajectory import Denoise, trajectory


def ends(path):
    return at(path, path.end), at(path, 0.0)


def unit(*shape):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def error(denoiser, x, exact, tolerance):
    end, zero = ends(denoiser.path)
    there, attempts = follow(denoiser, Adaptive(tolerance), end, zero, x, {})
    return float((there - exact).pow(2).mean().sqrt()), float(attempts.calls.double().mean())


def check_tolerance(path):
    """The error of the whole way follows the tolerance, and so does the work."""
    end, zero = (moment.shared(64) for moment in ends(path))
    scale, gauss, humps = ends(path)[0].sigma, testing.normal(path), testing.two_humps(path)
    x2, x1 = scale * unit(64, 2), scale * unit(64, 1)
    for denoiser, x, exact in (
        (gauss, x2, gauss.flow(x2, end, zero)),
        (humps, x1, testing.quantile_flow(humps, x1, end, zero)),
    ):
        found = [error(denoiser, x, exact, tolerance) for tolerance in (1e-2, 1e-4, 1e-6)]
        for (off, _), tolerance in zip(found, (1e-2, 1e-4, 1e-6), strict=True):
            if not off < 2 * tolerance:
                raise AssertionError(f"tolerance {tolerance:g} on {path}: off by {off:.2g}")
        calls = [n for _, n in found]
        assert calls[0] < calls[1] < calls[2] < 200


@pytest.mark.parametrize("path", PATHS)
def test_the_error_follows_the_tolerance_on_exact_flows(path):
    check_tolerance(PATHS[path])


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ERROR", (0.0, 0.0, 0.0, 0.0)),
        ("STAGES", ((1 / 2,), (0.0, 3 / 4), (2 / 9, -1 / 3, 10 / 9))),
        ("NODES", (0.0, 1 / 2, 3 / 4)),
    ],
    ids=["an error that is never seen", "a weight with a flipped sign", "nodes off by one"],
)
def test_mutants_are_caught(name, value, monkeypatch):
    monkeypatch.setattr(ebb.sample.adaptive, name, value)
    with pytest.raises((AssertionError, UsageError)):
        check_tolerance(Cosine())


@pytest.mark.parametrize("path", PATHS)
def test_it_also_goes_up(path):
    path = PATHS[path]
    gauss, low, end = testing.normal(path), at(path, 0.05 * path.end), ends(path)[0]
    x = gauss.flow(end.sigma * unit(32, 2), end.shared(32), low.shared(32))
    there, _ = follow(gauss, Adaptive(1e-5), low, end, x, {})
    testing.close("the noise", there, gauss.flow(x, low.shared(32), end.shared(32)), 1e-4)


def narrow(path, std=0.02):
    means = torch.tensor([[-0.8], [0.5]], dtype=torch.float64)
    return Mixture(path, means, torch.full((2,), std).double(), torch.tensor([0.4, 0.6]).double())


def test_the_steps_it_reports_are_those_it_took():
    path, calls = Linear(), []
    mixture = narrow(path)

    class Counting:
        def __call__(self, x, t, cond):
            calls.append(len(x))
            return mixture(x, t, cond)

    Counting.path = path
    _, attempts = follow(Counting(), Adaptive(1e-4), *ends(path), unit(16, 1), {})
    assert int(attempts.calls.max()) == len(calls)  # the last to arrive was asked every time
    assert set(calls) == {16}
    assert not bool(attempts.accepted[attempts.error > 1].any())
    assert bool(attempts.accepted[attempts.error <= 1].all())
    assert not bool(attempts.accepted.all())  # some steps were too long
    for i in range(16):
        angles, times = attempts.angles(i), attempts.times(i, path)
        assert float(times[0]) == 1
        assert float(angles[-1]) == Adaptive(1e-4).sliver
        assert bool((times[1:] < times[:-1]).all())
        torch.testing.assert_close(torch.tan(angles[1:]), path.nsr(times[1:]))


def test_steps_are_short_where_the_field_is_sharp():
    """The flow of two narrow humps turns at the ratio where they part and settles within std of them."""
    path = Cosine()
    _, attempts = follow(narrow(path), Adaptive(1e-4), *ends(path), unit(64, 1), {})
    kept = attempts.accepted
    size, middle = (attempts.stop - attempts.start).abs()[kept], ((attempts.stop + attempts.start) / 2)[kept]
    sharp = (middle > 0.01) & (middle < 0.06)
    assert size[middle > 1.3].median() > 4 * size[sharp].median()
    _, smooth = follow(testing.two_humps(path), Adaptive(1e-4), *ends(path), unit(64, 1), {})
    assert smooth.calls.double().mean() < 0.7 * attempts.calls.double().mean()


def test_it_beats_equal_steps_at_equal_calls():
    path, x = Cosine(), unit(64, 1)
    mixture = narrow(path)
    exact = testing.quantile_flow(mixture, x, *(moment.shared(64) for moment in ends(path)))
    off, calls = error(mixture, x, exact, 1e-4)
    angles = torch.linspace(math.pi / 2, Adaptive(1e-4).sliver, 1 + int(calls / 3), dtype=torch.float64)
    field, y = flow(mixture, {}), x
    slope = field(y, angles[:1].expand(64))
    for begin, h in zip(angles[:-1], angles.diff(), strict=True):
        y, slope, _ = tried(field, y, slope, begin.expand(64), h.expand(64))
    equal = math.cos(angles[-1]) * y - math.sin(angles[-1]) * slope
    assert off < 0.1 * float((equal - exact).pow(2).mean().sqrt())


def test_samples_do_not_see_each_other():
    path, starts = Linear(), unit(12, 1)

    def sample(indices):
        return follow(narrow(path), Adaptive(1e-3), *ends(path), starts[list(indices)], {})[0]

    testing.same_by_batch(sample, 12, 1e-10)


def test_conditions_stay_with_their_samples():
    path, x = Cosine(), unit(6, 1)
    plain, label = testing.TwoLabels(path), torch.tensor([0, 1, 2, 0, 1, 2])
    together = follow(plain, Adaptive(), *ends(path), x, {"label": label})[0]
    for i in range(6):
        alone = follow(plain, Adaptive(), *ends(path), x[i : i + 1], {"label": label[i : i + 1]})[0]
        torch.testing.assert_close(together[i : i + 1], alone)


def noise(like, part=0):
    raise AssertionError("the flow needs no noise")


def test_a_grid_in_between_changes_little_and_the_controller_remembers():
    path, x = Cosine(), unit(16, 2)
    gauss = testing.normal(path)
    whole, attempts = follow(gauss, Adaptive(1e-5), *ends(path), x, {})
    points = list(
        trajectory(gauss, Adaptive(1e-5), torch.tensor([1, 0.6, 0.3, 0], dtype=torch.float64), x, {}, Noise.of(0, 16))
    )
    assert [point.t for point in points] == [0.6, 0.3, 0.0]
    testing.close("in three parts", points[-1].x, whole, 1e-4)
    testing.close("the first answer is the mean", points[0].x0, gauss.mean.expand(16, 2), 1e-12)
    solver, denoise, stops = Adaptive(1e-5), Denoise(gauss), [at(path, time) for time in (1.0, 0.6, 0.3)]
    _, _, once = solver.step(denoise, x, stops[0], stops[1], {}, None, noise)
    _, _, twice = solver.step(denoise, x, stops[1], stops[2], {}, once, noise)
    assert 0 < len(once.attempts.error) < len(twice.attempts.error) <= len(attempts.error)
    fresh = solver.step(denoise, x, stops[1], stops[2], {}, None, noise).state
    assert not torch.equal(fresh.attempts.angles(0), twice.attempts.angles(0))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_it_runs_a_network_and_keeps_its_precision(dtype):
    torch.manual_seed(0)
    mlp = MLP(2)
    torch.nn.init.normal_(mlp.out.weight, std=0.1)
    for path in (Linear(), EDM()):
        denoiser = NetworkDenoiser(mlp, path, PREDICTIONS["velocity"], sigma_data=0.5)
        x = ends(path)[0].sigma * unit(5, 2).to(dtype)
        there, _ = follow(denoiser, Adaptive(1e-3), *ends(path), x, {})
        assert torch.isfinite(there).all()


def test_too_many_steps_are_an_error_that_says_what_to_change():
    with pytest.raises(UsageError, match=r"4 of 4 samples did not reach their end in 5 attempts.*\n.*larger tolerance"):
        follow(narrow(Cosine()), Adaptive(1e-6, limit=5), *ends(Cosine()), unit(4, 1), {})


def test_a_denoiser_that_answers_nothing_is_an_error():
    class Lost:
        path = Cosine()

        def __call__(self, x, t, cond):
            return x * math.nan

    with pytest.raises(UsageError, match="did not reach"):
        follow(Lost(), Adaptive(limit=20), *ends(Cosine()), unit(2, 1), {})


@pytest.mark.parametrize("fields", [{"tolerance": 0.0}, {"tolerance": 2.0}, {"limit": 0}, {"i": 0.0}])
def test_settings_that_mean_nothing_are_refused(fields):
    with pytest.raises(UsageError, match="an adaptive solver needs"):
        Adaptive(**fields)


def test_the_next_step_is_the_pid_formula():
    rule = Adaptive(p=0.3, i=0.4, d=0.1)
    e, e1, e2 = (torch.tensor([value], dtype=torch.float64) for value in (0.5, 0.8, 0.3))
    expected = 0.9 * (1 / 0.5) ** (0.8 / 3) * 0.8 ** (0.5 / 3) * (1 / 0.3) ** (0.1 / 3)
    assert float(rule.longer(e, (e1, e2))) == pytest.approx(expected, rel=1e-9)
