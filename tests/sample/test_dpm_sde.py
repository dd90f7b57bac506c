import math

import pytest
import torch

from ebb import testing
from ebb.errors import UsageError
from ebb.process.exact import finite
from ebb.process.moment import at
from ebb.process.path import EDM, PATHS, Cosine, Linear
from ebb.process.times import Trailing
from ebb.recipe.names import parse
from ebb.sample import dpm_sde
from ebb.sample.dpm_sde import DPMpp2MSDE, DPMpp2SSDE, DPMpp3MSDE
from ebb.sample.multistep import DPMpp2M, DPMpp3M
from ebb.sample.noise import Noise
from ebb.sample.singlestep import DPMpp2S
from ebb.sample.trajectory import Denoise, trajectory

from .mutants import Mutant, quiet, repeated

SOLVERS = [DPMpp2MSDE(), DPMpp3MSDE(), DPMpp2SSDE()]


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("solver", [*SOLVERS, DPMpp2MSDE(0.5), DPMpp2SSDE(0.5)], ids=str)
def test_they_sample_the_data_in_fifty_steps(solver, path):
    """First-order ancestral sampling is off by 0.07 here, more than twice what is allowed."""
    testing.check_stochastic(solver, PATHS[path], steps=50, count=12_000)


def forgetful(step, denoise, x, t, s, cond, state, draw):
    """The last answers never arrive."""
    return step(denoise, x, t, s, cond, (), draw)


def silent(step, denoise, x, t, s, cond, state, draw):
    """No mistake: the noise switched off, which leaves the mean where the denoiser is affine."""
    return step(denoise, x, t, s, cond, state, lambda like, part=0: torch.zeros_like(like))


@pytest.mark.parametrize(
    ("solver", "change"),
    [
        (DPMpp2MSDE(), forgetful),
        (DPMpp2MSDE(), quiet),
        (DPMpp3MSDE(), forgetful),
        (DPMpp3MSDE(), quiet),
        (DPMpp2SSDE(), quiet),
        (DPMpp2SSDE(), repeated),
    ],
    ids=lambda part: getattr(part, "__name__", str(part)),
)
def test_mutants_are_caught(solver, change):
    with pytest.raises(AssertionError, match="of the samples"):
        testing.check_stochastic(Mutant(solver, change), Cosine(), steps=50, count=12_000)


def test_a_mean_that_decays_like_the_flows_is_caught(monkeypatch):
    """Noise is added and the factor of x is left at σ_s/σ_t, without k^η."""
    right = dpm_sde.renewal

    def wrong(eta, t, s):
        keep = s.sigma / t.sigma
        return keep, s.alpha - keep * t.alpha, right(eta, t, s)[2]

    monkeypatch.setattr(dpm_sde, "renewal", wrong)
    with pytest.raises(AssertionError, match="of the samples"):
        testing.check_stochastic(DPMpp2MSDE(), Cosine(), steps=50, count=12_000)


def slope_of_the_mean(solver, eta):
    """Gaussian data, on a path that ends at ν = 1: along each axis x − mean shrinks as (variance of x_t)^{(1+η)/2}.

    From dx/dλ = −(1 + η)·(x − x̂0) for α = 1; η = 0 is the flow, η = 1 the posterior mean, which all steps keep exactly.
    """
    path = EDM(sigma_max=1.0)
    gauss = testing.normal(path)
    x = torch.randn(16, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    vectors, values, variances = gauss.axes(torch.ones(16, dtype=torch.float64))
    shrunk = ((x - gauss.mean) @ vectors * (values / variances) ** ((1 + eta) / 2)) @ vectors.T
    return testing.measured_order(solver, gauss, x, gauss.mean + shrunk).slope


@pytest.mark.parametrize("eta", [0.5, 2.0])
@pytest.mark.parametrize("solver", [DPMpp2MSDE, DPMpp3MSDE, DPMpp2SSDE])
def test_the_mean_converges_with_the_stated_order(solver, eta):
    assert slope_of_the_mean(Mutant(solver(eta), silent), eta) == pytest.approx(solver.order, abs=0.3)


def test_a_mean_that_forgets_is_of_lower_order():
    def both(step, *arguments):
        *rest, _, draw = arguments
        return silent(step, *rest, (), draw)

    assert slope_of_the_mean(Mutant(DPMpp3MSDE(0.5), both), 0.5) < 1.5


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    ("sde", "ode"),
    [(DPMpp2MSDE(0), DPMpp2M()), (DPMpp3MSDE(0), DPMpp3M()), (DPMpp2SSDE(0), DPMpp2S())],
    ids=["2m", "3m", "2s"],
)
def test_without_noise_they_are_the_flows_solvers(sde, ode, path):
    """Point by point, and the draw is never asked."""
    path = PATHS[path]
    humps = testing.two_humps(path)
    end = torch.tensor([path.end], dtype=torch.float64)
    x = path.sigma(end) * torch.linspace(-2, 2, 9, dtype=torch.float64)[:, None]

    def refuse(step, like, part=0):
        raise AssertionError("there is nothing to draw")

    times = testing.graded(path, 12)
    for a, b in zip(*(trajectory(humps, each, times, x, {}, refuse) for each in (sde, ode)), strict=True):
        torch.testing.assert_close(a.x, b.x, rtol=1e-9, atol=1e-9)


