"""What may have gone wrong while a run trained: told from its log, its guard, and the losses its weights have now."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ebb.doctor.finding import Check, Finding, NothingToExamineError
from ebb.doctor.remedies import WANTED, longer
from ebb.doctor.run_subject import RunSubject
from ebb.errors import EbbError, UsageError
from ebb.process.bins import centres
from ebb.process.denoiser import NetworkDenoiser
from ebb.process.predict import determinant
from ebb.process.times import Density
from ebb.recipe.recipe import FewStepRecipe, of_denoiser, resolved
from ebb.shapes import Float
from ebb.terminal import command
from ebb.train.gradients import LevelGradients, span
from ebb.train.objectives.weights import WEIGHTS

Array = NDArray[np.float64]

ROSE = 1.5
"""A smoothed loss that ends so many times above its lowest has diverged; healthy ones end within 5 % of it."""

SPIKE = 1.6
"""A line of the log whose loss is so many times the median of the lines around it is a spike: lines of healthy runs
stay within 1.3, batches of 32 included."""

SKIPPED = 0.01
"""The share of updates that the guard may skip; healthy runs skip none in thousands."""

LEARNT = 0.9
"""The share of the loss of the best answer that looks at each place alone, below which a network has learnt to look
further. Runs of a few hundred updates are at 0.7 and less."""

AGREE = 0.5
"""The gradient noise scale, in batches, below which gradients agree more than they differ."""

FALL, FALL_EARLY = 0.25, 0.15
"""The share by which the loss may fall in the second half of a run, and of one that has seen fewer than EARLY images.
A falling rate brings 7 to 13 %, and 18 % to a prediction of noise, whose loss may come near 0; runs that were far too
short are at 20 %."""

EARLY = 10_000
"""Images that every network wants to see."""

OVERFIT = 1.05
"""How far the validation loss may rise above its lowest. It repeats bit for bit, so that its rise is the model's."""

DRIVES, FEW = 0.6, 0.1
"""The share of the squared gradient that comes from one level of noise, and of the training times that fall there,
beyond which that level drives the gradient alone. In healthy runs of every path and prediction the most that comes of
so few is a tenth; a level on which a third of the times fall may bring nine tenths (`min_snr`)."""

SAFE = 2e-3
"""A learning rate that no network of the recipes finds too high: however far off a rate was, the next one is right."""

LINES = 20
"""Lines of the log that a course can be told from."""


def check_data_gone(run: RunSubject) -> Finding | None:
    """Data that is not where it was, or is not what the run was trained on: what needs it cannot be checked."""
    if not isinstance(run.reading, EbbError):
        return None
    return Finding(
        "data gone",
        "the data that the run was trained on cannot be had: what needs it is not checked",
        f"{run.reading.what}; looked for is the fingerprint {run.document[1].get('fingerprint', '')[:12]}…",
        "it was moved, renamed, changed or deleted",
        f"{command('doctor', run.folder, '--data', 'PLACE')}, where it is now",
    )


def losses_of(run: RunSubject) -> Array:
    """The loss of each line, NaN where it is no number; raises NothingToExamineError for fewer than LINES lines."""
    if len(run.log) < LINES:
        raise NothingToExamineError(f"the log has {len(run.log)} lines, and a course is told from {LINES} or more")
    return np.array([math.nan if e.get("loss") is None else float(e["loss"]) for e in run.log])


