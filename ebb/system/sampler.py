"""Samples by request: what is asked for as one object, and the one way from it to trajectories and samples."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol, SupportsIndex, TypedDict, runtime_checkable

import torch
from torch import Tensor

from ebb.encode.conditioner import Values, part
from ebb.errors import EbbError
from ebb.guide.cfg import Guide
from ebb.machine import ready
from ebb.process.denoiser import Cond
from ebb.recipe.limits import whole
from ebb.recipe.recipe import Sampling
from ebb.sample.noise import Noise
from ebb.sample.scheme import last
from ebb.sample.trajectory import Point
from ebb.shapes import Float
from ebb.system.model import Draw, Model


class Settings(TypedDict, total=False):
    """The fields of `Sampling`, by keyword, where a user gives some of them; one that is None is the system's own."""

    solver: str | None
    grid: str | None
    steps: SupportsIndex | None
    guidance: float | None
    guides: Sequence[str] | None
    noise_scale: float | None
    precision: str | None


@dataclass(frozen=True)
class Request:
    """What each of some samples is asked for, how they are made, and the seed of the first.

    Sample i is a function of (system, given[i], sampling, seed + i) alone, whatever it is made together with (to within
    rounding, which in bf16 is visible to a computer only).
    """

    given: Values
    count: int
    sampling: Sampling
    seed: int = 0

    def __len__(self) -> int:
        return self.count

    def part(self, first: int, count: int) -> Request:
        """The request for samples `first`, `first` + 1, …, at most `count` of them."""
        size = max(0, min(count, self.count - first))
        return Request(part(self.given, first, size), size, self.sampling, self.seed + first)


@runtime_checkable
class Sampled(Protocol):
    """What is sampled, such as a `System`: a model that draws tensors of the shape `inner`, and what is around it."""

    @property
    def model(self) -> Model:
        """What draws."""
        ...

    @property
    def inner(self) -> tuple[int, ...]:
        """The shape of what it draws."""
        ...

    def conditions(self, given: Values, count: int, /) -> Cond:
        """The conditions of what so many samples are asked for."""
        ...

    def guides(self, sampling: Sampling, /) -> list[Guide]:
        """What goes around its denoiser by some settings, each around those before it."""
        ...

    def decode(self, z: Tensor, /) -> Tensor:
        """What is drawn as what is shown."""
        ...


@dataclass(frozen=True, eq=False)
class Sampler:
    """`system`, ready to be asked: a request in, points or samples out.

    Samples are made `batch` at a time. `compiled` fuses network, guides and solver for whole batches (`ebb.fused`): it
    takes a minute first. Everywhere `guide` goes around the request's own guides. What does not change between requests
    is prepared at the first of each `Sampling`: one sampler for many requests is faster than many. Raises UsageError
    for a batch that is none.
    """

    system: Sampled
    batch: SupportsIndex = 128
    compiled: bool = False
    prepared: dict[tuple[Sampling, bool], Draw] = field(default_factory=dict, init=False, repr=False)
    """how the model draws, by settings and whether that is compiled"""

    def __post_init__(self) -> None:
        whole("batch", self.batch)

    def __call__(self, request: Request, guide: Guide | None = None) -> Float[Tensor, "n *d"]:
        """The samples, float32 on the CPU."""
        return torch.cat(list(self.parts(request, guide)))

    def parts(self, request: Request, guide: Guide | None = None) -> Iterator[Float[Tensor, "b *d"]]:
        """The samples, a batch at a time, each as soon as it is made."""
        return (self.decoded(x) for x in self.encoded(request, guide))

    def encoded(self, request: Request, guide: Guide | None = None) -> Iterator[Float[Tensor, "b *e"]]:
        """The samples as the model leaves them, on its device, a batch at a time."""
        count, size = whole("n", len(request)), whole("batch", self.batch)
        draw = self.draw(request, guide)
        entire = self.draw(request, guide, compiled=True) if self.compiled and count >= size else draw
        for first in range(0, count, size):
            part = request.part(first, size)
            yield finite(last(self.points(entire if len(part) == size else draw, part)))

    def stream(self, request: Request, guide: Guide | None = None) -> Iterator[Point]:
        """The points on the way to the samples, all together in one batch: the last one's x is what is decoded.

        Nothing is computed before it is asked for, so a loop that is left cancels what remains of the request. `decode`
        of a point's x0 is a preview.
        """
        whole("n", len(request))
        return self.points(self.draw(request, guide), request)

    def draw(self, request: Request, guide: Guide | None, compiled: bool = False) -> Draw:
        """How the model draws what is requested, with its guides."""
        how = request.sampling
        if guide is None and (how, compiled) in self.prepared:
            return self.prepared[how, compiled]
        ready()
        guides = self.system.guides(how) + ([guide] if guide else [])
        draw = self.system.model.draw(self.system.inner, how, guides, compiled=compiled)
        if guide is None:
            self.prepared[how, compiled] = draw
        return draw

    def points(self, draw: Draw, request: Request) -> Iterator[Point]:
        """The points of a request, by its conditions and its noise."""
        return draw(self.system.conditions(request.given, len(request)), Noise.of(request.seed, len(request)))

    def decoded(self, x: Float[Tensor, "b *e"]) -> Float[Tensor, "b *d"]:
        """What the model left, as samples on the CPU."""
        with torch.no_grad():
            return self.system.decode(x).cpu()


def finite(x: Tensor) -> Tensor:
    """x; EbbError where a value of it is not finite."""
    if not bool(torch.isfinite(x).all()):
        raise EbbError("sampling gave values that are not finite", "try more --steps, or --guidance 1")
    return x
