"""A condition of one's own is one file: an angle, with a port of its own, heard, asked for, guided and silent."""

import importlib.util
import json
import math
import sys

import pytest
import torch

from ebb.data.loader import Batch
from ebb.encode import conditioner
from ebb.encode.condition import Condition
from ebb.encode.conditioner import Conditioner
from ebb.encode.labels import Labels
from ebb.errors import UsageError
from ebb.networks import ports
from ebb.networks.mlp import MLP
from ebb.process.denoiser import NetworkDenoiser
from ebb.process.path import Linear
from ebb.process.predict import velocity
from ebb.recipe.recipe import Sampling
from ebb.system.families.diffusion import DiffusionModel
from ebb.system.system import System
from ebb.train.ema import EMA
from ebb.train.loop import Training, updates
from ebb.train.objectives.denoising import Denoising
from ebb.train.objectives.objective import ConditionDropout
from ebb.train.optimiser import adamw

FILE = '''
"""An angle in radians as a condition: its sine and cosine, so that a whole turn is none."""

import math
from dataclasses import dataclass

import torch
from torch import nn

from ebb.encode.condition import each
from ebb.networks.ports import Port, PortEmbedding


@dataclass(frozen=True)
class TurnPort(Port):
    """A point on the circle, float [b, 2]; (0, 0) says nothing."""

    def sizes(self, size):
        return (2,)

    def build(self, width):
        return Turn(width)


class Turn(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.linear = nn.Linear(2, width)

    def forward(self, value):
        return PortEmbedding(self.linear(value))


@dataclass(frozen=True)
class Angle:
    turns = ()
    port = TurnPort()

    def given(self, asked, count):
        return each(asked, count, "angle", float | int)

    def __call__(self, given):
        return torch.tensor([(0.0, 0.0) if a is None else (math.sin(a), math.cos(a)) for a in given])

    def examples(self):
        return self([0.0, 1.0, 2.0])

    def to_json(self):
        return {}

    @classmethod
    def from_json(cls, found):
        return cls()
'''


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    file = tmp_path_factory.mktemp("own") / "angle.py"
    file.write_text(FILE)
    spec = importlib.util.spec_from_file_location("angle", file)
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "angle", module)  # dataclasses look their module up
        spec.loader.exec_module(module)
        yield module


@pytest.fixture(scope="module")
def system(own):
    """Of points on the circle, each with its angle or its half as a label."""
    torch.manual_seed(0)
    hears = Conditioner({"half": Labels(("right", "left")), "angle": own.Angle()})
    network = MLP(2, width=32, depth=2, ports=hears.ports)
    made = System(DiffusionModel(NetworkDenoiser(network, Linear(), velocity)), (2,), hears, Sampling(steps=8))
    training = Training(made.denoiser, adamw(made.denoiser, 1e-2), EMA(made.denoiser))

    def batch(step):
        angles = (torch.rand(128, generator=torch.Generator().manual_seed(step)) * 2 * math.pi).tolist()
        given = {"angle": angles, "half": ["right" if math.cos(a) > 0 else "left" for a in angles]}
        x0 = torch.tensor([(math.cos(a), math.sin(a)) for a in angles])
        return Batch(x0, hears(given, 128))

    objective = ConditionDropout(Denoising(), made.null(), 0.2)
    for _ in updates(training, objective, batch, steps=300, rate=lambda _: 1e-2):
        pass
    made.denoiser.requires_grad_(False).eval()
    return made


def spread(made, angle):
    """The mean distance of samples from the point that was asked for."""
    return (made - torch.tensor([math.cos(angle), math.sin(angle)])).norm(dim=1).mean()


@pytest.mark.parametrize("angle", [0.5, 2.0, 4.5])
def test_it_is_obeyed_and_guided(system, angle):
    asked = system.sample(64, given={"angle": angle})
    assert spread(asked, angle) < 0.4
    assert spread(asked, angle + math.pi) > 1.5
    louder = system.sample(64, given={"angle": angle}, guidance=2.0)
    assert not torch.allclose(louder, asked)
    assert spread(louder, angle) < 0.5


def test_it_is_one_of_several_and_says_nothing_where_nothing_is_said(system):
    silent = system.sample(64)
    torch.testing.assert_close(system.sample(64, given={"angle": None}), silent)
    half = system.sample(64, given={"half": "left"})
    assert (half[:, 0] < 0.2).float().mean() > 0.9
    angles = [0.5] * 32 + [None] * 32
    some = system.sample(64, given={"half": ["left"] * 64, "angle": angles})
    assert not torch.allclose(some[:32], half[:32], atol=1e-2)
    torch.testing.assert_close(some[32:], half[32:], atol=1e-5, rtol=1e-4)
    with pytest.raises(UsageError, match="angle is of the kind float or int, got 'north'"):
        system.sample(1, given={"angle": "north"})


def test_it_is_saved_once_it_is_in_the_tables(system, own, monkeypatch):
    assert isinstance(own.Angle(), Condition)
    with pytest.raises(UsageError, match="angle is a Angle, which is not one of labels, text"):
        system.contract()
    monkeypatch.setitem(conditioner.CONDITIONS, "angle", own.Angle)
    monkeypatch.setitem(ports.PORTS, "turn", own.TurnPort)
    network = MLP(2, width=32, depth=2, ports=system.conditioner.ports)
    saved = System(
        DiffusionModel(NetworkDenoiser(network, Linear(), velocity)), (2,), system.conditioner, system.sampling
    )
    saved.denoiser.load_state_dict(system.denoiser.state_dict())
    again = System.from_contract(json.loads(json.dumps(saved.contract())))
    assert again.conditioner == system.conditioner
    again.denoiser.load_state_dict(saved.denoiser.state_dict())
    torch.testing.assert_close(again.sample(4, given={"angle": 1.0}), system.sample(4, given={"angle": 1.0}))
