from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.linalg import sqrtm
from scipy.stats import binomtest

from ebb.errors import DataError
from ebb.judge.distances import (
    Moments,
    averaged,
    bootstrap,
    estimate,
    frechet,
    frechet_counted,
    kernel_counted,
    kernel_distance,
    once,
    too_few,
    wilson,
)


def _moments(mean, covariance):
    return Moments(2, np.asarray(mean, dtype=float), np.asarray(covariance, dtype=float))  # scatter / (2 − 1)


def _random_covariance(draw, d):
    root = draw.normal(size=(d, d))
    return root @ root.T / d


# ---- Fréchet


def check_frechet(distance):
    """The closed form of commuting covariances, and scipy's matrix root for others."""
    diagonal = distance(_moments([0, 0], np.diag([4, 9])), _moments([1, 2], np.diag([1, 16])))
    np.testing.assert_allclose(diagonal, 5 + (2 - 1) ** 2 + (3 - 4) ** 2, rtol=1e-12)
    draw = np.random.default_rng(0)
    ca, cb, gap = _random_covariance(draw, 12), _random_covariance(draw, 12), draw.normal(size=12)
    expected = gap @ gap + np.trace(ca + cb - 2 * sqrtm(ca @ cb).real)
    np.testing.assert_allclose(distance(_moments(np.zeros(12), ca), _moments(gap, cb)), expected, rtol=1e-9)


def test_frechet_equals_the_closed_form():
    check_frechet(frechet)


def test_frechet_without_the_cross_term_is_caught():
    def mutant(a, b):
        gap = a.mean - b.mean
        return gap @ gap + np.trace(a.covariance) + np.trace(b.covariance)

    with pytest.raises(AssertionError):
        check_frechet(mutant)


def test_frechet_with_the_root_of_each_covariance_multiplied_is_caught():
    def mutant(a, b):  # tr(Ca^½ Cb^½) is the right term only where the covariances commute
        gap = a.mean - b.mean
        cross = np.trace(sqrtm(a.covariance) @ sqrtm(b.covariance)).real
        return gap @ gap + np.trace(a.covariance) + np.trace(b.covariance) - 2 * cross

    with pytest.raises(AssertionError):
        check_frechet(mutant)


def test_frechet_is_zero_for_identical_singular_sets_and_blind_to_rotation_and_shift():
    draw = np.random.default_rng(1)
    a, b = draw.normal(size=(20, 64)), draw.normal(size=(30, 64)) * 1.5 + 0.2  # fewer rows than features
    ma, mb = Moments.of(a), Moments.of(b)
    assert abs(frechet(ma, ma)) < 1e-10
    turn, _ = np.linalg.qr(draw.normal(size=(64, 64)))
    moved = frechet(Moments.of(a @ turn + 3), Moments.of(b @ turn + 3))
    np.testing.assert_allclose([moved, frechet(mb, ma)], frechet(ma, mb), rtol=1e-9)
    np.testing.assert_allclose(frechet(Moments.of(2 * a), Moments.of(2 * b)), 4 * frechet(ma, mb), rtol=1e-9)


def test_widths_and_counts_are_checked():
    with pytest.raises(DataError, match="3 and 2"):
        frechet(Moments.of(np.zeros((4, 3))), Moments.of(np.zeros((4, 2))))
    with pytest.raises(DataError, match="at least 2 rows"):
        _ = Moments.of(np.zeros((1, 3))).covariance
    with pytest.raises(DataError, match="at least one row"):
        Moments.of(np.zeros((0, 3)))
    with pytest.raises(DataError, match="one width"):
        kernel_distance(np.zeros((4, 3)), np.zeros((4, 2)))
    assert "few for 128" in (too_few(255, 128) or "")
    assert too_few(256, 128) is None


# ---- other packages on the same features


class Passing(torch.nn.Module):
    """Hands torchmetrics the features themselves."""

    num_features = 24

    def forward(self, features):
        return features


