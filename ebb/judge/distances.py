"""Distances between two sets of feature vectors, in float64, and the intervals that every figure comes with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ebb.errors import DataError
from ebb.judge.arrays import Given, features_of

Array: TypeAlias = NDArray[np.float64]
Rows: TypeAlias = NDArray[np.floating[Any]]
Statistic: TypeAlias = Callable[[Rows, Rows, Rows, Rows], Array]
"""`statistic(a [n, d], b [m, d], counts_a [r, n], counts_b [r, m]) → values [r]`: how often each row is counted.

It works in the precision of its rows: float64 for an estimate, float32 where only the spread is wanted."""

BLOCK = 500  # rows and columns of a kernel matrix held at a time: 2 MB, which a cache holds
DEVIATES = 1.96  # standard deviations to either side that hold 95 % of a normal distribution


@dataclass(frozen=True)
class Moments:
    """Count, mean [d] and scatter Σ (x − mean)(x − mean)ᵀ [d, d] of rows seen so far; `+` joins two sets exactly."""

    count: int
    mean: Array
    scatter: Array

    @classmethod
    def of(cls, rows: Rows, counts: Rows | None = None) -> Moments:
        """The moments of rows [n, d], each counted once or `counts [n]` times. DataError if there are none."""
        counts = np.ones(len(rows), rows.dtype) if counts is None else counts
        total = int(counts.sum())
        if rows.ndim != 2 or total < 1:
            raise DataError(f"moments need at least one row [n, d], got shape {rows.shape}")
        mean = counts @ rows / total
        centred = rows - mean
        scatter = (centred * counts[:, None]).T @ centred
        return cls(total, mean.astype(np.float64), scatter.astype(np.float64))

    def __add__(self, other: Moments) -> Moments:
        """Chan, Golub & LeVeque 1983, eq. 2.1: exact, and without the cancellation of E[x²] − E[x]²."""
        count = self.count + other.count
        step = other.mean - self.mean
        spread = np.outer(step, step) * (self.count * other.count / count)
        return Moments(count, self.mean + step * (other.count / count), self.scatter + other.scatter + spread)

    @property
    def covariance(self) -> Array:
        """The unbiased covariance, scatter / (count − 1), [d, d]. DataError below two rows."""
        if self.count < 2:
            raise DataError(f"a covariance needs at least 2 rows, got {self.count}")
        return self.scatter / (self.count - 1)


def _root(covariance: Array) -> Array:
    """The symmetric square root; eigenvalues below zero are rounding and count as zero."""
    values, vectors = np.linalg.eigh(covariance)
    root: Array = (vectors * np.sqrt(values.clip(min=0))) @ vectors.T
    return root


def frechet(a: Moments | Given, b: Moments | Given) -> float:
    """Squared Fréchet distance between Gaussians (Heusel et al. 2017, eq. 6) with the moments of two sets of features.

    A set is [n, d] as a tensor or an array, a row for each image: of its features, or where the values themselves are
    compared of the image, flattened; or it is the set's `Moments`.

    |μa − μb|² + tr(Ca + Cb − 2 (Ca Cb)^½), in squared feature units. The trace of the root is taken as the sum of the
    singular values of Ca^½ Cb^½, the same number for every pair of covariances, singular ones too: there is no
    matrix root of a non-symmetric product to go complex, and no small constant added to the diagonal.

    The estimate from n rows reads high by about 1/n. Raises DataError for different widths, fewer than two rows, and
    what are no features.
    """
    a, b = (one if isinstance(one, Moments) else Moments.of(features_of(one)) for one in (a, b))
    if a.mean.shape != b.mean.shape:
        raise DataError(f"both sets need the same features, got {a.mean.shape[0]} and {b.mean.shape[0]} numbers a row")
    cross = np.linalg.svd(_root(a.covariance) @ _root(b.covariance), compute_uv=False).sum()
    gap = a.mean - b.mean
    return float(gap @ gap + np.trace(a.covariance) + np.trace(b.covariance) - 2 * cross)


def frechet_counted(a: Rows, b: Rows, counts_a: Rows, counts_b: Rows) -> Array:
    """`frechet` of weighted rows, once for each line of counts: a `Statistic`."""
    pairs = zip(counts_a, counts_b, strict=True)
    return np.array([frechet(Moments.of(a, i), Moments.of(b, j)) for i, j in pairs])


def _kernel_sums(x: Rows, y: Rows, counts_x: Rows, counts_y: Rows) -> Array:
    """Σ_ij counts_x[r, i] (k(x_i, y_j) − 1) counts_y[r, j] for each r, with k(x, y) = (xᵀy/d + 1)³.

    The 1 of every kernel value cancels in the distance; without it nothing is lost to its rounding. Of a set with
    itself (`x is y`, with one set of counts) the tiles below the diagonal are those above it.
    """
    total, scaled = np.zeros(len(counts_x)), x / x.dtype.type(x.shape[1])
    for i, j in product(range(0, len(x), BLOCK), range(0, len(y), BLOCK)):
        if x is y and j < i:
            continue
        inner = scaled[i : i + BLOCK] @ y[j : j + BLOCK].T
        kernel = inner + 3  # (g + 1)³ − 1 = ((g + 3)·g + 3)·g, in place
        kernel *= inner
        kernel += 3
        kernel *= inner
        weighted = kernel @ counts_y[:, j : j + BLOCK].T
        sums = np.einsum("ri,ir->r", counts_x[:, i : i + BLOCK], weighted, dtype=np.float64)
        total += sums * (2 if x is y and j > i else 1)
    return total


def kernel_counted(a: Rows, b: Rows, counts_a: Rows, counts_b: Rows) -> Array:
    """`kernel_distance` of weighted rows, once for each line of counts: a `Statistic`.

    Pairs of a row with itself are left out, also where a resampled row is counted twice: they would add a bias.
    """
    totals = [counts.sum(axis=1, dtype=np.float64) for counts in (counts_a, counts_b)]

    def within(rows: Rows, counts: Rows, total: Array) -> Array:
        own = (np.einsum("id,id->i", rows, rows) / rows.shape[1] + 1) ** 3 - 1
        twice = counts.astype(np.float64) ** 2
        means: Array = (_kernel_sums(rows, rows, counts, counts) - twice @ own) / (total**2 - twice.sum(axis=1))
        return means

    between = _kernel_sums(a, b, counts_a, counts_b) / (totals[0] * totals[1])
    distances: Array = within(a, counts_a, totals[0]) + within(b, counts_b, totals[1]) - 2 * between
    return distances


def kernel_distance(a: Given, b: Given) -> float:
    """Unbiased squared maximum mean discrepancy (Bińkowski et al. 2018, eq. 4), kernel (xᵀy/d + 1)³, as in KID.

    mean_{i≠j} k(a_i, a_j) + mean_{i≠j} k(b_i, b_j) − 2 mean k(a_i, b_j), over all rows (no random subsets).
    Without bias at any count, so two sets of one distribution average to 0 and may read below it. A set is [n, d], a
    row for each image, as a tensor or an array.

    Raises DataError for different widths, fewer than two rows, and what are no features.
    """
    a, b = features_of(a), features_of(b)
    if a.shape[1:] != b.shape[1:] or min(len(a), len(b)) < 2:
        raise DataError(f"a kernel distance needs two sets [n ≥ 2, d] of one width, got {a.shape} and {b.shape}")
    return float(kernel_counted(a, b, np.ones((1, len(a))), np.ones((1, len(b))))[0])


def averaged(statistic: Statistic, columns: Sequence[slice]) -> Statistic:
    """The mean of `statistic` over groups of columns, such as those of the members of an ensemble: a `Statistic`.

    All groups meet the same counts, so what the members share does not widen the interval of their mean.
    """

    def mean(a: Rows, b: Rows, counts_a: Rows, counts_b: Rows) -> Array:
        parts = [statistic(a[:, part], b[:, part], counts_a, counts_b) for part in columns]
        return np.asarray(np.mean(parts, axis=0))

    return mean


def once(statistic: Statistic, a: Array, b: Array) -> float:
    """`statistic` with every row counted once."""
    return float(statistic(a, b, np.ones((1, len(a))), np.ones((1, len(b))))[0])


def estimate(statistic: Statistic, a: Array, b: Array, *, resamples: int, seed: int) -> tuple[float, float, float]:
    """(`statistic`, low, high): a 95 % interval by resampling the rows of both sets.

    A resampled set repeats rows, which raises a Fréchet distance a second time by its own bias. So resampling is used
    for the spread alone: θ ± 1.96 standard deviations of the resampled values (Efron & Tibshirani 1993, ch. 13.3: the
    standard interval with the bootstrap's standard error). It says how far the estimate would move with other images
    of the same number. The bias which that number leaves is what the floor, real against real, shows. Where the true
    distance is next to nothing the interval is too wide, about 1.7 times for a kernel distance and 2 for a Fréchet
    distance: a resampled set differs from the estimate by chance a second time. Elsewhere it is right.

    How often the rows are counted depends on `seed`, the numbers of rows and the number of resamples alone: statistics
    of the same sets meet the same resampled sets. Raises DataError below two resamples.
    """
    if resamples < 2:
        raise DataError(f"an interval needs at least 2 resamples, got {resamples}")
    value, draw = once(statistic, a, b), np.random.default_rng(seed)

    def counts(n: int) -> Rows:
        lines = [np.bincount(draw.integers(n, size=n), minlength=n) for _ in range(resamples)]
        return np.array(lines, dtype=np.float32)

    again = statistic(a.astype(np.float32), b.astype(np.float32), counts(len(a)), counts(len(b)))
    reach = DEVIATES * float(again.std(ddof=1))
    return value, value - reach, value + reach


def bootstrap(statistic: Statistic, a: Array, b: Array, *, resamples: int, seed: int) -> tuple[float, float]:
    """The interval of `estimate` alone."""
    _, low, high = estimate(statistic, a, b, resamples=resamples, seed=seed)
    return low, high


def wilson(share: float, count: float) -> tuple[float, float]:
    """A 95 % interval for a share of `count` independent cases (Wilson 1927; Brown, Cai & DasGupta 2001, eq. 4).

    Unlike share ± 1.96 √(share (1 − share)/count) it has a width at 0 and at 1. A mean of values between 0 and 1
    varies at most as much as a share does: for such a mean the interval is at least wide enough.
    """
    square = DEVIATES**2
    centre = (share + square / (2 * count)) / (1 + square / count)
    reach = DEVIATES * np.sqrt(share * (1 - share) / count + square / (4 * count**2)) / (1 + square / count)
    return float(max(0, centre - reach)), float(min(1, centre + reach))


ROWS = 2
"""Images for each feature from which on they carry a covariance."""


def too_few(count: int, dimension: int) -> str | None:
    """A warning if `count` rows cannot carry a covariance of `dimension`² numbers (fewer than ROWS · dimension)."""
    if count >= ROWS * dimension:
        return None
    return (
        f"{count} images are few for {dimension} features: the Fréchet distance reads high below {ROWS * dimension}; "
        f"trust the kernel distance, or measure more images"
    )
