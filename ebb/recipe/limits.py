"""Numbers that a user gives, whether on the command line or in Python, each held within its limits: one table."""

from __future__ import annotations

import math
import operator
from typing import Any

from ebb.errors import UsageError

LIMITS: dict[str, tuple[float, float]] = {
    "steps": (1, 1e9),
    "batch": (1, 1e6),
    "seed": (0, 2**62),
    "pairs": (2, 1e8),
    "sigma_data": (1e-6, 1e6),
    "condition_dropout": (0, 0.99),
    "sheets": (1, 1000),
    "ema_halflife": (1, 1e12),
    "data.size": (4, 1024),
    "text.vocabulary": (257, 100_000),
    "text.length": (1, 512),
    "text.concepts": (0, 16),
    "autoencoding.factor": (1, 64),
    "autoencoding.latent": (1, 256),
    "autoencoding.width": (8, 1024),
    "autoencoding.beta": (0, 1000),
    "autoencoding.free_nats": (0, 1000),
    "autoencoding.warmup": (0, 1e12),
    "autoencoding.codes": (2, 65_536),
    "autoencoding.perceptual": (0, 1000),
    "autoencoding.adversarial": (0, 1000),
    "network.width": (8, 8192),
    "network.depth": (1, 1000),
    "network.patch": (1, 256),
    "network.multipliers": (1, 64),
    "network.attention": (0, 16),
    "network.cross": (0, 16),
    "network.waves": (0, 1e5),
    "addition.rank": (1, 4096),
    "rank": (1, 4096),
    "prior": (0, 1e6),
    "drift": (1e-6, 100),
    "optimiser.lr": (1e-9, 10),
    "optimiser.warmup": (0, 1e9),
    "optimiser.decay": (0, 1),
    "optimiser.weight_decay": (0, 10),
    "optimiser.clip": (1e-9, 1e9),
    "optimiser.accumulate": (1, 1e6),
    "sample.steps": (1, 100_000),
    "sample.guidance": (-100, 100),
    "sample.noise_scale": (0, 10),
}
"""The smallest and the largest value of each number of a recipe, both allowed."""

EVERY = LIMITS | {
    "n": (1, 1e7),
    "seed of noise": (0, 2**64 - 1),  # seed + i, and what is added to a seed so that two draws differ
    "solver steps": LIMITS["sample.steps"],
    "guidance": LIMITS["sample.guidance"],
    "noise scale": LIMITS["sample.noise_scale"],
    "likelihood": (0, 1e7),
    "scale": (-1000, 1000),
    "border": (1, 4096),
    "repeats": (1, 1000),
}
"""The same of all numbers that a user gives."""


def within(name: str, number: float, low: float = -math.inf) -> None:
    """Raise UsageError, with the limits and what came, for a number outside those of `name`, or below `low`."""
    least, most = EVERY[name]
    if not max(least, low) <= number <= most:  # NaN is neither
        raise UsageError(f"{name} must be between {spelled(max(least, low))} and {spelled(most)}, got {number}")


def whole(name: str, value: Any, low: float = -math.inf) -> int:
    """A whole number, also one of numpy or torch, as Python's own; UsageError as `within`, and for what is none."""
    try:
        number = operator.index(value)
    except TypeError as error:
        raise UsageError(f"{name} must be a whole number, got {value!r:.60}") from error
    within(name, number, low)
    return number


def real(name: str, value: Any) -> float:
    """A finite number, also one of numpy or torch, as Python's own; UsageError as `within`, and for what is none."""
    try:
        number = float(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise UsageError(f"{name} must be a number, got {value!r:.60}") from error
    within(name, number)
    return number


def spelled(number: float) -> str:
    """A limit as one would write it: 100,000, 1e-09, 2^62."""
    if number >= 2**40:  # only powers of 2 are so large, or 1 less
        return f"2^{math.log2(number):.0f}"
    return f"{number:,.0f}" if number == int(number) else f"{number:g}"
