import math

import pytest
import torch

from ebb.errors import UsageError
from ebb.process.path import EDM, PATHS, Cosine, DDPMLinear, Linear
from ebb.process.times import (
    DENSITIES,
    GRIDS,
    Discrete,
    Karras,
    Leading,
    LogitNormal,
    LogNormal,
    LongTailed,
    Shifted,
    Trailing,
)

U = (torch.arange(2000, dtype=torch.float64) + 0.5) / 2000
MADE = DENSITIES
MADE_GRIDS = {name: grid for name, grid in GRIDS.items() if name != "given"}


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("name", MADE)
def test_densities_are_quantiles_within_the_path(name, path):
    t = MADE[name](PATHS[path], U)
    assert (t > 0).all()
    assert (t <= PATHS[path].end).all()
    assert (t.diff() >= 0).all()


def test_logit_normal_has_its_mean_and_deviation():
    logit = torch.logit(LogitNormal(-0.5, 0.8)(Linear(), U))
    assert logit.mean().item() == pytest.approx(-0.5, abs=1e-3)
    assert logit.std().item() == pytest.approx(0.8, abs=5e-3)


def test_on_the_linear_path_logit_normal_is_log_normal():
    torch.testing.assert_close(LogitNormal(-0.4, 1.1)(Linear(), U), LogNormal(-0.4, 1.1)(Linear(), U))


def test_log_normal_is_edms_on_edms_path():
    log_sigma = LogNormal(-1.2, 1.2)(EDM(), U).log()
    assert log_sigma.mean().item() == pytest.approx(-1.2, abs=1e-2)


@pytest.mark.parametrize("path", [Linear(), Cosine(), EDM()])
def test_a_long_tail_holds_its_share_evenly(path):
    """Of ν < 0.1, half of a share of 0.3 down to 0.01, and what a normal law has there; at and above 1, the normal's."""
    log_nsr = path.nsr(LongTailed(0.4, 1.0, 0.3, 0.01)(path, U)).log()
    normal = torch.distributions.Normal(0.4, 1.0)
    for at, even in ((math.log(0.1), 0.5), (math.log(0.03), 0.238), (0.0, 1.0), (1.0, 1.0)):
        expected = 0.3 * even + 0.7 * float(normal.cdf(torch.tensor(at)))
        assert (log_nsr < at).double().mean().item() == pytest.approx(expected, abs=2e-3)
    assert 0.01 < float(log_nsr.exp().quantile(0.01)) < 0.015


@pytest.mark.parametrize("wrong", [{"share": 1.5}, {"share": 0.0}, {"faintest": 1.0}, {"std": 0.0}])
def test_a_long_tail_that_is_none_is_refused(wrong):
    with pytest.raises(UsageError, match="a long tail has"):
        LongTailed(**wrong)


def test_shift_is_the_published_formula():
    t = U.clamp(min=1e-5)
    torch.testing.assert_close(Shifted(3.0)(Linear(), U), 3 * t / (1 + 2 * t))


def test_discrete_visits_each_step_equally():
    t = Discrete(10)(DDPMLinear(), U)
    assert [round(v, 6) for v in t.unique().tolist()] == [n / 10 for n in range(1, 11)]
    assert t.mean().item() == pytest.approx(0.55, abs=1e-3)


@pytest.mark.parametrize("steps", [1, 2, 7, 50])
@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("name", MADE_GRIDS)
def test_grids_fall_to_zero(name, path, steps):
    made = PATHS[path]
    times = MADE_GRIDS[name](made, steps)
    assert len(times) == steps + 1
    assert times[-1] == 0
    assert (times.diff() < 0).all()
    assert times[0] == (pytest.approx(made.end) if name != "leading" else pytest.approx(times[0].item()))


def test_karras_is_the_published_formula():
    i = torch.arange(18, dtype=torch.float64)
    published = (80 ** (1 / 7) + i / 17 * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7
    torch.testing.assert_close(Karras()(EDM(), 18)[:-1], published)


def test_trailing_and_leading_hit_the_tables_of_the_literature():
    # Lin et al. 2024, table 2, 10 steps of 1000: trailing 1000, 900, …, 100; leading 901, 801, …, 1
    assert (Trailing()(DDPMLinear(), 10) * 1000).round().tolist() == [*range(1000, 0, -100), 0]
    assert (Leading()(DDPMLinear(), 10) * 1000).round().tolist() == [*range(901, 0, -100), 0]


def test_too_few_or_too_many_steps_are_refused():
    with pytest.raises(UsageError, match="solver steps must be between 1 and 100,000, got 0"):
        MADE_GRIDS["uniform"](Cosine(), 0)
    with pytest.raises(UsageError, match="1000 times cannot be sampled in 1001"):
        Trailing()(Cosine(), 1001)
