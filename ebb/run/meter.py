"""Steps of training averaged into the lines of a log, without waiting for the device."""

from __future__ import annotations

import resource
import sys
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ebb.train.guard import Skip
from ebb.train.loop import Step


def peak_memory_mb() -> float:
    """The most memory this process has held, in MB: of the GPU where it uses one, else resident."""
    if torch.cuda.is_available() and (most := torch.cuda.max_memory_allocated()):
        return most / 1e6
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e6 if sys.platform == "darwin" else 1e3)


@dataclass(frozen=True)
class Reading:
    """The steps since the last reading: a line of the log from the good ones (None if none was), and the skipped."""

    entry: dict[str, Any] | None
    skips: list[Skip]


class Meter:
    """Averages steps into log entries without waiting for the device.

    A run that was stopped had made `start` updates of `steps`, in `before` seconds, and seen so many examples.
    An update is of `accumulate` batches.
    """

    def __init__(self, steps: int, start: int = 0, before: float = 0.0, seen: int = 0, accumulate: int = 1) -> None:
        self.steps, self.start, self.before = steps, start, before
        self.seen, self.accumulate = seen, accumulate
        self.began = self.last = time.monotonic()
        self.pending: list[Step] = []
        self.skipped = 0
        self.worked: list[tuple[int, float]] = []

    def note(self, step: Step) -> None:
        """Remember one step; nothing of it is read yet."""
        self.pending.append(step)

    def back(self, step: int, seen: int) -> None:
        """Go on from an earlier step, at which so many examples were seen."""
        self.pending, self.skipped, self.start, self.seen = [], 0, min(self.start, step), seen
        self.rested()

    def read(self) -> Reading:
        """One line of the log, and what was skipped, since the last reading. Waits for the device.

        `loss` and `levels` are means over the updates that were made. Where none was there is no line, and what the
        next one counts as skipped includes these.
        """
        pending, self.pending = self.pending, []
        if not pending:
            return Reading(None, [])
        loss, norm, bad = on_host([torch.stack([s.loss, s.grad_norm, s.skipped]) for s in pending]).T
        tallies = [s.levels for s in pending if s.levels is not None]
        levels = on_host(tallies) if len(tallies) == len(pending) else None
        good = bad == 0
        skips = [
            Skip(
                step=pending[i].number,
                batch=(pending[i].number - 1) * self.accumulate,
                loss=float(loss[i]),
                grad_norm=float(norm[i]),
                levels=means(levels[i]) if levels is not None else None,
            )
            for i in np.flatnonzero(~good)
        ]
        self.skipped += len(skips)
        if not good.any():
            self.seen = pending[-1].seen
            self.rested()
            return Reading(None, skips)
        entry = self.line(pending[-1], float(loss[good].mean()), float(norm[good][-1]))
        if levels is not None:
            entry["levels"] = means(levels[good].sum(0))
        return Reading(entry, skips)

    def line(self, step: Step, loss: float, norm: float) -> dict[str, Any]:
        """The figures of one line that every objective has."""
        now, count = time.monotonic(), step.seen - self.seen
        entry = {
            "step": step.number,
            "images": step.seen,
            "seconds": round(self.before + now - self.began, 2),
            "loss": loss,
            "grad_norm": norm,
            "lr": step.rate,
            "images_per_second": round(count / max(1e-9, now - self.last), 1),
            "memory_mb": round(peak_memory_mb()),
            "skipped": self.skipped,
        }
        self.worked.append((count, now - self.last))
        self.skipped, self.seen, self.last = 0, step.seen, now
        return entry

    def speed(self) -> float | None:
        """Examples per second of the last quarter of the readings, or of the last three.

        None before the fourth, since the first only warms up.
        """
        if len(self.worked) < 4:
            return None
        last = self.worked[-max(3, len(self.worked) // 4) :]
        return sum(count for count, _ in last) / sum(seconds for _, seconds in last)

    def rested(self) -> None:
        """Something else was done until now: the speed of updates does not count it."""
        self.last = time.monotonic()

    def left(self, step: int) -> float:
        """Seconds from a step to the last, at the speed since this meter was made."""
        return (self.last - self.began) / max(1, step - self.start) * (self.steps - step)


def on_host(tensors: list[Tensor]) -> np.ndarray:
    """Tensors of one shape as one float64 array [n, …], fetched at once."""
    return torch.stack(tensors).cpu().double().numpy()


def means(tally: np.ndarray) -> list[float | None]:
    """The mean loss in each bin of a tally [2, bins] of sums and counts (`ebb.process.bins.tally`)."""
    return [float(total / count) if count else None for total, count in tally.T]
