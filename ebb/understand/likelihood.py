"""How likely a model finds given data: log p_0(x) along the probability flow, and the bits that 8-bit images take."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ebb.data.pictures import batches
from ebb.encode.conditioner import Values, part
from ebb.errors import DataError, UsageError
from ebb.judge.arrays import Given, array_of
from ebb.process.denoiser import Cond, Denoiser, NetworkDenoiser
from ebb.process.moment import Moment, at, where
from ebb.process.path import Path, spread
from ebb.process.predict import audible
from ebb.sample.adaptive import Adaptive, Attempts, Field, Waypoint, integrate, rms
from ebb.sample.noise import Noise
from ebb.shapes import Float
from ebb.system.system import System

RULE = Adaptive(1e-4)
"""About 60 denoiser calls, and 1e-4 nats per dimension, on mixtures."""

QUIETEST = 0.002
"""ν from which the flow is followed."""

COARSE = Adaptive(3e-3)
"""About 55 calls on a trained U-Net, and within 0.005 bits per dimension of 1e-4, which takes 150."""

WIDTH = 2 / 255
"""How far apart 8-bit values lie in [−1, 1] (`to_unit`)."""

UNIT = "bits per dimension of 8-bit values"
DENSE = "bits per dimension of the density of values in units of their deviation"

NOTHING_GIVEN: Values = MappingProxyType({})
"""Images of which nothing is said."""

BATCH = 32  # images that flow together; a batch takes the calls of its slowest


class Likelihood(NamedTuple):
    """log p_0(x) in nats [b], the noise [b, *d] (float64) that x flows to, and the steps on the way."""

    nats: Tensor
    noise: Tensor
    attempts: Attempts


Traced = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""(x [b, *d], t [b]) → (x̂0 [b, *d], tr ∂x̂0/∂x [b]), float64."""


@dataclass(frozen=True, eq=False)
class Hutchinson:
    """A trace, estimated with `count` Rademacher vectors v: tr J ≈ mean vᵀJv (Hutchinson 1990).

    One set serves the whole way of a sample, drawn from `noise` (`ebb.Noise`): right in the mean, and the same for a
    sample in any batch. Raises UsageError for fewer than one.
    """

    count: int
    noise: Callable[..., Tensor]

    def __post_init__(self) -> None:
        if self.count < 1:
            raise UsageError(f"an estimated trace needs one probe or more, got {self.count}", "None is the exact one")

    def probes(self, x: Tensor) -> Tensor:
        """The vectors [k, b, *d]."""
        return torch.stack([self.noise(0, x, k).sign() for k in range(self.count)])


