"""What may be wrong with a model: found by looking at its layers, and by asking it about noise."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from ebb.doctor.finding import Check, Finding
from ebb.doctor.model_noise import check_noise_left, untaught
from ebb.doctor.model_subject import NSR, SPREAD, STIRRED, Ask, ModelSubject, change, dead
from ebb.doctor.model_wiring import check_block_cut_off
from ebb.process.denoiser import NetworkDenoiser
from ebb.process.learned import LearnedVariance
from ebb.process.path import LOUDEST, PATHS
from ebb.process.predict import recover_factors
from ebb.process.times import SHORTEST
from ebb.recipe.names import spell

SCALES = (0.1, 10.0)
"""Standard deviations between which a network's input may lie; Karras et al. 2022, §5, ask for 1."""

END_SNR = 1e-3
"""The largest α²/σ² at which sampling may begin with pure noise: what is left of the data is then a thirtieth of the
noise. Lin et al. 2024 found 0.0047 (Stable Diffusion) to show as images of medium brightness."""

LOST = 0.03
"""The share of a sample's numbers that may not fit through a network; as much of the noise's power stays in what it
makes, white noise of deviation 0.17."""

ROOM = 1.125
"""How much wider than just wide enough a network is advised to be: normalisation takes some numbers of each place."""


def check_parameters_not_finite(model: ModelSubject) -> Finding | None:
    """Any NaN or infinite number among the parameters and buffers."""
    held = model.network.state_dict() if model.network is not None else {}
    bad = {name: int((~torch.isfinite(x)).sum()) for name, x in held.items() if x.is_floating_point()}
    bad = {name: count for name, count in bad.items() if count}
    if not bad:
        return None
    first = next(iter(bad))
    return Finding(
        "parameters not finite",
        "the model's parameters are not all finite numbers",
        f"{bad[first]:,} of {held[first].numel():,} numbers of {first} are not; {len(bad)} of {len(held)} tensors",
        "an update with a gradient that was not finite was applied, or a file was damaged",
        "go back to a checkpoint from before, and train on with a third of the learning rate",
        "error",
    )


def check_batch_norm(model: ModelSubject) -> Finding | None:
    """Any layer that normalises by the statistics of a batch."""
    kinds = nn.modules.batchnorm._BatchNorm
    named = model.network.named_modules() if model.network is not None else ()
    found = [f"{name or 'the network'} ({type(part).__name__})" for name, part in named if isinstance(part, kinds)]
    if not found:
        return None
    return Finding(
        "batch norm",
        "the network normalises by the statistics of a batch",
        f"{len(found)} such {'layers' if len(found) > 1 else 'layer'}: {', '.join(found[:3])}",
        "a training batch mixes all noise levels, while a step of sampling has one: its statistics are others, and an "
        "average of the weights does not average them",
        "replace it by nn.GroupNorm(8, channels) and train again",
        "error",
    )


def check_wrong_shape(model: ModelSubject) -> Finding | None:
    """Whether the model answers at all, and with an output of the input's shape (twice the channels if it also states
    a variance)."""
    x, wide = model.seen(1.0), isinstance(model.model, LearnedVariance)
    answers = model.core.answers if isinstance(model.core, NetworkDenoiser) else 1
    expected = [len(x), x.shape[1] * max(answers, 1 + wide), *x.shape[2:]]
    try:
        with model.at_rest():
            came = list(model.output(1.0).shape)
    except Exception as error:  # whatever a network raises when it is asked is the finding
        evidence = f"asked about {list(x.shape)}, it raised {type(error).__name__}: {str(error)[:200]}"
    else:
        if came == expected:
            return None
        evidence = f"expected {expected} for an input of {list(x.shape)}, got {came}"
    return Finding(
        "wrong shape",
        "the network does not answer with a tensor of its input's shape",
        evidence,
        "a resolution that does not divide evenly, another number of channels, a missing condition, or a network that "
        "takes its arguments in another order than (x, time, cond)",
        "pad and crop inside the network, or wrap it in a module that calls it as network(x, time, cond)",
        "error",
    )


