"""The contract of guides, held by those that are not scales: see test_scales.py for the others."""

import pytest
import torch

from ebb import testing
from ebb.guide.constrain import Ball, constrain
from ebb.guide.energy import energy
from ebb.guide.inpaint import inpaint
from ebb.guide.inverse import dps
from ebb.guide.operators import Operator
from ebb.process.path import PATHS

KNOWN = torch.linspace(-1, 1, 6, dtype=torch.float64).reshape(2, 3)


def half(on):
    mask = torch.zeros(2, 3, dtype=torch.float64)
    mask[0] = on
    return inpaint(KNOWN, mask)


GUIDES = {
    "constrain": (lambda radius: constrain(Ball(torch.zeros(2, 3, dtype=torch.float64), radius)), 1e6, 0.3),
    "inpaint": (half, 0.0, 1.0),
    "energy of x0": (lambda scale: energy(lambda x0: x0.flatten(1).square().sum(1), scale), 0.0, 1.0),
    "energy of x": (lambda scale: energy(lambda x, t: x.flatten(1).square().sum(1), scale, on="x"), 0.0, 1.0),
    "dps": (lambda scale: dps(torch.zeros(3, dtype=torch.float64), Operator(lambda x: x[:, 0]), scale), 0.0, 1.0),
}


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("name", GUIDES)
def test_guides_keep_their_contract(name, path):
    guide, off, on = GUIDES[name]
    testing.check_guide(guide, PATHS[path], off=off, on=on)