class Told:
    """A denoiser that says what it is told to, in turn."""

    def __init__(self, path, *answers):
        self.path, self.answers = path, list(answers)

    def __call__(self, x, t, cond):
        return self.answers.pop(0)


def test_2m_sde_is_the_published_midpoint_update():
    """x_s = σ_s/σ_t·e^{−h}·x + α_s(1 − e^{−2h})·(D₀ + D₁/2) + σ_s√(1 − e^{−2h})·z, D₁ = (h/h_prev)·(x̂0 − x̂0_prev)."""
    path = Cosine()
    r, t, s = (at(path, time) for time in (0.8, 0.6, 0.3))
    x, before, now, z = torch.randn(4, 1, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    solver, denoise = DPMpp2MSDE(), Denoise(Told(path, before, now))
    state = solver.step(denoise, x[None], r, t, {}, solver.start(path), torch.zeros_like).state
    stepped = solver.step(denoise, x[None], t, s, {}, state, lambda like: z[None])
    h, earlier = s.lam - t.lam, t.lam - r.lam
    aim = now + h / earlier * (now - before) / 2
    share = 1 - math.exp(-2 * h)
    expected = s.sigma / t.sigma * math.exp(-h) * x + s.alpha * share * aim + s.sigma * math.sqrt(share) * z
    torch.testing.assert_close(stepped.x[0], expected)


@pytest.mark.parametrize("solver", SOLVERS, ids=str)
def test_a_start_without_signal_renews_all_noise_and_the_end_is_the_answer(solver):
    path = Linear()
    x, x0, z = torch.full((1, 1), 3.0), torch.full((1, 1), 0.5), torch.full((1, 1), 2.0)
    start, middle, end = (at(path, time) for time in (1.0, 0.5, 0.0))
    denoise = Denoise(Told(path, x0, x0))
    first = solver.step(denoise, x, start, middle, {}, solver.start(path), lambda like: z)
    torch.testing.assert_close(first.x, middle.alpha * x0 + middle.sigma * z)
    last = solver.step(denoise, first.x, middle, end, {}, first.state, torch.zeros_like)
    assert torch.equal(last.x, x0)


@pytest.mark.parametrize("solver", [*SOLVERS, DPMpp2SSDE(0.5)], ids=str)
def test_image_i_is_the_same_in_any_batch(solver):
    def sample(indices):
        exact = finite(Linear(), torch.linspace(-1, 1, 12).reshape(4, 3))
        noise = Noise(tuple(100 + i for i in indices))
        return list(trajectory(exact, solver, Trailing()(Linear(), 6), noise.start((3,)), {}, noise))[-1].x

    testing.same_by_batch(sample, 8, 1e-5)


def test_what_they_cannot_do_is_refused():
    with pytest.raises(UsageError, match="strength of the renewed noise"):
        DPMpp2MSDE(-0.1)
    assert parse("a(eta=0.5)", {"a": DPMpp3MSDE()}, "solver") == DPMpp3MSDE(0.5)
    exact = finite(Linear(), torch.zeros(1, 2))
    with pytest.raises(UsageError, match="from noise to data only"):
        list(trajectory(exact, DPMpp2MSDE(), torch.tensor([0.2, 0.5, 0.9]), torch.zeros(1, 2), {}, Noise.of(0, 1)))
