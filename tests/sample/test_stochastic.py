import math

import pytest
import torch

import ebb.sample.karras
import ebb.sample.sde
from ebb import testing
from ebb.errors import UsageError
from ebb.process.exact import finite
from ebb.process.moment import at, combine
from ebb.process.path import EDM, PATHS, Cosine, Linear, VarianceExploding
from ebb.process.times import LogSNR, uniform_grid
from ebb.recipe.names import parse
from ebb.sample.ddim import DDIM, DDPM, diffused
from ebb.sample.heun import Heun
from ebb.sample.karras import Churn
from ebb.sample.noise import Noise
from ebb.sample.restart import FLOWS, Restart
from ebb.sample.sde import EulerMaruyama, PredictorCorrector
from ebb.sample.trajectory import Denoise, trajectory

from .mutants import Mutant, quiet, repeated

SOLVERS = [
    Churn(),
    Churn(0.3, 0.0, 1e9),
    EulerMaruyama(),
    PredictorCorrector(),
    PredictorCorrector("ddim", 2, 0.1),
    PredictorCorrector("ancestral"),
    Restart(),
    Restart("dpmpp_2m", 0.2, 1.0, 4, 6),
]


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("solver", SOLVERS, ids=str)
def test_stochastic_solvers_sample_the_data(solver, path):
    testing.check_stochastic(solver, PATHS[path])


@pytest.mark.parametrize("solver", [DDIM(1.0), EulerMaruyama(), Churn()], ids=str)
def test_moments_without_sampling_error_are_those_of_many_samples(solver):
    gauss, times = testing.normal(Cosine()), testing.graded(Cosine(), 12)
    exact = testing.columns(solver, gauss, gauss.mean, times)
    drawn = testing.sampled(solver, gauss, gauss.mean, times, 50_000)
    for a, b in zip(exact, drawn, strict=True):
        torch.testing.assert_close(a, b, atol=0.015, rtol=0)


def test_a_solver_that_is_not_affine_is_judged_by_samples():
    class Bent(DDIM):
        def step(self, denoise, x, t, s, cond, state, draw):
            return DDIM(1.0).step(denoise, x + 0.05 * x**3 * (s.time == 0), t, s, cond, state, draw)

    gauss = testing.normal(Cosine())
    assert testing.columns(Bent(), gauss, gauss.mean, testing.graded(Cosine(), 12)) is None
    with pytest.raises(AssertionError, match="of the samples"):
        testing.check_stochastic(Bent(), Cosine(), count=4000)


@pytest.mark.parametrize("solver", SOLVERS, ids=str)
def test_half_of_the_noise_is_caught(solver):
    with pytest.raises(AssertionError, match="of the samples"):
        testing.check_stochastic(Mutant(solver, quiet), Cosine())


@pytest.mark.parametrize("solver", [PredictorCorrector(corrections=3), Restart(repeats=6)], ids=str)
def test_one_draw_used_twice_is_caught(solver):
    with pytest.raises(AssertionError, match="of the samples"):
        testing.check_stochastic(Mutant(solver, repeated), Cosine())


def test_a_drift_with_a_flipped_sign_is_caught(monkeypatch):
    def flipped(first, second, *rest):
        return combine(first, (-second[0], second[1]), *rest)

    monkeypatch.setattr(ebb.sample.sde, "combine", flipped)
    for solver in (EulerMaruyama(), PredictorCorrector("ddim")):
        with pytest.raises(AssertionError, match="of the samples"):
            testing.check_stochastic(solver, Cosine())


def test_churn_that_forgets_the_signal_on_the_way_up_is_caught(monkeypatch):
    def wrong(x, s, u, z):
        return diffused(x * s.alpha / u.alpha, s, u, z)

    monkeypatch.setattr(ebb.sample.karras, "diffused", wrong)
    with pytest.raises(AssertionError, match="of the samples"):
        testing.check_stochastic(Churn(), Cosine())


