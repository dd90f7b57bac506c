"""Straightness against flows that are known: of a point, of Gaussians, and off the linear path."""

from __future__ import annotations

import pytest
import torch

import ebb
from ebb.errors import UsageError
from ebb.understand import straightness as module
from ebb.understand.straightness import straightness

LINEAR = ebb.Linear()


def gaussian(deviation, path=LINEAR):
    return ebb.Gaussian(path, torch.tensor([0.3, -0.2]), deviation**2 * torch.eye(2))


def of(deviation, steps=32):
    x = torch.randn(20_000, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return straightness(gaussian(deviation), x, {}, steps=steps)


def expected(deviation):
    """x_t = (1 − t)·m + c(t)·z with c = √(t² + (1 − t)²s²) and x₁ = z: bends E‖z‖²·(∫ċ² dt − (1 − s)²) by sums."""
    s, t = deviation, torch.linspace(0, 1, 200_001, dtype=torch.float64)
    speed = torch.diff((t**2 + ((1 - t) * s) ** 2).sqrt()) * 200_000
    dimensions, away = 2, 0.3**2 + 0.2**2
    bend, length = float((speed**2).mean()) - (1 - s) ** 2, (1 - s) ** 2 * dimensions + away
    return dimensions * bend / length


@pytest.mark.parametrize(
    "deviation", [0.5, pytest.param(0.1, marks=pytest.mark.full), pytest.param(2.0, marks=pytest.mark.full)]
)
def test_a_gaussian_bends_as_much_as_its_deviation_says(deviation):
    assert of(deviation, steps=200) == pytest.approx(expected(deviation), rel=0.03)


def test_paths_to_a_point_are_straight():
    assert of(1e-6) == pytest.approx(0, abs=1e-6)


def test_a_flow_that_bends_is_not_called_straight(monkeypatch):
    """A mutant that forgets to divide by the length of a step."""
    right = of(0.5)
    assert right > 0.05

    class Longer(module.Heun):
        def step(self, denoise, x, t, s, cond, state, draw):
            found = super().step(denoise, x, t, s, cond, state, draw)
            return found._replace(x=x + 0.5 * (found.x - x))

    monkeypatch.setattr(module, "Heun", Longer)
    assert of(0.5) != pytest.approx(right, rel=0.05)


def test_other_paths_cannot_be_straight():
    with pytest.raises(UsageError, match="linear path"):
        straightness(gaussian(1.0, ebb.Cosine()), torch.zeros(3, 2), {})
