"""Bits per dimension of 8-bit images, against the mass that a mixture has in the cell of each value."""

import json
import math
from dataclasses import asdict

import numpy as np
import pytest
import torch

import ebb.understand.likelihood as module
from ebb.errors import DataError, UsageError
from ebb.networks.mlp import MLP
from ebb.process.denoiser import NetworkDenoiser
from ebb.process.path import Cosine, Linear
from ebb.process.predict import PREDICTIONS
from ebb.sample.adaptive import Adaptive
from ebb.understand.likelihood import likelihood, loudest

from .known import cloud, exact_bits, images_of, system_of

FINE = Adaptive(1e-4)


def check_bits(path):
    mixture = cloud(path)
    images = images_of(mixture, 64)
    found = likelihood(system_of(mixture), images, seed=0, probes=0, rule=FINE)
    exact = float(exact_bits(mixture, images).mean())
    if not abs(found.value - exact) < 1e-3:
        raise AssertionError(f"{found.value} bits are off by {found.value - exact:.2g}")
    return found


@pytest.mark.parametrize("path", [Linear(), Cosine()])
def test_bits_are_those_of_the_discrete_values(path):
    """The noise added within a cell costs a second-order amount where the density is flat across it."""
    found = check_bits(path)
    assert found.low < found.value < found.high
    assert (found.count, found.probes) == (64, 0)
    assert found.evaluations > 50
    json.dumps(asdict(found))


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("WIDTH", 2 / 256),
        ("batches", lambda pixels, size: iter([torch.from_numpy(pixels).float() / 127.5 - 0.95])),
        ("bits_per_dim", lambda nats, dims, width: -nats / (dims * math.log(2)) + 8),
    ],
)
def test_mutants_are_caught(monkeypatch, name, wrong):
    """Values that lie 2/256 apart; images off their scale; bits as if the range were one unit long."""
    monkeypatch.setattr(module, name, wrong)
    with pytest.raises(AssertionError, match="are off by"):
        check_bits(Linear())


def test_one_probe_and_the_default_tolerance_are_near():
    mixture = cloud(Linear())
    images = images_of(mixture, 64)
    exact = exact_bits(mixture, images)
    found = likelihood(system_of(mixture), images, seed=0)
    assert abs(found.value - float(exact.mean())) < 0.1
    assert found.high - found.low == pytest.approx(2 * 1.96 * float(exact.std()) / 8, rel=0.5)
    assert found == likelihood(system_of(mixture), images, seed=0)
    assert found != likelihood(system_of(mixture), images, seed=1)


def test_labels_are_given_to_the_network():
    kinds = cloud(Linear()), cloud(Linear(), 0.8)
    images = np.concatenate([images_of(kind, 20) for kind in kinds])
    labels, system = np.repeat([0, 1], 20), system_of(*kinds)
    right, wrong = (
        likelihood(system, images, {"label": each.tolist()}, seed=0, probes=0) for each in (labels, 1 - labels)
    )
    exact = torch.cat([exact_bits(kind, part) for kind, part in zip(kinds, (images[:20], images[20:]), strict=True)])
    assert right.value == pytest.approx(float(exact.mean()), abs=0.02)
    assert wrong.value > right.value + 0.2


def test_what_cannot_be_coded_is_refused():
    system, images = system_of(cloud(Linear())), images_of(cloud(Linear()), 4)
    for wrong in (images[:1], images[:, :, :, :1]):
        with pytest.raises(DataError, match="expected 2 or more images, uint8 \\[n, 1, 1, 2\\]"):
            likelihood(system, wrong, seed=0)
    two = system_of(cloud(Linear()), cloud(Linear(), 0.1))
    with pytest.raises(UsageError, match="only with theirs"):
        likelihood(two, images, seed=0)
    with pytest.raises(DataError, match="expected a label for each of 4 images, got 3"):
        likelihood(two, images, {"label": [0, 1, 0]}, seed=0)
    for labels in ([0, 1, 2, 0], [-1, 0, 0, 0]):
        with pytest.raises(UsageError, match="there is no label"):
            likelihood(two, images, {"label": labels}, seed=0)


def test_the_way_ends_where_the_target_still_tells_the_data():
    mlp = MLP(2)
    ends = [loudest(NetworkDenoiser(mlp, Linear(), PREDICTIONS[name])) for name in ("velocity", "data", "noise")]
    assert ends == [float("inf"), float("inf"), pytest.approx(80)]
