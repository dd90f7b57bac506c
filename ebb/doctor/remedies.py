"""What may help samples, tried on a few of them before it is advised: less guidance, more steps, longer training."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from ebb.doctor.run_subject import FINE, FINER, RunSamples, RunSubject
from ebb.terminal import command

WANTED = 20_000
"""Images that a small network on small images should have seen."""

MEASURED = 200
"""Samples by which `ebb sweep` measures the one setting that is to be the default."""

Advice = tuple[str, tuple[str, ...]]
"""What to do in words, and the commands that do it."""


def gentler(run: RunSubject) -> Iterator[dict[str, Any]]:
    """Settings that ask less of each step: guidance nearer to 1, then none, then more steps."""
    scale = run.system.sampling.guidance
    if scale != 1 and run.system.conditioner.null():
        yield {"guidance": 1 + (scale - 1) / 4}
        yield {"guidance": 1.0}
    yield {"steps": FINER * run.system.sampling.steps}


def helping(run: RunSubject, ill: Callable[[RunSamples], bool]) -> dict[str, Any] | None:
    """The first of `gentler` settings with which FINE samples from the same noise are no longer ill; None if none
    helps."""
    for settings in gentler(run):
        if not ill(run.finer if "steps" in settings else run.draw(FINE, run.system.settled(**settings))):
            return settings
    return None


def remedy(run: RunSubject, ill: Callable[[RunSamples], bool]) -> Advice:
    """To sample otherwise where that is seen to help, else to train longer."""
    settings = helping(run, ill)
    return longer(run) if settings is None else sampled_with(run, settings)


def sampled_with(run: RunSubject, settings: dict[str, Any]) -> Advice:
    """To sample with other settings, and to make them the run's own."""
    how = run.system.settled(**settings)
    words = [word for name, value in settings.items() for word in (f"--{name}", f"{value:g}")]
    told = " ".join(f"{name} {value:g}" for name, value in settings.items())
    kept = ["--solvers", how.solver, "--steps", how.steps, "--guidance", f"{how.guidance:g}", "--n", MEASURED]
    return (
        f"sample with {told}; the second command makes it the run's default",
        (command("sample", run.folder, *words), command("sweep", run.folder, *kept, "--no-search")),
    )


def longer(run: RunSubject) -> Advice:
    """To train anew, four times as long and WANTED images at least."""
    steps = max(4 * run.steps, WANTED // run.per_step)
    return f"train longer: {run.length(steps)}", (run.again({"steps": steps}),)