def check_output_dead(model: ModelSubject) -> Finding | None:
    """An output of rms below 1e-8, or one that differs by less than STIRRED between inputs, at every noise level."""
    how = dead(model)
    if not how:
        return None
    return Finding(
        "output dead",
        f"the network's output is {how}",
        f"asked about different data, with {', '.join(f'{nsr:g}' for nsr in NSR)} times as much noise as data",
        "the network is untrained (many begin as the zero function), its last layer is not among the parameters of the "
        "optimiser, or its activations have died",
        "check that the optimiser was given model.parameters() after the model was complete, then train",
        "error",
    )


def stirred(model: ModelSubject, ask: Ask, condition: str = "") -> float:
    """How far the output moves, as a share of it, when `condition` is exchanged; without one, when the time told is.

    The largest over noise levels, since a label says little where the data is clear, and much where it is not.
    """
    with model.at_rest():
        if not condition:
            answers = [model.output(1.0, clocked=nsr, ask=ask) for nsr in NSR]
            return max(change(answers[1], answers[0]), change(answers[1], answers[2]))
        other = model.rows(condition, 1)
        return max(change(model.output(nsr, ask=ask), model.output(nsr, cond=other, ask=ask)) for nsr in NSR)


def ignored(model: ModelSubject, condition: str = "") -> tuple[float, bool] | None:
    """(share by which the output moves, whether it is wired at all) for a condition, or the time, that is ignored.

    A network whose output is dead cannot show what it uses; it is judged by its shaken copy.
    """
    share, shaken = stirred(model, model.ask, condition), model.shaken
    if share >= STIRRED:
        return None
    wired = shaken is not None and stirred(model, shaken, condition) >= STIRRED
    if dead(model) and (wired or shaken is None or dead(model, shaken)):
        return None
    return share, wired


def check_time_ignored(model: ModelSubject) -> Finding | None:
    """Whether the output for one x moves by STIRRED of itself when the network is told another time."""
    found = ignored(model)
    if found is None:
        return None
    share, wired = found
    times = [f"{float(model.clocked(nsr)[0]):.3g}" for nsr in NSR]
    unwired = "the time does not reach the output: an embedding that is not added, detached, or rounded to an integer"
    return Finding(
        "time ignored",
        "outputs are identical whatever time the network is told",
        f"one x, told the times {', '.join(times)}: the output changes by {share:.1e} of itself",
        f"it is wired, but training has made nothing of it yet: too few updates, or too close together: {times}"
        if wired
        else unwired,
        untaught(model)[0]
        if wired
        else "add the time's embedding to every block, and hold the network to it: ebb.testing.check_network",
        "error",
        untaught(model)[1] if wired else (),
    )


def check_condition_ignored(model: ModelSubject) -> Finding | None:
    """Whether the output moves by STIRRED of itself when one condition is exchanged, the noise staying the same."""
    differ = [name for name, rows in (model.cond or {}).items() if not torch.equal(rows, rows.roll(1, 0))]
    found = {name: ignored(model, name) for name in differ}
    bad = {name: each for name, each in found.items() if each is not None}
    if not bad:
        return None
    share, wired = next(iter(bad.values()))
    learned = (
        "it is wired, but training made nothing of it: it says nothing of the images, or is dropped in every batch"
    )
    return Finding(
        "condition ignored",
        f"{' and '.join(bad)} changes nothing: the model ignores what it is asked for",
        f"the same noise and another {next(iter(bad))}: the output changes by {share:.1e} of itself at most",
        learned if wired else "the condition does not reach the output: its embedding is not added to anything",
        "check that it belongs to its images and that the dropout of conditions is near 0.1, then train again",
        "error",
    )


