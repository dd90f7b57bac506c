"""The additions that a recipe or a file can name: what each kind of group in a recipe builds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ebb.adapt.addition import Addition, Together
from ebb.adapt.control import MapControl
from ebb.adapt.lora import LoRA
from ebb.adapt.new_labels import NewLabels
from ebb.adapt.new_shares import NewShares
from ebb.adapt.new_words import NewWords
from ebb.adapt.only_new import OnlyNew
from ebb.adapt.reference import ReferencePrompt
from ebb.errors import DamagedError
from ebb.process.denoiser import NetworkDenoiser

ADDITIONS: dict[str, type[Addition]] = {
    "low_rank": LoRA,
    "labels": NewLabels,
    "shares": NewShares,
    "words": NewWords,
    "only_new": OnlyNew,
    "reference": ReferencePrompt,
    "control": MapControl,
}
"""Additions by kind, in the order in which several are put on."""


def together(denoiser: NetworkDenoiser, parts: Mapping[str, Mapping[str, Any]]) -> Together:
    """The additions of these kinds and settings for a denoiser. Raises DamagedError for a kind that is not known."""
    if unknown := parts.keys() - ADDITIONS.keys():
        raise DamagedError(f"this ebb knows no addition {min(unknown)}", "load it with the ebb that made it")
    made: dict[str, Addition] = {}
    for kind in ADDITIONS:
        if kind in parts:
            made[kind] = ADDITIONS[kind](denoiser, **parts[kind])
    return Together(made)
