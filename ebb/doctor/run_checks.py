"""What may be wrong with a run: its weights, its training and its samples."""

from __future__ import annotations

from ebb.doctor.finding import Check
from ebb.doctor.run_samples import SAMPLE_CHECKS
from ebb.doctor.run_subject import RunSubject
from ebb.doctor.run_training import TRAINING_CHECKS
from ebb.doctor.run_weights import WEIGHT_CHECKS

RUN_CHECKS: list[Check[RunSubject]] = [*WEIGHT_CHECKS, *TRAINING_CHECKS, *SAMPLE_CHECKS]
"""Every check of a run, in the order in which they are made; those of its model are asked besides."""

__all__ = ["RUN_CHECKS", "RunSubject"]
