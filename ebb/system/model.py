"""What is trained and draws samples: all that a system holds besides what it can be asked for."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from ebb.encode.latent import LatentSpace
from ebb.guide.cfg import Guide
from ebb.process.denoiser import Autocast, Cond, Denoiser, NetworkDenoiser
from ebb.process.learned import LearnedVariance
from ebb.process.predict import audible
from ebb.process.times import GRIDS
from ebb.recipe.names import parse
from ebb.recipe.recipe import Sampling
from ebb.sample.louder import Louder
from ebb.sample.noise import Noise
from ebb.sample.scheme import Scheme
from ebb.sample.solvers import NAMED
from ebb.sample.trajectory import Point

Draw = Callable[[Cond, Noise], Iterator[Point]]
"""(conditions, noise) → points of which the last one's x is the sample of each; a batch at a time."""


class Model(ABC):
    """What was trained and draws; `family` is the name under which a checkpoint finds the way to load it."""

    family: str
    reconstructs: bool = False
    """whether what it makes of data shows more of its training than its samples do"""
    space: LatentSpace | None = None
    """the space that it draws in, where that is not the one of the data"""
    denoiser: NetworkDenoiser | None = None
    """what answers at each noise level; None where it draws in another way"""

    @property
    @abstractmethod
    def module(self) -> nn.Module:
        """What holds the trained weights that it draws with."""

    @abstractmethod
    def draw(
        self, shape: tuple[int, ...], sampling: Sampling, guides: Sequence[Guide] = (), *, compiled: bool = False
    ) -> Draw:
        """How samples [b, *shape] are drawn with some settings, each guide around those before it.

        With `compiled` as one compiled graph for every size of a batch, where there is one. Raises UsageError for
        settings and guides that mean nothing to it.
        """

    @property
    def towards(self) -> Callable[[float], Guide] | None:
        """How it is guided at a scale, where that is not by classifier-free guidance (`ebb.guide.named.guided`)."""
        return None

    @abstractmethod
    def contract(self) -> dict[str, Any]:
        """What its family loads it from, as JSON, but for its weights and its latent space."""

    @abstractmethod
    def forward(self, x: Tensor, cond: Cond) -> Tensor:
        """One pass of examples through all that is trained on them, such as a training step makes."""

    @abstractmethod
    def card(self) -> tuple[str, str]:
        """What it is, "A diffusion model", and how it works, in a line for the model card."""

    @property
    def frozen(self) -> Mapping[str, nn.Module]:
        """What it needs besides, as another run has trained it, by the name of its file in a checkpoint."""
        return {}

    @property
    def network(self) -> nn.Module:
        """What is called while it draws: a row that it is given is an evaluation."""
        return self.module

    @property
    def device(self) -> torch.device:
        """Where its weights are."""
        some = next(chain(self.module.parameters(), self.module.buffers()), None)
        return torch.device("cpu") if some is None else some.device

    def whole(self) -> Model:
        """The same with all that it draws with among its own weights."""
        return self

    def own(self, trained: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The weights of `module` among those that its training has saved."""
        return dict(trained)

    def saved(self) -> dict[str, Tensor]:
        """The weights of `module` as training would save them, for `own` to find."""
        return dict(self.module.state_dict())


def answering_in(denoiser: NetworkDenoiser, precision: str | None) -> Denoiser:
    """A denoiser as it is asked while sampling: its network in a precision, with the variance where it learned one."""
    dtype = torch.bfloat16 if precision == "bf16" else None
    if denoiser.answers != 1:
        return LearnedVariance(denoiser, dtype)
    return denoiser if dtype is None else Autocast(denoiser, dtype)


def scheme_of(denoiser: NetworkDenoiser, sampling: Sampling) -> Scheme:
    """How some settings follow a denoiser, without guidance: its network in their precision, their grid begun where the
    prediction says something. Raises UsageError for a solver or a grid that is not known."""
    times = parse(sampling.grid, GRIDS, "grid")(denoiser.path, sampling.steps)
    solver, scale = parse(sampling.solver, NAMED, "solver"), sampling.noise_scale
    return Scheme(
        answering_in(denoiser, sampling.precision),
        solver if scale == 1 else Louder(solver, scale),
        audible(denoiser.path, denoiser.prediction, times),
    )
