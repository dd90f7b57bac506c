"""Distances between two sets of feature vectors, in float64, with an interval for each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from ebb.errors import DataError

Array: TypeAlias = NDArray[np.float64]
Statistic: TypeAlias = Callable[[Array, Array, Array, Array], Array]
"""`statistic(a [n, d], b [m, d], counts_a [r, n], counts_b [r, m]) → values [r]`: how often each row is counted."""

BLOCK = 1000  # rows of a kernel matrix held at a time


@dataclass(frozen=True)
class Moments:
    """Count, mean [d] and scatter Σ (x − mean)(x − mean)ᵀ [d, d] of rows seen so far; `+` joins two sets exactly."""

    count: int
    mean: Array
    scatter: Array

    @classmethod
    def of(cls, rows: Array, counts: Array | None = None) -> Moments:
        """The moments of rows [n, d], each counted once or `counts [n]` times. DataError if there are none."""
        counts = np.ones(len(rows)) if counts is None else counts
        total = int(counts.sum())
        if rows.ndim != 2 or total < 1:
            raise DataError(f"moments need at least one row [n, d], got shape {rows.shape}")
        mean = counts @ rows / total
        centred = rows - mean
        return cls(total, mean, (centred * counts[:, None]).T @ centred)

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


def frechet(a: Moments, b: Moments) -> float:
    """Squared Fréchet distance between the Gaussians with these moments (Heusel et al. 2017, eq. 6).

    |μa − μb|² + tr(Ca + Cb − 2 (Ca Cb)^½), in squared feature units. The trace of the root is taken as the sum of the
    singular values of Ca^½ Cb^½, the same number for every pair of covariances, singular ones too: there is no
    matrix root of a non-symmetric product to go complex, and no small constant added to the diagonal.

    The estimate from n rows reads high by about 1/n. Raises DataError for different widths or fewer than two rows.
    """
    if a.mean.shape != b.mean.shape:
        raise DataError(f"both sets need the same features, got {a.mean.shape[0]} and {b.mean.shape[0]} numbers a row")
    cross = np.linalg.svd(_root(a.covariance) @ _root(b.covariance), compute_uv=False).sum()
    gap = a.mean - b.mean
    return float(gap @ gap + np.trace(a.covariance) + np.trace(b.covariance) - 2 * cross)


def frechet_counted(a: Array, b: Array, counts_a: Array, counts_b: Array) -> Array:
    """`frechet` of weighted rows, once for each line of counts: a `Statistic`."""
    pairs = zip(counts_a, counts_b, strict=True)
    return np.array([frechet(Moments.of(a, i), Moments.of(b, j)) for i, j in pairs])


def _kernel_sums(x: Array, y: Array, counts_x: Array, counts_y: Array) -> Array:
    """Σ_ij counts_x[r, i] k(x_i, y_j) counts_y[r, j] for each r, with k(x, y) = (xᵀy/d + 1)³."""
    total = np.zeros(len(counts_x))
    for start in range(0, len(x), BLOCK):
        rows = slice(start, start + BLOCK)
        inner = x[rows] @ y.T / x.shape[1] + 1
        kernel = inner * inner * inner  # three times as fast as ** 3
        total += np.einsum("ri,ir->r", counts_x[:, rows], kernel @ counts_y.T)
    return total


def kernel_counted(a: Array, b: Array, counts_a: Array, counts_b: Array) -> Array:
    """`kernel_distance` of weighted rows, once for each line of counts: a `Statistic`.

    Pairs of a row with itself are left out, also where a resampled row is counted twice: they would add a bias.
    """

    def within(rows: Array, counts: Array) -> Array:
        own = (np.einsum("id,id->i", rows, rows) / rows.shape[1] + 1) ** 3
        pairs = counts.sum(axis=1) ** 2 - (counts**2).sum(axis=1)
        means: Array = (_kernel_sums(rows, rows, counts, counts) - counts**2 @ own) / pairs
        return means

    between = _kernel_sums(a, b, counts_a, counts_b) / (counts_a.sum(axis=1) * counts_b.sum(axis=1))
    distances: Array = within(a, counts_a) + within(b, counts_b) - 2 * between
    return distances


def kernel_distance(a: Array, b: Array) -> float:
    """Unbiased squared maximum mean discrepancy (Bińkowski et al. 2018, eq. 4), kernel (xᵀy/d + 1)³, as in KID.

    mean_{i≠j} k(a_i, a_j) + mean_{i≠j} k(b_i, b_j) − 2 mean k(a_i, b_j), over all rows (no random subsets).
    Without bias at any count, so two sets of one distribution average to 0 and may read below it.

    Raises DataError for different widths or fewer than two rows.
    """
    if a.shape[1:] != b.shape[1:] or min(len(a), len(b)) < 2:
        raise DataError(f"a kernel distance needs two sets [n ≥ 2, d] of one width, got {a.shape} and {b.shape}")
    return float(kernel_counted(a, b, np.ones((1, len(a))), np.ones((1, len(b))))[0])


def bootstrap(statistic: Statistic, a: Array, b: Array, *, resamples: int, seed: int) -> tuple[float, float]:
    """A 95 % interval for `statistic` by resampling the rows of both sets (after Efron & Tibshirani 1993, ch. 13).

    A resampled set repeats rows, which raises a Fréchet distance a second time by its own bias. So resampling is used
    for the spread alone: with θ the estimate and θ* its resampled values, θ − (θ* − mean θ*), from the 2.5th to the
    97.5th percentile: the basic interval, centred. It says how far the estimate would move with other images of the
    same number. The bias which that number leaves is what the floor, real against real, shows.
    """
    draw = np.random.default_rng(seed)

    def counts(n: int) -> Array:
        return np.vstack([np.ones(n), draw.multinomial(n, np.full(n, 1 / n), size=resamples)])

    estimate, *resampled = statistic(a, b, counts(len(a)), counts(len(b)))
    again = np.array(resampled)
    high, low = np.quantile(again - again.mean(), [0.025, 0.975])
    return float(estimate - low), float(estimate - high)


def too_few(count: int, dimension: int) -> str | None:
    """A warning if `count` rows cannot carry a covariance of `dimension`² numbers (fewer than 2 · dimension)."""
    if count >= 2 * dimension:
        return None
    return (
        f"{count} images are few for {dimension} features: the Fréchet distance reads high below {2 * dimension}; "
        f"trust the kernel distance, or measure more images"
    )
