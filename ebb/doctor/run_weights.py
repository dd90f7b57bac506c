"""What may be wrong with the weights a run has saved: damage, numbers that are none, and an average that is not one."""

from __future__ import annotations

import torch

from ebb.doctor.commands import removing
from ebb.doctor.finding import Check, Finding
from ebb.doctor.run_subject import RunSubject, significance
from ebb.errors import DamagedError
from ebb.recipe.recipe import resolved
from ebb.store import checkpoint
from ebb.terminal import command

AVERAGED = 10
"""The fewest updates that a half-life may span: the noise of an average over k half-lives' updates falls as 1/√k, and
below 10 little of it is gone."""

LAG = 1.05
"""How much larger than that of the raw weights the loss of their average may be. Finished runs differ by 1 %."""

BETTER = 1.02
"""How much better the average must be for it to matter that the raw weights were measured."""

SURE = 3.0
"""Standard errors by which the losses of two sets of weights must differ, image by image with the same noise."""


def check_damaged_checkpoint(run: RunSubject) -> Finding | None:
    """Whether every file of every checkpoint has the size and the sha256 that its manifest says."""
    run.checkpoint  # noqa: B018  # raises where there is none
    damaged = {}
    for folder in checkpoint.finished(run.folder / "checkpoints"):
        try:
            checkpoint.verify(folder)
        except DamagedError as error:
            damaged[folder] = error.what
    if not damaged:
        return None
    newest = run.checkpoint in damaged
    whole = len(checkpoint.finished(run.folder / "checkpoints")) - len(damaged)
    last = next(iter(damaged)) if not newest else run.checkpoint
    return Finding(
        "damaged checkpoint",
        f"{'the newest' if newest else 'an older'} checkpoint is not what was saved",
        f"{damaged[last]}; checkpoints that are whole: {whole}",
        "a disk that failed, a copy that was cut off, or a file that was edited",
        ("delete it; training goes on from the one before it" if newest else "delete it") if whole else run.anew,
        "error" if newest else "warning",
        (removing(last), *([run.resume] if newest else [])) if whole else (run.again(),),
    )


def check_raw_weights_not_finite(run: RunSubject) -> Finding | None:
    """Any NaN or infinite number among the raw weights or the moments of the optimiser."""
    bad: dict[str, tuple[int, int]] = {}
    for part in ("model", "optim"):
        for name, held in checkpoint.read(run.checkpoint, part).items():
            count = int((~torch.isfinite(held)).sum()) if held.is_floating_point() else 0
            if count:
                bad[f"{part}: {name}"] = count, held.numel()
    if not bad:
        return None
    first, (count, of) = next(iter(bad.items()))
    lr, earlier = resolved(run.recipe.optimiser.lr), len(checkpoint.finished(run.folder / "checkpoints")) > 1
    return Finding(
        "raw weights not finite",
        "the weights or the optimiser's moments are not all finite numbers: training cannot go on from here",
        f"{count:,} of {of:,} numbers of {first} are NaN or infinite; {len(bad)} tensors have some",
        "an update with a gradient that was not finite was applied, or a file was changed",
        "delete this checkpoint and go on from the one before it"
        if earlier
        else f"train again with a third of the learning rate: {run.length()}",
        "error",
        (removing(run.checkpoint), run.resume) if earlier else (run.again({"optimiser.lr": lr / 3}),),
    )


def check_no_average(run: RunSubject) -> Finding | None:
    """Whether the checkpoint holds averaged weights at all."""
    if run.averaged:
        return None
    return Finding(
        "no average",
        "the checkpoint holds no averaged weights, so the raw ones are sampled",
        f"there is no ema.safetensors in {run.checkpoint}",
        "weights from elsewhere, or a file that was deleted; the last updates' noise is in every sample",
        f"train with averaging, as ebb does: {run.length()}",
        commands=(run.again(),),
    )


