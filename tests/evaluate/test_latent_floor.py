"""The floor of a latent run: 0 beside the real one where nothing is lost, above it where something is."""

from pathlib import Path

import numpy as np
import pytest
import torch

from ebb.encode.autoencoder import Autoencoder
from ebb.encode.latent import LatentSpace
from ebb.errors import DataError
from ebb.evaluate.evaluate import floor_in_words
from ebb.evaluate.latent_floor import latent_floor, there_and_back
from ebb.judge.features import RandomFeatures
from ebb.report.figures_section import figures, glance


class Plain(Autoencoder):
    """Pictures as their own latents; `lost` of their detail is gone when they come back."""

    def __init__(self, lost=0.0):
        super().__init__()
        self.channels, self.factor, self.latent, self.settings, self.lost = 1, 1, 1, {}, lost

    def encode(self, x):
        return x

    def decode(self, z):
        coarse = torch.nn.functional.avg_pool2d(z, 3, 1, 1)
        return z + self.lost * (coarse - z)


def pictures(count=600, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, 1, 8, 8), dtype=np.uint8)


def through(lost, count=200):
    space = LatentSpace.of(Plain(lost), (0.1,), (0.5,))
    return latent_floor(space, pictures(), RandomFeatures(1), count, seed=0)


def test_an_autoencoder_that_loses_nothing_has_the_floor_of_real_images():
    space = LatentSpace.of(Plain(), (0.1,), (0.5,))
    np.testing.assert_array_equal(there_and_back(space, pictures(10)), pictures(10))
    found = through(0.0)
    assert found.moved == pytest.approx(0, abs=1e-8)
    assert found.reached == pytest.approx(found.real, rel=1e-9)
    assert found.count == 200


def test_the_more_is_lost_the_higher_the_floor():
    little, much = through(0.3), through(0.8)
    assert 0 < little.moved < much.moved
    assert little.real < little.reached < much.reached
    assert little.real == much.real == through(0.0).real


def test_a_floor_of_the_pictures_themselves_is_caught(monkeypatch):
    """A mutant that never goes through the latents."""
    monkeypatch.setattr("ebb.evaluate.latent_floor.there_and_back", lambda _, images: images)
    with pytest.raises(AssertionError):
        test_the_more_is_lost_the_higher_the_floor()


def test_too_few_images_have_no_floor():
    with pytest.raises(DataError, match="give no covariance of 128 features"):
        through(0.0, count=100)


def test_it_stands_beside_the_figure():
    floor = {"moved": 0.0125, "reached": 0.0345, "real": 0.0211, "count": 200}
    distance = {"Fréchet distance": {"value": 0.1, "low": 0.05, "high": 0.2, "floor": 0.0211}}
    facts = {"distances": distance, "n_samples": 200, "n_reference": 400, "features": "some"}
    assert "through the latents: 0.0345" in glance(facts | {"latent_floor": floor}, Path("run"))
    assert "moved by 0.0125" in figures(facts | {"latent_floor": floor}, [])
    assert "latents" not in glance(facts, Path("run")) + figures(facts, [])
    assert "no sampler of these latents does better" in floor_in_words(through(0.3))
