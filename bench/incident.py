"""A run that diverges after thousands of updates, as a case: what makes it, at which noise level, and what stops it.

    make bench-incident
    python bench/incident.py --only "vlb" --steps 10000

A perceptron learns the noise in handwritten digits (8×8) with plain Adam: no clipping, no guard, a level rate. From
there one thing at a time is changed: path, learning rate, warm-up, loss weight, precision; then, for those that
diverge, the remedies. Half a minute a case on one core. The loss of a case is that of its own weight, so that it is
held against its own lowest: it has diverged where a smoothed loss ends ROSE times above that, or is not finite.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import Tensor

from ebb.data.loader import Batch, Order
from ebb.doctor.run_training import ROSE, smoothed
from ebb.networks.mlp import MLP
from ebb.process.bins import BINS, EDGE
from ebb.process.denoiser import NetworkDenoiser
from ebb.process.path import PATHS, Path
from ebb.process.predict import PREDICTIONS
from ebb.process.times import uniform
from ebb.train.ema import EMA
from ebb.train.gradients import SPANS, GradientProbe, span
from ebb.train.guard import Guard
from ebb.train.loop import Descent, Training, updates
from ebb.train.objectives.denoising import Denoising
from ebb.train.objectives.weights import WEIGHTS, Weighting, simple
from ebb.train.optimiser import SCHEDULES, adamw

BATCH, LINE = 32, 50
"""Examples of an update, and updates of a line of the log."""


def by_noise(path: Path, t: Tensor, det: Tensor) -> Tensor:
    """1/σ on the squared error of the noise: the factor that is said to pass a thousand, and is at most a hundred."""
    return simple(path, t, det) / path.sigma(t)


WEIGHTED: dict[str, Weighting] = {"simple": WEIGHTS["simple"], "1/σ": by_noise, "vlb": WEIGHTS["vlb"]}


class Lenient(Guard):
    """Finds every update good."""

    def __call__(self, loss: Tensor, norm: Tensor) -> Tensor:
        """False."""
        return torch.zeros((), dtype=torch.bool)


@dataclass(frozen=True)
class Case:
    """What a run is made of; the defaults are where all begin."""

    path: str = "ddpm_linear"
    lr: float = 1e-3
    warmup: int = 0
    weight: str = "simple"
    precision: str = "fp32"
    clip: float = float("inf")
    guard: bool = False
    schedule: str = "level"

    def __str__(self) -> str:
        differ = [f"{name} {value}" for name, value in vars(self).items() if value != vars(Case())[name]]
        return ", ".join(differ) or "as it is"


RATES = (1e-5, 1e-2, 1e-1, 1.0, 3.0)
FIRST = [
    Case(),
    Case(path="cosine"),
    *(Case(path=path, lr=lr) for lr in RATES for path in ("ddpm_linear", "cosine")),
    *(Case(lr=lr, warmup=500) for lr in RATES[-2:]),
    *(Case(lr=lr, weight=weight) for lr in (1e-3, 1e-1, 3e-1) for weight in ("1/σ", "vlb")),
    *(Case(lr=lr, precision="bf16") for lr in (1e-3, 3.0)),
]
REMEDIES: list[dict[str, object]] = [
    {"clip": 1.0},
    {"guard": True},
    {"clip": 1.0, "guard": True},
    {"schedule": "linear"},
    {"warmup": 500, "schedule": "cosine", "clip": 1.0},
]


@dataclass(frozen=True)
class Outcome:
    """How a run went."""

    step: int | None
    """where it first was ROSE times above its lowest for good; None where it did not diverge"""
    level: str
    """the noise levels whose loss had risen most then"""
    lowest: float
    last: float
    drives: str
    """the level with the largest share of the squared gradient before that"""


def digits() -> Tensor:
    """1,797 digits, [n, 64] in −1 … 1."""
    return torch.from_numpy(load_digits().data / 8 - 1).float()


def course(case: Case, steps: int) -> Outcome:
    """Train as the case has it, until the end or until the loss is not finite."""
    torch.manual_seed(0)
    x0, path = digits(), PATHS[case.path]
    model = NetworkDenoiser(MLP(x0.shape[1], width=64), path, PREDICTIONS["noise"])
    objective = Denoising(uniform, WEIGHTED[case.weight])
    training = Training(
        model, adamw(model, case.lr, beta2=0.999), EMA(model), guard=Guard() if case.guard else Lenient()
    )
    order = Order(len(x0), BATCH, 0)
    rate = SCHEDULES.get(case.schedule, partial(SCHEDULES["level_then_fall"], decay=0.0))(case.lr, steps, case.warmup)
    how = Descent(clip=case.clip, autocast=torch.bfloat16 if case.precision == "bf16" else None)
    probe = GradientProbe(Batch(x0[order.indices(0)[:16]], {}), objective)
    losses, levels, drives = list[Tensor](), list[Tensor](), ""
    lines, tallies = list[float](), list[np.ndarray]()
    for step in updates(training, objective, lambda n: Batch(x0[order.indices(n)], {}), how, steps=steps, rate=rate):
        losses.append(step.loss)
        levels.append(step.levels)  # type: ignore[arg-type]
        if step.number % LINE == 0:
            lines.append(float(torch.stack(losses).mean()))
            tallies.append(torch.stack(levels).sum(0).numpy())
            losses, levels = [], []
            if not np.isfinite(lines[-1]):
                break
            if step.number == min(1000, steps):
                drives = driving(probe, model)
    return outcome(lines, tallies, drives)


def driving(probe: GradientProbe, model: NetworkDenoiser) -> str:
    """The level that drives the gradient, and its share."""
    found = probe(model).drive
    level = max(range(SPANS), key=found.__getitem__)
    low, high = span(level)
    return f"{low:g} to {high:g}: {found[level]:.0%}"


def outcome(lines: list[float], tallies: list[np.ndarray], drives: str) -> Outcome:
    """Where the smoothed loss left its lowest for good, and the levels that had risen most between the two."""
    losses = np.array(lines)
    finite = losses[np.isfinite(losses)]
    if not len(finite):
        return Outcome(LINE, "", float("nan"), float(losses[-1]), drives)
    curve = smoothed(finite) if len(finite) >= 5 else finite
    best = int(curve.argmin())
    far = len(finite) < len(losses) or curve[-1] > ROSE * curve[best]
    if not far:
        return Outcome(None, "", float(curve.min()), float(curve[-1]), drives)
    above = np.flatnonzero(curve[best:] > ROSE * curve[best])
    at = best + int(above[0]) if len(above) else len(finite)
    with np.errstate(invalid="ignore", divide="ignore"):
        means = [np.sum(tallies[a:b], 0) for a, b in ((max(0, best - 5), best + 5), (at, len(tallies)))]
        ratio = (means[1][0] / means[1][1]) / (means[0][0] / means[0][1])
    worst = int(np.where(np.isnan(ratio), np.inf if len(finite) < len(losses) else 0, ratio).argmax())
    width = 2 * EDGE / BINS
    level = f"{worst * width - EDGE:g} to {(worst + 1) * width - EDGE:g} ({ratio[worst]:.2g} times)"
    return Outcome((at + 1) * LINE, level, float(curve.min()), float(losses[-1]), drives)


def row(case: Case, steps: int, look: Callable[[Case, int], Outcome] = course) -> Outcome:
    """Run a case, and print it."""
    began, found = time.perf_counter(), look(case, steps)
    when = "no" if found.step is None else f"at {found.step:,}"
    print(
        f"| {case} | {when} | {found.level} | {found.lowest:.3g} | {found.last:.3g} | {found.drives} |"
        f" {time.perf_counter() - began:.0f} s |",
        flush=True,
    )
    return found


def main() -> None:
    """Print a line for each case, and for each remedy of those that diverged."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--only", default="", help="cases whose description contains this text")
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    print(
        "| case | diverged | the loss rose most at log-SNR | lowest loss | last | gradient at 1,000 | time |\n"
        + "|---" * 7
        + "|"
    )
    bad = [case for case in FIRST if given.only in str(case) and row(case, given.steps).step is not None]
    for case in bad:
        for remedy in REMEDIES:
            row(replace(case, **remedy), given.steps)  # type: ignore[arg-type]


if __name__ == "__main__":
    main()
