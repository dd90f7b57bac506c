"""The part of a run's page that has a model of few steps by the number of its steps, beside its teacher."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ebb.report.page import number, table

Facts = Mapping[str, Any]


def steps(facts: Facts) -> str:
    """A row for each number of steps: cost, distance, recall, labels, two-sample test, and how much samples vary."""
    if not facts:
        return ""
    head = ("", "evaluations", "ms each", "Fréchet distance", "recall", "as asked", "told apart", "spread", "")
    rows = [
        (
            one["name"],
            number(one["evaluations"]),
            f"{1000 * one['seconds']:.3g}",
            interval(one["distances"], "Fréchet distance"),
            interval(one["distances"], "recall"),
            "" if one["accuracy"] is None else f"{one['accuracy']:.1%}",
            interval(one["distances"], "two-sample test"),
            f"{one['spread']:.3f}",
            "" if one["expected"] is None else f"a Gaussian's: {one['expected']:.3f}",
        )
        for one in facts["rows"]
    ]
    return (
        table(head, rows)
        + f'<p class="soft">{number(facts["count"])} samples of each, the same seeds and labels, with 95 % intervals.'
        " Spread is the deviation of the samples over that of the data; beside it, what the method makes of a Gaussian"
        " of the data's covariance when all is learned. What is missing besides is left of training: such samples are"
        " means of several.</p>\n"
    )


def interval(distances: Facts, name: str) -> str:
    """A figure with its interval; "" where it could not be had."""
    if name not in distances:
        return ""
    d = distances[name]
    return f"{number(d['value'])} [{number(d['low'])}, {number(d['high'])}]"
