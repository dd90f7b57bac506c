"""What may be wrong with a run: its weights, its training and its samples."""

from __future__ import annotations

from ebb.doctor.finding import Check
from ebb.doctor.run_samples import (
    SAMPLE_CHECKS,
    check_blurry,
    check_colour_shift,
    check_grainy,
    check_grey,
    check_labels_missing,
)
from ebb.doctor.run_subject import RunSubject
from ebb.doctor.run_training import TRAINING_CHECKS
from ebb.doctor.run_weights import WEIGHT_CHECKS

RUN_CHECKS: list[Check[RunSubject]] = [*WEIGHT_CHECKS, *TRAINING_CHECKS, *SAMPLE_CHECKS]
"""Every check of a run, in the order in which they are made; those of its model are asked besides."""

OF_PICTURES = frozenset({check_grey, check_colour_shift, check_blurry, check_grainy, check_labels_missing})
"""Of them, those that look at pictures."""

__all__ = ["OF_PICTURES", "RUN_CHECKS", "RunSubject"]
