"""Couplings of noise and data: what they draw, and that the nearest is the nearest."""

from __future__ import annotations

import pytest
import torch

from ebb.errors import UsageError
from ebb.train.objectives.coupling import COUPLINGS, Nearest, independent


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def test_the_nearest_of_the_candidates_is_chosen_for_each():
    x0 = 3 * torch.randn(50, 2, 3, generator=seeded(1))
    chosen = Nearest(4)(x0, seeded())
    candidates = torch.randn(4, 50, 2, 3, generator=seeded())
    nearest = (candidates - x0).flatten(2).norm(dim=2).min(0).values
    assert torch.allclose((chosen - x0).flatten(1).norm(dim=1), nearest)
    assert (nearest < (candidates - x0).flatten(2).norm(dim=2)[0]).any()  # another than the first is taken


def test_one_candidate_is_no_choice():
    x0 = torch.randn(8, 3, generator=seeded(1))
    assert torch.equal(Nearest(1)(x0, seeded()), independent(x0, seeded()))


@pytest.mark.parametrize("name", COUPLINGS)
def test_noise_keeps_its_scale_in_many_dimensions(name):
    """A choice among a few draws moves the noise by about 1 along x0, which 3,000 directions do not notice."""
    eps = COUPLINGS[name](torch.randn(16, 3000, generator=seeded(1)), seeded())
    assert abs(float(eps.mean())) < 0.05
    assert abs(float(eps.std()) - 1) < 0.02


def test_no_candidates_are_refused():
    with pytest.raises(UsageError, match="1 or more candidates"):
        Nearest(0)
