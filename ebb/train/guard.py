"""The guard: an update that would do harm is not made, and a run whose weights are lost is told so, with a cause.

All is decided on the device, so nothing waits: a bad update leaves weights, moments and average as they are, and the
host learns of it when it next reads the log. That is late by some steps, in which nothing changed either.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, distributed

from ebb.data.loader import Batch
from ebb.process.bins import BINS, EDGE

STRIKES = 3
"""So many bad updates in a row, and it is the weights that are bad, not a batch."""

WIDE = 10.0
"""An update is an outlier WIDE mean deviations above the running mean, in the logarithm of loss or gradient norm …"""

LEAST = math.log(2.0)
"""… but never for less than a factor of 2. In healthy runs neither comes near: the loss stays below 1.4 times its mean,
and both within 6 deviations."""

RATE = 0.03
"""Of the running mean and deviation: they remember about 1/RATE updates."""

FAINT = 1e-4
"""Added before the logarithm: between nothing and less than this there is no difference worth an alarm."""


class Guard:
    """Says on the device whether an update is to be skipped, from its loss and gradient norm and those before it.

    With y = log(|v| + FAINT) for v = loss and for v = gradient norm, an update is good if both are finite and
    y − m ≤ max(WIDE·d, LEAST); m and d are running means of y and |y − m| over good updates. d starts at ½, a factor
    of e⁵, so the first updates may do what they like. Under torch.distributed v is the mean over the processes, so that
    all decide alike.
    """

    def __init__(self) -> None:
        self.memory = torch.tensor([0.0, 0.0, 0.5, 0.5, 0.0, 0.0, 0.0])
        """m of loss and norm, d of both, good updates, bad ones in a row up to now, and the longest such row."""

    @torch.no_grad()
    def __call__(self, loss: Tensor, norm: Tensor) -> Tensor:
        """True on the device, [], if the update with this loss [] and gradient norm [] must not be made."""
        self.memory = self.memory.to(loss.device)
        mean, deviation, count, strikes, longest = torch.split(self.memory, [2, 2, 1, 1, 1])
        now = torch.log(shared(torch.stack((loss.float(), norm.float()))).abs() + FAINT)
        above = (now - mean) * count.clamp(max=1)  # the first is compared with nothing, but must be finite
        good = (above <= (WIDE * deviation).clamp(min=LEAST)).all()  # nothing is below or above a NaN
        mean.lerp_(torch.where(good, now, mean), (1 / (count + 1)).clamp(min=RATE))
        deviation.lerp_(torch.where(good, above.abs(), deviation), RATE)
        count.add_(good)
        bad: Tensor = ~good
        strikes.add_(1).mul_(bad)
        torch.maximum(longest, strikes, out=longest)
        return bad

    def rows(self) -> tuple[int, int]:
        """Bad updates in a row up to now, and the longest such row; waits for the device."""
        now, longest = self.memory[5:].tolist()
        return int(now), int(longest)

    def usual(self) -> tuple[float, float]:
        """The usual loss (its size, without sign) and gradient norm; waits for the device."""
        loss, norm = (self.memory[:2].exp() - FAINT).tolist()
        return loss, norm


def shared(values: Tensor) -> Tensor:
    """The mean over all processes of a distributed run: a NaN in one is a NaN in all."""
    if distributed.is_available() and distributed.is_initialized():
        distributed.all_reduce(values)
        values = values / distributed.get_world_size()
    return values


def update_unless(bad: Tensor, optimizer: torch.optim.Optimizer) -> None:
    """optimizer.step() that changes nothing, its step counters included, where `bad` [] is True.

    Optimisers that understand `found_inf`, as all fused ones do, decide on the device and at no cost. Of any other,
    weights and state are kept and put back.
    """
    if getattr(optimizer, "_step_supports_amp_scaling", False):
        optimizer.found_inf = bad.float()  # type: ignore[attr-defined]
        optimizer.step()
        return
    before = {place: tensor.clone() for place, tensor in held(optimizer).items()}
    optimizer.step()
    for place, tensor in held(optimizer).items():
        then = before.get(place, torch.zeros_like(tensor))  # what the first step makes starts from zero
        tensor.copy_(torch.where(bad.to(tensor.device), then, tensor))


def held(optimizer: torch.optim.Optimizer) -> dict[tuple[int, str], Tensor]:
    """Every tensor that a step may change, by parameter and name."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    found = {(i, "weights"): p.detach() for i, p in enumerate(parameters)}
    for i, p in enumerate(parameters):
        state = optimizer.state.get(p, {})
        found |= {(i, name): value for name, value in state.items() if isinstance(value, Tensor)}
    return found


def unsound(state: dict[str, dict[str, Tensor]]) -> str | None:
    """The name of a tensor of `Training.state()` that is not finite, or None; waits for the device."""
    for part in ("model", "ema", "optim"):
        tensors = {name: tensor for name, tensor in state[part].items() if tensor.is_floating_point()}
        if not tensors or bool(torch.nn.utils.get_total_norm(list(tensors.values())).isfinite()):
            continue
        for name, tensor in tensors.items():
            if not bool(tensor.isfinite().all()):
                return f"{part} {name}"
    return None