def check_average_too_short(run: RunSubject) -> Finding | None:
    """A half-life of fewer than AVERAGED updates, in a run that had time for more: the average keeps all the noise.

    While a run is young the half-life is a share of it, so runs of fewer than 20·AVERAGED updates are not judged.
    """
    halflife, done = run.recipe.ema_halflife, run.log[-1]["step"]
    updates = halflife / run.per_step
    if done < 20 * AVERAGED or updates >= AVERAGED:
        return None
    averaged, raw = (float(losses.mean()) for losses in run.losses)
    wanted = 0.05 * done * run.per_step
    return Finding(
        "average too short",
        "the averaged weights are all but the raw ones: samples change from update to update",
        f"a half-life of {halflife:,.0f} images is {updates:.2g} updates of {done:,}; the loss on unseen images is"
        f" {averaged:.4g} with the average, {raw:.4g} without",
        "an average over a few updates keeps the noise of the last of them",
        f"train again with a longer half-life: {run.length()}",
        commands=(run.again({"ema_halflife": wanted}),),
    )


def check_average_a_copy(run: RunSubject) -> Finding | None:
    """Averaged weights that equal the raw ones bit for bit, though the half-life says they cannot."""
    step = run.log[-1]["step"]
    if not run.averaged or step < 20 * AVERAGED or run.recipe.ema_halflife < AVERAGED * run.per_step:
        return None
    averaged, raw = (checkpoint.read(run.checkpoint, part) for part in ("ema", "model"))
    if averaged.keys() != raw.keys() or not all(torch.equal(averaged[name], raw[name]) for name in raw):
        return None
    return Finding(
        "average a copy",
        "the averaged weights are the raw ones: the raw weights are sampled",
        f"ema.safetensors and model.safetensors are equal in all {len(raw)} tensors after {step:,} updates",
        "one file was written over the other, or the average was never updated by its own rule",
        run.anew,
        "error",
        (run.again(),),
    )


def check_average_too_long(run: RunSubject) -> Finding | None:
    """A loss of the average above LAG times that of the raw weights, and surely so: it still remembers what was bad."""
    if not run.averaged:
        return None
    averaged, raw = run.losses
    ratio = float(averaged.mean() / raw.mean())
    if not (ratio > LAG and significance(averaged - raw) > SURE):
        return None
    seen, halflife = run.log[-1]["images"], run.recipe.ema_halflife
    return Finding(
        "average too long",
        "the averaged weights lag behind the raw ones",
        f"the loss on unseen images is {float(averaged.mean()):.4g} with the average, {float(raw.mean()):.4g} with the"
        f" raw weights ({ratio - 1:+.0%}, with the same noise); half-life at most {halflife:,.0f} images of {seen:,}",
        "an average that reaches back to when the network knew little, or was not restored when training went on",
        f"train again with a shorter half-life: {run.length()}",
        commands=(run.again({"ema_halflife": max(float(AVERAGED * run.per_step), 0.02 * seen)}),),
    )


def check_raw_weights_measured(run: RunSubject) -> Finding | None:
    """Figures that were made with the raw weights, where the average has a loss surely lower by BETTER."""
    found = run.evaluation
    if found is None or found["settings"].get("weights", "ema") != "model" or not run.averaged:
        return None
    averaged, raw = run.losses
    ratio = float(raw.mean() / averaged.mean())
    if not (ratio > BETTER and significance(raw - averaged) > SURE):
        return None
    return Finding(
        "raw weights measured",
        "the figures of evaluation.json are those of the raw weights, not of their average",
        f"settings: weights = model; the loss on unseen images is {ratio - 1:+.0%} with them",
        "--weights model was asked for",
        "measure the average",
        commands=(command("evaluate", run.folder),),
    )


WEIGHT_CHECKS: list[Check[RunSubject]] = [
    check_damaged_checkpoint,
    check_raw_weights_not_finite,
    check_no_average,
    check_average_too_short,
    check_average_a_copy,
    check_average_too_long,
    check_raw_weights_measured,
]
"""What is asked about the weights, in this order."""
