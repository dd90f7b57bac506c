from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import norm

from ebb.evaluate.two_sample import taught, two_sample_accuracy
from ebb.judge.distances import wilson


def check_told_apart(test):
    """Gaussians that lie δ apart are told apart in Φ(δ/2) of cases at best; equal ones not at all."""
    draw = np.random.default_rng(0)
    for gap in (0.0, 1.5, 8.0):
        samples, real = draw.normal(size=(1000, 4)) + np.array([gap, 0, 0, 0]), draw.normal(size=(1200, 4))
        accuracy, count = test(samples, real, seed=1)
        low, high = wilson(accuracy, count)
        assert count == 1000
        assert low - 0.02 < norm.cdf(gap / 2) < high + 0.02, (gap, accuracy)  # learning costs up to 0.02


def test_gaussians_are_told_apart_as_well_as_can_be():
    check_told_apart(two_sample_accuracy)


def test_testing_on_what_was_learnt_is_caught():
    def mutant(samples, real, *, seed):
        twice = [np.concatenate([rows, rows]) for rows in (samples[:150, :], real[:150, :])]
        draw = np.random.default_rng(seed)  # faint columns that only memory can use
        noise = draw.normal(size=(2, 150, 300))
        twice = [np.hstack([rows, np.tile(part, (2, 1))]) for rows, part in zip(twice, noise, strict=True)]
        accuracy, _ = two_sample_accuracy(*twice, seed=seed)
        return accuracy, 1000

    with pytest.raises(AssertionError):
        check_told_apart(mutant)


def test_a_spread_that_is_too_narrow_is_seen():
    """The means are equal: a linear rule would see nothing."""
    draw = np.random.default_rng(2)
    accuracy, _ = two_sample_accuracy(draw.normal(size=(900, 8)) * 0.6, draw.normal(size=(900, 8)), seed=0)
    assert accuracy > 0.7


def test_a_constant_column_does_no_harm_and_the_seed_decides():
    draw = np.random.default_rng(3)
    samples, real = (np.hstack([draw.normal(size=(60, 2)), np.ones((60, 1))]) for _ in range(2))
    state = torch.get_rng_state()
    assert two_sample_accuracy(samples, real, seed=4) == two_sample_accuracy(samples, real, seed=4)
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.full
def test_a_classifier_learns_what_its_labels_say(digits):
    order = np.random.default_rng(0).permutation(len(digits.pixels))
    pixels, labels = digits.pixels[order], digits.labels[order]
    test = pixels[1397:], labels[1397:]
    right, count = taught((pixels[:600], labels[:600]), test, 10, seed=0)
    wrong, _ = taught((pixels[:300], (labels[:300] + 1) % 10), test, 10, seed=0)
    assert count == 400
    assert right > 0.9
    assert wrong < 0.1