def check_torchmetrics(frechet_of, kernel_of):
    """torchmetrics, in float64, on features that are not normal, not centred and not scaled."""
    from torchmetrics.image.fid import FrechetInceptionDistance
    from torchmetrics.image.kid import KernelInceptionDistance

    draw = np.random.default_rng(8)
    mix = draw.normal(size=(24, 24))
    a, b = (np.maximum(draw.normal(shift, 1, size=(n, 24)) @ mix, -1) + 2 for n, shift in ((300, 0), (300, 0.2)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # on their use of memory
        theirs = [
            FrechetInceptionDistance(feature=Passing()).set_dtype(torch.float64),
            KernelInceptionDistance(feature=Passing(), subsets=1, subset_size=300),
        ]
        for metric in theirs:
            metric.update(torch.from_numpy(a), real=False)
            metric.update(torch.from_numpy(b), real=True)
        expected = float(theirs[0].compute()), float(theirs[1].compute()[0])
    np.testing.assert_allclose(frechet_of(Moments.of(a), Moments.of(b)), expected[0], rtol=1e-6)
    np.testing.assert_allclose(kernel_of(a, b), expected[1], rtol=1e-6)


def test_agrees_with_torchmetrics():
    check_torchmetrics(frechet, kernel_distance)


def test_a_biased_covariance_and_a_kernel_of_another_scale_are_caught():
    def biased(a, b):
        return frechet(*(Moments(x.count, x.mean, x.scatter * (1 - 1 / x.count)) for x in (a, b)))

    with pytest.raises(AssertionError):
        check_torchmetrics(biased, kernel_distance)
    with pytest.raises(AssertionError):
        check_torchmetrics(frechet, lambda a, b: kernel_distance(1.001 * a, 1.001 * b))


# ---- streamed moments


@given(st.lists(st.integers(1, 30), min_size=1, max_size=6), st.integers(1, 5), st.integers(0, 99))
def test_moments_in_any_chunks_equal_numpy(chunks, d, seed):
    rows = np.random.default_rng(seed).normal(1000, 1, size=(sum(chunks) + 1, d))  # far from zero: cancellation shows
    parts = np.split(rows, np.cumsum(chunks))
    joined = sum((Moments.of(part) for part in parts[1:]), start=Moments.of(parts[0]))
    assert joined.count == len(rows)
    np.testing.assert_allclose(joined.mean, rows.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(joined.covariance, np.atleast_2d(np.cov(rows.T)), atol=1e-9)


def test_counts_equal_repeated_rows():
    draw = np.random.default_rng(2)
    rows, counts = draw.normal(size=(9, 3)), draw.integers(0, 4, size=9).astype(float)
    weighted, repeated = Moments.of(rows, counts), Moments.of(np.repeat(rows, counts.astype(int), axis=0))
    np.testing.assert_allclose(weighted.mean, repeated.mean)
    np.testing.assert_allclose(weighted.covariance, repeated.covariance)


# ---- kernel distance


def _naive(a, b, *, diagonal=False):
    def mean(x, y, skip):
        pairs = [(x[i] @ y[j] / len(x[i]) + 1) ** 3 for i in range(len(x)) for j in range(len(y)) if not skip or i != j]
        return np.mean(pairs)

    return mean(a, a, not diagonal) + mean(b, b, not diagonal) - 2 * mean(a, b, False)


def check_unbiased(distance):
    """Zero on average over pairs of sets of one distribution."""
    draw = np.random.default_rng(3)
    found = [distance(draw.normal(size=(10, 4)), draw.normal(size=(14, 4))) for _ in range(300)]
    assert abs(np.mean(found)) < 4 * np.std(found) / np.sqrt(len(found))


def test_kernel_distance_is_unbiased_and_sees_a_shift():
    check_unbiased(kernel_distance)
    draw = np.random.default_rng(4)
    assert kernel_distance(draw.normal(size=(300, 4)), draw.normal(size=(300, 4)) + 0.5) > 0.1


def test_a_kernel_distance_with_the_diagonal_is_caught():
    with pytest.raises(AssertionError):
        check_unbiased(lambda a, b: _naive(a, b, diagonal=True))


def test_kernel_distance_equals_the_double_loop_across_blocks(monkeypatch):
    monkeypatch.setattr("ebb.judge.distances.BLOCK", 7)
    draw = np.random.default_rng(5)
    a, b = draw.normal(size=(17, 3)), draw.normal(size=(12, 3)) + 1
    np.testing.assert_allclose(kernel_distance(a, b), _naive(a, b), rtol=1e-12)


# ---- bootstrap


def check_coverage(statistic):
    """About 95 of 100 intervals hold the true distance, 0.8² between unit Gaussians in 2 dimensions."""
    draw = np.random.default_rng(6)
    held = 0
    for seed in range(100):
        a, b = draw.normal(size=(150, 2)), draw.normal((0.8, 0), 1, size=(150, 2))
        low, high = bootstrap(statistic, a, b, resamples=40, seed=seed)
        held += low <= 0.64 <= high
    assert 86 <= held <= 99


def test_the_interval_covers_the_true_distance():
    check_coverage(frechet_counted)


def test_an_interval_of_half_the_spread_is_caught():
    def mutant(a, b, counts_a, counts_b):
        values = frechet_counted(a, b, counts_a, counts_b)
        return values.mean() + (values - values.mean()) / 2

    with pytest.raises(AssertionError):
        check_coverage(mutant)


@pytest.mark.parametrize("statistic", [frechet_counted, kernel_counted])
def test_the_interval_holds_the_estimate_and_repeats(statistic):
    draw = np.random.default_rng(7)
    a, b = draw.normal(size=(60, 30)), draw.normal(size=(60, 30))  # the Fréchet distance is nearly all bias here
    value = statistic(a, b, np.ones((1, 60)), np.ones((1, 60)))[0]
    low, high = bootstrap(statistic, a, b, resamples=100, seed=0)
    assert low < value < high
    assert (low, high) == bootstrap(statistic, a, b, resamples=100, seed=0)


def test_the_spread_in_single_precision_is_the_spread():
    draw = np.random.default_rng(8)
    a, b = draw.normal(size=(80, 5)) + 3, draw.normal(size=(90, 5)) + 3.5
    for statistic in (frechet_counted, kernel_counted):

        def double(a, b, counts_a, counts_b, statistic=statistic):
            return statistic(*(x.astype(np.float64) for x in (a, b, counts_a, counts_b)))

        exact = estimate(double, a, b, resamples=20, seed=0)
        np.testing.assert_allclose(estimate(statistic, a, b, resamples=20, seed=0), exact, rtol=1e-3)
    with pytest.raises(DataError, match="at least 2"):
        estimate(frechet_counted, a, b, resamples=1, seed=0)


def test_members_are_averaged_over_the_same_resampled_rows():
    """A member twice over is that member: the interval is as wide. Independent draws would narrow it by a third."""
    draw = np.random.default_rng(9)
    a, b = draw.normal(size=(60, 3)), draw.normal(size=(60, 3)) + 1
    twin = averaged(frechet_counted, [slice(0, 3), slice(3, 6)])
    single = estimate(frechet_counted, a, b, resamples=30, seed=1)
    double = estimate(twin, np.hstack([a, a]), np.hstack([b, b]), resamples=30, seed=1)
    np.testing.assert_allclose(double, single, rtol=1e-5)
    halves = averaged(frechet_counted, [slice(0, 1), slice(1, 3)])
    expected = [once(frechet_counted, a[:, part], b[:, part]) for part in (slice(0, 1), slice(1, 3))]
    np.testing.assert_allclose(once(halves, a, b), np.mean(expected), rtol=1e-12)


# ---- shares


def check_wilson(interval):
    """scipy's interval, also at 0 and at 1."""
    for hits, count in ((0, 10), (3, 10), (10, 10), (481, 500)):
        expected = binomtest(hits, count).proportion_ci(method="wilson")
        np.testing.assert_allclose(interval(hits / count, count), [expected.low, expected.high], atol=1e-4)


def test_the_interval_of_a_share_is_wilsons():
    check_wilson(wilson)


def test_the_normal_interval_is_caught():
    def mutant(share, count):
        reach = 1.96 * np.sqrt(share * (1 - share) / count)
        return share - reach, share + reach

    with pytest.raises(AssertionError):
        check_wilson(mutant)
