"""What may be wrong with a run's samples: how they look beside the data, and how the solver came to them."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ebb.data.images import to_pixels
from ebb.data.modality import compared
from ebb.data.pictures import batches
from ebb.doctor.finding import Check, Finding, NothingToExamineError
from ebb.doctor.looks import contrast, fine_share, variety
from ebb.doctor.remedies import helping, longer, remedy, sampled_with
from ebb.doctor.run_subject import FINE, FINER, RunSamples, RunSubject, chosen
from ebb.errors import UsageError
from ebb.judge.ensemble import load_ensemble
from ebb.judge.features import Features, extract, vote
from ebb.recipe.recipe import of_denoiser
from ebb.sample.drift import drift
from ebb.sample.trajectory import Point
from ebb.system.model import scheme_of
from ebb.terminal import command
from ebb.understand.memorise import SURE, memorisation

FLAT = 0.6
"""The share of the data's contrast, or variety, that samples may have; those of good runs have 0.95 to 1.05."""

ALIKE = 0.5
"""The share of samples that may lie closer to another sample than half of what is usual among real images, beyond the
share of real images that do. Samples that are cleaner than noisy data, as of a network that predicts the data, reach
0.3; a collapse, 0.8 and more."""

SHIFT = 0.06
"""By how much the mean of a channel may be off, in units of [−1, 1]: a 33rd of the range, 8 of 256 levels."""

BLURRY, GRAINY = 0.6, 1.7
"""The share of fine detail (`fine_share`), as a multiple of the data's, outside of which samples look blurry or grainy;
those of good runs have 0.85 to 1.15."""

NORM = 0.15
"""How far the norm of x may be from the forward process's, as a share of it. Good runs stay within 0.07; guidance 8, or
a network that has learnt little, has 0.2 to 0.7."""

BEYOND, MOST_BEYOND = 1.25, 0.04
"""|x̂0| at the last step, which no data has, and the share of values that may be there: 0.005 in good runs, 0.2 with
guidance 8."""

COARSE = 0.15
"""How far samples may lie from those of a grid FINER times as fine, in units of the distance between two samples.
Second-order solvers in 16 steps have 0.02, in 6 steps 0.1; what is beyond 0.15 can be seen."""

SHOWN = 0.3
"""The share of a class's samples that must be seen as that class, where the classifier is right in half or more."""

ENOUGH = 5
"""Samples of a class by which it can be judged."""

UNSEEN = 1000
"""Held-out images that samples are compared with when copies are looked for."""


def finer(run: RunSubject) -> str:
    """The command that samples in FINER times as many steps."""
    return command("sample", run.folder, "--steps", FINER * run.system.sampling.steps)


def check_grey(run: RunSubject) -> Finding | None:
    """Contrast within samples (their own standard deviation) below FLAT times that of the data."""
    mine, real = contrast(run.drawn.samples), contrast(run.real)
    if mine >= FLAT * real:
        return None
    advice, commands = remedy(run, lambda drawn: contrast(drawn.samples) < FLAT * real)
    return Finding(
        "grey",
        "samples are grey: they lack contrast",
        f"the standard deviation within a sample is {mine:.2g}, that within a real image {real:.2g}",
        "the model answers with an average of the data: it is untrained, its last layer hardly moved, or its condition "
        "and its noise level do not reach it",
        advice,
        "error",
        commands,
    )


def check_samples_alike(run: RunSubject) -> Finding | None:
    """Variety between samples below FLAT times the data's, or too many samples that are all but another (ALIKE).

    Raises NothingToExamineError where the data is one image.
    """
    mine, real = run.drawn.samples, run.real
    if len(real) < 2:
        raise NothingToExamineError("the data is one image, so its samples should be alike")
    spread, usual = variety(mine), variety(real)
    share, expected = crowded(mine, real)
    if spread >= FLAT * usual and share <= expected + ALIKE:
        return None

    def ill(drawn: RunSamples) -> bool:
        share, expected = crowded(drawn.samples, real)
        return variety(drawn.samples) < FLAT * usual or share > expected + ALIKE

    advice, commands = remedy(run, ill)
    return Finding(
        "samples alike",
        "samples from different noise are nearly the same",
        f"their standard deviation at a place is {spread:.2g}, that of the data {usual:.2g}; {share:.0%} lie closer to"
        f" another sample than half of what is usual in the data ({expected:.0%} of the real images do)",
        "modes have collapsed: too much guidance, training on a few images, or a model that ignores its input",
        advice,
        "error",
        (*commands, command("doctor", run.data)),
    )


