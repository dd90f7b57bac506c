"""The gradient at each noise level: how large it is, how much it differs from example to example, and its precision."""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from ebb.data.loader import Batch, Examples, keyed
from ebb.networks.evaluating import differentiable, evaluating
from ebb.process.bins import BINS, EDGE, level_of
from ebb.process.denoiser import NetworkDenoiser
from ebb.sample.noise import Noise
from ebb.train.objectives.denoising import Denoising, drawn

SPANS = 8
"""Stretches of the log-SNR in which gradients are compared, each of two bins (`ebb.process.bins`): 3 nats wide."""

HALF = 8
"""Examples of a backward pass; two of them at each level tell the gradient from its scatter."""

RARE = 1e-3
"""A level that has no larger share of the training times is not asked: one example in a thousand drives nothing."""

QUANTILES = 4096
"""Places of the density of times by which its share of each level is found."""

CHOICE = 2**62 + 1
"""The key under which the examples are chosen, far from those of epochs."""


@dataclass(frozen=True)
class LevelGradients:
    """What was found in each of SPANS levels of the log-SNR, rising; None where (hardly) any training time falls.

    `share` is that of the training times; `norm` |∇L| of the mean loss of 2·HALF examples at times of the level, their
    scatter included; `spread` √tr Σ, Σ the covariance of the gradient of one example.
    """

    share: list[float]
    norm: list[float | None]
    spread: list[float | None]

    @classmethod
    def read(cls, facts: Mapping[str, Any]) -> LevelGradients:
        """What an entry `gradients` of a log says. Raises KeyError for one that says something else."""
        return cls(*(facts[name] for name in ("share", "norm", "spread")))

    @property
    def drive(self) -> list[float]:
        """Each level's share of the mean squared gradient of one example, share·(|∇L|² + tr Σ); they add up to 1.

        |∇L|² without the scatter of so few examples is norm² − spread²/(2·HALF). NaN where a gradient is not finite.
        """
        parts = []
        for share, norm, spread in zip(self.share, self.norm, self.spread, strict=True):
            signal = 0.0 if norm is None or spread is None else max(0.0, norm**2 - spread**2 / (2 * HALF)) + spread**2
            parts.append(share * signal)
        return [part / max(sum(parts), 1e-300) for part in parts]


Half = tuple[Batch, Tensor]
"""Examples, and their noise."""


def span(level: int) -> tuple[float, float]:
    """The log-SNR between which a level lies."""
    width = 2 * EDGE / SPANS
    return level * width - EDGE, (level + 1) * width - EDGE


@dataclass(frozen=True)
class GradientProbe:
    """The gradient of `objective` at each noise level, on the same 2·HALF examples with the same noise at every asking.

    A level's times are the middles of HALF equal parts of the density within it, the same for both halves of the
    examples, which g₁ and g₂ are the gradients of: norm = |g₁ + g₂|/2, spread² = HALF·|g₁ − g₂|²/2. So levels and
    askings differ by nothing but the level and the model. The noise of example i is keyed by seed + i, unless it has
    its own. Nothing of the model changes, and no generator moves.
    """

    batch: Batch
    objective: Denoising = Denoising()
    seed: int = 0
    autocast: torch.dtype | None = None

    @property
    def halves(self) -> list[Half]:
        """The examples in two, each with its noise."""
        x0, half = self.batch.x0, len(self.batch.x0) // 2
        eps = Noise.of(self.seed, len(x0))(0, x0) if self.batch.eps is None else self.batch.eps
        places = (slice(half), slice(half, 2 * half))
        cond = self.batch.cond
        return [(Batch(x0[some], {k: v[some] for k, v in cond.items()}), eps[some]) for some in places]

    def times(self, model: NetworkDenoiser) -> list[tuple[float, Tensor | None]]:
        """Each level's share of the training times, and as many times in it as half of the examples; None if RARE."""
        u = (torch.arange(QUANTILES, dtype=torch.float64) + 0.5) / QUANTILES
        t, half = drawn(self.objective.times, model.path, u), len(self.batch.x0) // 2
        level = level_of(model.path, t) * SPANS // BINS
        found: list[tuple[float, Tensor | None]] = []
        for number in range(SPANS):
            mine = t[level == number]
            place = ((torch.arange(half) + 0.5) / half * len(mine)).long()
            found.append((len(mine) / QUANTILES, mine[place] if len(mine) > RARE * QUANTILES else None))
        return found

    def gradient(self, model: NetworkDenoiser, parameters: list[nn.Parameter], half: Half, t: Tensor) -> Tensor:
        """∇L on half of the examples at these times, as one vector, float32."""
        batch, eps = half
        with torch.autocast(eps.device.type, self.autocast) if self.autocast else nullcontext():
            loss = self.objective.losses(model, batch, t, eps).mean()
        found = torch.autograd.grad(loss, parameters, allow_unused=True)
        flat = [torch.zeros_like(p) if g is None else g for p, g in zip(parameters, found, strict=True)]
        return torch.cat([g.float().flatten() for g in flat])

    def __call__(self, model: NetworkDenoiser) -> LevelGradients:
        """Two backward passes for each level that is not RARE, in evaluation mode."""
        found, halves = LevelGradients([], [], []), self.halves
        half = len(halves[0][1])
        with evaluating(model), differentiable(model) as parameters, torch.enable_grad():
            for share, t in self.times(model):
                norm = spread = None
                if t is not None:
                    one, other = (self.gradient(model, parameters, each, t) for each in halves)
                    norm = float((one + other).norm()) / 2
                    spread = math.sqrt(half / 2) * float((one - other).norm())
                for values, value in ((found.share, share), (found.norm, norm), (found.spread, spread)):
                    values.append(value)  # type: ignore[arg-type]
        return found

    def passes(self, model: NetworkDenoiser) -> int:
        """The backward passes of one asking."""
        return 2 * sum(t is not None for _, t in self.times(model))

    def inexact(self, model: NetworkDenoiser, dtype: torch.dtype) -> list[float | None]:
        """|g − g₃₂|/|g₃₂| at each level: how far the gradient under autocast to `dtype` is from that in float32.

        Of half of the examples, with their own noise and times; 0 where both are 0. One backward pass a level and type.
        """
        exact, rough, found = replace(self, autocast=None), replace(self, autocast=dtype), list[float | None]()
        half = self.halves[0]
        with evaluating(model), differentiable(model) as parameters, torch.enable_grad():
            for _, t in self.times(model):
                if t is None:
                    found.append(None)
                    continue
                right, here = (each.gradient(model, parameters, half, t) for each in (exact, rough))
                found.append(float((here - right).norm()) / max(float(right.norm()), 1e-30))
        return found


def probe_of(
    examples: Examples, objective: Denoising, device: torch.device, autocast: torch.dtype | None = None
) -> GradientProbe:
    """The probe on 2·HALF training examples, chosen by a key of their own; of fewer, on each more than once."""
    chosen = keyed(0, CHOICE).permutation(len(examples.x0))[: 2 * HALF]
    index = chosen[torch.arange(2 * HALF).numpy() % len(chosen)]
    eps = None if examples.noise is None else examples.noise(index).to(device)
    batch = Batch(examples.read(index, device), examples.conditions(index, device), eps)
    return GradientProbe(batch, objective, autocast=autocast)