def check_not_finite_at_the_ends(model: ModelSubject) -> Finding | None:
    """Whether answers are finite at both ends of time, in float32, bfloat16 and float16."""
    x0, eps = model.draw()
    path, kinds = model.path, (torch.float32, torch.bfloat16, torch.float16)
    ends = torch.tensor([SHORTEST, 1.0], dtype=torch.float64)
    if path is not None:  # as far as a network is trained
        ends = torch.minimum(path.end * ends, path.time(torch.full_like(ends, LOUDEST)))
    for kind in kinds:
        for t in ends:
            exact = kind == torch.float32
            with model.at_rest(), quiet(), torch.autocast(model.device.type, kind, enabled=not exact):
                times = t.expand(len(x0))
                noisy = path.mix(x0, eps, times) if path is not None else (1 - t).float() * x0 + t.float() * eps
                answer = model.answer(noisy, times if path is not None else times.float(), model.rows())
            lost = int((~torch.isfinite(answer)).sum())
            if lost:
                return not_finite(kind, float(t), lost / answer.numel())
    return None


@contextmanager
def quiet() -> Iterator[None]:
    """Without warnings: a layer that has no fast kernel for a precision says so at every call."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def not_finite(kind: torch.dtype, time: float, share: float) -> Finding:
    """The finding of an answer that is not finite."""
    exact, name = kind == torch.float32, str(kind).removeprefix("torch.")
    return Finding(
        "not finite at the ends",
        f"the answer is not finite at an end of time, in {name}",
        f"at t = {time:g} {share:.0%} of the numbers are NaN or infinite",
        "a division by sigma or alpha where one of them is 0, or a logarithm of 0"
        if exact
        else f"activations beyond the range of {name}: weights have grown, or a layer is not normalised",
        "bound the ratio sigma/alpha that the network is told (ebb.quarter_log_nsr does)"
        if exact
        else "sample with --precision fp32, or train with weight decay",
        "error" if exact else "warning",
    )


def chance(model: ModelSubject) -> float:
    """How far two answers to one question are apart, as a share of them."""
    with model.at_rest():
        return change(model.output(1.0), model.output(1.0))


def check_samples_mixed(model: ModelSubject) -> Finding | None:
    """Whether a sample's answer is another, by STIRRED of itself, when it is asked alone (and not by chance)."""
    x, clocked, cond = model.seen(1.0), model.clocked(1.0), model.rows()
    with model.at_rest():
        alone = model.ask(x[:1], clocked[:1], {name: rows[:1] for name, rows in cond.items()})
        share = change(alone, model.ask(x, clocked, cond)[:1])
    if share < STIRRED or chance(model) >= STIRRED:
        return None
    return Finding(
        "samples mixed",
        "a sample's answer depends on the others in its batch",
        f"alone, the first of {len(x)} is answered {share:.1e} of the answer's size apart",
        "a mean or a normalisation over the batch axis, or a reshape that moves places of one sample to another",
        "take means over every axis but the first, and hold the network to it: ebb.testing.check_network",
        "error",
    )


def check_chance_while_sampling(model: ModelSubject) -> Finding | None:
    """Whether two equal questions in evaluation mode are answered differently."""
    share = chance(model)
    if share < STIRRED:
        return None
    return Finding(
        "chance while sampling",
        "the same question is answered differently each time, in evaluation mode too",
        f"two equal questions: the answers differ by {share:.1e} of their size",
        "dropout that does not know of evaluation mode, such as F.dropout(x, 0.1) without training=self.training",
        "use nn.Dropout, or pass training=self.training",
        "error",
    )


