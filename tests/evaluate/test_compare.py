from __future__ import annotations

import numpy as np
import pytest

from ebb.evaluate.compare import by_image, gap_of, unpaired, worded
from ebb.evaluate.figures import Distance
from ebb.judge.distances import estimate, frechet_counted, once


def mean_gap(a, b, counts_a, counts_b):
    """The difference of the means of one column: a statistic with a known law."""
    return (counts_a @ a[:, 0] / counts_a.sum(1) - counts_b @ b[:, 0] / counts_b.sum(1)).astype(np.float64)


def interval(a, b, real):
    return estimate(gap_of(mean_gap, 1), np.hstack([a, b]), real, resamples=400, seed=0)


def test_the_interval_is_that_of_the_paired_differences():
    """θ(a) − θ(b) = mean(a − b): what both share, noise and real images alike, is not in its interval."""
    rng = np.random.default_rng(0)
    shared, own, real = rng.normal(0, 5, (800, 1)), rng.normal(0, 0.1, (800, 1)), rng.normal(0, 9, (300, 1))
    a, b = shared + 0.05 + own, shared
    value, low, high = interval(a, b, real)
    assert value == pytest.approx(float((a - b).mean()))
    assert (high - low) / 2 == pytest.approx(1.96 * float((a - b).std()) / 800**0.5, rel=0.1)
    assert low > 0
    mixed = interval(a, rng.permutation(b), real)  # wrong: samples of other seeds beside each other
    assert mixed[1] < 0 < mixed[2]
    assert mixed[2] - mixed[1] > 20 * (high - low)


def test_the_difference_is_that_of_the_two_figures():
    rng = np.random.default_rng(0)
    a, b, real = (rng.normal(shift, 1, (300, 4)) for shift in (0.1, 0.4, 0))
    value, low, high = estimate(gap_of(frechet_counted, 4), np.hstack([a, b]), real, resamples=50, seed=0)
    assert value == pytest.approx(once(frechet_counted, a, real) - once(frechet_counted, b, real), rel=1e-6)
    assert low < value < high < 0


def test_the_interval_covers_the_truth_as_often_as_it_says():
    rng, covered = np.random.default_rng(1), 0
    for _ in range(200):
        scores = (rng.random((2, 400)) < [[0.8], [0.7]]).astype(float)
        *_, low, high, _, _ = by_image(*scores, 400)
        covered += low <= 0.1 <= high
    assert 182 <= covered <= 198


def test_accuracies_without_a_pairing_have_the_interval_of_newcombe():
    """The first example of Newcombe 1998, table II, method 10: 56/70 against 48/80."""
    from ebb.judge.distances import wilson

    one, two = (Distance(k / n, *wilson(k / n, n), 0.5, None, "high") for k, n in ((56, 70), (48, 80)))
    value, other, low, high, *_ = unpaired(one, two)
    assert (value - other, low, high) == pytest.approx((0.2, 0.0524, 0.3339), abs=5e-5)


@pytest.mark.parametrize(
    ("value", "other", "better", "winner"),
    [(0.1, 0.3, "low", "a"), (0.3, 0.1, "low", "b"), (0.3, 0.1, "high", "a"), (0.1, 0.3, "high", "b")],
)
def test_the_words_name_the_better_run(value, other, better, winner):
    gap = value - other
    said = worded((value, other, gap - 0.05, gap + 0.05, better, True), ("a", "b"), 1000).says
    assert said == f"{winner} is better by 0.2 [0.15, 0.25]"
    said = worded((value, other, gap - 0.25, gap + 0.25, better, True), ("a", "b"), 1000).says
    assert said == "no difference that 1,000 samples can show"
