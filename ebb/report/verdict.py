"""An evaluation in one sentence: whether its samples can be told from real ones, show what was asked, are copies."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ebb.report.page import number
from ebb.terminal import command

Facts = Mapping[str, Any]

CHANCE = 0.5
"""How often who cannot tell samples from real ones is right."""

LACKING = 0.9
"""Samples that show their label in less than this share of what real ones do want more guidance, or training."""

SCALES = (1, 1.5, 2)
"""Scales of guidance that are worth a try then."""

COPIES = {"no sign of memorisation": "no sign of copies", "cannot tell": "whether any are copies cannot be told"}
"""What `ebb.understand.memorise.verdict` begins with, in a sentence with others; all else as it is."""


def verdict(facts: Facts) -> str:
    """What evaluation.json holds in one sentence, of that what was measured; "" where nothing was."""
    labels = shown("their label", facts.get("label_accuracy"), facts.get("classifier_accuracy"))
    scenes = facts.get("agreement", facts.get("obeyed")) or {}  # "obeyed" in former evaluations
    asked = shown("all that was asked", scenes.get("share"), scenes.get("ceiling"))
    parts = [stranger(facts), labels, asked, captions(facts), copies(facts)]
    return "; ".join(filter(None, parts))


def opening(facts: Facts, run: Path) -> str:
    """The verdict, and the command to run next; "" where nothing was measured."""
    said = verdict(facts)
    return said and f"{said}; next: {following(facts, run)}"


def in_hundred(share: float) -> str:
    """A share as cases of a hundred, "97 of 100"."""
    return f"{100 * share:.0f} of 100"


def stranger(facts: Facts) -> str:
    """How often a classifier that met the samples for the first time tells them from real ones; without it, how far
    from the data they lie."""
    distances = facts.get("distances") or {}
    if test := distances.get("two-sample test"):
        right = f"{in_hundred(test['value'])} cases"
        if test["low"] > CHANCE:
            return f"a stranger tells these from real ones in {right} (by chance 50)"
        if facts.get("n_samples", 0) < (test.get("needs") or 0):
            return f"too few to say whether a stranger tells these from real ones (right in {right}, by chance 50)"
        return f"a stranger cannot tell these from real ones (right in {right}, by chance 50)"
    if distance := distances.get("Fréchet distance"):
        return f"their Fréchet distance is {number(distance['value'])}, that of real ones {number(distance['floor'])}"
    return ""


def shown(what: str, share: float | None, ceiling: float | None) -> str:
    """How many samples show what they should, beside real ones; "" where that was not measured."""
    if share is None:
        return ""
    real = "" if ceiling is None else f" (real ones in {100 * ceiling:.0f})"
    return f"they show {what} in {in_hundred(share)}{real}"


def captions(facts: Facts) -> str:
    """How many captions find their own sample, of unseen ones where there are any; "" where that was not measured."""
    for name, what in (("matched_unseen", "unseen captions"), ("matched", "captions")):
        if one := facts.get(name):
            real = "" if one["ceiling"] is None else f", real pictures {100 * one['ceiling']:.0f}"
            beside = f"by chance {100 / one['among']:.0f}{real}"
            return f"{in_hundred(one['share'])} {what} find their own sample among {one['among']} ({beside})"
    return ""


def copies(facts: Facts) -> str:
    """Whether some are copies of training images; "" where nobody looked."""
    head = str((facts.get("memorisation") or {}).get("verdict", "")).partition(":")[0]
    return COPIES.get(head, head)


def following(facts: Facts, run: Path) -> str:
    """The command to run next, against what stands out most."""
    copied, test = copies(facts), (facts.get("distances") or {}).get("two-sample test") or {}
    share, ceiling = facts.get("label_accuracy"), facts.get("classifier_accuracy") or 1.0
    if copied and copied not in COPIES.values():
        return command("doctor", run)
    if facts.get("n_samples", 0) < (test.get("needs") or 0) <= facts.get("n_reference", 0):
        return command("evaluate", run, "--n", test["needs"])
    if share is not None and share < LACKING * ceiling:
        return command("sweep", run, "--guidance", *SCALES)
    if test.get("low", 0) > CHANCE:
        return command("doctor", run)
    return command("sample", run, "--n", 64)