def smoothed(losses: Array) -> Array:
    """The running median over a fiftieth of the lines, 5 at least, from each line on."""
    width = max(5, len(losses) // 50)
    return np.median(np.lib.stride_tricks.sliding_window_view(losses, width), axis=1)


def check_diverged(run: RunSubject) -> Finding | None:
    """A loss that is not finite, ends ROSE times above its lowest, or made the guard roll back; with the noise levels
    that rose most."""
    acted = [event for event in run.events if event.get("what") in ("rolled back", "stopped")]
    losses = losses_of(run) if not acted else np.zeros(0)
    bad = np.flatnonzero(~np.isfinite(losses))
    course = smoothed(losses) if len(losses) and not len(bad) else np.zeros(0)
    if acted:
        step, last = acted[0].get("step", 0), acted[-1]
        how = f"the guard {last['what']}" + (f" {len(acted)} times" if len(acted) > 1 else "")
        evidence = f"{how}, first at step {step:,}: {last.get('cause', 'no cause noted')}"
    elif len(bad):
        step = run.log[int(bad[0])]["step"]
        evidence = f"the loss is not finite from step {step:,} on"
    elif len(course) and course[-1] > ROSE * course.min():
        best = int(course.argmin())
        step = run.log[best + int(np.argmax(course[best:] > ROSE * course.min()))]["step"]
        evidence = f"the loss was {course.min():.4g} at step {run.log[best]['step']:,} and ends at {course[-1]:.4g}"
    else:
        return None
    rate = resolved(run.recipe.optimiser.lr)
    return Finding(
        "diverged",
        f"training diverged at about step {step:,}",
        evidence + risen(run.log, step),
        "a learning rate too large for this network, or batches that hold something extraordinary",
        f"look at the data, and train again with a lower learning rate: {run.length()}",
        "error",
        (command("doctor", run.data), run.again({"optimiser.lr": min(rate / 3, SAFE)})),
    )


def risen(log: list[dict[str, Any]], step: int) -> str:
    """Which noise levels' losses rose most from before `step` to the end, in words; "" where the log has no levels."""
    rows = [(e["step"], [math.nan if v is None else v for v in e["levels"]]) for e in log if e.get("levels")]
    before = [row for at, row in rows if at < step][-10:]
    after = [row for at, row in rows if at >= step]
    if not before or not after:
        return ""
    then, now = np.array(before, dtype=float), np.array(after, dtype=float)
    ratios = [
        float(np.nanmean(b) / np.nanmean(a)) if np.isfinite(a).any() and np.isfinite(b).any() else 0.0
        for a, b in zip(then.T, now.T, strict=True)
    ]
    worst = sorted(range(len(ratios)), key=lambda i: -ratios[i])[:3]
    places = ", ".join(f"{centres()[i]:+.2g} ({ratios[i]:.2g} times)" for i in worst if ratios[i] > 1)
    return f"; the loss rose most at the log-SNR {places}" if places else ""


def check_stopped_early(run: RunSubject) -> Finding | None:
    """Whether the log ends before the last update of the recipe: the rate has not come down yet."""
    last, rate = run.log[-1], resolved(run.recipe.optimiser.lr)
    if last["step"] >= run.steps:
        return None
    return Finding(
        "stopped early",
        "the run was not finished",
        f"step {last['step']:,} of {run.steps:,}, at {last['lr'] / rate:.0%} of the peak learning rate",
        "it was interrupted, and much of what a falling rate brings comes at the end",
        f"go on where it stopped: {run.length(run.steps - last['step'])} more",
        commands=(run.resume,),
    )


def alone(model: NetworkDenoiser, times: Density, real: Float[torch.Tensor, "n *d"]) -> float:
    """The loss of the best answer that looks at each place by itself, knowing its mean m and variance s²,

        x̂0 = m + αs²/(α²s² + σ²)·(x − αm),  E(F̂ − F)² = det²·s²/(α²s² + σ²),

    averaged over places and over the density of times.
    """
    t = times(model.path, (torch.arange(128, dtype=torch.float64) + 0.5) / 128)
    det = determinant(model.path, t, *model.prediction(model.path, t))[:, None]
    alpha, sigma = model.path.alpha(t)[:, None], model.path.sigma(t)[:, None]
    variance = real.double().var(0, unbiased=False).flatten()
    return float((det**2 * variance / (alpha**2 * variance + sigma**2)).mean())


def little_learnt(run: RunSubject) -> str:
    """The figures of a network that knows hardly more than mean and variance (LEARNT); "" of one that knows more."""
    if run.system.model.denoiser is None:  # its loss is of another kind
        return ""
    found = [float(losses.mean()) for losses in run.losses]
    if of_denoiser(run.recipe).weight == "unit" and len(run.log) >= LINES:  # then the log is in the same unit
        found.append(float(smoothed(losses_of(run))[-1]))
    loss, simple = min(found), alone(run.system.denoiser, run.density, run.clean)
    if loss < LEARNT * simple or not simple:  # of one image again and again each place is known
        return ""
    return f"the loss is {loss:.3g}; an answer that looks at each place alone has {simple:.3g}"


def fall(run: RunSubject) -> float:
    """The share by which the smoothed loss fell in the second half of the run."""
    course = smoothed(losses_of(run))
    return 1 - float(course[-1] / course[len(course) // 2])


def slow(run: RunSubject) -> bool:
    """Whether gradients of the run's batches still agree (AGREE): longer steps would have gone further."""
    found = run.gradients
    return found.noise < AGREE * run.per_step * max(found.signal, 0.0)


def check_rate_too_low(run: RunSubject) -> Finding | None:
    """A network that has learnt little though gradients of its batches agree: noise was not what held it back.

    The measure is the gradient noise scale tr Σ/|∇L|² (McCandlish et al. 2018, eq. 2.9), in batches, at the end.
    """
    little = little_learnt(run)
    if not little or not slow(run) or (len(run.log) >= LINES and jumps(run)):
        return None
    found, rate = run.gradients, resolved(run.recipe.optimiser.lr)
    return Finding(
        "rate too low",
        "the network has learnt little, and still knows which way to go",
        f"{little}; the gradient noise scale is {found.noise / found.signal:.2g} images, and a batch has"
        f" {run.per_step}; learning rate {rate:.2g}",
        "steps so small that they add up to nothing",
        f"train again with ten times the learning rate: {run.length()}",
        commands=(run.again({"optimiser.lr": 10 * rate}),),
    )


def check_too_short(run: RunSubject) -> Finding | None:
    """A loss that still fell much in the second half (FALL), or a network that has learnt little with a rate that is no
    smaller than it should be."""
    if run.log[-1]["step"] < run.steps or (len(run.log) >= LINES and jumps(run)):
        return None  # another finding says so
    little = little_learnt(run)
    share, images = fall(run) if len(run.log) >= LINES else 0.0, run.log[-1]["images"]
    if (not little or slow(run)) and share < (FALL_EARLY if images < EARLY else FALL):
        return None
    known = run.counted["count"]
    evidence = little or f"the loss fell by {share:.0%} in the second half of the run"
    advice, commands = longer(run)
    return Finding(
        "too short",
        "the run ended while it was still learning",
        f"{evidence}; {images:,} images seen, {images / known:.2g} passes over {known:,}",
        "too few updates"
        + (f": even a small network on small images wants to see {WANTED:,} and more" if images < WANTED else ""),
        advice,
        commands=commands,
    )


def jumps(run: RunSubject) -> str:
    """Spikes in the loss (SPIKE; 3 lines and 1 % of them), a loss that first rose, and updates that the guard skipped
    (SKIPPED), in words; "" where there are none."""
    losses, updates = losses_of(run), run.log[-1]["step"]
    skipped = sum(int(e.get("skipped") or 0) for e in run.log)
    width = max(5, len(losses) // 50)
    padded = np.pad(losses, width, mode="edge")
    around = np.median(np.lib.stride_tricks.sliding_window_view(padded, 2 * width + 1), axis=1)
    spikes = [i for i in range(len(losses) // 10, len(losses)) if losses[i] > SPIKE * around[i]]
    first, top = float(losses[0]), float(smoothed(losses).max())
    found = [f"the guard skipped {skipped:,} of {updates:,} updates"] if skipped > SKIPPED * updates else []
    if len(spikes) >= max(3, 0.01 * len(losses)):
        worst = max(spikes, key=lambda i: losses[i] / around[i])
        found.append(
            f"{len(spikes)} spikes in the loss, the largest at step {run.log[worst]['step']:,}:"
            f" {losses[worst]:.3g} where {around[worst]:.3g} is usual"
        )
    if top > 1.2 * first:
        found.append(f"the loss began at {first:.3g} and rose to {top:.3g}")
    return "; ".join(found)


def check_rate_too_high(run: RunSubject) -> Finding | None:
    """Whether the loss jumps about, or the guard had to skip updates (`jumps`)."""
    said = jumps(run)
    if not said:
        return None
    rate = resolved(run.recipe.optimiser.lr)
    return Finding(
        "rate too high",
        "training jumps about instead of descending",
        f"{said}; learning rate {rate:.2g}",
        "steps longer than the loss is smooth: what a batch teaches, the step overshoots",
        f"train again with a lower learning rate: {run.length()}",
        commands=(run.again({"optimiser.lr": min(rate / 5, SAFE)}),),
    )


def check_one_noise_level_drives_the_gradient(run: RunSubject) -> Finding | None:
    """Whether one level of the log-SNR has DRIVES of the mean squared gradient of an example (`LevelGradients.drive`),
    but FEW of the training times or fewer: what all others teach is lost in its scatter.

    Advised is the loss weight under which the gradient of the same weights is shared most evenly.
    """
    found = run.level_gradients
    level = dominant(found)
    if found.drive[level] < DRIVES or found.share[level] > FEW:
        return None
    recipe, (low, high) = of_denoiser(run.recipe), span(level)
    others = {name: run.gradients_under(name) for name in WEIGHTS if name != recipe.weight}
    best = min(others, key=lambda name: max(others[name].drive))
    after = others[best].drive[dominant(others[best])]
    return Finding(
        "one noise level drives the gradient",
        f"the gradient comes from one level of noise: log-SNR {low:g} to {high:g}",
        f"{found.drive[level]:.0%} of its mean square, from {found.share[level]:.1%} of the training times; norm"
        f" {found.norm[level]:.3g} there, scatter {found.spread[level]:.3g} an example",
        f"the weight {recipe.weight} on {recipe.prediction} makes the loss of that level far larger than all others,"
        " which are hardly learnt beside it",
        f"train again with --weight {best}, under which no level has more than {after:.0%}: {run.length()}",
        commands=(run.again({"weight": best}),),
    )


def dominant(by_level: LevelGradients) -> int:
    """The level with the largest share of the squared gradient. Raises UsageError where a gradient is not finite."""
    if not math.isfinite(sum(by_level.drive)):
        raise UsageError("the gradient is not finite at some level of noise", "see what else is found")
    return max(range(len(by_level.drive)), key=lambda level: by_level.drive[level])


def check_overfitting(run: RunSubject) -> Finding | None:
    """A validation loss of the average that ends OVERFIT above its lowest, while the training loss fell.

    Raises NothingToExamineError where the log has fewer than 3 validations, or they are no losses: of few steps they
    are distances of samples, which rise by more in runs that are well, and the nearest average is the one sampled from.
    """
    if isinstance(run.recipe, FewStepRecipe):
        raise NothingToExamineError("few steps are validated by where samples land, and the nearest average is taken")
    name = "validation_ema"
    told = [i for i, e in enumerate(run.log) if isinstance(e.get(name), float)]
    if len(told) < 3:
        raise NothingToExamineError("the log has no validation losses to compare: they come with held-out images")
    course = np.array([run.log[i][name] for i in told])
    best, losses = int(course.argmin()), losses_of(run)
    width = max(5, len(losses) // 50)
    then, now = (float(np.median(losses[max(0, i - width + 1) : i + 1])) for i in (told[best], told[-1]))
    if course[-1] <= OVERFIT * course[best] or now >= then:
        return None
    step = run.log[told[best]]["step"]
    seen = run.log[-1]["images"] / run.counted["count"]
    return Finding(
        "overfitting",
        "the loss on unseen images rises while that on training images falls",
        f"unseen: {course[best]:.4g} at step {step:,}, later {course[-1]:.4g} ({course[-1] / course[best] - 1:+.0%});"
        f" training: {then:.4g} and {now:.4g}; {seen:.3g} passes over the data",
        "the network has begun to learn the training images by heart",
        f"train again and end there: {run.length(step)}; better with more images, or with mirrored ones (--data.flip)",
        commands=(run.again({"steps": step}),),
    )


TRAINING_CHECKS: list[Check[RunSubject]] = [
    check_data_gone,
    check_diverged,
    check_stopped_early,
    check_rate_too_high,
    check_rate_too_low,
    check_too_short,
    check_one_noise_level_drives_the_gradient,
    check_overfitting,
]
"""What is asked about the training, in this order."""
