"""Where samples land: a distance that means do not please, and the average that is sampled from in the end."""

import pytest
import torch
from torch import nn

import ebb
from ebb.data.loader import Batch
from ebb.sample.trajectory import Point
from ebb.train.landing import Landing, NearestAverage, energy_distance


def column(*values):
    return torch.tensor(values)[:, None]


def test_the_distance_is_that_of_all_pairs():
    data = column(0.0, 2.0)
    assert energy_distance(data, data) == 0
    assert energy_distance(column(1.0, 1.0), data) == pytest.approx(1)  # (2·1 − 0 − 1)/1
    assert energy_distance(column(1.0, 3.0), data) == pytest.approx(1)  # (2·1.5 − 1 − 1)/1


def test_it_sees_means_that_squares_prefer():
    """Means lie nearer to the data, sample by sample, than other samples do; the distance is not taken in."""
    generator = torch.Generator().manual_seed(0)
    data, other = torch.randn(2, 400, 3, generator=generator)
    grey = 0.3 * other
    assert (grey - data).square().mean() < (other - data).square().mean()
    assert energy_distance(other, data) < 0.05 < energy_distance(grey, data)


class Scaled(nn.Module):
    """What draws the noise times its weight."""

    def __init__(self, scale):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(scale))


def drawn(model, shape, steps):
    def points(cond, noise):
        x = model.scale * noise.start(shape) + cond["shift"][:, None]
        yield Point(0.0, x, x)

    return points


def test_samples_are_of_the_same_noise_and_the_same_conditions():
    shift = torch.arange(300) % 2 * 4.0
    x0 = torch.randn(300, 2, generator=torch.Generator().manual_seed(1)) + shift[:, None]
    parts = [slice(0, 128), slice(128, 256), slice(256, 300)]
    landing = Landing([Batch(x0[part], {"shift": shift[part]}) for part in parts], drawn)
    right, grey, unheard = landing(Scaled(1.0)), landing(Scaled(0.3)), None
    turned = Landing([Batch(x0[part], {"shift": 0 * shift[part]}) for part in parts], drawn)
    unheard = turned(Scaled(1.0))
    assert landing(Scaled(1.0)) == right < 0.02
    assert min(grey, unheard) > 3 * right
    every = ebb.Noise.of(0, 300).start((2,)) + shift[:, None]
    assert right == pytest.approx(energy_distance(every, x0)), "no noise twice"


def test_the_average_that_landed_nearest_stays():
    average, nearest = nn.Linear(1, 1), NearestAverage()
    for step, figure in enumerate((0.5, 0.2, 0.4), 1):
        nn.init.constant_(average.weight, step)
        nearest.offer(figure, step, average)
    again = NearestAverage()
    again.restore(nearest.state())
    for one in (nearest, again):
        nn.init.constant_(average.weight, 3)
        assert "after update 2," in one.settle(0.4, 3, average)
        assert average.weight.item() == 2
        assert one.settle(0.4, 3, average) is None, "it was settled"


def test_the_last_average_stays_where_it_is_about_as_near():
    average, nearest = nn.Linear(1, 1), NearestAverage()
    nearest.offer(0.2, 1, average)
    nn.init.constant_(average.weight, 7)
    assert nearest.settle(0.205, 2, average) is None
    assert average.weight.item() == 7
