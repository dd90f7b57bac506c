"""How a run's samples come about, looked at step by step: facts, of which nothing need be wrong."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from ebb.data.images import save_png
from ebb.doctor.finding import NothingToExamineError
from ebb.doctor.run_samples import BEYOND, MOST_BEYOND
from ebb.doctor.run_subject import SEED, RunSubject
from ebb.encode.conditioner import part
from ebb.recipe.recipe import Sampling
from ebb.sample.noise import Noise
from ebb.sample.scheme import Scheme
from ebb.store.failure import explained
from ebb.system.model import scheme_of
from ebb.understand.wandering import BadStep, Range, Way, bad_steps, crossing, first_strays

FEW = 8
"""Samples in which a bad step is made, and that are shown at each temperature."""

PLACES = 5
"""Numbers of steps after which one is made, evenly spaced."""

PICTURE = Path("evaluation", "temperatures.png")
"""The samples at each temperature, in the run folder: a row for each."""


def way_of(run: RunSubject) -> Way:
    """All of it, by the run's own settings; raises NothingToExamineError for a model that draws at once."""
    system, how = run.system, run.system.settled()
    if system.model.denoiser is None:
        raise NothingToExamineError("its samples are drawn at once, and there is no way to them")
    scheme, bounded = scheme_of(system.denoiser, how), system.space is None
    strayed = first_strays(run.drawn.points, scheme.times, BEYOND, MOST_BEYOND) if bounded else None
    ranges = {"data": Range.of(run.clean)}
    ranges |= {f"samples at τ = {tau:g}": Range.of(drawn.points[-1].x0) for tau, drawn in run.tempered.items()}
    middle = crossing(system.denoiser.path, scheme.times)
    bad = errors_after(run, how, ranges["data"].deviation)
    return Way(how.solver, middle, len(run.drawn.samples), strayed, bad, ranges)


def show_temperatures(run: RunSubject) -> None:
    """A row of FEW samples for each temperature, as a picture in the run folder; ResourceError where it cannot be."""
    modality = run.system.modality
    stored = np.concatenate([modality.stored(drawn.samples[:FEW]) for drawn in run.tempered.values()])
    file = run.folder / PICTURE
    with explained(file):
        file.parent.mkdir(exist_ok=True)
    save_png(modality.sheet(stored, FEW), file, {"temperatures": list(run.tempered)})


def errors_after(run: RunSubject, how: Sampling, deviation: float) -> list[BadStep]:
    """What a bad step does to FEW samples, by an ODE, an SDE and Restart on the run's own times."""
    system = run.system
    guides = system.guides(how)

    def by(solver: str) -> Scheme:
        return scheme_of(system.denoiser, how.model_copy(update={"solver": solver, "noise_scale": 1.0})).guided(*guides)

    own = scheme_of(system.denoiser, how)
    ode = "dpmpp_2m" if own.stochastic else how.solver
    schemes = {f"ODE ({ode})": by(ode), "SDE (dpmpp_2m_sde)": by("dpmpp_2m_sde"), "Restart": by("restart")}
    count, steps = min(FEW, len(run.drawn.samples)), len(own.times) - 1
    after = sorted({max(1, round(steps * (2 * place + 1) / (2 * PLACES))) for place in range(PLACES)} - {steps})
    cond = system.conditions(part(run.given, 0, count), count)
    like = torch.empty(count, *system.inner, device=system.device)
    return bad_steps(schemes, after, like, cond, Noise.of(SEED, count), deviation)
