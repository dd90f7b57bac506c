"""The scale that a model of few steps is told is heard after some dozen updates, at no cost where it is 1."""

import copy
from dataclasses import dataclass
from functools import cache

import torch

import ebb
from ebb.data.loader import Batch
from ebb.guide.distilled import GUIDANCE, TeachingGuidance, share_of
from ebb.process.flow_map import WAY, two_times
from ebb.process.times import LogitNormal
from ebb.train.muon import muon
from ebb.train.objectives.map_matching import MapMatching
from ebb.train.objectives.trajectories import Trajectories

LINEAR = ebb.Linear()
UPDATES, COUNT = 80, 64


def humps(*means):
    count = len(means)
    return ebb.Mixture(LINEAR, torch.tensor(means), torch.full((count,), 0.5), torch.full((count,), 1 / count))


@dataclass(frozen=True)
class ByLabel:
    """The exact denoiser of one hump for each of two labels, and of both for none."""

    every: tuple = (humps([-1.0, -0.5]), humps([1.0, 0.5]), humps([-1.0, -0.5], [1.0, 0.5]))

    @property
    def path(self):
        return LINEAR

    def __call__(self, x, t, cond):
        answers = torch.stack([one(x, t, {}).to(x) for one in self.every])
        return answers[cond["label"], torch.arange(len(x))]


NULL = {"label": torch.tensor([2])}


def batch(step, count=COUNT):
    generator = torch.Generator().manual_seed(step)
    label = torch.randint(3, (count,), generator=generator)
    sign = torch.where(label == 2, torch.randint(2, (count,), generator=generator), label)[:, None] * 2.0 - 1
    x0 = sign * torch.tensor([1.0, 0.5]) + 0.5 * torch.randn(count, 2, generator=generator)
    return Batch(x0, {"label": label}), generator


@cache
def denoiser():
    """A network that has learnt what the teacher answers."""
    torch.manual_seed(0)
    ports = {"label": "classes(count=2)", WAY: "share", GUIDANCE: "share"}
    student = ebb.NetworkDenoiser(ebb.MLP(2, width=32, depth=2, ports=ports), LINEAR, ebb.velocity)
    optimiser, teacher = torch.optim.Adam(student.parameters(), 1e-2), ByLabel()
    for step in range(200):
        (some, generator), t = batch(step, 128), torch.rand(128, generator=torch.Generator().manual_seed(step)).double()
        x = LINEAR.mix(some.x0, torch.randn(128, 2, generator=generator), t)
        optimiser.zero_grad()
        (student(x, t, some.cond) - teacher(x, t, some.cond)).square().mean().backward()
        optimiser.step()
    return student


@cache
def distilled(gain):
    """What it becomes in so many updates, where it hears the scale at this gain."""
    student = copy.deepcopy(denoiser())
    for layer, amount in zip(student.network.embedding.layers[1:], (8.0, gain), strict=True):
        layer.gain.fill_(amount)
    matching = MapMatching(Trajectories(steps=4), TeachingGuidance(ByLabel(), NULL), LogitNormal(), guidance=(1.0, 3.0))
    optimiser = muon(student, 2e-3)
    for step in range(1000, 1000 + UPDATES):
        some, generator = batch(step)
        optimiser.zero_grad()
        matching(student, some, generator).value.backward()
        optimiser.step()
    return student


def one_step(student, x, label, scale):
    t, share = torch.ones(len(x)).double(), share_of(torch.full((len(x),), scale))
    with torch.no_grad():
        return two_times(student)(x, t, 0 * t, {"label": label, GUIDANCE: share})


def ended(x, label, scale):
    """Where the guided teacher ends."""
    guided = ebb.cfg(scale, NULL)(ByLabel())
    times, noise = ebb.GRIDS["uniform"](LINEAR, 8), ebb.Noise.of(0, len(x))
    *_, last = ebb.trajectory(guided, ebb.DPMpp2M(), times, x, {"label": label}, noise)
    return last.x


def measured(gain):
    """The share of what scale 2 changes that the student says too, and its squared error at scale 1."""
    x, label = torch.randn(256, 2, generator=torch.Generator().manual_seed(9)), torch.arange(256) % 2
    student, plain, guided = distilled(gain), ended(x, label, 1.0), ended(x, label, 2.0)
    ours = [one_step(student, x, label, scale) for scale in (1.0, 2.0)]
    change, ask = ours[1] - ours[0], guided - plain
    return float((change * ask).sum() / ask.square().sum()), float((ours[0] - plain).square().mean())


def test_a_port_that_starts_at_nothing_is_heard_in_time():
    heard, error = measured(8.0)
    weakly, before = measured(1.0)
    assert heard > 2 * max(weakly, 0.0), (heard, error, weakly, before)
    assert heard > 0.3, (heard, error, weakly, before)
    assert error < 1.1 * before, (heard, error, weakly, before)
