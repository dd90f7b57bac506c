"""What bench/control.py counts: edges asked for and drawn, within a pixel of one another."""

import runpy
from pathlib import Path

import numpy as np
import pytest
import torch

from ebb.data.extractors import Edges
from ebb.data.scenes import truth

BENCH = runpy.run_path(str(Path(__file__).parents[1] / "bench" / "control.py"))


def test_f1_is_of_places_within_a_pixel():
    edges, f1 = Edges()(truth(12, 3).pixels), BENCH["f1"]
    assert f1(edges, edges) == 1
    assert f1(edges, np.roll(edges, 1, 3)) == 1, "a pixel aside is near"
    assert f1(edges, np.roll(edges, 4, 3)) < 0.75
    assert f1(edges, np.roll(edges, 1, 0)) < 0.5, "another scene's"
    assert f1(edges, np.zeros_like(edges)) == 0
    half = edges.copy()
    half[..., :16] = 0
    assert 0.5 < f1(edges, half) < 0.85


def test_a_blurred_hint_stays_a_hint():
    hints = torch.full((1, 1, 9, 9), -1.0)
    assert torch.allclose(BENCH["blurred"](hints, 2.0), hints, atol=1e-6)
    hints[..., 4, 4] = 1
    wide = BENCH["blurred"](hints, 1.0)
    assert wide.min() >= -1
    assert float((wide + 1).sum()) == pytest.approx(2, rel=0.05)
