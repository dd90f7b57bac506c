"""What is fitted to the answers of a model: a distribution that knows the ends of values, and costs less than N(x̂0, ν²)."""

import numpy as np
import pytest
import torch

from ebb.process.exact import Mixture
from ebb.process.path import Linear
from ebb.understand import reader as module
from ebb.understand.bound import bound
from ebb.understand.reader import BINS, cells, fit, fitted, joint, reading

from .known import system_of
from .test_bound import cost, finite, images

VALUES = torch.arange(256).double() / 127.5 - 1


def drawing(count=400, seed=0):
    """Values of which two thirds are −1, a few 1, and the others anything; and answers that are off by 0.03."""
    rng = np.random.default_rng(seed)
    x = torch.from_numpy(rng.integers(0, 256, (count, 60)) / 127.5 - 1)
    x[:, :40], x[:, 40:44] = -1, 1
    return x, x + 0.03 * torch.from_numpy(rng.standard_normal(x.shape))


def test_all_values_have_mass_one_whatever_the_answer():
    made = fit(0.05, *drawing())
    for mean in torch.linspace(-1.2, 1.2, 60).double():
        mass = torch.logsumexp(joint(VALUES, mean.expand(256), made.shares, made.std), 0).exp().sum()
        assert float(mass) == pytest.approx(1, abs=1e-6)


def test_it_finds_the_ends_and_the_error():
    made = fit(0.2, *drawing())
    assert made.shares[0, 0] > 0.9, "what is all but −1 is −1"
    assert made.shares[BINS - 1, 1] > 0.5
    assert made.shares[BINS // 2, 2] > 0.9
    assert float(made.std[BINS // 2]) == pytest.approx(0.03, rel=0.2)


def test_values_it_has_not_seen_cost_less_than_by_the_noise():
    x, mean = drawing(seed=1)
    mine, usual = float(fit(0.05, *drawing())(x, mean).mean()), float(reading(x, mean, 0.05).mean())
    assert mine < 0.7 * usual


def test_with_the_exact_denoiser_it_stays_a_bound():
    """Of a finite set: never below what it takes, whatever was fitted."""
    system = system_of(finite(Linear()))
    made = fitted(system, images((12, 18, 30)), seed=0)
    found = bound(system, images(), seed=0, levels=16, end=made)
    assert found.fitted == 60
    assert found.faintest == made.nsr
    assert found.high > cost()


def test_the_level_is_the_one_of_the_fewest_bits(monkeypatch):
    """A model that says nothing below 0.08 is read off there."""

    class Deaf(Mixture):
        def __call__(self, x, t, cond):
            heard = super().__call__(x, t, cond)
            faint = (self.path.nsr(t) < 0.07).reshape(-1, *[1] * (x.ndim - 1))
            return torch.where(faint, x / self.path.alpha(t).reshape(faint.shape), heard).to(heard)

    exact = finite(Linear())
    system = system_of(Deaf(*(getattr(exact, name) for name in ("path", "means", "stds", "weights"))))
    made = fitted(system, images((12, 18, 30)), seed=0)
    assert made.nsr >= 0.08
    monkeypatch.setattr(module, "LEVELS", (0.01,))
    worst = fitted(system, images((12, 18, 30)), seed=0)
    costs = [bound(system, images(), seed=0, levels=16, end=end).value for end in (made, worst)]
    assert costs[0] < costs[1]


def test_cells_are_those_of_the_formula():
    x, mean = torch.tensor([0.0]).double(), torch.tensor([0.01]).double()
    half = 1 / 255
    normal = torch.distributions.Normal(mean, 0.02)
    assert float(cells(x, mean, 0.02)) == pytest.approx(
        float((normal.cdf(x + half) - normal.cdf(x - half)).log()), rel=1e-6
    )
