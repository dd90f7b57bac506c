"""What changed: nothing reads as nothing, a known change as its size, an improvement as what is gone of the error."""

import pytest
import torch

from ebb.errors import UsageError
from ebb.networks.mlp import MLP
from ebb.process.denoiser import NetworkDenoiser
from ebb.process.path import Linear
from ebb.process.predict import PREDICTIONS
from ebb.understand.effect import Probe, change, changes
from tests.fixed import Fixed


def probe(count=20):
    x0 = torch.randn(count, 3, generator=torch.Generator().manual_seed(0))
    return Probe("data", x0, {}, {})


def test_the_same_denoiser_changes_nothing_to_the_bit():
    one = NetworkDenoiser(MLP(3, width=16), Linear(), PREDICTIONS["velocity"])
    found = change(one, one, probe())
    assert (found.size.value, found.size.low, found.size.high, found.gain.value) == (0, 0, 0, 0)


def test_a_known_change_is_read_as_its_size_and_its_gain():
    some = probe(50)
    found = change(Fixed(0.5 * some.x0), Fixed(0.8 * some.x0), some)
    assert found.size.value == pytest.approx(0.6)
    assert found.gain.value == pytest.approx(1 - (0.2 / 0.5) ** 2)
    assert found.size.low <= found.size.value <= found.size.high
    worse = change(Fixed(0.8 * some.x0), Fixed(0.5 * some.x0), some)
    assert worse.gain.value < 0


def test_the_interval_narrows_with_the_examples():
    def width(count):
        some = probe(count)
        noisy = some.x0 * torch.rand(count, 1, generator=torch.Generator().manual_seed(1))
        found = change(Fixed(some.x0), Fixed(some.x0 + noisy), some)
        return found.size.high - found.size.low

    assert width(60) < 0.6 * width(10)


def test_nothing_to_ask_about_is_refused():
    one = NetworkDenoiser(MLP(3, width=16), Linear(), PREDICTIONS["velocity"])
    with pytest.raises(UsageError, match="no example of data"):
        changes(one, one, [probe(0)])
