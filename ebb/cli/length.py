"""How long to train, as it is asked for on the command line."""

from __future__ import annotations

from ebb.errors import UsageError


def one_length(given: set[str]) -> None:
    """Raise UsageError where it is said twice."""
    if {"steps", "budget"} <= given:
        raise UsageError("--steps and --budget both say how long to train", "give one of them")
