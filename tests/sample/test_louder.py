"""Noise of another size: what becomes of a Gaussian is a recursion of one variance, known to every digit."""

import math
from itertools import pairwise

import pytest
import torch

from ebb.process.moment import at
from ebb.process.path import PATHS
from ebb.process.times import GRIDS
from ebb.sample.ddim import DDIM, DDPM
from ebb.sample.louder import Louder
from ebb.sample.noise import START, Noise
from ebb.sample.scheme import Scheme

COUNT, SPREAD = 20_000, 0.7


class Centred:
    """The denoiser of N(0, SPREAD²): x̂0 = α·s²/(α²s² + σ²)·x."""

    takes_moments = True

    def __init__(self, path):
        self.path = path

    def __call__(self, x, t, cond):
        return gain(t) * x


def gain(t):
    return t.alpha * SPREAD**2 / ((t.alpha * SPREAD) ** 2 + t.sigma**2)


def variance(path, times, scale):
    """Of samples of `ddim(eta=1)`: x_s = (r·ν_s/ν_t)·x + (α_s − …)·x̂0 + k·c·z along the grid, by its factors alone."""
    moments = [at(path, time) for time in times.tolist()]
    v = moments[0].sigma ** 2
    for t, s in pairwise(moments):
        old = s.sigma * t.alpha / (s.alpha * t.sigma)
        keep = s.sigma * old / t.sigma
        mean = keep + (s.alpha - keep * t.alpha) * gain(t)
        v = mean**2 * v + (scale * s.sigma) ** 2 * (1 - old**2)
    return v


def drawn(path, times, solver):
    noise = Noise.of(0, COUNT)
    return Scheme(Centred(path), solver, times).fresh(torch.empty(COUNT, 1, dtype=torch.float64), {}, noise)


@pytest.mark.parametrize("scale", [0.0, 0.6, 1.3])
def test_a_gaussian_gets_the_variance_of_the_recursion(scale):
    path = PATHS["cosine"]
    times = GRIDS["uniform"](path, 6)
    exact = variance(path, times, scale)
    found = float(drawn(path, times, Louder(DDIM(1.0), scale)).var())
    assert found == pytest.approx(exact, rel=5 * math.sqrt(2 / COUNT))
    assert not math.isclose(exact, variance(path, times, 1.0), rel_tol=0.2), "a scale that is not heard would pass"


def test_a_scale_of_the_variance_is_caught(monkeypatch):
    """A mutant that scales the noise by the square."""
    once = Louder.step
    monkeypatch.setattr(Louder, "step", lambda self, *given: once(Louder(self.solver, self.scale**2), *given))
    with pytest.raises(AssertionError):
        test_a_gaussian_gets_the_variance_of_the_recursion(1.3)


def test_one_is_the_solver_itself_and_the_start_stays():
    path = PATHS["linear"]
    times = GRIDS["uniform"](path, 4)
    assert torch.equal(drawn(path, times, Louder(DDPM(), 1.0)), drawn(path, times, DDPM()))
    noise, like = Noise.of(3, 2), torch.empty(2, 1)
    assert torch.equal(Scheme(Centred(path), Louder(DDPM(), 0.2), times).start(noise, like), noise(START, like))