@dataclass(frozen=True)
class Skip:
    """An update that was not made: its step, the first batch it would have used, and what was wrong with it.

    `levels` is the mean loss in each bin of the log-SNR (`ebb.process.bins`), None where there was no sample.
    """

    step: int
    batch: int
    loss: float
    grad_norm: float
    levels: list[float | None] | None = None

    def reason(self, usual: tuple[float, float]) -> str:
        """What was wrong, in words, beside the usual loss and gradient norm."""
        for name, value, normal in zip(("loss", "gradient norm"), (self.loss, self.grad_norm), usual, strict=True):
            if not math.isfinite(value):
                return f"the {name} is {value}"
            if math.log(abs(value) + FAINT) - math.log(abs(normal) + FAINT) > LEAST:
                return f"the {name} is {value:.3g}, where {normal:.3g} is usual"
        return f"the loss is {self.loss:.3g} and the gradient norm {self.grad_norm:.3g}, of which one is an outlier"


@dataclass(frozen=True)
class Trouble:
    """Why a run cannot go on from where it is: the likely cause, and what to do about it."""

    cause: str
    hint: str


def poisoned(batch: Batch, other: Batch) -> str | None:
    """What is wrong with the values of `batch`, beside another of the same data; None where nothing is.

    A condition that is NaN says nothing, and is as it should be.
    """
    for name, values in {"x0": batch.x0, **batch.cond}.items():
        if not values.is_floating_point():
            continue
        beside = other.x0 if name == "x0" else other.cond[name]
        if name != "x0":
            values, beside = (some.nan_to_num(0.0, math.inf, -math.inf) for some in (values, beside))
        largest, usual = float(values.abs().max()), float(beside.abs().max())
        if not math.isfinite(largest):
            return f"holds a {name} that is not finite"
        if usual and largest > 100 * usual:
            return f"holds a {name} of size {largest:.3g}, another batch at most {usual:.3g}"
    return None


@dataclass(frozen=True)
class Circumstances:
    """What is known where updates are skipped."""

    rate: float
    """the learning rate"""
    usual: tuple[float, float]
    """loss and gradient norm of good updates"""
    usual_levels: Sequence[float | None] | None = None
    """their loss in each bin of the log-SNR"""
    fault: str | None = None
    """the name of a tensor that is not finite (`unsound`)"""
    batch_fault: str | None = None
    """what is wrong with the batch of the last skip (`poisoned`)"""
    autocast: torch.dtype | None = None
    """what the forward pass computes in"""


def explain(skips: Sequence[Skip], there: Circumstances) -> Trouble:
    """The likely cause of `skips`, the surest evidence first."""
    lower = f"--optimiser.lr {there.rate / 4:.1g} --fresh"
    if there.fault is not None:
        return Trouble(f"{there.fault} is not finite", f"an overflow, or faulty memory: try {lower}")
    if not skips:
        return Trouble("an update was bad and nothing is known of it", f"try {lower}")
    last = skips[-1]
    said = last.reason(there.usual)
    if there.batch_fault is not None:
        return Trouble(
            f"{said}: batch {last.batch} {there.batch_fault}", "look for it in the data, or at what makes batches"
        )
    levels = driven(skips, there.usual_levels)
    said += f", {levels}" if levels else ""
    if there.autocast is not None and not any(math.isfinite(skip.loss) for skip in skips):
        name = str(there.autocast).removeprefix("torch.")
        return Trouble(f"{said}: the forward pass overflows in {name}", "try --precision fp32 --fresh")
    return Trouble(f"{said}: the learning rate of {there.rate:.2g} may be too high", f"try {lower}")


def driven(skips: Sequence[Skip], usual: Sequence[float | None] | None) -> str:
    """Which noise levels have the losses of `skips`, in words; empty where that is not known.

    A level is named whose loss, relative to its usual one, is within a factor of 3 of the worst.
    """
    times = dict[int, float]()
    for skip in skips:
        for bin, loss in enumerate(skip.levels or ()):
            normal = 1.0 if usual is None else usual[bin]
            if loss is not None and normal is not None:
                size = abs(loss) / (abs(normal) + FAINT)
                times[bin] = max(times.get(bin, 0.0), size if math.isfinite(size) else math.inf)
    if not times:
        return ""
    worst = max(times.values())
    named = [bin for bin, size in times.items() if size >= worst / 3]
    if len(named) == len(times):
        return "at all noise levels alike"
    width = 2 * EDGE / BINS
    span = f"{min(named) * width - EDGE:g} to {(max(named) + 1) * width - EDGE:g}"
    there = f"{worst:,.0f} times the usual loss" if math.isfinite(worst) else "not finite"
    return f"driven by log-SNR {span} ({there} there)"