def crowded(mine: Tensor, real: Tensor) -> tuple[float, float]:
    """The share of samples, and of as many real images, that lie closer to another than half of what is usual among
    the real ones."""
    parts = [part for part in torch.split(real, len(mine)) if len(part) == len(mine)] or [real]
    gaps = torch.cat([gaps_in(part) for part in parts])
    near = gaps.median() / 2
    return float((gaps_in(mine) < near).float().mean()), float((gaps < near).float().mean())


def gaps_in(images: Tensor) -> Tensor:
    """The distance of each image [n, c, h, w] to the nearest other one, [n]."""
    distances = torch.cdist(images.flatten(1), images.flatten(1))
    return distances.fill_diagonal_(torch.inf).min(1).values


def check_colour_shift(run: RunSubject) -> Finding | None:
    """The mean of any channel off by more than SHIFT, and by more than 5 standard errors."""
    mine, real = run.drawn.samples.mean((2, 3)), run.real.mean((2, 3))
    off = mine.mean(0) - real.mean(0)
    error = (mine.var(0) / len(mine) + real.var(0, unbiased=len(real) > 1) / len(real)).sqrt()
    if not bool(((off.abs() > SHIFT) & (off.abs() > 5 * error)).any()):
        return None
    tint = len(off) > 1 and float(off.max() - off.min()) > SHIFT

    def ill(drawn: RunSamples) -> bool:  # samples from the same noise, so that few of them tell what changed
        changed = drawn.samples.mean((0, 2, 3)) - run.drawn.samples[: len(drawn.samples)].mean((0, 2, 3))
        return bool(((off + changed).abs() > SHIFT).any())

    advice, commands = remedy(run, ill)
    means = [", ".join(f"{value:+.2f}" for value in each.mean(0).tolist()) for each in (mine, real)]
    return Finding(
        "colour shift" if tint else "brightness shift",
        "samples are tinted" if tint else f"samples are too {'bright' if float(off.mean()) > 0 else 'dark'}",
        f"the mean of each channel is {means[0]}, and {means[1]} in the data (±{float(error.max()):.2g})",
        "low frequencies are learnt last, and are decided in the first steps of sampling: too short a training, an end "
        "of the schedule that is not noise, or too much guidance",
        advice,
        commands=commands,
    )


def fine_detail(run: RunSubject) -> tuple[float, float, str]:
    """The share of power at high frequencies of samples and of the data, and that in words."""
    mine, real = fine_share(run.drawn.samples), fine_share(run.real)
    said = f"{mine:.2%} of their power is at more than a quarter of a cycle a pixel, of the data's {real:.2%}"
    return mine, real, said


def check_blurry(run: RunSubject) -> Finding | None:
    """A share of power at high frequencies below BLURRY times that of the data."""
    mine, real, said = fine_detail(run)
    if mine >= BLURRY * real:
        return None
    advice, commands = remedy(run, lambda drawn: fine_share(drawn.samples) < BLURRY * real)
    return Finding(
        "blurry",
        "samples are blurry: fine detail is missing",
        said,
        "the last steps, at little noise, do too little: too few of them, too few training times there, or a network "
        "that sees patches too coarsely",
        advice,
        commands=commands,
    )


def check_grainy(run: RunSubject) -> Finding | None:
    """A share of power at high frequencies above GRAINY times that of the data."""
    mine, real, said = fine_detail(run)
    if mine <= GRAINY * real:
        return None
    advice, commands = remedy(run, lambda drawn: fine_share(drawn.samples) > GRAINY * real)
    return Finding(
        "grainy",
        "samples are noisy: they have more fine detail than the data",
        said,
        "noise is left in them: the network has not learnt small noise levels yet, or sampling ends before them",
        advice,
        commands=commands,
    )


