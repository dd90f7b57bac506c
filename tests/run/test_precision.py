"""bf16 is taken where it is faster, unless it loses the gradient of a noise level."""

import numpy as np
import pytest
import torch

from ebb.data.scan import read
from ebb.events import finished
from ebb.recipe.recipe import Recipe
from ebb.recipe.starting import complete
from ebb.run.plan import chosen_precision, rounded
from ebb.run.prepare import prepared
from ebb.system.families.family import facts_of
from ebb.train.gradients import SPANS, GradientProbe

CPU = torch.device("cpu")


@pytest.fixture
def known(tmp_path):
    """A recipe of a tiny network, and what it learns from."""
    images = np.random.default_rng(0).integers(0, 255, (24, 8, 8), dtype=np.uint8)
    np.savez(tmp_path / "data.npz", images=images)
    asked = Recipe(network={"width": 16, "depth": 1, "multipliers": (1,), "patch": 2}, batch=8, steps=4)
    data = finished(prepared(asked, read(str(tmp_path / "data.npz")), cache=tmp_path))
    return complete(asked, facts_of(data))[0], data


def test_a_small_network_keeps_its_gradient(known):
    assert rounded(*known, CPU) == ""


def test_a_level_whose_gradient_is_lost_keeps_the_run_in_fp32(known, monkeypatch):
    off = [None, 0.01, 0.02, 0.01, 0.02, 0.7, 0.02, None]
    monkeypatch.setattr(GradientProbe, "inexact", lambda *_: off[:SPANS])
    speeds = {"fp32": 100.0, "bf16": 200.0}
    precision, why = chosen_precision(known[0], speeds, known[1], CPU)
    assert precision == "fp32"
    assert "bf16 is off by 70% of the gradient at log-SNR 3 to 6" in why
    off[5] = float("nan")
    assert chosen_precision(known[0], speeds, known[1], CPU)[0] == "fp32"
    off[5] = 0.02
    assert chosen_precision(known[0], speeds, known[1], CPU)[0] == "bf16"


def test_what_is_slower_or_too_large_is_not_compared(known, monkeypatch):
    monkeypatch.setattr(GradientProbe, "inexact", lambda *_: pytest.fail("nothing to compare"))
    for speeds, taken in (
        ({"fp32": 2.0, "bf16": 1.0}, "fp32"),
        ({"fp32": 0.0, "bf16": 1.0}, "bf16"),
        ({"bf16": 1.0}, "bf16"),
    ):
        assert chosen_precision(known[0], speeds, known[1], CPU)[0] == taken
