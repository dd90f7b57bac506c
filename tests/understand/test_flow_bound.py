"""Bits by the flow from a noise on, against the weights of finite sets, masses of mixtures, and models that are wrong."""

import json
from dataclasses import asdict

import numpy as np
import pytest
import torch

import ebb.understand.flow_bound as module
from ebb.process.path import EDM, Cosine, Linear
from ebb.sample.adaptive import Adaptive
from ebb.understand.flow_bound import flow_bound
from ebb.understand.reader import answers, fit

from .known import cloud, exact_bits, images_of, system_of
from .test_bound import WEIGHTS, cost, finite, images


def reader_of(system, pixels, nsr):
    return fit(nsr, *answers(system, pixels, {}, nsr, 1))


def check_finite(path, weights=WEIGHTS):
    """Of a finite set, read off where each value is certain: the bits of its weights."""
    system = system_of(finite(path, weights))
    found = flow_bound(
        system, images((12, 18, 30)), seed=0, reader=reader_of(system, images(), 1.5e-3), rule=Adaptive(3e-4)
    )
    error = (found.high - found.low) / (2 * 1.96)
    if not (abs(found.value - cost(weights)) < 3 * error < 0.4):
        raise AssertionError(f"{found.value} bits for {cost(weights)}")
    return found


@pytest.mark.parametrize("path", [Linear(), Cosine(), EDM()])
def test_the_exact_flow_takes_the_bits_of_a_finite_set(path):
    found = check_finite(path)
    assert (found.count, found.probes, found.read_at) == (60, 1, 1.5e-3)
    json.dumps(asdict(found))


def test_a_model_with_other_weights_pays_for_them():
    check_finite(Linear(), np.array([0.1, 0.8, 0.1]))


def test_mutants_are_caught(monkeypatch):
    """Noise of twice the deviation; values for which nothing is paid; an image without its noise."""
    with monkeypatch.context() as patch:
        patch.setattr(module, "normal", lambda eps, std, right=module.normal: right(eps, 2 * std))
        with pytest.raises(AssertionError, match="bits for"):
            check_finite(Linear())
    with monkeypatch.context() as patch:
        patch.setattr(module, "normal", lambda eps, std, right=module.normal: right(0 * eps, std))
        with pytest.raises(AssertionError, match="bits for"):
            check_finite(Linear())
    system, sure = system_of(finite(Linear())), images((12, 18, 30))
    reader = reader_of(system, images(), 0.02)
    assert flow_bound(system, sure, seed=0, reader=reader).high > cost()
    free = flow_bound(system, sure, seed=0, reader=Free(0.02))
    assert free.high < cost(), "what is not read off comes out below what is possible"


class Free:
    """A reader that knows every value."""

    count = 0

    def __init__(self, nsr):
        self.nsr = nsr

    def __call__(self, x0, mean):
        return torch.zeros(len(x0), dtype=torch.float64)


@pytest.mark.parametrize("nsr", [0.02, 0.1, 0.3])
def test_smooth_data_take_the_bits_of_their_cells_or_more(nsr):
    """Of a mixture: its mass in the cell of each value, and a little for what one dimension at a time is read off."""
    mixture = cloud(Linear())
    system, pixels = system_of(mixture), images_of(mixture, 100)
    found = flow_bound(system, pixels, seed=0, reader=reader_of(system, images_of(mixture, 2000, 1), nsr))
    exact, error = float(exact_bits(mixture, pixels).mean()), (found.high - found.low) / 4
    assert exact - 3 * error < found.value < exact + 0.15 + 3 * error


def test_a_wrong_model_pays():
    mixture = cloud(Linear())
    right, off = system_of(mixture), system_of(mixture, off=0.1)
    pixels, more = images_of(mixture, 100), images_of(mixture, 1000, 1)
    costs = [flow_bound(one, pixels, seed=0, reader=reader_of(one, more, 0.1)).value for one in (right, off)]
    assert costs[1] > costs[0] + 0.05
