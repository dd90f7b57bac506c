"""The variational bound, against exact masses, a closed form, and the bits of models that are wrong in a known way."""

import json
import math
from dataclasses import asdict

import numpy as np
import pytest
import torch
from scipy.integrate import quad

import ebb.understand.bound as module
from ebb.errors import UsageError
from ebb.process.exact import Mixture
from ebb.process.path import EDM, Cosine, Linear
from ebb.understand.bound import bound, reading

from .known import cloud, exact_bits, images_of, system_of

VALUES = np.array([[20, 200], [140, 141], [142, 141]], dtype=np.uint8)  # two of them one and two steps apart
WEIGHTS = np.array([0.2, 0.3, 0.5])


def images(counts=(60, 90, 150)):
    return np.repeat(VALUES, counts, axis=0)[:, None, None, :]


def finite(path, weights=WEIGHTS):
    points = torch.from_numpy(VALUES).double()[:, None, None, :] / 127.5 - 1
    return Mixture(path, points, torch.zeros(3).double(), torch.from_numpy(weights))


def cost(weights=WEIGHTS):
    """What a model with these weights takes for the data, −log₂ weight in the mean, per dimension."""
    return float(-np.log2(weights) @ WEIGHTS) / 2


def check_bound(path, weights=WEIGHTS):
    """The exact denoiser of a finite set takes the bits of its weights, where the chain ends near to the data."""
    found = bound(system_of(finite(path, weights)), images(), seed=0, levels=16, end=5e-4)
    error = (found.high - found.low) / (2 * 1.96)
    if not (abs(found.value - cost(weights)) < 3 * error < 0.4):
        raise AssertionError(f"a bound of {found.value} bits for {cost(weights)}")
    return found


def check_above(faintest):
    """It is a bound wherever the chain ends."""
    found = bound(system_of(finite(Linear())), images(), seed=0, levels=16, end=faintest)
    if not found.high > cost():
        raise AssertionError(f"a bound of {found.value} bits for {cost()}")


@pytest.mark.parametrize("path", [Linear(), Cosine(), EDM()])
def test_the_exact_denoiser_reaches_the_bits_of_a_finite_set(path):
    found = check_bound(path)
    assert found.value == pytest.approx(sum(term["bits"] for term in found.terms) + found.prior + found.reconstruction)
    assert found.reconstruction < 1e-3
    assert [term["log_snr"] for term in found.terms] == sorted(term["log_snr"] for term in found.terms)
    assert found.count == 300
    json.dumps(asdict(found))


def test_a_model_with_other_weights_pays_for_them():
    check_bound(Linear(), np.array([0.1, 0.8, 0.1]))


def test_mutants_are_caught(monkeypatch):
    """Terms of twice the size, and a chain whose end is never read off."""
    squared = module.squared
    with monkeypatch.context() as patch:
        patch.setattr(module, "squared", lambda x: 2 * squared(x))
        with pytest.raises(AssertionError, match="a bound of"):
            check_bound(Linear())
    check_above(0.05)
    monkeypatch.setattr(module, "reading", lambda x0, mean, std: torch.zeros(len(x0)).double())
    with pytest.raises(AssertionError, match="a bound of"):
        check_above(0.05)


def test_it_is_a_bound_wherever_the_chain_ends_and_whatever_the_denoiser():
    for faintest in (0.2, 0.003):
        check_above(faintest)
    off = bound(system_of(finite(Linear()), off=0.02), images(), seed=0, levels=16, end=5e-4)
    assert off.low > cost()


def gaussian_term(low, high, mean, std, x0):
    """½∫ e^λ·E|x0 − x̂0|² dλ in nats, x̂0 the posterior mean of N(mean, std²) and α² + σ² = 1."""

    def integrand(lam):
        alpha2, sigma2 = 1 / (1 + math.exp(-lam)), 1 / (1 + math.exp(lam))
        gain = math.sqrt(alpha2) * std**2 / (alpha2 * std**2 + sigma2)
        kept = 1 - gain * math.sqrt(alpha2)
        return math.exp(lam) / 2 * (kept**2 * (x0 - mean) ** 2 + gain**2 * sigma2)

    return quad(integrand, low, high)[0]


def test_each_term_is_the_integral_over_its_piece():
    """Gaussian data on the line, one image many times over."""
    one = Mixture(
        Cosine(), torch.full((1, 1, 1, 1), 0.1).double(), torch.tensor([0.3]).double(), torch.ones(1).double()
    )
    pixels = np.full((400, 1, 1, 1), 200, dtype=np.uint8)
    x0 = 200 / 127.5 - 1
    found = bound(system_of(one), pixels, seed=0, levels=8)
    pieces = np.array([term["log_snr"] for term in found.terms])
    half = (pieces[1] - pieces[0]) / 2
    for term in found.terms:
        exact = gaussian_term(term["log_snr"] - half, term["log_snr"] + half, 0.1, 0.3, x0) / math.log(2)
        assert term["bits"] == pytest.approx(exact, rel=0.25, abs=1e-3)
    first = pieces[0] - half
    assert first == pytest.approx(-2 * math.log(80))
    assert found.prior == pytest.approx(math.exp(first) / 2 * x0**2 / math.log(2))
    whole = gaussian_term(first, pieces[-1] + half, 0.1, 0.3, x0) / math.log(2)
    assert found.low < whole + found.prior + found.reconstruction < found.high


def test_smooth_data_take_the_bits_of_their_cells():
    """Where the density is flat across a cell, the end of the chain costs little above the mass of the cell."""
    mixture = cloud(Linear())
    pixels = images_of(mixture, 150)
    exact = float(exact_bits(mixture, pixels).mean())
    found = bound(system_of(mixture), pixels, seed=0, levels=16)
    assert found.low < exact < found.high < found.low + 1


def test_few_levels_are_right_in_the_mean():
    few, many = (bound(system_of(finite(Linear())), images(), seed=1, levels=levels) for levels in (4, 16))
    assert few.low < many.value < few.high
    assert few.high - few.low > many.high - many.low


@pytest.mark.parametrize("mean", [-1.3, -1.0, 0.123, 0.99])
@pytest.mark.parametrize("std", [1e-3, 0.01, 0.5])
def test_the_masses_of_all_values_sum_to_one(mean, std):
    values = torch.arange(256)[:, None] / 127.5 - 1
    mass = torch.exp(-reading(values, torch.full_like(values, mean), std))
    assert float(mass.sum()) == pytest.approx(1, abs=1e-5)


def test_a_value_far_off_costs_many_bits_and_not_infinitely_many():
    x0, mean = torch.tensor([[-0.5], [0.5]]), torch.tensor([[0.5], [-0.5]])
    nats = reading(x0, mean, 1e-3)
    assert torch.isfinite(nats).all()
    assert nats[0] == pytest.approx(float(nats[1]), rel=1e-6)
    assert nats[0] > 4e5


def test_what_cannot_be_bounded_is_refused():
    for wrong in ({"levels": 0}, {"end": 0.0}, {"end": 2.0}):
        with pytest.raises(UsageError, match="a bound needs"):
            bound(system_of(finite(Linear())), images(), seed=0, **wrong)
