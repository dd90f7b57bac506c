import math

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from ebb import testing
from ebb.errors import UsageError
from ebb.process import path as paths
from ebb.process.betas import TABLES
from ebb.process.path import EDM, PATHS, BetaTable, Cosine, DDPMLinear, Linear, Path, Sigmoid, VarianceExploding
from ebb.recipe.names import parse, spell

OTHERS = [
    Cosine(0.008),
    Cosine(0.5),
    BetaTable("scaled_linear"),
    BetaTable("squared_cosine"),
    BetaTable((0.1, 0.5, 0.2)),
]


@pytest.mark.parametrize("path", [*PATHS.values(), *OTHERS], ids=lambda path: spell(path, PATHS))
def test_every_path_keeps_the_contract(path):
    testing.check_path(path)
    assert parse(spell(path, PATHS), PATHS, "path") == path


def test_the_published_cosine_is_its_quotient():
    """ᾱ = f(t)/f(0), 0.4938 at half (Nichol & Dhariwal 2021, eq. 17); without the offset it is a half."""
    t = torch.linspace(0, 1, 101, dtype=torch.float64)
    f = torch.cos((t + 0.008) / 1.008 * math.pi / 2) ** 2
    torch.testing.assert_close(Cosine(0.008).alpha(t) ** 2, f / f[0], rtol=0, atol=1e-15)
    assert (Cosine(0.008).alpha(t[50:51]) ** 2).item() == pytest.approx(0.4938, abs=5e-5)
    assert (Cosine().alpha(t[50:51]) ** 2).item() == pytest.approx(0.5)


@pytest.mark.parametrize(("name", "last"), [("linear", 4.0e-5), ("scaled_linear", 0.0047), ("squared_cosine", 2.4e-9)])
def test_a_table_of_betas_is_its_cumulative_products(name, last):
    def off(path):
        t = torch.arange(1001, dtype=torch.float64) / 1000
        return float((path.alpha(t)[1:] ** 2 - torch.cumprod(1 - TABLES[name](), 0)).abs().max())

    assert off(BetaTable(name)) < 1e-14
    assert BetaTable(name).alpha(torch.ones(1, dtype=torch.float64)).item() ** 2 == pytest.approx(last, rel=0.02)
    with pytest.MonkeyPatch.context() as patch:  # a mutant: the sums begin a step too late
        right = paths.log_alpha_bars
        patch.setattr(paths, "log_alpha_bars", lambda betas: torch.cat([right(betas)[:1], right(betas)[:-1]]))
        assert off(BetaTable(name)) > 1e-4


def test_the_table_of_ho_et_al_is_the_smooth_path_and_another_cosine_is_not():
    t = torch.arange(1001, dtype=torch.float64) / 1000
    torch.testing.assert_close(BetaTable("linear").alpha(t), DDPMLinear().alpha(t), rtol=1e-11, atol=0)
    capped, smooth = BetaTable("squared_cosine").alpha(t), Cosine(0.008).alpha(t)
    torch.testing.assert_close(capped[:-1], smooth[:-1], rtol=1e-9, atol=0)
    assert capped[-1] > 0, "0.999 of the last step is all that is taken"


def test_ddpm_equals_the_table_of_cumulative_products():
    betas = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
    table = torch.cumprod(1 - betas, 0)
    t = torch.arange(1, 1001, dtype=torch.float64) / 1000
    torch.testing.assert_close(DDPMLinear().alpha(t) ** 2, table, rtol=1e-11, atol=0)
    torch.testing.assert_close(DDPMLinear().sigma(t) ** 2, 1 - table, rtol=1e-9, atol=0)


def test_sigmoid_is_the_published_formula():
    t = torch.linspace(0, 1, 11, dtype=torch.float64)
    gamma = torch.sigmoid(torch.tensor(3.0)).double() - torch.sigmoid(-3 + 6 * t)
    published = gamma / (torch.sigmoid(torch.tensor(3.0)) - torch.sigmoid(torch.tensor(-3.0))).double()
    torch.testing.assert_close(Sigmoid().alpha(t) ** 2, published, rtol=0, atol=1e-6)
    torch.testing.assert_close(Sigmoid().norm(t), torch.ones(11, dtype=torch.float64))


