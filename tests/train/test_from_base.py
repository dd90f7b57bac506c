"""How far a model has moved from its base: nothing before it moves, the known size of a known change."""

import pytest
import torch

from ebb.train.from_base import Departure, Probe
from tests.fixed import Fixed

X0 = torch.randn(8, 3, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("by", [0.0, 0.1, -0.3])
def test_it_is_the_size_of_the_change(by):
    drift = Departure(Fixed(X0), Probe("rest", X0, {}, {}), 0.1)
    assert drift(Fixed((1 + by) * X0)) == pytest.approx(abs(by), abs=1e-6)
    assert drift(Fixed(X0)) == 0


def test_every_noise_level_is_asked_once_and_modes_stay():
    class Asked(Fixed):
        def forward(self, x, t, cond):
            seen.append((t, self.training))
            return self.answer

    seen, model = [], Asked(X0).train()
    Departure(Fixed(X0), Probe("rest", X0, {}, {}), 0.1)(model)
    [(t, training)] = seen
    torch.testing.assert_close(t, (torch.arange(8).double() + 0.5) / 8)
    assert not training
    assert model.training
