import math
from itertools import pairwise

import pytest
import torch

from ebb import testing
from ebb.errors import UsageError
from ebb.process.exact import finite
from ebb.process.moment import at, where
from ebb.process.path import EDM, PATHS, Cosine, DDPMLinear, Linear
from ebb.process.times import GRIDS, Trailing
from ebb.recipe.names import parse, spell
from ebb.sample import adams, multistep
from ebb.sample.adams import DEIS, IPNDM, ExponentialAB, averages
from ebb.sample.ddim import DDIM
from ebb.sample.multistep import DPMpp2M, DPMpp3M
from ebb.sample.noise import Noise
from ebb.sample.singlestep import DPMpp2S
from ebb.sample.trajectory import Denoise, Stepped, trajectory
from ebb.sample.unipc import UniPC

from .mutants import Mutant

SOLVERS = [
    DPMpp3M(),
    DPMpp2S(),
    UniPC(2),
    UniPC(3),
    ExponentialAB(4),
    DEIS(2),
    DEIS(3),
    DEIS(3, "nsr"),
    DEIS(3, "lam"),
    IPNDM(2),
    IPNDM(4),
]


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("solver", SOLVERS, ids=str)
def test_order_of_convergence_on_exact_flows(solver, path):
    testing.check_solver(solver, PATHS[path])


def forgetful(step, denoise, x, t, s, cond, state, draw):
    """The oldest answer never arrives."""
    return step(denoise, x, t, s, cond, state[:-1], draw)


def late(step, denoise, x, t, s, cond, state, draw):
    """Off by one: the answers are remembered with the time of the step's end."""
    x, x0, past = step(denoise, x, t, s, cond, state, draw)
    return Stepped(x, x0, ((past[0][0], where(Cosine(), (t.lam + s.lam) / 2)), *past[1:]) if t.alpha else past)


def swapped(step, denoise, x, t, s, cond, state, draw):
    """The last two answers change places."""
    x, x0, past = step(denoise, x, t, s, cond, state, draw)
    return Stepped(x, x0, ((past[1][0], past[0][1]), (past[0][0], past[1][1]), *past[2:]) if len(past) > 1 else past)


def uncorrected(step, denoise, x, t, s, cond, state, draw):
    """The corrector's starting point is where the predictor landed, so it never corrects."""
    return step(denoise, x, t, s, cond, state and state._replace(used=state.used[:1], past=()), draw)


def stale(step, denoise, x, t, s, cond, state, draw):
    """The corrected step starts from the uncorrected x."""
    stepped = step(denoise, x, t, s, cond, state, draw)
    return stepped._replace(state=stepped.state._replace(x=x))


MUTANTS = [
    (DPMpp3M(), forgetful),
    (DPMpp3M(), late),
    (ExponentialAB(4), forgetful),
    (ExponentialAB(4), swapped),
    (DEIS(3), forgetful),
    (DEIS(3), late),
    (DEIS(2, "nsr"), forgetful),
    (DEIS(3, "lam"), swapped),
    (IPNDM(2), forgetful),
    (IPNDM(4), swapped),
    (UniPC(2), uncorrected),
    (UniPC(2), stale),
    (UniPC(3), stale),
]


@pytest.mark.parametrize(("solver", "change"), MUTANTS, ids=lambda part: getattr(part, "__name__", str(part)))
def test_mutants_are_caught(solver, change):
    with pytest.raises(AssertionError, match="stated order"):
        testing.check_solver(Mutant(solver, change), Cosine())


def test_2s_that_aims_by_its_first_answer_is_caught():
    class Once:
        path = Cosine()

        def __init__(self, denoise):
            self.denoise, self.first = denoise, None

        def __call__(self, x, t, cond):
            self.first = self.denoise(x, at(self.path, float(t[0])), cond) if self.first is None else self.first
            return self.first

    def first(step, denoise, x, t, s, cond, state, draw):
        return step(Denoise(Once(denoise)), x, t, s, cond, state, draw)

    with pytest.raises(AssertionError, match="stated order"):
        testing.check_solver(Mutant(DPMpp2S(), first), Cosine())


def test_halving_the_second_difference_as_published_is_caught(monkeypatch):
    """x_s = … + α_s·I₂/2·D₂ instead of α_s·I₂·D₂: what the authors' multistep code computes is of second order."""

    def published(power, path, variable, t, s, nodes):
        exact = averages(power, path, variable, t, s, nodes)
        if len(nodes) < 3:
            return exact
        h, (u1, u2) = s.lam - t.lam, ((node.lam - t.lam) / (s.lam - t.lam) for node in nodes[1:])
        moment = 1 - 2 * (1 - (1 - math.exp(-h)) / h) / h
        half = moment / (1 - math.exp(-h)) / 2
        return tuple(
            w - half * c
            for w, c in zip(exact, (1 / (u1 * u2), 1 / (u1 * (u1 - u2)), 1 / (u2 * (u2 - u1))), strict=True)
        )

    monkeypatch.setattr(multistep, "averages", published)
    with pytest.raises(AssertionError, match="stated order 3"):
        testing.check_solver(DPMpp3M(), Cosine())


