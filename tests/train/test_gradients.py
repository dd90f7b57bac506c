"""The gradient at each noise level against closed forms, and its share of a run."""

import math

import pytest
import torch
from torch import nn

from ebb.data.loader import Batch, Examples
from ebb.networks.mlp import MLP
from ebb.process.bins import BINS, level_of
from ebb.process.denoiser import NetworkDenoiser
from ebb.process.path import Cosine, Linear
from ebb.process.predict import noise, velocity
from ebb.process.times import LogitNormal, uniform
from ebb.train.gradients import HALF, SPANS, GradientProbe, LevelGradients, probe_of, span
from ebb.train.objectives.denoising import Denoising

WIDE = 20_000
"""Elements of a sample: so many scatter like their expectation."""


class Constant(nn.Module):
    """F = b, whatever is asked: the gradient of one example is 2w(b − ε)/D for the noise ε."""

    def __init__(self):
        super().__init__()
        self.b = nn.Parameter(torch.full((WIDE,), 0.5))

    def forward(self, x, time, cond):
        return self.b.expand_as(x)


def examples(count=2 * HALF, width=WIDE):
    return Batch(torch.randn(count, width, generator=torch.Generator().manual_seed(0)), {})


def rising(path, t, det):
    """A weight that is known at each level: 2 to the number of the level."""
    return 2.0 ** (level_of(path, t) * SPANS // BINS).double()


def constant(seed=3):
    probe = GradientProbe(examples(), Denoising(uniform, rising), seed)
    return probe, NetworkDenoiser(Constant(), Linear(), noise)


def test_norm_spread_and_share_are_those_of_a_model_that_can_be_solved():
    """E g = 2w·b/D in each of D elements, of one example with variance 4w²/D² in each: |∇L| = 2wb/√D, √tr Σ = 2w/√D."""
    probe, model = constant()
    found, logistic = probe(model), lambda lam: 1 / (1 + math.exp(-lam))
    for level in range(SPANS):
        low, high = span(level)
        share = logistic(high / 2) - logistic(low / 2)  # t uniform: log-SNR = 2·logit(1 − t)
        share += (level == 0) * logistic(low / 2) + (level == SPANS - 1) * (1 - logistic(high / 2))
        assert found.share[level] == pytest.approx(share, abs=5e-4)
        unit = 2 * 2.0**level / math.sqrt(WIDE)
        assert found.spread[level] == pytest.approx(unit, rel=0.02)
        signal = math.sqrt(found.norm[level] ** 2 - found.spread[level] ** 2 / (2 * HALF))
        assert signal == pytest.approx(0.5 * unit, rel=0.03)
    power = [s * 4.0**level for level, s in enumerate(found.share)]
    assert found.drive == pytest.approx([p / sum(power) for p in power], rel=0.03)


def test_a_probe_that_asks_one_half_twice_is_caught(monkeypatch):
    """A mutant: then nothing scatters."""
    halves = GradientProbe.halves
    monkeypatch.setattr(GradientProbe, "halves", property(lambda self: halves.fget(self)[:1] * 2))
    probe, model = constant()
    assert max(probe(model).spread) == 0


def test_nothing_is_disturbed_and_twice_is_the_same():
    torch.manual_seed(0)
    model = NetworkDenoiser(MLP(3), Cosine(), velocity).train()
    nn.init.normal_(model.network.out.weight, std=0.1)
    before, held = torch.get_rng_state(), [p.detach().clone() for p in model.parameters()]
    probe = GradientProbe(examples(width=3), Denoising(LogitNormal()))
    first, second = probe(model), probe(model)
    assert first == second
    assert model.training
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(p, q) and p.grad is None for p, q in zip(model.parameters(), held, strict=True))


def test_levels_without_training_times_are_not_asked():
    probe = GradientProbe(examples(width=3), Denoising(LogitNormal(0.0, 0.3)))
    model = NetworkDenoiser(MLP(3), Linear(), velocity)
    found = probe(model)
    asked = [level for level, norm in enumerate(found.norm) if norm is not None]
    assert asked == [3, 4]
    assert probe.passes(model) == 4
    assert sum(found.share) == pytest.approx(1)


class Swallowed(nn.Module):
    """Adds much to what it says and takes it away again, which float32 stands and bfloat16 does not."""

    def __init__(self, much):
        super().__init__()
        self.much, self.mlp = much, MLP(3)
        nn.init.normal_(self.mlp.out.weight, std=0.3)

    def forward(self, x, time, cond):
        inside = self.mlp(x, time, cond)
        inside = inside.bfloat16() if torch.is_autocast_enabled("cpu") else inside
        return (inside + self.much).float() - self.much


def test_a_gradient_that_bf16_loses_is_told_from_one_that_it_keeps():
    """Rounded to 8 bits a network's gradient is off by a per cent or two; where all of it is rounded away by most."""
    torch.manual_seed(0)
    off = {}
    for much in (0.0, 1000.0):
        probe = GradientProbe(examples(width=3), Denoising())
        levels = probe.inexact(NetworkDenoiser(Swallowed(much), Linear(), velocity), torch.bfloat16)
        off[much] = [value for value in levels if value is not None]
    assert 0 < max(off[0.0]) < 0.1
    assert max(off[1000.0]) > 0.3


def test_a_probe_of_few_examples_asks_some_again():
    few = Examples(torch.arange(5 * 2, dtype=torch.uint8).reshape(5, 2).numpy())
    assert probe_of(few, Denoising(), torch.device("cpu")).batch.x0.shape == (2 * HALF, 2)


def test_what_is_not_a_number_does_not_hide():
    found = LevelGradients([0.5, 0.5], [1.0, math.nan], [1.0, math.nan])
    assert any(math.isnan(part) for part in found.drive)