def check_guidance_untrained(run: RunSubject) -> Finding | None:
    """Guidance other than 1 in a run that never hid its labels: what it guides away from was never trained."""
    scale = run.system.sampling.guidance
    if not run.system.conditioner.null() or scale == 1 or of_denoiser(run.recipe).condition_dropout:
        return None
    advice, commands = sampled_with(run, {"guidance": 1.0})
    return Finding(
        "guidance untrained",
        "guidance is used, and the model was never trained without labels",
        f"guidance {scale:g} and condition_dropout 0",
        "guidance moves away from the answer without a label, which this network was never asked for",
        f"{advice}; the last trains a model that can be guided: {run.length()}",
        "error",
        (*commands, run.again({"condition_dropout": 0.1})),
    )


def strays(run: RunSubject, points: list[Point]) -> str:
    """Where x leaves the range of the forward process by NORM, or x̂0 that of the data, in words; "" where neither."""
    system = run.system
    size = float(run.clean.double().square().mean().sqrt())
    readings = list(drift(points, system.denoiser.path, size))
    worst = max(readings, key=lambda reading: abs(float(reading.rms) / reading.expected - 1))
    off = float(worst.rms) / worst.expected - 1
    outside = (points[-1].x0 - system.modality.bounded(points[-1].x0)).abs()
    beyond = float((outside > BEYOND - 1).float().mean())
    said = [f"x has {off:+.0%} of the norm of noisy data at t = {worst.point.t:.2g}"] if abs(off) > NORM else []
    if beyond > MOST_BEYOND and system.space is None:  # latents have no range
        said.append(f"{beyond:.1%} of the values of x̂0 end beyond ±{BEYOND:g}")
    return " and ".join(said)


def check_out_of_range(run: RunSubject) -> Finding | None:
    """Whether x keeps to the forward process's norm (NORM), and x̂0 to the data's range (MOST_BEYOND), on the way.

    Where it does not, a few samples tell whether guidance or too few steps are the cause.
    """
    said = strays(run, run.drawn.points)
    if not said:
        return None
    settings = helping(run, lambda drawn: bool(strays(run, drawn.points)))
    advice, commands = longer(run) if settings is None else sampled_with(run, settings)
    guided, scale = "guidance" in (settings or {}), run.system.sampling.guidance
    causes = {
        "guidance": "guidance this strong asks for what no data is like",
        "steps": "each step adds to what the last one got wrong: they are too long",
    }
    return Finding(
        "guidance too strong" if guided else "out of range",
        "sampling leaves the range the network was trained on" + (": values saturate" if guided else ""),
        said + ("; with less guidance neither" if guided else "") + f" (guidance {scale:g})",
        next((causes[name] for name in settings or {}), "the network has not learnt enough to find its way back"),
        advice,
        commands=commands,
    )


def check_too_few_steps(run: RunSubject) -> Finding | None:
    """The distance to samples of the same noise in FINER times as many steps, as a share of that between two samples.

    Above COARSE the run's own settings are still far from what the model would make. Raises NothingToExamineError for
    solvers that add noise: theirs is another in another number of steps.
    """
    how = run.system.sampling
    if scheme_of(run.system.denoiser, how).stochastic:
        raise NothingToExamineError(f"{how.solver} adds noise as it goes, so two numbers of steps cannot be compared")
    mine = run.drawn.samples[:FINE]
    gap, between = distance(mine, run.finer.samples), distance(mine, mine.roll(1, 0))
    if gap <= COARSE * between:
        return None
    nearer = distance(run.draw(FINE, run.system.settled(steps=2 * how.steps)).samples, run.finer.samples)
    advice, commands = sampled_with(run, {"steps": (2 if nearer <= COARSE * between else FINER) * how.steps})
    return Finding(
        "too few steps",
        "samples change when they are given more steps",
        f"in {FINER * how.steps} steps instead of {how.steps} the same noise ends {gap:.2g} away (root mean square);"
        f" two different samples are {between:.2g} apart",
        f"{how.steps} steps of {how.solver} are too long for this model",
        advice,
        commands=commands,
    )