@pytest.mark.parametrize("h", [1.5, 0.3, 1e-3, -0.7])
def test_the_parabolas_weights_are_the_closed_integrals(h):
    """Against I_k = h·∫ e^{−h(1−u)} u^k du: I₁ = 1 − I₀/h and I₂ = 1 − 2·I₁/h."""
    path = EDM()
    t, s, before, earlier = (where(path, lam) for lam in (0.2, 0.2 + h, 0.2 - 0.8 * h, 0.2 - 2 * h))
    weights = averages(1, path, "lam", t, s, (t, before, earlier))
    i0 = -math.expm1(-h)
    i1 = 1 - i0 / h
    i2 = 1 - 2 * i1 / h
    for power, exact in enumerate((i0, i1, i2)):
        values = [((node.lam - t.lam) / h) ** power for node in (t, before, earlier)]
        found = sum(w * value for w, value in zip(weights, values, strict=True)) * i0
        assert found == pytest.approx(exact, rel=1e-8, abs=1e-9 / abs(h))


@pytest.mark.parametrize("variable", ["time", "nsr", "lam"])
@pytest.mark.parametrize("last", [0.3, 0.0])
def test_deis_weights_integrate_polynomials_in_their_variable(variable, last):
    """∫ p dν for p = 1, u, u² against a fine midpoint sum, u the variable; to σ = 0 also, where u is finite."""
    path = Cosine()
    t, s = at(path, 0.5), at(path, last)
    nodes = tuple(at(path, time) for time in (0.5, 0.65, 0.9))
    if variable == "lam" and last == 0:
        assert adams.usable(tuple((torch.zeros(1), node) for node in nodes), s, variable)[1:] == ()
        return
    nsr = s.nsr + (torch.arange(200_000, dtype=torch.float64) + 0.5) / 200_000 * (t.nsr - s.nsr)
    places = {"time": path.time(nsr), "nsr": nsr, "lam": -nsr.log()}[variable]
    weights = averages(-1, path, variable, t, s, nodes)
    for power in range(3):
        found = sum(w * getattr(node, variable) ** power for w, node in zip(weights, nodes, strict=True))
        assert found == pytest.approx((places**power).mean().item(), rel=1e-7)


def run(solver, times, x, denoiser):
    for point in trajectory(denoiser, solver, times, x, {}, Noise.of(0, len(x))):
        x = point.x
    return x


def test_exponential_ab_of_order_three_is_3m_and_rho_ab_is_tab_where_time_is_the_ratio():
    path = EDM()
    humps, x = testing.two_humps(path), torch.linspace(-150, 150, 9, dtype=torch.float64)[:, None]
    grid = GRIDS["log_snr"](path, 12)
    torch.testing.assert_close(run(ExponentialAB(3), grid, x, humps), run(DPMpp3M(), grid, x, humps))
    torch.testing.assert_close(run(DEIS(3), grid, x, humps), run(DEIS(3, "nsr"), grid, x, humps))


@pytest.mark.parametrize("terms", [2, 3, 4])
def test_ipndm_is_adams_bashforth_where_the_grid_is_even_in_the_ratio(terms):
    """There its fixed weights are those of `DEIS(variable="nsr")`; on other grids they are not."""
    path = EDM()
    even, uneven = (
        [at(path, time) for time in times] for times in ((5.0, 4.0, 3.0, 2.0, 1.0), (9.0, 5.0, 3.0, 2.0, 1.5))
    )
    for moments, same in ((even, True), (uneven, False)):
        nodes, s = tuple(reversed(moments[4 - terms : 4])), moments[4]
        exact = averages(-1, path, "nsr", nodes[0], s, nodes)
        assert (exact == pytest.approx(adams.EQUAL_STEPS[terms - 1], rel=1e-9)) is same