def check_input_scale(model: ModelSubject) -> Finding | None:
    """Whether the standard deviation of what the network sees leaves SCALES, at either end of the path."""
    core = model.core
    if not isinstance(core, NetworkDenoiser) or core.sigma_data is not None:
        return None  # scaled to 1 everywhere, or not known
    path, data = core.path, getattr(core.prediction, "sigma_data", SPREAD)
    ends = path.end * torch.tensor([SHORTEST, 1.0], dtype=torch.float64)
    low, high = sorted(torch.hypot(data * path.alpha(ends), path.sigma(ends)).tolist())
    if SCALES[0] <= low and high <= SCALES[1]:
        return None
    return Finding(
        "input scale",
        "the network's input is of very different size at different times",
        f"for data of deviation {data:g} its standard deviation goes from {low:.2g} to {high:.2g} along {path}",
        "noise is added without scaling the input back, and layers work best on unit variance",
        f"give the denoiser sigma_data={data:g}: it divides by sqrt(alpha^2 sigma_data^2 + sigma^2)",
    )


def check_end_not_noise(model: ModelSubject) -> Finding | None:
    """Whether α²/σ² at the path's end is above END_SNR: sampling starts from noise that training never saw."""
    path = model.path
    if path is None:
        return None
    end = torch.tensor([path.end], dtype=torch.float64)
    snr = float((path.alpha(end) / path.sigma(end)) ** 2)
    if snr <= END_SNR:
        return None
    return Finding(
        "end not noise",
        "the schedule does not end in noise: samples lack the extremes of the data",
        f"at the end of {path} alpha^2/sigma^2 is {snr:.2g}; above {END_SNR:g} the network can read the data's mean",
        "training never shows pure noise, which sampling starts from",
        "train on a path that ends in noise: linear, cosine, or this one with a larger sigma_max or beta_end",
        "error",
        model.again({"path": spell(type(path)(), PATHS)}) if model.run else (),
    )


def check_bottleneck(model: ModelSubject) -> Finding | None:
    """A layer that nothing gets around and that lets more than LOST of a sample's numbers not pass (`narrowest`).

    What the network does not see of x stays in x̂0 as it is, by x's own share in it; where that is 0, as for a network
    that predicts the data, no noise is left, and narrow layers may do good (Li & He 2025).
    """
    passage, numbers = model.passage, math.prod(model.shape or ())
    if passage is None or passage.numbers > (1 - LOST) * numbers or not keeps_x(model):
        return None
    share, patch = passage.numbers / numbers, settings_of(model).get("patch", 1)
    width, smaller = settings_of(model).get("width"), ", or to smaller patches" if patch > 1 else ""
    wide = 16 * math.ceil(ROOM * width / share / 16) if width else None
    return Finding(
        "bottleneck",
        "samples keep noise that the network cannot see",
        f"all goes through {passage.layer}, where {passage.numbers:,} of a sample's {numbers:,} numbers fit:"
        f" {1 - share:.0%} of any noise is never removed",
        "a layer has fewer channels than a place has values; what does not fit through stays in the sample as it is",
        f"train again with a network at least {1 / share:.2g} times as wide there"
        + (f", width {wide} instead of {width}{smaller}" if wide else "")
        + (f": {model.run.length()}, and more in a wider one" if model.run else ""),
        "error",
        model.again({"network.width": wide}) if wide else (),
    )


def settings_of(model: ModelSubject) -> dict[str, Any]:
    """The settings that the networks of ebb state."""
    return getattr(model.network, "settings", {})


def keeps_x(model: ModelSubject) -> bool:
    """Whether x̂0 holds x by itself, beside what the network says of it; taken to be so where it is not known."""
    core = model.core
    if not isinstance(core, NetworkDenoiser):
        return True
    of_x, _ = recover_factors(core.path, core.prediction, model.time(1.0)[:1])
    return bool(of_x.abs() > STIRRED)


MODEL_CHECKS: list[Check[ModelSubject]] = [
    check_parameters_not_finite,
    check_batch_norm,
    check_wrong_shape,
    check_bottleneck,
    check_output_dead,
    check_time_ignored,
    check_condition_ignored,
    check_block_cut_off,
    check_not_finite_at_the_ends,
    check_samples_mixed,
    check_chance_while_sampling,
    check_input_scale,
    check_end_not_noise,
    check_noise_left,
]
"""Every check of a model, in the order in which they are made."""