def distance(a: Tensor, b: Tensor) -> float:
    """The root mean square difference of two images, its mean over pairs."""
    return float((a - b).double().square().flatten(1).mean(1).sqrt().mean())


def check_memorised(run: RunSubject) -> Finding | None:
    """More samples close to training images than any model that copies none would have (`ebb.understand.memorise`).

    From evaluation.json, where it is of this checkpoint, else of a few samples in pixels.
    """
    kept = (run.evaluation or {}).get("memorisation")
    if kept is None:
        dataset = run.dataset
        if dataset.held_out is None:
            raise NothingToExamineError("no image was held out, so nothing says how close an unseen one may be")
        unseen = dataset.held_out.rows[chosen(len(dataset.held_out.rows), UNSEEN)]
        made = dataset.modality.stored(run.drawn.samples)
        mine, known, new = (compared(dataset.modality, stored) for stored in (made, dataset.rows, unseen))
        found = memorisation(mine, None, known, new, None, seed=0)
        verdict, chance, pairs = found.verdict, min(space.chance for space in found.spaces), found.pairs
    else:
        verdict, chance, pairs = kept["verdict"], min(each["chance"] for each in kept["spaces"]), kept["pairs"]
    if chance >= SURE:
        return None
    nearest = f"; sample {pairs[0][0]} is nearest to training image {pairs[0][1]:,}" if pairs else ""
    return Finding(
        "memorised",
        "samples are copies of training images",
        verdict + nearest,
        "more passes over too few images than the network can take without learning them by heart",
        f"the first command shows the pairs; train on more images, or for fewer updates: {run.length(run.steps // 4)}",
        commands=(command("evaluate", run.folder), run.again({"steps": max(1, run.steps // 4)})),
    )


def judge(run: RunSubject) -> tuple[Features, float]:
    """The classifiers that an evaluation left in the run, and how often they are right; UsageError where none did."""
    found = load_ensemble(run.folder / "classifier.safetensors", run.dataset.summary.fingerprint)
    if found is None:
        raise UsageError(f"there is no classifier of this data in {run.folder}", command("evaluate", run.folder))
    return found


def check_labels_missing(run: RunSubject) -> Finding | None:
    """Classes of which fewer than SHOWN of the samples (ENOUGH or more) are seen as what they were asked for."""
    if run.asked is None:
        return None
    seen, accuracy = judge(run)
    if accuracy < 0.5:
        raise NothingToExamineError(f"the classifier is right in {accuracy:.0%} only")
    voted = vote(seen, extract(seen, batches(to_pixels(run.drawn.samples))))
    names, counts = run.system.labels.names, np.bincount(run.asked)
    missing = {
        names[k]: float((voted[run.asked == k] == k).mean())
        for k in np.flatnonzero(counts >= ENOUGH).tolist()
        if (voted[run.asked == k] == k).mean() < SHOWN
    }
    if not missing:
        return None
    shown = ", ".join(f"{name} {share:.0%}" for name, share in list(missing.items())[:5])
    advice, commands = longer(run)
    return Finding(
        "labels missing",
        f"{len(missing)} of {len(names)} classes are not shown when they are asked for",
        f"seen as what was asked: {shown}; on unseen real images the classifier is right in {accuracy:.0%}",
        "labels that the network was never told, mixed up, or too rare in the data; or modes that have collapsed",
        f"see whether the labels are right; then {advice}",
        commands=(
            command("sample", run.folder, "--label", next(iter(missing))),
            command("doctor", run.data),
            *commands,
        ),
    )


SAMPLE_CHECKS: list[Check[RunSubject]] = [
    check_grey,
    check_samples_alike,
    check_colour_shift,
    check_blurry,
    check_grainy,
    check_guidance_untrained,
    check_out_of_range,
    check_too_few_steps,
    check_labels_missing,
    check_memorised,
]
"""What is asked about the samples, in this order."""
