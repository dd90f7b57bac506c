"""Samples by request: what is asked for as one object, and the one way from it to trajectories and samples."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol, SupportsIndex, TypedDict, runtime_checkable

import torch
from torch import Tensor

from ebb.encode.conditioner import Values, part
from ebb.errors import EbbError
from ebb.guide.cfg import Guide, cfg, unguided
from ebb.machine import ready
from ebb.process.denoiser import Autocast, Cond, NetworkDenoiser
from ebb.process.predict import audible
from ebb.process.times import GRIDS
from ebb.recipe.limits import whole
from ebb.recipe.names import parse
from ebb.recipe.recipe import Sampling
from ebb.sample.fused import fused
from ebb.sample.noise import Noise
from ebb.sample.scheme import Scheme, last
from ebb.sample.solvers import SOLVERS
from ebb.sample.trajectory import Point
from ebb.shapes import Float


class Settings(TypedDict, total=False):
    """The fields of `Sampling`, by keyword, where a user gives some of them; one that is None is the system's own."""

    solver: str | None
    grid: str | None
    steps: SupportsIndex | None
    guidance: float | None
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
    """What is sampled, such as a `System`: a denoiser of tensors of the shape `inner`, and what is around it."""

    @property
    def denoiser(self) -> NetworkDenoiser:
        """The denoiser."""
        ...

    @property
    def inner(self) -> tuple[int, ...]:
        """The shape of what is denoised."""
        ...

    @property
    def device(self) -> torch.device:
        """Where that is done."""
        ...

    def conditions(self, given: Values, count: int, /) -> Cond:
        """The conditions of what so many samples are asked for, on the device."""
        ...

    def null(self) -> Cond:
        """One row of conditions that ask for nothing."""
        ...

    def decode(self, z: Tensor, /) -> Tensor:
        """What is denoised as what is shown."""
        ...


@dataclass(frozen=True, eq=False)
class Sampler:
    """`system`, ready to be asked: a request in, points or samples out.

    Samples are made `batch` at a time. `compiled` fuses network, guides and solver for whole batches (`ebb.fused`): it
    takes a minute first. Raises UsageError for a batch that is none.
    """

    system: Sampled
    batch: SupportsIndex = 128
    compiled: bool = False

    def __post_init__(self) -> None:
        whole("batch", self.batch)

    def __call__(self, request: Request, guide: Guide = unguided) -> Float[Tensor, "n *d"]:
        """The samples, float32 on the CPU; `guide` goes around the classifier-free guidance of the request."""
        return torch.cat(list(self.parts(request, guide)))

    def parts(self, request: Request, guide: Guide = unguided) -> Iterator[Float[Tensor, "b *d"]]:
        """The samples, a batch at a time, each as soon as it is made."""
        return (self.decoded(x) for x in self.encoded(request, guide))

    def encoded(self, request: Request, guide: Guide = unguided) -> Iterator[Float[Tensor, "b *e"]]:
        """The samples as the denoiser leaves them, on its device, a batch at a time."""
        scheme, count, size = self.scheme(request.sampling, guide), whole("n", len(request)), int(self.batch)
        follow: Callable[[Tensor, Cond, Noise], Iterator[Point]] = scheme
        if self.compiled and count >= size:
            follow = fused(scheme.denoiser, scheme.solver, scheme.times)
        for first in range(0, count, size):
            part = request.part(first, size)
            yield finite(last((follow if len(part) == size else scheme)(*self.begun(scheme, part))))

    def stream(self, request: Request, guide: Guide = unguided) -> Iterator[Point]:
        """The points of the samples' trajectory, all together in one batch: the last one's x is what is decoded.

        Nothing is computed before it is asked for, so a loop that is left cancels what remains of the request. `decode`
        of a point's x0 is a preview.
        """
        whole("n", len(request))
        scheme = self.scheme(request.sampling, guide)
        return scheme(*self.begun(scheme, request))

    def begun(self, scheme: Scheme, request: Request) -> tuple[Tensor, Cond, Noise]:
        """Where the trajectories of a request start, their conditions and their noise."""
        noise = Noise.of(request.seed, len(request))
        like = torch.empty(len(request), *self.system.inner, device=self.system.device)
        return scheme.start(noise, like), self.system.conditions(request.given, len(request)), noise

    def scheme(self, sampling: Sampling, guide: Guide = unguided) -> Scheme:
        """How the settings sample: with classifier-free guidance, and `guide` around it."""
        return self.plain(sampling).guided(cfg(sampling.guidance, self.system.null())).guided(guide)

    def plain(self, sampling: Sampling) -> Scheme:
        """How the settings sample, but without guidance: network in their precision, grid begun where the prediction
        says something. Raises UsageError for a solver or a grid that there is none of."""
        ready()
        denoiser = self.system.denoiser
        times = parse(sampling.grid, GRIDS, "grid")(denoiser.path, sampling.steps)
        return Scheme(
            Autocast(denoiser, torch.bfloat16) if sampling.precision == "bf16" else denoiser,
            parse(sampling.solver, SOLVERS, "solver"),
            audible(denoiser.path, denoiser.prediction, times),
        )

    def decoded(self, x: Float[Tensor, "b *e"]) -> Float[Tensor, "b *d"]:
        """What the denoiser left, as samples on the CPU."""
        with torch.no_grad():
            return self.system.decode(x).cpu()


def finite(x: Tensor) -> Tensor:
    """x; EbbError where a value of it is not finite."""
    if not bool(torch.isfinite(x).all()):
        raise EbbError("sampling gave values that are not finite", "try more --steps, or --guidance 1")
    return x
