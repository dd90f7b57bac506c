"""A ControlNet of a linear denoiser against what the posterior mean given a hint is in closed form.

The base knows x0 ~ N(0, AAᵀ + Σ); the hint is c of x0 = A·c + ξ, ξ ~ N(0, Σ). Given it E[x0 | x_t, c] is
Ac + K_Σ(x_t − αAc), K_Σ = αΣ(α²Σ + σ²I)⁻¹.
"""

import copy
import math
from dataclasses import dataclass

import pytest
import torch
from torch import nn

import ebb
from ebb.adapt.control_net import ControlNet
from ebb.adapt.controlled import Controlled
from ebb.networks.embedder import Embedded, Embedder
from ebb.networks.halves import SILENT, Encoding, Handed, Opened
from ebb.process.denoiser import NetworkDenoiser
from ebb.process.exact import Gaussian
from ebb.process.predict import PREDICTIONS

SIDES, HINTS, SAMPLES = 6, 2, 64


@dataclass(frozen=True)
class World:
    """A, Σ, a path, and one time on it."""

    loading: torch.Tensor
    noise: torch.Tensor
    path: ebb.Path
    time: float

    @classmethod
    def at(cls, time):
        generator = torch.Generator().manual_seed(0)
        root = torch.randn(SIDES, SIDES, generator=generator) / SIDES**0.5
        loading = torch.randn(SIDES, HINTS, generator=generator)
        return cls(loading, 0.3 * root @ root.T + 0.05 * torch.eye(SIDES), ebb.Cosine(), time)

    def drawn(self, seed):
        """(c, x0, ε), whose means are 0 and covariances what they should be, to the last digit."""
        generator = torch.Generator().manual_seed(seed)
        half = torch.randn(SAMPLES // 2, HINTS + 2 * SIDES, generator=generator)
        whole = torch.cat([half, -half])
        white = whole @ torch.linalg.inv(torch.linalg.cholesky(whole.T @ whole / SAMPLES)).T
        hint, xi, eps = white.split([HINTS, SIDES, SIDES], 1)
        return hint, hint @ self.loading.T + xi @ torch.linalg.cholesky(self.noise).T, eps

    def noisy(self, seed):
        """(x_t, c, x0)."""
        hint, x0, eps = self.drawn(seed)
        return self.path.mix(x0, eps, torch.full((SAMPLES,), self.time)), hint, x0

    def gain(self, covariance):
        """K = αΣ(α²Σ + σ²I)⁻¹."""
        alpha, sigma = (float(f(torch.tensor([self.time]))) for f in (self.path.alpha, self.path.sigma))
        return alpha * covariance @ torch.linalg.inv(alpha**2 * covariance + sigma**2 * torch.eye(SIDES))

    def exact(self, x, t, hint):
        """E[x0 | x_t = x, c]."""
        shift, rest = hint @ self.loading.T, Gaussian(self.path, torch.zeros(SIDES), self.noise)
        return shift + rest(x - self.path.alpha(t)[:, None] * shift, t, {})


class Affine(nn.Linear):
    """A layer before SiLU, or behind, where that is the identity to float32: at 30 and more."""

    def __init__(self, inside, out, before, after):
        super().__init__(inside, out)
        self.before, self.after = before, after

    def forward(self, x):
        return super().forward(x - self.before) + self.after


class Linear(nn.Module):
    """K·x as a stem, an encoder of one block, and a rest; with it all of a control is affine, so that what is best for
    samples of the right means and covariances is best for the Gaussian itself."""

    def __init__(self, gain):
        super().__init__()
        self.embedding, self.settings, self.widths = Embedder(2, {}), {"channels": SIDES, "ports": {}}, (SIDES,)
        torch.manual_seed(1)
        self.stem, self.encoder = nn.Linear(SIDES, SIDES), nn.ModuleList([nn.Linear(SIDES, SIDES)])
        for layer in (self.stem, self.encoder[0]):
            nn.init.orthogonal_(layer.weight)
        self.requires_grad_(False)
        before = self.encoder[0].weight @ self.stem.weight
        self.register_buffer("rest", gain @ torch.linalg.inv(before))
        self.register_buffer("bias", self.encoder[0].weight @ self.stem.bias + self.encoder[0].bias)

    def opened(self, x, time, cond):
        nothing = x.new_zeros(len(x), 0, 2)
        return Opened(x, Embedded(x.new_zeros(len(x), 2), nothing, nothing[..., 0].bool()), ())

    def arranged(self, values):
        return values

    def entered(self, stem, opened):
        return stem(opened.rows)

    def encoded(self, encoder, h, opened, residuals):
        return residuals.onward(0, encoder[0](h))

    def answered(self, opened, residuals=SILENT):
        handed = Handed(residuals)
        self.encoded(self.encoder, self.entered(self.stem, opened), opened, handed)
        return (handed.features[0] - self.bias) @ self.rest.T

    def copied(self):
        return copy.deepcopy(tuple(self.encoder))

    def layer(self, inside, out, reach=1):
        if reach == 1:
            return nn.Linear(inside, out)
        return Affine(inside, out, 0, 40) if inside == HINTS else Affine(inside, out, 40, 0)

    def narrow(self, block, inside, width):
        raise NotImplementedError


def trained(world):
    """The base with a control that has learnt from moments alone."""
    base = Linear(world.gain(world.loading @ world.loading.T + world.noise))
    assert isinstance(base, Encoding)
    torch.manual_seed(2)
    control = ControlNet().build(base, HINTS)
    network = Controlled(base, {"hint": control}).double()
    model, x, hint, aim = NetworkDenoiser(network, world.path, PREDICTIONS["data"]), *world.noisy(0)
    optimiser = torch.optim.LBFGS(
        control.parameters(), max_iter=400, history_size=50, tolerance_change=0, line_search_fn="strong_wolfe"
    )

    def loss():
        optimiser.zero_grad()
        value = (network(x.double(), x[:, 0].double(), {"hint": hint.double()}) - aim).square().mean()
        value.backward()
        return value

    optimiser.step(loss)
    network.float()
    return model


def miss(world, model, turn=lambda hint: hint, scale=1.0):
    """RMS of x̂0 less the exact answer, over that of the exact answer, on other samples."""
    (x, hint, _), t = world.noisy(1), torch.full((SAMPLES,), world.time)
    model.network.scales["hint"] = scale
    with torch.no_grad():
        asked = model(x, t, {"hint": turn(hint)})
    model.network.scales["hint"] = 1.0
    wanted = world.exact(x, t, hint)
    return float((asked - wanted).norm() / wanted.norm())


LEVELS = [2 / math.pi * math.atan(0.2 * 25 ** (i / 15)) for i in range(16)]
"""Times at which σ/α goes from 0.2 to 5."""


@pytest.mark.parametrize("time", [*LEVELS[2::6], *(pytest.param(t, marks=pytest.mark.full) for t in LEVELS)])
def test_a_control_learns_the_posterior_mean_given_its_hint(time):
    world = World.at(time)
    model = trained(world)
    right = miss(world, model)
    assert right < 0.01
    assert miss(world, model, lambda hint: hint.roll(1, 0)) > 5 * right, "a hint of another sample"
    assert miss(world, model, scale=0.5) > 3 * right, "half of what is added"
    (x, _, _), t, unknown = world.noisy(1), torch.full((SAMPLES,), time), torch.full((SAMPLES, HINTS), torch.nan)
    base = Gaussian(world.path, torch.zeros(SIDES), world.loading @ world.loading.T + world.noise)
    with torch.no_grad():
        torch.testing.assert_close(model(x, t, {"hint": unknown}), base(x, t, {}), rtol=1e-3, atol=1e-4)
