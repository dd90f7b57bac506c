from dataclasses import dataclass

import pytest
import torch

import ebb.sample.jumps
from ebb import testing
from ebb.errors import UsageError
from ebb.guide.cfg import cfg
from ebb.process.denoiser import Denoiser
from ebb.process.exact import Gaussian
from ebb.process.flow_map import FlowMap, Straight, Toward
from ebb.process.moment import at
from ebb.process.path import PATHS, Cosine, Linear
from ebb.process.times import pinned, uniform_grid
from ebb.sample.ddim import DDIM, diffused
from ebb.sample.jump import below
from ebb.sample.jumps import Renewal, jumps
from ebb.sample.noise import Noise
from ebb.sample.trajectory import trajectory


@dataclass(frozen=True)
class Exactly:
    """The flow map of a Gaussian: the x0 whose jump lands on the flow."""

    gauss: Gaussian

    @property
    def path(self):
        return self.gauss.path

    def __call__(self, x, t, s, cond):
        r = self.path.sigma(s) / self.path.sigma(t)
        aim = self.path.alpha(s) - r * self.path.alpha(t)
        return (self.gauss.flow(x, t, s) - r[:, None] * x) / aim[:, None]

    def toward(self, s):
        return Toward(self, s)


def beginning(path, count=50):
    return at(path, path.end).sigma * torch.randn(
        count, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0)
    )


def stops(path, shares):
    return pinned(path, testing.at_angles(path, torch.tensor(shares).double()))


def check_jumps(flow_map, path):
    """Every jump of any length lands on the flow."""
    x, end = beginning(path), at(path, path.end).shared(50)
    for shares in ([1.0, 0.0], [1.0, 0.6, 0.0], [1.0, 0.7, 0.4, 0.1, 0.0]):
        for point in jumps(flow_map, stops(path, shares), x, {}):
            there = flow_map.gauss.flow(x, end, at(path, point.t).shared(50))
            testing.close(f"a jump to {point.t:g}", point.x, there, 1e-9)


@pytest.mark.parametrize("path", PATHS)
def test_jumps_of_an_exact_flow_map_land_on_the_flow(path):
    check_jumps(Exactly(testing.normal(PATHS[path])), PATHS[path])


def test_a_map_told_the_wrong_destination_is_caught(monkeypatch):
    monkeypatch.setattr(Exactly, "toward", lambda self, s: Toward(self, 0.9 * s + 0.01))
    with pytest.raises(AssertionError, match="a jump to"):
        check_jumps(Exactly(testing.normal(Cosine())), Cosine())


@dataclass(frozen=True)
class Jumping:
    """`jumps` in the clothes of a solver, so that the exact moments of its samples can be found."""

    renewed: float
    order: int = 1

    def start(self, path):
        return None

    def step(self, denoise, x, t, s, cond, state, draw):
        times = torch.tensor([t.time, s.time], dtype=torch.float64)
        (point,) = jumps(
            Exactly(denoise.denoiser), times, x, cond, renewal=Renewal(self.renewed, lambda step, like: draw(like))
        )
        return ebb.sample.trajectory.Stepped(point.x, point.x0, None)


def check_renewed(renewed, path):
    """With the exact map, renewing any share of the noise at each of four stops leaves the data's distribution."""
    gauss, times = testing.normal(path), stops(path, [1, 0.9, 0.5, 0.1, 0])
    mean, covariance = testing.columns(Jumping(renewed), gauss, gauss.mean, times)
    testing.close("mean", mean, gauss.mean, 1e-3)
    testing.close("covariance", covariance, gauss.covariance, 1e-3)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("renewed", [0.0, 0.5, 1.0])
def test_renewing_noise_keeps_the_distribution(renewed, path):
    check_renewed(renewed, PATHS[path])


@pytest.mark.parametrize("renewed", [0.5, 1.0])
def test_half_of_the_noise_is_caught(renewed, monkeypatch):
    monkeypatch.setattr(ebb.sample.jumps, "diffused", lambda x, s, u, z: diffused(x, s, u, z / 2))
    with pytest.raises(AssertionError, match="covariance"):
        check_renewed(renewed, Cosine())


def test_jumps_of_a_denoiser_are_ddim():
    path, x = Linear(), beginning(Linear())
    gauss, times = testing.normal(path), uniform_grid(path, 5)
    by_jumps = list(jumps(Straight(gauss), times, x, {}))
    by_ddim = list(trajectory(gauss, DDIM(), times, x, {}, Noise.of(0, 50)))
    for a, b in zip(by_jumps, by_ddim, strict=True):
        assert a.t == b.t
        torch.testing.assert_close(a.x, b.x)
        torch.testing.assert_close(a.x0, b.x0)


def test_consistency_sampling_goes_to_the_data_and_up_again():
    path, x, noise = Cosine(), beginning(Cosine(), 3), Noise.of(7, 3)
    flow_map = Exactly(testing.normal(path))
    times = torch.tensor([1.0, 0.5, 0.0]).double()
    first, second = jumps(flow_map, times, x, {}, renewal=Renewal(1, noise))
    middle = at(path, 0.5)
    torch.testing.assert_close(first.x, middle.alpha * first.x0 + middle.sigma * noise(0, x))
    torch.testing.assert_close(second.x, second.x0)


def test_a_guide_wraps_the_map_with_its_destination():
    plain, null = testing.TwoLabels(Cosine()), {"label": torch.tensor([2])}
    x, cond = torch.randn(4, 1).double(), {"label": torch.tensor([0, 1, 0, 1])}
    times = uniform_grid(Cosine(), 4)
    *_, guided = jumps(Straight(plain), times, x, cond, cfg(2.0, null))
    *_, by_ddim = trajectory(cfg(2.0, null)(plain), DDIM(), times, x, cond, Noise.of(0, 4))
    torch.testing.assert_close(guided.x, by_ddim.x)


def test_both_kinds_keep_their_contracts():
    gauss = testing.normal(Cosine())
    for flow_map in (Straight(gauss), Exactly(gauss)):
        assert isinstance(flow_map, FlowMap)
        assert isinstance(flow_map.toward(0.2), Denoiser)
        assert flow_map.toward(0.2).path is gauss.path


def test_sample_i_is_the_same_in_any_batch():
    flow_map = Exactly(testing.normal(Cosine()))

    def sample(indices):
        noise = Noise(tuple(indices))
        *_, end = jumps(flow_map, uniform_grid(Cosine(), 3), noise.start((2,)), {}, renewal=Renewal(0.5, noise))
        return end.x

    testing.same_by_batch(sample, 6, 1e-6)


def test_what_cannot_be_jumped_is_refused():
    flow_map = Straight(testing.normal(Cosine()))
    with pytest.raises(UsageError, match="jumps need falling times"):
        next(jumps(flow_map, torch.tensor([0.1, 0.5]).double(), torch.zeros(1, 2), {}))
    with pytest.raises(UsageError, match="between 0 and 1, got 2"):
        Renewal(2, Noise.of(0, 1))


@pytest.mark.parametrize("renewed", [0.3, 0.9])
def test_the_noise_put_back_is_the_share_that_was_asked_for(renewed):
    """ν_u² = (1 − γ²)·ν_s², so that γ·ν_s is new."""
    s = at(Cosine(), 0.4)
    assert below(Cosine(), s, renewed).nsr == pytest.approx((1 - renewed**2) ** 0.5 * s.nsr)