def traced(denoiser: Denoiser, cond: Cond, probes: Tensor, weight: float, dtype: torch.dtype) -> Traced:
    """x̂0 with the trace of its Jacobian, weight·Σ_k v_kᵀ(∂x̂0/∂x)v_k, by one backward pass for each probe [k, b, *d]."""

    def answer(x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        with torch.enable_grad():
            x = x.detach().to(dtype).requires_grad_()
            x0 = denoiser(x, t, cond)
            total = torch.zeros(len(x), dtype=torch.float64, device=x.device)
            for k, probe in enumerate(probes, 1):
                v = probe.to(x0.dtype)
                (gradient,) = torch.autograd.grad((v * x0).sum(), x, retain_graph=k < len(probes))
                total += (gradient * v).flatten(1).double().sum(1)
        return x0.detach().double(), weight * total

    return answer


def augmented(denoiser: Denoiser, answer: Traced, shape: torch.Size) -> Field:
    """The flow of z = x/√(α² + σ²) in θ = atan ν, with its divergence per dimension as one more element:

    dz/dθ = (cos θ·z − x̂0)/sin θ, ∇·(dz/dθ) = (d·cos θ − tr ∂x̂0/∂z)/sin θ; y is [b, d + 1].
    """
    path = denoiser.path

    def field(y: Tensor, angle: Tensor) -> Tensor:
        z, t = y[:, :-1], path.time(torch.tan(angle))
        norm = spread(path.norm(t), z)
        x0, trace = answer((norm * z).reshape(-1, *shape), t)
        cos, sin = spread(torch.cos(angle), z), spread(torch.sin(angle), z)
        divergence = cos - norm * trace[:, None] / z.shape[1]
        return torch.cat([cos * z - x0.flatten(1), divergence], 1) / sin

    return field


def prior(answer: Traced, x: Float[Tensor, "b *d"], end: Moment) -> Float[Tensor, "b"]:
    """log p_end(x): N(0, σ²I), times what is left of the data where α > 0, from the denoiser to second order in α/σ.

    log p(x) − log N(x; 0, σ²I) = α/σ²·∫₀¹ x·D(ux) du + log p(0)/N(0; 0, σ²I), by Tweedie's formula along the line to 0;
    D is affine there, and the last term is −½(α/σ)²·E[|x0|² | x = 0], E = |D(0)|² + σ²/α·tr ∂D/∂x(0).
    """
    flat, t = x.flatten(1), end.shared(len(x))
    unit = -0.5 * ((flat / end.sigma).square() + math.log(2 * math.pi * end.sigma**2)).sum(1)
    if end.alpha == 0:
        return unit
    middle, trace = answer(torch.zeros_like(x), t)
    there, _ = answer(x, t)
    along = end.alpha / end.sigma**2 * (flat * (middle + there).flatten(1) / 2).sum(1)
    power = middle.flatten(1).square().sum(1) + end.sigma**2 / end.alpha * trace
    return unit + along - power / (2 * end.nsr**2)


def log_density(
    denoiser: Denoiser,
    x: Float[Tensor, "b *d"],
    cond: Cond,
    *,
    rule: Adaptive = RULE,
    span: tuple[float, float] = (QUIETEST, math.inf),
    trace: Hutchinson | None = None,
) -> Likelihood:
    """log p_0(x) = log p_end(x_end) + ∫ ∇·v along the flow v from the data to the noise (Song et al. 2021, eq. 39).

    The divergence is exact, at d backward passes a call, or an estimate (`Hutchinson`).

    The way goes over the `span` of ν = σ/α. At σ = 0 the velocity is 0/0. It vanishes there like θ where the data has a
    density, so the piece up to the first ν is θ/2·v(θ), with an error of (ν/std)⁴ for data that varies on the scale
    std. Data without a density (8-bit values, a finite set, a surface) has no log p_0: the answer is then about that of
    the data blurred to it, and changes with it; add noise of the width of one value to the data first (`bits_per_dim`).
    The end is at the last ν or the path's own; its density is `prior`. A network that predicts noise needs one below ∞,
    say 80.

    The tolerance is on the error of a step, of z and of the nats per dimension. The denoiser must be differentiable in
    x. Raises UsageError as `Adaptive` does.
    """
    first, flow = math.atan(span[0]), SampleFlow.of(denoiser, x, cond, trace)
    y = beginning(x)
    return flow.followed(y + first / 2 * flow.field(y, flow.shared(first)), span, rule)


def log_density_at(
    denoiser: Denoiser,
    x: Float[Tensor, "b *d"],
    cond: Cond,
    *,
    rule: Adaptive = RULE,
    span: tuple[float, float],
    trace: Hutchinson | None = None,
) -> Likelihood:
    """log p_t(x) of data with noise, x at the first ν of `span`: as `log_density`, from there on.

    It has a density whatever the data is.
    """
    there, flow = where(denoiser.path, -math.log(span[0])), SampleFlow.of(denoiser, x, cond, trace)
    found = flow.followed(beginning(x / there.norm), span, rule)
    return found._replace(nats=found.nats - x[0].numel() * math.log(there.norm))


def beginning(x: Float[Tensor, "b *d"]) -> Float[Tensor, "b e"]:
    """Where the flow of `augmented` begins: x, and a divergence of 0."""
    return torch.cat([x.double().flatten(1), torch.zeros(len(x), 1, dtype=torch.float64, device=x.device)], 1)


@dataclass(frozen=True, eq=False)
class SampleFlow:
    """The flow of some samples, `count` of a `shape`: what the denoiser answers, and `augmented` of it."""

    path: Path
    shape: torch.Size
    count: int
    answer: Traced
    field: Field

    @classmethod
    def of(cls, denoiser: Denoiser, x: Tensor, cond: Cond, trace: Hutchinson | None) -> SampleFlow:
        """That of samples like x, by an estimated trace or the exact one."""
        probes, weight = (axes(x), 1.0) if trace is None else (trace.probes(x), 1 / trace.count)
        answer = traced(denoiser, cond, probes, weight, x.dtype)
        return cls(denoiser.path, x.shape[1:], len(x), answer, augmented(denoiser, answer, x.shape[1:]))

    def shared(self, angle: float) -> Float[Tensor, "b"]:
        """An angle for each sample."""
        return torch.full((self.count,), angle, dtype=torch.float64)

    def followed(self, y: Float[Tensor, "b e"], span: tuple[float, float], rule: Adaptive) -> Likelihood:
        """log p of z = y at the first ν of `span`, from the last or the path's own end on."""
        end = min(at(self.path, self.path.end), where(self.path, -math.log(span[1])), key=lambda moment: moment.nsr)
        angle = self.shared(math.atan(span[0]))

        def norm(error: Tensor) -> Tensor:
            return torch.maximum(rms(error[:, :-1]), error[:, -1].abs())

        begun, memory = Waypoint(angle, y, self.field(y, angle)), rule.fresh(self.count)
        reached, memory = integrate(self.field, begun, math.atan(end.nsr), rule, memory, norm)
        y, scale, d = reached.y, end.norm, self.shape.numel()
        there = scale * y[:, :-1].reshape(self.count, *self.shape)
        nats = prior(self.answer, there, end) + d * (math.log(scale) + y[:, -1])
        return Likelihood(nats, there, memory.attempts)


def axes(x: Tensor) -> Tensor:
    """The unit vectors [d, b, *d] of every axis, over which a trace is exact."""
    every = torch.eye(x.shape[1:].numel(), dtype=x.dtype, device=x.device)
    return every.reshape(-1, 1, *x.shape[1:]).expand(-1, *x.shape)


def bits_per_dim(nats: Float[Tensor, "b"], dims: int, width: float) -> Float[Tensor, "b"]:
    """−log₂ p/d − log₂ width: bits per dimension of values that lie `width` apart, 2/255 for 8 bits in [−1, 1].

    It bounds the code length of the values from above if each was spread evenly over its width before (Theis et al.
    2016, §3.1).
    """
    return -nats / (dims * math.log(2)) - math.log2(width)


@dataclass(frozen=True)
class BitsPerDim:
    """The mean of `count` images with a 95 % interval, and what it took: `evaluations` denoiser calls for an image,
    each with a backward pass for each of the `probes` (0 stands for the exact trace)."""

    value: float
    low: float
    high: float
    count: int
    unit: str
    probes: int
    evaluations: float
    read_at: float | None = None
    """the ν at which 8-bit values were read off (`flow_bound`); None where they were spread evenly over their width"""


def likelihood(
    system: System,
    images: Given,
    given: Values = NOTHING_GIVEN,
    *,
    seed: int,
    probes: int = 1,
    rule: Adaptive = COARSE,
) -> BitsPerDim:
    """Bits per dimension of 8-bit images [n, *d] along the probability flow: −log₂ p_0(x)/d − log₂ WIDTH.

    Of rows and series, float32, it is −log₂ p_0(x)/d of their values as they are, which may be below 0.

    x is the image on the scale of `to_unit` plus noise uniform within its own value, (u − ½)·WIDTH with u in [0, 1), so
    the figure bounds from above, in the mean over the noise, the bits that the model needs for the 8-bit values
    themselves (Theis et al. 2016, §3.1); uniform values cost 8. The divergence is Hutchinson's estimate with `probes`,
    or with 0 exact, at d backward passes a call: for small d. The interval is over images, and holds the noise of both.

    The network runs in float32, whatever it samples in: derivatives of bfloat16 are noise. Conditions are those
    that are `given`, of each name a value for each image; guidance is not applied, since a guided model has no density
    of its own. Images are a tensor or an array. Raises as `batched` does.
    """
    bits, calls, denoiser, images = [], 0, system.denoiser, array_of("images", images)
    width, unit = (WIDTH, UNIT) if images.dtype == np.uint8 else (0.0, DENSE)
    uniform = torch.from_numpy(np.random.default_rng([seed, 0]).random(images.shape, dtype=np.float32))
    for first, x0, cond in batched(system, images, given, BATCH):
        x = x0 + (uniform[first : first + len(x0)].to(x0.device) - 0.5) * width
        trace = Hutchinson(probes, Noise.of(seed + first, len(x))) if probes else None
        found = log_density(denoiser, x, cond, rule=rule, span=(QUIETEST, loudest(denoiser)), trace=trace)
        bits.append(bits_per_dim(found.nats, x[0].numel(), width or 1.0).cpu())
        calls += int(found.attempts.calls.sum())
    return BitsPerDim(*interval(torch.cat(bits)), len(images), unit, probes, calls / len(images))


def batched(system: System, images: NDArray[Any], given: Values, size: int) -> Iterator[tuple[int, Tensor, Cond]]:
    """Images with what is said of them, `size` at a time, as the system's denoiser takes them: (index of the first, x0,
    cond). What is not given is asked with nothing.

    Raises DataError for fewer than two images, images of another shape or type, and conditions that are not one for
    each image; UsageError for a system with labels and images without, for a label that it does not know, and for a
    system that works on latents.
    """
    if system.space is not None:
        raise UsageError("bits per dimension are of a model of the pictures themselves, and this one works on latents")
    kind = np.uint8 if len(system.shape) == 3 else np.float32
    if images.dtype != kind or images.shape[1:] != system.shape or len(images) < 2:
        raise DataError(
            f"expected 2 or more images, {np.dtype(kind)} [n, {', '.join(map(str, system.shape))}], got {images.dtype}"
            f" {list(images.shape)}"
        )
    if system.labels.names and "label" not in given:
        raise UsageError("this model was trained with labels, so images have bits only with theirs", "give label")
    for name, values in given.items():
        if len(values) != len(images):
            raise DataError(f"expected a {name} for each of {len(images)} images, got {len(values)}")
    for first in range(0, len(images), size):
        (x0,) = batches(images[first : first + size], size)
        yield first, x0.to(system.device), system.conditions(part(given, first, size), len(x0))


def loudest(denoiser: NetworkDenoiser) -> float:
    """ν where sampling begins: at the path's end, ∞ on some, or at 80 where the target tells nothing of x0 there."""
    path = denoiser.path
    ends = torch.tensor([path.end, 0.0], dtype=torch.float64)
    return float(path.nsr(audible(path, denoiser.prediction, ends)[:1]))


def interval(values: Float[Tensor, "n"]) -> tuple[float, float, float]:
    """The mean and its 95 % interval, 1.96 standard errors to both sides."""
    mean, error = float(values.mean()), 1.96 * float(values.std()) / math.sqrt(len(values))
    return mean, mean - error, mean + error
