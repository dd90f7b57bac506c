import math

import pytest
import torch
from torch import nn

from ebb.process.bins import BINS, centres, level_of, tally
from ebb.process.denoiser import NetworkDenoiser, target_error
from ebb.process.path import PATHS, Cosine, Linear
from ebb.process.predict import PREDICTIONS, velocity


@pytest.mark.parametrize("name", PATHS)
def test_the_bin_of_a_centre_is_its_own_on_every_path_that_reaches_it(name):
    path = PATHS[name]
    ratio = torch.exp(-torch.tensor(centres(), dtype=torch.float64) / 2)
    inside = ratio < path.nsr(torch.tensor([path.end], dtype=torch.float64))
    assert inside.sum() >= 10
    assert level_of(path, path.time(ratio))[inside].tolist() == torch.arange(BINS)[inside].tolist()


def test_bins_are_equal_and_closed_at_both_ends():
    lam = torch.linspace(-11.999, 11.999, 24_000, dtype=torch.float64)
    found = level_of(Linear(), Linear().time(torch.exp(-lam / 2)))
    assert torch.bincount(found).tolist() == [1500] * BINS
    assert (found.diff() >= 0).all()
    ends = torch.tensor([1.0, 0.0], dtype=torch.float64)
    assert level_of(Linear(), ends).tolist() == [0, BINS - 1], "pure noise and pure data have a bin too"
    assert centres()[0] == -11.25
    assert sum(centres()) == 0


def test_tally_sums_what_falls_in_a_bin_and_keeps_a_bad_loss_there(generator):
    t = Cosine().time(torch.exp(-torch.tensor(centres(), dtype=torch.float64).repeat(3) / 2))
    losses = torch.rand(3 * BINS, generator=generator)
    sums, counts = tally(Cosine(), t, losses)
    torch.testing.assert_close(sums, losses.reshape(3, BINS).sum(0))
    assert counts.tolist() == [3.0] * BINS
    losses[5] = math.inf
    sums, _ = tally(Cosine(), t, losses)
    assert torch.isfinite(sums).tolist() == [bin != 5 for bin in range(BINS)]


@pytest.mark.parametrize("name", PREDICTIONS)
def test_a_model_that_knows_the_answer_errs_by_nothing_and_one_that_is_off_by_that(name, generator):
    x0, eps = torch.randn(2, 6, 3, generator=generator, dtype=torch.float64)
    path, t = Cosine(), torch.linspace(0.1, 0.9, 6, dtype=torch.float64)
    a, b = PREDICTIONS[name](path, t)
    model = NetworkDenoiser(nn.Identity(), path, PREDICTIONS[name])
    model.network.forward = lambda x, told, cond: a[:, None] * x0 + b[:, None] * eps + cond["off"]
    error = target_error(model, x0.float(), eps.float(), t, {"off": torch.full((6, 1), 0.25)})
    torch.testing.assert_close(error, torch.full((6, 3), 0.25), atol=2e-6, rtol=0)
    assert torch.equal(
        error, target_error(model, x0.float(), eps.float(), t, {"off": torch.full((6, 1), 0.25)}, (a, b))
    )


def test_the_model_is_asked_where_training_asks_it(generator):
    x0, eps = torch.randn(2, 4, 3, generator=generator)
    t = torch.linspace(0.2, 0.8, 4, dtype=torch.float64)
    model = NetworkDenoiser(nn.Identity(), Linear(), velocity)
    model.network.forward = lambda x, told, cond: x
    noisy = (1 - t[:, None]) * x0.double() + t[:, None] * eps.double()
    torch.testing.assert_close(target_error(model, x0, eps, t, {}).double(), noisy - (eps - x0).double())
