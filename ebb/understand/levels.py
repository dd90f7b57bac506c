"""The loss at each noise level beside what makes it readable: the trivial denoiser and the ideal one."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ebb.data.loader import Batch
from ebb.errors import UsageError
from ebb.networks.evaluating import differentiable, evaluating
from ebb.process.bins import BINS, centres
from ebb.process.denoiser import Cond, Predictor
from ebb.process.moment import Moment, where
from ebb.process.predict import determinant, target
from ebb.sample.noise import Noise
from ebb.shapes import Float

BLOCK = 32
"""Samples that go through the model at once: a backward pass keeps its activations."""

CHUNK = 4096
"""Reference images that are looked at once in float64."""


@dataclass(frozen=True)
class Levels:
    """What was found at each log-SNR, rising; None where the path does not reach it.

    `loss`, `trivial` and `ideal` are in one unit, the mean squared error of the model's target: of the model, of the
    answer x̂0 = mean of the reference, and of the exact posterior mean of the reference images. `grad_norm` is that of
    the model's loss over all parameters, None too for a model without; `output_scale` the root mean square of its F.
    """

    log_snr: list[float]
    loss: list[float | None]
    grad_norm: list[float | None]
    output_scale: list[float | None]
    trivial: list[float | None]
    ideal: list[float | None]


def levels(
    denoiser: Predictor,
    some: Batch,
    known: Batch,
    *,
    weight: Callable[..., Tensor] | None = None,
    seed: int = 0,
    bins: int = BINS,
) -> Levels:
    """The loss of `denoiser` on `some` images at `bins` noise levels, and of two others in the same unit.

    The model's loss is mean (F_θ − F)². An answer x̂0 has det²/σ²·mean (x̂0 − x0)², since F̂ − F = −det/σ·(x̂0 − x0).
    No model has a lower expected loss than the ideal denoiser on the images that it knows, so take `some` of the
    `known` ones: it is then the floor of the training loss; to reach it is to know the training set by heart. On other
    images it is no floor: at low noise it answers with the nearest image it knows. Where the model is told a condition,
    give those of the known images as well: the posterior is then over those of the same condition.

    The same noise, seeded per sample, is used at every level. `weight` (path, t, det) → [b] scales all three; without,
    they are what training descends under the unit weighting. The model is asked in evaluation mode and left as it was.
    Raises UsageError for no samples, for shapes that differ, and for a condition that no reference image has.
    """
    x0, cond, reference = some.x0, some.cond, known.x0
    if not len(x0) or not len(reference) or x0.shape[1:] != reference.shape[1:]:
        raise UsageError(
            f"expected samples [n, *d] and a reference [m, *d], got {list(x0.shape)}, {list(reference.shape)}"
        )
    eps = Noise.of(seed, len(x0))(0, x0)
    posterior = Posterior.of(x0, eps, reference, same(cond, known.cond, x0.device))
    off = float((x0.double() - mean_of(reference).to(x0.device)).square().mean())
    found = Levels(centres(bins), [], [], [], [], [])
    with evaluating(denoiser), differentiable(denoiser) as parameters:
        for log_snr in found.log_snr:
            now = where(denoiser.path, log_snr / 2)
            row: tuple[float | None, ...] = (None,) * 5
            if math.isclose(now.lam, log_snr / 2, abs_tol=1e-3):
                t = now.shared(1)
                det = determinant(denoiser.path, t, *denoiser.prediction(denoiser.path, t))
                scale = float(weight(denoiser.path, t, det)) if weight else 1.0
                loss, norm, size = asked(denoiser, parameters, now, x0, eps, cond)
                unit = scale * float(det / now.sigma) ** 2
                norm = None if norm is None else scale * norm
                row = (scale * loss, norm, size, unit * off, unit * posterior.error(now))
            for name, value in zip(("loss", "grad_norm", "output_scale", "trivial", "ideal"), row, strict=True):
                getattr(found, name).append(value)
    return found


def asked(
    denoiser: Predictor, parameters: list[torch.nn.Parameter], now: Moment, x0: Tensor, eps: Tensor, cond: Cond
) -> tuple[float, float | None, float]:
    """(mean (F_θ − F)², the norm of its gradient, rms of F_θ) at one time."""
    loss = power = 0.0
    gradient = [torch.zeros_like(parameter) for parameter in parameters]
    for first in range(0, len(x0), BLOCK):
        some = slice(first, first + BLOCK)
        x, noise, part = x0[some], eps[some], {name: value[some] for name, value in cond.items()}
        t, share = now.shared(len(x)), len(x) / len(x0)
        with torch.set_grad_enabled(bool(parameters)):
            F = denoiser.raw(denoiser.path.mix(x, noise, t), t, part)
            error = (F - target(denoiser.prediction(denoiser.path, t), x, noise)).square().mean()
        if parameters:
            more = torch.autograd.grad(error, parameters, allow_unused=True)
            for total, value in zip(gradient, more, strict=True):
                if value is not None:
                    total.add_(value, alpha=share)
        loss += share * float(error.detach())
        power += share * float(F.detach().double().square().mean())
    norm = math.sqrt(sum(float(g.double().square().sum()) for g in gradient)) if parameters else None
    return loss, norm, math.sqrt(power)


def mean_of(reference: Float[Tensor, "m *d"]) -> Float[Tensor, "*d"]:
    """The mean image, float64."""
    parts = [reference[first : first + CHUNK].double().sum(0) for first in range(0, len(reference), CHUNK)]
    return torch.stack(parts).sum(0) / len(reference)


SILENT = 1e30
"""Stands for NaN where rows are compared: no condition has it."""


def same(cond: Cond, reference_cond: Cond, device: torch.device) -> Tensor | None:
    """[n, m], whether a reference image has the condition of a sample; None where none is given."""
    every = []
    for name, theirs in reference_cond.items():
        mine = cond[name].to(device)
        rows = torch.cat([mine, theirs.to(device)])
        # what says nothing (NaN) is a condition like any other
        kind = torch.unique(rows.reshape(len(rows), -1).nan_to_num(nan=SILENT), dim=0, return_inverse=True)[1]
        every.append(kind[: len(mine), None] == kind[None, len(mine) :])
    alike = torch.stack(every).all(0) if every else None
    if alike is not None and not bool(alike.any(1).all()):
        raise UsageError("some samples have a condition that no reference image has", "give more reference images")
    return alike


@dataclass(frozen=True, eq=False)
class Posterior:
    """The exact denoiser of the reference m_1 … m_m at x_t = α·x0 + σ·ε, for many noise levels at the cost of one:

    p(k | x_t) = softmax((α·x_t·m_k − α²|m_k|²/2)/σ²), and x_t·m_k = α·x0·m_k + σ·ε·m_k, products found once.
    """

    x0: Tensor
    reference: Tensor
    data: Tensor
    """x0·m_k, float64 [n, m]"""
    noise: Tensor
    """ε·m_k, float64 [n, m]"""
    squares: Tensor
    """|m_k|², float64 [m]"""
    alike: Tensor | None

    @classmethod
    def of(cls, x0: Tensor, eps: Tensor, reference: Tensor, alike: Tensor | None) -> Posterior:
        """In blocks, since the reference in float64 would take eight bytes a value."""
        x, e, known = x0.flatten(1).double(), eps.flatten(1).double(), reference.flatten(1)
        data, noise = (torch.empty(len(x), len(known), dtype=torch.float64, device=x.device) for _ in range(2))
        squares = torch.empty(len(known), dtype=torch.float64, device=x.device)
        for first in range(0, len(known), CHUNK):
            part = known[first : first + CHUNK].to(x.device).double()
            some = slice(first, first + len(part))
            data[:, some], noise[:, some], squares[some] = x @ part.T, e @ part.T, part.square().sum(1)
        return cls(x.float(), known, data, noise, squares, alike)

    def error(self, now: Moment) -> float:
        """mean (E[x0 | x_t] − x0)²."""
        reach = now.alpha / now.sigma**2
        logits = reach * (now.alpha * (self.data - self.squares / 2) + now.sigma * self.noise)
        if self.alike is not None:
            logits = logits.masked_fill(~self.alike, -math.inf)
        share, total = torch.softmax(logits, 1).float(), torch.zeros_like(self.x0)
        for first in range(0, len(self.reference), CHUNK):
            part = self.reference[first : first + CHUNK].to(total)
            total += share[:, first : first + CHUNK] @ part
        return float((total - self.x0).double().square().mean())
