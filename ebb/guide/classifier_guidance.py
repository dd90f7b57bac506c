"""Classifier guidance: the gradient of a classifier that reads noisy data turns a denoiser towards a class."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from ebb.errors import UsageError, nearest
from ebb.guide.cfg import Guide
from ebb.guide.energy import capped, gradient, tilted
from ebb.process.denoiser import Clock, Cond, Denoiser, Wrapped, answer, asked, fraction, takes_moments
from ebb.process.moment import Time, each
from ebb.process.path import Path
from ebb.shapes import Float


@runtime_checkable
class NoisyClassifier(Protocol):
    """Anything with a path that tells p(y | x_t) by its logits: x [b, *d], t [b] → [b, classes]."""

    @property
    def path(self) -> Path:
        """The path whose noisy data the classifier understands."""
        ...

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        """Logits [b, classes]: log p(y | x_t) up to a constant for each sample."""
        ...


class NetworkClassifier(nn.Module):
    """A network read as a noise-aware classifier: network + path + clock + input scale.

    `network(x [b, *d], clocked [b]) → logits [b, classes]`, for example `ebb.networks.classifier.Classifier`. With
    `sigma_data` s the network sees x/√(α²s² + σ²); without, it sees x. Train it with `Classify`.
    """

    takes_moments = True

    def __init__(
        self, network: nn.Module, path: Path, clock: Clock = fraction, sigma_data: float | None = None
    ) -> None:
        super().__init__()
        self.network, self.path, self.clock, self.sigma_data = network, path, clock, sigma_data

    def forward(self, x: Float[Tensor, "b *d"], t: Time) -> Float[Tensor, "b k"]:
        """Logits in float32; the network runs in its own precision (`ebb.process.denoiser.compute_dtype`)."""
        return asked(self, x, t)


@dataclass(frozen=True)
class ClassifierGuided(Wrapped):
    """x̂0 + scale·σ²/α·∇_x log p(y | x_t), y = cond[condition] (Dhariwal & Nichol 2021, algorithm 2).

    There in ε, ε̂ − σ·scale·∇ log p; their algorithm 1 has it in the mean of an ancestral step. y = classes, the null
    label, leaves a sample unguided.
    """

    classifier: NoisyClassifier
    scale: float
    condition: str

    def __call__(self, x: Float[Tensor, "b *d"], t: Time, cond: Cond) -> Float[Tensor, "b *d"]:
        """The guided x̂0; raises UsageError where the label is missing."""
        if self.condition not in cond:
            raise UsageError(f"classifier guidance needs the condition {self.condition!r}", nearest("", cond))
        label = cond[self.condition]
        x, t = capped(self.path, x, t)
        when = t if takes_moments(self.classifier) else each(t, len(x))

        def log_probability(noisy: Tensor) -> Tensor:
            logits = self.classifier(noisy, when)  # type: ignore[arg-type]
            return -F.cross_entropy(logits, label, reduction="none", ignore_index=logits.shape[1])

        rest = {name: value for name, value in cond.items() if name != self.condition}
        return tilted(self.path, answer(self.denoiser, x, t, rest), gradient(log_probability, x), t, self.scale)


def classifier(model: NoisyClassifier, scale: float = 1.0, condition: str = "label") -> Guide:
    """Guide towards the class cond[condition] by the gradient of `model`, a classifier of noisy data.

    `scale` is the paper's: 0 is off, and 1 is Bayes' rule, p(x)·p(y | x): what turns an unconditional denoiser into the
    conditional one (scale 1 is not "off" here, as it is where two answers of one model are extrapolated). Above 1 the
    density is p(x)·p(y | x)^scale, sharper about the class. The guide takes the condition for itself: a denoiser that
    is conditional too gets its label under another name. Where ν > NSR_MAX both are asked at NSR_MAX (`energy.capped`).

    Raises UsageError when `model` was made for another path than the denoiser.
    """

    def guide(denoiser: Denoiser) -> Denoiser:
        if model.path != denoiser.path:
            raise UsageError(
                f"the classifier reads noisy data of {model.path}, the denoiser of {denoiser.path}",
                "classifier(model)(ebb.retime(denoiser, model.path))",
            )
        return ClassifierGuided(denoiser, model, scale, condition)

    return guide
