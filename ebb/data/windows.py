"""One long series as many short ones: whether a table is one, how long its windows are, and which are held out."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ebb.errors import UsageError

LENGTHS = (16, 32, 64, 128, 256, 512, 1024)
"""Lengths to choose from."""

LEAST, MOST_CHANNELS = 500, 16
"""The fewest rows, and the most columns, of what is taken for one long series without being asked."""

STEADY = 0.2
"""The ratio of `roughness` below which every column of a long series lies; rows in any order have 1."""

REPEATS = 0.2
"""The least autocorrelation at a period."""

NEARLY = 0.7
"""The share of the largest autocorrelation that there is at the first period: neither beats nor days are all alike."""

MEMORIES = 8
"""Where nothing repeats, a window holds so many times what the series remembers."""

SHARE = 10
"""One in so many rows at the end is held out."""

MOST = 200_000
"""Windows of a series, at most: of a longer one they begin at every second place, or third, …"""

FEWEST = 8
"""Windows side by side that a series must hold."""


def roughness(values: NDArray[np.float64]) -> float:
    """The mean squared step from a row to the next over twice the variance (von Neumann 1941); 0 of a constant."""
    variance = float(values.var())
    return float(np.square(np.diff(values)).mean() / (2 * variance)) if variance else 0.0


def is_long(values: NDArray[np.float64]) -> bool:
    """Whether rows [n, k] are one series in time: few columns, each close to itself from a row to the next."""
    few = len(values) >= LEAST and values.shape[1] <= MOST_CHANNELS
    return few and all(roughness(column) < STEADY for column in values.T) and bool(values.std())


def autocorrelation(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """The correlation of a series [n] with itself after 0, 1, … n/2 rows, by the Fourier transform."""
    centred = values - values.mean()
    power, half = np.abs(np.fft.rfft(centred, 2 * len(values))) ** 2, len(values) // 2
    found: NDArray[np.float64] = np.fft.irfft(power)[:half] / (len(values) - np.arange(half))
    found /= found[0]
    return found


def period(values: NDArray[np.float64]) -> int | None:
    """The rows after which a series [n] is first nearly as like itself as it will be, beyond where it is unlike itself;
    None where it is never like itself again."""
    like = autocorrelation(values)
    below = np.flatnonzero(like < 0)
    if not len(below) or like[below[0] :].max() < REPEATS:
        return None
    rises = below[0] + int(np.argmax(like[below[0] :] >= NEARLY * like[below[0] :].max()))
    return int(rises + like[rises : rises + rises // 4 + 1].argmax())


def memory(values: NDArray[np.float64]) -> int:
    """The rows after which the autocorrelation of a series [n] has fallen to 1/e."""
    below = np.flatnonzero(autocorrelation(values) < np.exp(-1))
    return int(below[0]) if len(below) else len(values) // 2


def length_of(values: NDArray[np.float64], asked: int | None) -> tuple[int, str]:
    """The rows of a window of a series [n, k], and why.

    Raises UsageError where the series does not hold FEWEST of the asked length.
    """
    most = len(values) // FEWEST
    if asked is not None:
        if not 2 <= asked <= most:
            raise UsageError(
                f"a window of {asked} rows: a series of {len(values):,} holds windows of 2 to {most}",
                "--data.window 0 takes each row as an example",
            )
        return asked, "asked for"
    varying = [column for column in values.T if column.std()]
    periods = [found for column in varying if (found := period(column)) is not None]
    wanted = max(periods) if periods else MEMORIES * max(map(memory, varying))
    why = f"it repeats after about {wanted} rows" if periods else f"it remembers {wanted // MEMORIES} rows"
    fitting = [length for length in LENGTHS if length <= most] or [max(2, most)]
    found = next((length for length in fitting if length >= wanted), fitting[-1])
    return found, why


def stride_of(rows: int, length: int) -> int:
    """At every which place of a series windows begin, so that there are at most MOST."""
    return max(1, -(-(rows - length + 1) // MOST))


def cut(
    values: NDArray[np.float64], length: int, stride: int = 1
) -> tuple[NDArray[np.float64], NDArray[np.float64] | None]:
    """(the windows [n, k, length] of a series [rows, k] at every `stride`-th place but its end, those of the end, held
    out).

    No row is in both. None is held out where less than a window would be. They are views: nothing is copied.
    """
    aside = len(values) // SHARE
    if aside < length:
        aside = length if len(values) >= SHARE // 2 * length else 0
    view = np.lib.stride_tricks.sliding_window_view
    train = view(values[: len(values) - aside], length, axis=0)[::stride]
    return train, view(values[len(values) - aside :], length, axis=0)[::stride] if aside else None
