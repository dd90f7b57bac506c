from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import wasserstein_distance

from ebb.judge.distances import once
from ebb.judge.sliced import DIRECTIONS, projected, sliced_counted


def check_sliced(statistic):
    """scipy's distance of weighted points, column by column, at unequal counts; and a shift, exactly."""
    draw = np.random.default_rng(0)
    a, b = draw.normal(size=(40, 3)), draw.normal(0.3, 2, size=(25, 3)).round(1)  # with ties
    counts_a, counts_b = (
        draw.integers(0, 4, size=(2, 40)).astype(float),
        draw.integers(0, 4, size=(2, 25)).astype(float),
    )
    expected = [
        np.mean([wasserstein_distance(x, y, u, v) for x, y in zip(a.T, b.T, strict=True)])
        for u, v in zip(counts_a, counts_b, strict=True)
    ]
    np.testing.assert_allclose(statistic(a, b, counts_a, counts_b), expected, rtol=1e-10)
    np.testing.assert_allclose(once(statistic, a, a + np.array([1, 2, -6])), 3, rtol=1e-10)


def test_sliced_distance_equals_scipys():
    check_sliced(sliced_counted)


def test_mutants_are_caught():
    def signed(a, b, counts_a, counts_b):  # ∫ F_a − F_b is the difference of the means
        means = [counts @ rows / counts.sum(axis=1)[:, None] for rows, counts in ((a, counts_a), (b, counts_b))]
        return np.abs(means[0] - means[1]).mean(axis=1)

    def unnormalised(a, b, counts_a, counts_b):
        return sliced_counted(a, b, counts_a, np.ones_like(counts_b))

    for mutant in (signed, unnormalised):
        with pytest.raises(AssertionError):
            check_sliced(mutant)


def test_directions_have_unit_length_whatever_the_chunks(monkeypatch):
    images = np.random.default_rng(1).integers(0, 256, size=(30, 3, 8, 8), dtype=np.uint8)
    rows = projected(images, seed=2)
    assert rows.shape == (30, DIRECTIONS)
    np.testing.assert_allclose(rows.std(axis=0).mean(), images.std(), rtol=0.05)  # as a direction of unit length does
    monkeypatch.setattr("ebb.judge.sliced.VALUES", 500)
    np.testing.assert_allclose(projected(images, seed=2), rows, atol=1e-3)
    assert not np.allclose(projected(images, seed=3), rows)


def test_a_brighter_image_reads_as_the_docstring_says():
    images = np.random.default_rng(3).integers(0, 200, size=(50, 1, 16, 16), dtype=np.uint8)
    found = once(sliced_counted, projected(images, 0), projected(images + np.uint8(50), 0))
    np.testing.assert_allclose(found, 50 * np.sqrt(2 / np.pi), rtol=0.2)  # 128 directions: ± 7 %