def test_variance_exploding_is_the_marginal_of_its_sde():
    # dx = sqrt(d sigma^2/dt) dW with sigma(t) = 0.01·5000^t adds exactly sigma(t)^2 − sigma(0)^2 of variance.
    t = torch.tensor([0.3, 1.0], dtype=torch.float64)
    expected = (0.01 * 5000**t) ** 2 - 0.01**2
    torch.testing.assert_close(VarianceExploding().sigma(t) ** 2, expected)


@given(st.floats(1e-6, 1e4), st.sampled_from(sorted(PATHS)))
@example(1e-6, "ddpm_linear")  # far below the first step of the table
def test_time_inverts_the_ratio_wherever_the_path_reaches(nsr, name):
    path = PATHS[name]
    t = path.time(torch.tensor([nsr], dtype=torch.float64))
    last = path.nsr(torch.tensor([path.end], dtype=torch.float64)).item()
    assert path.nsr(t).item() == pytest.approx(min(nsr, last), rel=1e-5)


def test_rates_of_the_linear_path_are_minus_one_and_one():
    alpha_rate, sigma_rate = Linear().rates(torch.tensor([0.2, 0.9]))
    assert alpha_rate.tolist() == [-1, -1]
    assert sigma_rate.tolist() == [1, 1]


@pytest.mark.parametrize("path", [Linear(), Cosine(), Sigmoid()])
def test_these_paths_end_in_pure_noise(path):
    assert path.alpha(torch.tensor([1.0], dtype=torch.float64)).item() == 0


@pytest.mark.parametrize(
    "make",
    [
        lambda: EDM(-1.0),
        lambda: DDPMLinear(0.02, 1e-4),
        lambda: Sigmoid(3, -3),
        lambda: VarianceExploding(5, 1),
        lambda: Cosine(-0.1),
    ],
)
def test_impossible_parameters_are_refused(make):
    with pytest.raises(UsageError, match=r"expected|need|must"):
        make()


@pytest.mark.parametrize(
    ("betas", "why"), [((), "numbers between"), ((0.1, 1.0), "numbers"), ("linaer", "called 'linaer'")]
)
def test_what_is_no_table_of_betas_is_refused(betas, why):
    with pytest.raises(UsageError, match=why):
        BetaTable(betas)


@pytest.mark.parametrize("method", ["jump", "score", "velocity"])
def test_a_flipped_sign_is_caught(monkeypatch, method):
    """Mutants: each formula of the base class, negated, must fail the suite or the score's own test."""
    right = getattr(Path, method)
    monkeypatch.setattr(Path, method, lambda *a: -right(*a))
    check = score_is_the_gradient if method == "score" else lambda: testing.check_path(Cosine())
    with pytest.raises(AssertionError):
        check()


def score_is_the_gradient():
    t = torch.tensor([0.5], dtype=torch.float64)
    x = torch.tensor([[0.7]], dtype=torch.float64, requires_grad=True)
    gauss = testing.two_humps(Cosine())
    (gradient,) = torch.autograd.grad(gauss.log_density(x, t).sum(), x)
    testing.close("score", gauss.score(x.detach(), t), gradient, 1e-9)


def test_the_tweedie_score_is_the_gradient_of_the_density():
    score_is_the_gradient()


def test_jump_divides_by_neither_alpha_nor_the_last_sigma():
    one, zero = torch.ones(1, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
    x, x0 = torch.full((1, 2), 3.0), torch.full((1, 2), -1.0)
    assert Linear().jump(x, x0, one, zero).tolist() == [[-1, -1]]
    assert math.isfinite(Linear().jump(x, x0, one, one / 2).sum())


@pytest.mark.parametrize("name", PATHS)
def test_rates_of_a_time_that_the_batch_shares(name):
    path = PATHS[name]
    shared = torch.tensor([path.end / 3], dtype=torch.float64).expand(4)  # one number in memory
    for one, each in zip(path.rates(shared), path.rates(shared.clone()), strict=True):
        torch.testing.assert_close(one, each, rtol=0, atol=0)
