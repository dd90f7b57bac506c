"""What one sees while a run trains: a bar in a terminal, a line now and then elsewhere."""

from __future__ import annotations

import resource
import sys
import time
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor

from ebb.terminal import tell
from ebb.train.loop import Step


def peak_memory_mb() -> float:
    """The most memory this process has held, in MB: of the GPU where it uses one, else resident."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 1e6
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e6 if sys.platform == "darwin" else 1e3)


class Meter:
    """Averages steps into log entries without waiting for the device, and shows them.

    `before` are the seconds that the run had trained when it was stopped.
    """

    def __init__(self, console: Console, steps: int, start: int, before: float) -> None:
        self.console, self.steps, self.start, self.before = console, steps, start, before
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        self.bar = Progress(*columns, console=console, disable=not console.is_terminal)
        self.task = self.bar.add_task("training", total=steps, completed=start)
        self.began = self.last = self.spoke = time.monotonic()
        self.total: Tensor | None = None
        self.count = self.seen = self.first = 0
        self.smooth: float | None = None

    def __enter__(self) -> Meter:
        self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.stop()

    def note(self, step: Step) -> None:
        """Count one step; the loss is not read yet."""
        self.total = step.loss if self.total is None else self.total + step.loss
        self.count += 1
        self.first = self.first or step.seen

    def entry(self, step: Step) -> dict[str, Any]:
        """One line of the log: the mean loss and the speed since the last entry."""
        now, loss = time.monotonic(), float(self.total) / self.count if self.total is not None else float("nan")
        images = step.seen - (self.seen or self.first)
        entry = {
            "step": step.number,
            "images": step.seen,
            "seconds": round(self.before + now - self.began, 2),
            "loss": loss,
            "grad_norm": float(step.grad_norm),
            "lr": step.rate,
            "images_per_second": round(images / max(1e-9, now - self.last), 1),
            "memory_mb": round(peak_memory_mb()),
        }
        self.total, self.count, self.seen, self.last = None, 0, step.seen, now
        return entry

    def show(self, entry: dict[str, Any], next_grid: int) -> None:
        """The smoothed loss, speed, memory and the step of the next grid, beside the bar."""
        self.smooth = entry["loss"] if self.smooth is None else 0.9 * self.smooth + 0.1 * entry["loss"]
        line = (
            f"loss {self.smooth:.4f}  {entry['images_per_second']:,.0f} images/s  {entry['memory_mb']:,} MB"
            f"  next grid at {next_grid:,}"
        )
        self.bar.update(self.task, completed=entry["step"], description=line)
        if not self.console.is_terminal and self.last - self.spoke > 15:
            self.spoke = self.last
            done = entry["step"] - self.start
            left = (self.last - self.began) / max(1, done) * (self.steps - entry["step"])
            tell(self.console, f"step {entry['step']:,}/{self.steps:,}  {line}  {left:,.0f} s left")
