"""What may be wrong with a model of few steps: a target that moves, tangents that explode, means, little diversity."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ebb.doctor.finding import Check, Finding
from ebb.doctor.remedies import longer
from ebb.doctor.run_subject import DRAWN, REAL, SEED, RunSubject, chosen
from ebb.errors import UsageError
from ebb.process.denoiser import Cond
from ebb.process.derivative import along
from ebb.process.flow_map import FlowMap, pace, placed, two_times
from ebb.process.path import spread
from ebb.sample.noise import Noise
from ebb.terminal import command

MOVING, LOST = 0.25, 1.5
"""How far the last update's one-step answers may lie from the averaged weights', in deviations of the data: where they
land worse, and in any case."""

RESTLESS = 1.1
"""How many times as far from unseen data the last weights may land as their average: where a model still learns, both
land alike, and the last ones often nearer."""

EXPLODING = 2.4
"""κ·|df/dt| along the flow that a model may have at some noise level, in deviations of the data; the flow's own map has
0, a denoiser up to about 1."""

LEVELS, LOUDEST = 16, 10
"""Noise levels, evenly in τ = σ/(α + σ), and up to which of them that is looked at: near the noise df/dt is what two
large terms differ by, and several deviations in any model that is not exact."""

ASKED = 64
"""Examples at each."""

MEANS = 0.8
"""How far one-step samples lie from the mean of the data, over how far the data does (root mean square)."""

ALIKE = 0.7
"""The deviation of samples of one label, over that of data of one label."""


def deviation(run: RunSubject) -> float:
    """The standard deviation of what is denoised."""
    return float(run.clean.var(0).mean().sqrt())


def slower(run: RunSubject) -> tuple[str, tuple[str, ...]]:
    """To train anew at a third of the learning rate."""
    rate = run.recipe.optimiser.lr or 1e-3
    return f"take a lower learning rate: {run.anew}", (run.again({"optimiser.lr": float(f"{rate / 3:.2g}")}),)


def one_step(flow_map: FlowMap, x: Tensor, cond: Cond) -> Tensor:
    """f(σ·x, t, 0) where sampling begins."""
    path = flow_map.path
    t = placed(path, torch.full((len(x),), START, dtype=torch.float64))
    with torch.no_grad():
        return flow_map(x * spread(path.sigma(t), x).to(x), t, torch.zeros_like(t), cond)


START = 0.999
"""τ where sampling begins, just short of noise alone."""


def landed_worse(run: RunSubject) -> float | None:
    """How many times as far from unseen data samples of the last weights land as those of their average, by the log;
    None where nothing was unseen."""
    lines = [line for line in run.log if line.get("validation") is not None and line.get("validation_ema")]
    return float(lines[-1]["validation"] / lines[-1]["validation_ema"]) if lines else None


def check_target_moves(run: RunSubject) -> Finding | None:
    """How far answers of the raw weights lie from those of the averaged ones (MOVING, LOST), and land (RESTLESS)."""
    if not run.averaged:
        return None
    x = Noise.of(SEED, DRAWN)(0, torch.empty(DRAWN, *run.system.inner, device=run.system.device))
    cond = run.system.conditions(run.given, DRAWN)
    averaged, raw = (one_step(two_times(system.denoiser), x, cond) for system in (run.system, run.raw))
    apart = float((averaged - raw).square().mean().sqrt()) / deviation(run)
    worse = landed_worse(run)
    if apart <= (MOVING if worse is None or worse > RESTLESS else LOST):
        return None
    advice, commands = slower(run)
    far = "" if worse is None else f", and land {worse:.2g} times as far from unseen data"
    return Finding(
        "target moves",
        "the model still moves from update to update, and what it learns from is itself",
        f"one-step answers of the last weights and of their average are {apart:.2g} deviations of the data apart{far}",
        "the learning rate is too high, or has not fallen: a target made of its own answers never comes to rest",
        advice,
        commands=commands,
    )


def tangents(flow_map: FlowMap, x0: Tensor, cond: Cond) -> list[tuple[float, float]]:
    """(τ, root mean square of κ·df(x_t, t, 0)/dt along the flow) at the first LOUDEST of LEVELS noise levels."""
    path, found = flow_map.path, []
    for k in range(1, LOUDEST + 1):
        share = k / LEVELS
        t = placed(path, torch.full((len(x0),), share, dtype=torch.float64))
        x = path.mix(x0, Noise.of(SEED, len(x0))(k, x0), t)
        with torch.no_grad():
            motion = path.velocity(x, flow_map(x, t, t, cond), t)
            change = along(flow_map, (x, t, torch.zeros_like(t)), (motion, torch.ones_like(t), None), cond)
        found.append((share, float((spread(pace(path, t), change).to(change) * change).square().mean().sqrt())))
    return found


def check_tangents_explode(run: RunSubject) -> Finding | None:
    """The largest κ·|df/dt| along the flow, f to the data, at any noise level (EXPLODING)."""
    found = tangents(two_times(run.system.denoiser), *run.some(run.dataset, ASKED))
    share, size = max(found, key=lambda each: each[1])
    size /= deviation(run)
    if size <= EXPLODING:
        return None
    advice, commands = slower(run)
    return Finding(
        "tangents explode",
        "where the model lands depends on the noise level it is asked at, along one and the same flow",
        f"κ·|df/dt| is {size:.2g} deviations of the data at τ = {share:.2g}, and 0 for a map that is consistent",
        "a derivative by time that grew without bound: of an objective with tangents at too high a rate, or of a time "
        "that the network hears too finely",
        f"take a method without tangents; or {advice}",
        commands=(run.again({"method": "consistency"}), *commands),
    )


def from_mean(x: Tensor, mean: Tensor) -> float:
    """√E|x − mean|², over elements too."""
    return float((x - mean).double().square().mean().sqrt())


def shown_by_one_step(run: RunSubject) -> float:
    """How far one-step samples lie from the mean of the data, over how far the data does."""
    mean = run.real.mean(0)
    made = run.draw(DRAWN, run.system.settled(steps=1)).samples
    return from_mean(made, mean) / from_mean(run.real, mean)


def check_means_of_several(run: RunSubject) -> Finding | None:
    """One-step samples nearer to the mean of the data than MEANS of what examples are."""
    share = shown_by_one_step(run)
    if share >= MEANS:
        return None
    advice, commands = longer(run)
    return Finding(
        "means of several",
        "one step answers with a mean of several examples: samples are grey",
        f"they lie {share:.0%} as far from the mean of the data as its own examples",
        "a model of few steps begins as one of many, whose answer to noise alone is a mean; it has not learned to go "
        "all the way yet, or q is so low that the method itself takes the rest",
        f"sample in more steps, or {advice}",
        commands=(command("sample", run.folder, "--steps", 4), *commands),
    )


def within(x: Tensor, labels: NDArray[np.int64]) -> float:
    """The deviation of examples of one label from their mean, over all labels with two examples or more."""
    parts = [x[torch.from_numpy(np.flatnonzero(labels == label))].flatten(1).double() for label in np.unique(labels)]
    several = [part for part in parts if len(part) > 1]
    if not several:
        raise UsageError("no label was asked for twice")
    total = sum(float((part - part.mean(0)).square().sum()) * len(part) / (len(part) - 1) for part in several)
    return float((total / sum(part.numel() for part in several)) ** 0.5)


def variety_of_labels(run: RunSubject) -> float:
    """The deviation of samples of one label over that of the data; of all where there are none."""
    labels, known = run.asked, run.dataset.labels
    if labels is None or known is None:
        labels, known = np.zeros(DRAWN, np.int64), np.zeros(len(run.dataset.rows), np.int64)
    real = known[chosen(len(known), REAL)]
    return within(run.drawn.samples, labels) / max(within(run.real, real), 1e-9)


def check_diversity_lost(run: RunSubject) -> Finding | None:
    """Samples of one label that vary less than ALIKE of what the data does, though they are no means."""
    if shown_by_one_step(run) < MEANS:
        return None
    share = variety_of_labels(run)
    if share >= ALIKE:
        return None
    guided = run.system.sampling.guidance > 1
    advice, commands = longer(run)
    gentler = (command("sample", run.folder, "--guidance", 1),) if guided else ()
    return Finding(
        "diversity lost",
        "samples of one label are more alike than the data",
        f"their deviation from their mean is {share:.0%} of the data's",
        "guidance is in the weights where it was not asked for, or what was asked for is heard and the noise is not",
        f"sample without guidance; or {advice}" if guided else advice,
        commands=(*gentler, *commands),
    )


FEW_STEP_CHECKS: list[Check[RunSubject]] = [
    check_target_moves,
    check_tangents_explode,
    check_means_of_several,
    check_diversity_lost,
]
"""What is asked about a run of few steps besides."""
