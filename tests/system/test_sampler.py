import dataclasses

import pytest
import torch
from torch import nn

import ebb
from ebb import testing
from ebb.errors import UsageError
from ebb.process.denoiser import NetworkDenoiser
from ebb.process.path import PATHS
from ebb.process.predict import PREDICTIONS
from ebb.recipe.recipe import Sampling
from ebb.sample.noise import START
from ebb.sample.scheme import Scheme
from ebb.system.families.diffusion import DiffusionModel
from ebb.system.sampler import Request, Sampler
from ebb.system.system import System

from .test_system import system


class Exact(nn.Module):
    """The answers of a Gaussian's denoiser as a network's, counted."""

    def __init__(self, path):
        super().__init__()
        self.path, self.gauss, self.calls = path, testing.normal(path), 0

    def forward(self, x, told, cond):
        self.calls += 1
        return self.gauss(x.double(), told.double() * self.path.end, cond)


def known(path):
    """A system of Gaussian data in the plane, and its network."""
    network = Exact(PATHS[path])
    return System(DiffusionModel(NetworkDenoiser(network, PATHS[path], PREDICTIONS["data"])), (2,)), network


def asked(count, seed=0, **settings):
    return Request({}, count, Sampling(**settings), seed)


def check_law(path, count=4000):
    """The samples' mean and covariance are the data's."""
    made, network = known(path)
    x = torch.cat(list(Sampler(made, batch=1500).encoded(asked(count, solver="heun", steps=24)))).double()
    testing.close("the mean", x.mean(0), network.gauss.mean, 0.05)
    testing.close("the covariance", x.T.cov(), network.gauss.covariance, 0.05)


@pytest.mark.parametrize("path", PATHS)
def test_samples_of_a_gaussian_have_its_mean_and_covariance_on_every_path(path):
    check_law(path)


@pytest.mark.parametrize("path", ["edm", "variance_exploding"])
def test_a_start_that_is_not_scaled_is_caught(path, monkeypatch):
    monkeypatch.setattr(Scheme, "start", lambda self, noise, like: noise(START, like))
    with pytest.raises(AssertionError, match="the covariance: off by"):
        check_law(path)


@pytest.mark.parametrize("solver", ["dpmpp_2m", "ddpm"])
def test_the_last_point_of_the_stream_is_the_sample_bit_for_bit(solver):
    made = system()
    request, sampler = made.request(made.given(3, {"label": "b"}), 3, 7, solver=solver, guidance=2.0), Sampler(made)
    points = list(sampler.stream(request))
    assert len(points) == request.sampling.steps
    assert torch.equal(sampler.decoded(points[-1].x), sampler(request))
    assert torch.equal(sampler(request), made.sample(3, label="b", seed=7, solver=solver, guidance=2.0))


def test_a_stream_computes_what_is_asked_of_it_and_no_more():
    made, network = known("edm")
    points = Sampler(made).stream(asked(2, solver="ddim", steps=8))
    assert network.calls == 0
    next(points), next(points)
    points.close()
    assert network.calls == 2
    parts = Sampler(made, batch=1).parts(asked(4, solver="ddim", steps=8))
    next(parts)
    parts.close()
    assert network.calls == 2 + 8, "the other three samples were not begun"


def test_what_does_not_change_is_prepared_once(monkeypatch):
    """For each way of sampling; a guide that is given belongs to its own request alone."""
    made, ways = system(), []
    draw = DiffusionModel.draw
    monkeypatch.setattr(DiffusionModel, "draw", lambda *args, **more: ways.append(args[2]) or draw(*args, **more))
    sampler, requests = Sampler(made), [made.request({"label": ["b"]}, 1, 7, steps=n) for n in (2, 3)]
    first = [sampler(request) for request in requests]
    guided = sampler(requests[0], lambda denoiser: ebb.temperature(0.5)(denoiser))
    again = [sampler(request) for request in requests]
    assert [how.steps for how in ways] == [2, 3, 2]
    assert all(torch.equal(one, other) for one, other in zip(first, again, strict=True))
    assert not torch.equal(guided, first[0])


def test_a_sample_depends_on_its_own_seed_and_conditions_alone():
    made = system()
    whole = made.request({"label": ["a", "b", "c", "a", "b"]}, 5, 40, guidance=1.5, solver="ddpm")
    expected = Sampler(made)(whole)
    for batch in (1, 2):
        torch.testing.assert_close(Sampler(made, batch)(whole), expected, atol=1e-4, rtol=0)
    torch.testing.assert_close(Sampler(made)(whole.part(3, 9)), expected[3:], atol=1e-4, rtol=0)
    other = dataclasses.replace(whole, seed=41)
    assert not torch.allclose(Sampler(made)(other), expected, atol=0.05)


def test_a_part_of_a_request_has_the_seeds_of_its_samples():
    whole = Request({"label": ["a", "b", "c"]}, 3, Sampling(), 5)
    assert len(whole) == 3
    assert whole.part(1, 9) == Request({"label": ["b", "c"]}, 2, Sampling(), 6)


def test_what_is_wrong_with_a_request_is_said_before_anything_is_computed():
    made, network = known("edm")
    for request, message in (
        (asked(0), "n must be between 1"),
        (asked(1, solver="huen"), "did you mean 'heun'"),
        (asked(1, grid="karas"), "did you mean 'karras'"),
    ):
        with pytest.raises(UsageError, match=message):
            Sampler(made).stream(request)
    assert network.calls == 0