def weak_order(solver, path, counts=(40, 80, 160)):
    """The slope of the log error of mean and covariance together, against log step size, without sampling error."""
    gauss, errors = testing.normal(path), []
    for count in counts:
        mean, covariance = testing.columns(solver, gauss, gauss.mean, testing.graded(path, count))
        errors.append((mean - gauss.mean).norm() + (covariance - gauss.covariance).norm())
    return math.log(errors[0] / errors[-1]) / math.log(counts[-1] / counts[0])


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("solver", [EulerMaruyama(), DDIM(1.0), DDPM()], ids=str)
def test_weak_order_is_one(solver, path):
    assert weak_order(solver, PATHS[path]) == pytest.approx(1, abs=0.3)


def test_euler_maruyama_is_the_textbook_step_of_the_variance_exploding_sde():
    """On a short step it is x + (σ_t² − σ_s²)·score + √(σ_t² − σ_s²)·z."""
    path = EDM()
    gauss = testing.normal(path)
    x, z = torch.randn(2, 5, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    t, s = at(path, 2.0), at(path, 2.0 * math.exp(-1e-4))
    step = EulerMaruyama().step(Denoise(gauss), x, t, s, {}, None, lambda like: z)
    less = t.sigma**2 - s.sigma**2
    by_hand = x + less * gauss.score(x, t.shared(5)) + math.sqrt(less) * z
    torch.testing.assert_close(step.x, by_hand, atol=1e-5, rtol=0)


def test_churn_is_the_papers_algorithm_2():
    """x̂ = x + √(t̂² − t²)·S_noise·z, then Heun from t̂ = (1 + γ)·t."""
    path = EDM()
    gauss = testing.normal(path)
    x, z = torch.randn(2, 5, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    solver, t, s = Churn(0.2, 0.1, 10.0, 1.003), at(path, 2.0), at(path, 1.5)

    def slope(x, time):
        return (x - gauss(x, torch.full((5,), time).double(), {})) / time

    up = x + math.sqrt(2.4**2 - 2**2) * 1.003 * z
    d = slope(up, 2.4)
    there = up + (1.5 - 2.4) * d
    by_hand = up + (1.5 - 2.4) * (d + slope(there, 1.5)) / 2
    torch.testing.assert_close(solver.step(Denoise(gauss), x, t, s, {}, None, lambda like: z).x, by_hand)
    outside = Churn(0.2, 3.0, 10.0).step(Denoise(gauss), x, t, s, {}, None, lambda like: z)
    torch.testing.assert_close(outside.x, Heun().step(Denoise(gauss), x, t, s, {}, None, lambda like: z).x)


def test_the_corrector_alone_keeps_a_distribution_and_finds_it():
    """Many corrections at one noise level: the variance of a Gaussian, widened by at most snr²/(1 − snr²)."""
    path, snr = VarianceExploding(), 0.3
    gauss = testing.normal(path)
    s = at(path, 0.6)
    x = torch.zeros(20_000, 2, dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)

    def draw(like, part=0):
        return torch.randn(like.shape, generator=generator, dtype=like.dtype)

    near = at(path, 0.6 + 1e-9)
    moved = PredictorCorrector("ddim", 100, snr).step(Denoise(gauss), x, near, s, {}, None, draw)
    covariance = s.alpha**2 * gauss.covariance + s.sigma**2 * torch.eye(2)
    ratio = torch.linalg.eigvals(torch.linalg.solve(covariance, torch.cov(moved.x.T))).real
    assert (ratio > 0.95).all()
    assert (ratio < 1.04 / (1 - snr**2)).all()


def points(solver, path, steps=6, indices=(0, 1, 2)):
    exact = finite(path, torch.linspace(-1, 1, 12).reshape(4, 3))
    noise = Noise(tuple(100 + i for i in indices))
    x = noise.start((3,)) * at(path, path.end).sigma
    return list(trajectory(exact, solver, uniform_grid(path, steps), x, {}, noise))


@pytest.mark.parametrize("solver", SOLVERS, ids=str)
def test_image_i_is_the_same_in_any_batch(solver):
    testing.same_by_batch(lambda indices: points(solver, Linear(), indices=tuple(indices))[-1].x, 6, 1e-6)


@pytest.mark.parametrize("solver", SOLVERS, ids=str)
@pytest.mark.parametrize("end", [0.9, 1.0])
def test_none_of_them_goes_from_data_to_noise(solver, end):
    exact = finite(Linear(), torch.linspace(-1, 1, 12).reshape(4, 3))
    times = torch.linspace(0.1, end, 4, dtype=torch.float64)
    with pytest.raises(UsageError, match="from noise to data only"):
        list(trajectory(exact, solver, times, torch.zeros(2, 3), {}, Noise.of(0, 2)))


def test_a_step_writes_into_nothing_it_was_given():
    x = torch.randn(3, 2, dtype=torch.float64)
    before = x.clone()
    t, s = at(Cosine(), 0.6), at(Cosine(), 0.4)
    for solver in SOLVERS:
        solver.step(Denoise(testing.normal(Cosine())), x, t, s, {}, solver.start(Cosine()), lambda like, part=0: like)
        assert torch.equal(x, before), solver


@pytest.mark.parametrize(
    ("text", "solver"),
    [
        ("churn(gamma=0.2)", Churn(0.2)),
        ("pc(predictor='ddim', corrections=2)", PredictorCorrector("ddim", 2)),
        ("restart(solver='euler', repeats=3)", Restart("euler", repeats=3)),
    ],
)
def test_they_are_named_in_text(text, solver):
    assert parse(text, {"churn": Churn(), "pc": PredictorCorrector(), "restart": Restart()}, "solver") == solver


@pytest.mark.parametrize(
    "make",
    [
        lambda: Churn(-0.1),
        lambda: Churn(nsr_min=3, nsr_max=2),
        lambda: PredictorCorrector(snr=1.5),
        lambda: PredictorCorrector(corrections=0),
        lambda: Restart(nsr_min=2, nsr_max=1),
        lambda: Restart(repeats=0),
    ],
)
def test_settings_that_mean_nothing_are_refused(make):
    with pytest.raises(UsageError):
        make()


def asked(solver, times):
    """The ratios at which the denoiser is asked along `times`."""
    gauss, seen = testing.normal(Cosine()), []

    class Listening:
        path = Cosine()

        def __call__(self, x, t, cond):
            seen.append(float(self.path.nsr(t[:1])))
            return gauss(x, t, cond)

    list(trajectory(Listening(), solver, times, torch.zeros(1, 2, dtype=torch.float64), {}, Noise.of(0, 1)))
    return seen


@pytest.mark.parametrize("solver", ["euler", "heun", "dpmpp_2m"])
def test_restart_lowers_the_error_of_a_coarse_grid(solver):
    gauss, times = testing.normal(EDM()), LogSNR()(EDM(), 8)
    restarted, plain = (
        testing.columns(s, gauss, gauss.mean, times)[1] - gauss.covariance for s in (Restart(solver), FLOWS[solver])
    )
    assert restarted.norm() < 0.9 * plain.norm()


def test_restart_goes_back_where_it_says():
    """Steps down to nsr_min, then `repeats` times from nsr_max down again, and on."""
    solver = Restart("euler", 0.2, 1.0, 3, 2)
    times = Cosine().time(torch.tensor([5.0, 0.5, 0.1], dtype=torch.float64))
    expected = [5.0, 0.5, *[1.0, math.sqrt(0.2)] * 3, 0.2]
    assert asked(solver, times) == pytest.approx(expected)
    assert asked(solver, LogSNR()(Cosine(), 6)[:3]) == pytest.approx(asked(Heun(), LogSNR()(Cosine(), 6)[:3])[::2])