@pytest.mark.parametrize("path", [Linear(), DDPMLinear(), EDM()], ids=str)
@pytest.mark.parametrize("solver", [DPMpp2M(), DPMpp3M(), UniPC(2), UniPC(3), DEIS(3, "lam"), IPNDM(4)], ids=str)
def test_few_steps_on_a_mixture_beat_ddim(solver, path):
    """At 10 and 12 calls the error of the flow is below half of DDIM's, which has as many."""
    humps = testing.two_humps(path)
    end, zero = torch.full((64,), path.end, dtype=torch.float64), torch.zeros(64, dtype=torch.float64)
    x = path.sigma(end)[:, None] * torch.randn(64, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    exact = testing.quantile_flow(humps, x, end, zero)
    grid = GRIDS["uniform" if isinstance(path, Linear) else "log_snr"]
    for calls in (10, 12):
        error, plain = (
            (run(each, grid(path, calls), x, humps) - exact).pow(2).mean().sqrt().item() for each in (solver, DDIM())
        )
        assert error < plain / 2, calls


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("solver", SOLVERS, ids=str)
def test_rising_times_lead_from_data_to_noise(solver, path):
    """Inversion lands where the exact flow does, at the path's end too, where α may be 0 and λ infinite."""
    path = PATHS[path]
    gauss = testing.normal(path)
    times = testing.graded(path, 160).flip(0)[3:]
    start, end = times[:1].expand(16), times[-1:].expand(16)
    x = torch.randn(16, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    exact = gauss.flow(x, start, end)
    landed = run(solver, times, x, gauss)
    assert ((landed - exact).abs().max() / exact.abs().max()).item() < 5e-3


@pytest.mark.parametrize("solver", [DPMpp3M(), DPMpp2S(), UniPC(3), ExponentialAB(4), DEIS(3), IPNDM(4)], ids=str)
def test_image_i_is_the_same_in_any_batch(solver):
    def sample(indices):
        exact = finite(Linear(), torch.linspace(-1, 1, 12).reshape(4, 3))
        noise = Noise(tuple(100 + i for i in indices))
        return list(trajectory(exact, solver, Trailing()(Linear(), 6), noise.start((3,)), {}, noise))[-1].x

    testing.same_by_batch(sample, 8, 1e-5)


@pytest.mark.parametrize("solver", SOLVERS, ids=str)
def test_a_step_writes_to_nothing_it_was_given(solver):
    path = Linear()
    denoise = Denoise(testing.two_humps(path))
    x, state = torch.linspace(-2, 2, 5, dtype=torch.float64)[:, None], solver.start(path)
    moments = [at(path, time) for time in (1.0, 0.8, 0.6, 0.4, 0.2, 0.0)]

    def tensors(thing):
        if isinstance(thing, torch.Tensor):
            return [thing]
        return [found for part in thing for found in tensors(part)] if isinstance(thing, tuple) else []

    for t, s in pairwise(moments):
        given = [x, *tensors(state)]
        before = [tensor.clone() for tensor in given]
        x, _, state = solver.step(denoise, x, t, s, {}, state, torch.zeros_like)
        assert all(torch.equal(a, b) for a, b in zip(given, before, strict=True))


TABLE = {"deis": DEIS(), "unipc": UniPC(), "ipndm": IPNDM(), "exponential_ab": ExponentialAB(), "dpmpp_3m": DPMpp3M()}


@pytest.mark.parametrize(
    ("text", "solver"),
    [
        ("deis(order=2)", DEIS(2)),
        ("deis(variable='lam')", DEIS(3, "lam")),
        ("unipc(p=3)", UniPC(3)),
        ("ipndm(terms=2)", IPNDM(2)),
        ("exponential_ab(order=3)", ExponentialAB(3)),
        ("dpmpp_3m", DPMpp3M()),
    ],
)
def test_solvers_are_spelt_by_name_and_field(text, solver):
    assert parse(text, TABLE, "solver") == solver
    assert parse(spell(solver, TABLE), TABLE, "solver") == solver


@pytest.mark.parametrize(
    "text", ["deis(order=5)", "unipc(p=4)", "ipndm(terms=1)", "exponential_ab(order=1)", "dpmpp_3m(order=2)"]
)
def test_orders_that_do_not_exist_are_refused(text):
    with pytest.raises(UsageError):
        parse(text, TABLE, "solver")


def test_a_step_is_a_jump_where_the_log_ratio_is_infinite():
    path = Linear()
    start, middle, end = (at(path, time) for time in (1.0, 0.5, 0.0))
    x, x0 = torch.tensor([[3.0]]), torch.tensor([[1.0]])

    class Knows:
        def __call__(self, x, t, cond):
            return x0

    Knows.path = path
    for solver in (DPMpp2M(), DPMpp3M(), DPMpp2S(), UniPC(3), ExponentialAB(4)):
        first = solver.step(Denoise(Knows()), x, start, middle, {}, solver.start(path), torch.zeros_like)
        torch.testing.assert_close(first.x, start.jump(x, x0, middle))
        last = solver.step(Denoise(Knows()), first.x, middle, end, {}, first.state, torch.zeros_like)
        assert torch.equal(last.x, x0), solver
