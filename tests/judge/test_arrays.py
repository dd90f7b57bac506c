"""Figures of tensors, arrays and lists, and of what is none of these."""

import numpy as np
import pytest
import torch

import ebb
from ebb.errors import DataError, UsageError
from ebb.evaluate.measure import Classes
from ebb.judge.arrays import array_of
from ebb.judge.distances import Moments
from ebb.judge.features import RandomFeatures

A, B = np.random.default_rng(0).standard_normal((2, 40, 3))
AS = {
    "arrays": lambda x: x,
    "tensors": torch.from_numpy,
    "lists": lambda x: x.tolist(),
    "of a graph": lambda x: torch.tensor(x, requires_grad=True),
}


@pytest.mark.parametrize("kind", AS)
def test_distances_are_of_tensors_arrays_and_lists(kind):
    make = AS[kind]
    assert ebb.frechet(make(A), make(B)) == pytest.approx(ebb.frechet(Moments.of(A), Moments.of(B)), rel=1e-12)
    assert ebb.frechet(make(A), Moments.of(B)) == ebb.frechet(make(A), make(B))
    assert ebb.kernel_distance(make(A), make(B)) == pytest.approx(ebb.kernel_distance(A, B), rel=1e-12)


def test_low_precision_is_read_too():
    found = array_of("features", torch.tensor([[1.5, 2.0]], dtype=torch.bfloat16))
    assert found.tolist() == [[1.5, 2.0]]


@pytest.mark.parametrize("figure", [ebb.frechet, ebb.kernel_distance])
@pytest.mark.parametrize(
    ("given", "message"),
    [
        (torch.zeros(4, 1, 8, 8), r"\[n, d\], got \[4, 1, 8, 8\](?s:.)*ebb.measure take pictures"),
        (torch.zeros(4), r"got \[4\]"),
        (torch.full((4, 3), float("nan")), "not finite"),
        ([["a", "b"]], "numbers, got list"),
        (None, "numbers, got NoneType"),
        (torch.zeros(4, 2), "3"),
        (torch.zeros(1, 3), "2"),
    ],
)
def test_what_are_no_features_is_explained(figure, given, message, unchecked):
    unchecked()
    with pytest.raises(DataError, match=message):
        figure(A, given)


@pytest.fixture(scope="module")
def pictures():
    return np.random.default_rng(0).integers(0, 256, (40, 1, 8, 8), dtype=np.uint8)


def test_measuring_tensors_is_measuring_arrays(pictures):
    """And real pictures as floats are those that they would be saved as."""
    features, unit = RandomFeatures(1), torch.from_numpy(pictures) / 127.5 - 1
    expected = ebb.measure(pictures[:20], pictures[20:], features, resamples=2).distances
    assert ebb.measure(unit[:20], unit[20:], features, resamples=2).distances == expected
    asked = torch.arange(20) % 2
    found = ebb.measure(unit[:20], pictures[20:], features, Classes(asked, asked.tolist()), resamples=2)
    assert found.n_samples == 20


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (
            {"samples": torch.zeros(8, 8, 8, 8, 8)},
            DataError,
            r"samples \[n, c, h, w\], uint8 or floats from -1 to 1, got float32",
        ),
        ({"samples": np.zeros((20, 1, 8, 8), np.int64)}, DataError, "got int64"),
        ({"samples": np.full((20, 1, 8, 8), 200.0)}, DataError, "values from 200 to 200"),
        ({"real": "runs/mnist"}, DataError, "real images as a tensor or an array"),
        ({"features": "inception"}, UsageError, "a function of images with a name and a dimension"),
        ({"classes": Classes([0.5] * 20)}, DataError, "whole numbers from 0"),
        ({"classes": Classes([-1] * 20)}, DataError, "whole numbers from 0"),
        ({"seed": -1}, UsageError, "seed must be between 0"),
    ],
)
def test_what_cannot_be_measured_is_explained(change, error, message, pictures, unchecked):
    unchecked()
    given = {"samples": pictures[:20], "real": pictures[20:], "features": RandomFeatures(1)} | change
    with pytest.raises(error, match=message):
        ebb.measure(**given)


def test_copies_are_looked_for_in_tensors_too(pictures):
    half = torch.from_numpy(pictures[:20])
    found = ebb.memorisation(half, None, half, pictures[20:], None, seed=0)
    assert found.identical == 20
