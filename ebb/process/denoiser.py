"""A denoiser is D(x, t, cond) → E[x0 | x_t = x, cond], on an explicit path; all else wraps, calls or trains it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from ebb.errors import UsageError
from ebb.process.moment import Moment, Time, combine, where
from ebb.process.path import LOUDEST, Path, spread
from ebb.process.predict import Prediction, recover, recover_factors, target
from ebb.shapes import Float

Cond = Mapping[str, Tensor]
"""Conditions by name, each with the batch as first axis; {} when there are none."""


@runtime_checkable
class Denoiser(Protocol):
    """Anything with a path that answers with the posterior mean of the clean data.

    Times are tensors [b]. One that says `takes_moments = True`, as all of ebb do, is told a `Moment` where a batch
    shares its time (see `answer`), and then does no arithmetic on times.
    """

    @property
    def path(self) -> Path:
        """The path whose noisy data the denoiser understands."""
        ...

    def __call__(self, x: Tensor, t: Tensor, cond: Cond) -> Tensor:
        """E[x0 | x_t = x, cond]: x [b, *d], t [b] → [b, *d]."""
        ...


def takes_moments(model: object) -> bool:
    """Whether a denoiser, or whatever else is asked at a time, takes a moment for a time."""
    return getattr(model, "takes_moments", False)


def answer(denoiser: Denoiser, x: Tensor, t: Time, cond: Cond) -> Tensor:
    """The denoiser's x̂0; of a moment it is told the times [b] unless it `takes_moments`."""
    if isinstance(t, Moment) and not takes_moments(denoiser):
        t = t.shared(x.shape[0])
    return denoiser(x, t, cond)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Wrapped(ABC):
    """A denoiser around another, on its path."""

    denoiser: Denoiser
    takes_moments: ClassVar[bool] = True

    @property
    def path(self) -> Path:
        """The denoiser's own."""
        return self.denoiser.path

    @abstractmethod
    def __call__(self, x: Tensor, t: Time, cond: Cond) -> Tensor:
        """x̂0: x [b, *d] → [b, *d]."""


@runtime_checkable
class Predictor(Protocol):
    """What a denoising objective trains: something that outputs F = a·x0 + b·ε on a path."""

    path: Path
    prediction: Prediction

    def raw(self, x: Tensor, t: Tensor, cond: Cond) -> Tensor:
        """F at x_t = x: x [b, *d], t [b] → [b, *d]."""
        ...


Clock = Callable[[Path, Tensor], Tensor]
"""What a network is told about the time: (path, t [b]) → [b]."""


def fraction(path: Path, t: Float[Tensor, "b"]) -> Float[Tensor, "b"]:
    """t/end, in [0, 1]."""
    return t / path.end


def quarter_log_nsr(path: Path, t: Float[Tensor, "b"]) -> Float[Tensor, "b"]:
    """c_noise = ¼ log ν (Karras et al. 2022, table 1), ν at most LOUDEST."""
    return torch.log(path.nsr(t).clamp(max=LOUDEST)) / 4


CLOCKS: dict[str, Clock] = {"fraction": fraction, "quarter_log_nsr": quarter_log_nsr}


class NetworkDenoiser(nn.Module):
    """A network read as a denoiser: network + path + prediction + clock + input scale.

    `network(x [b, *d], clocked [b], cond) → F [b, *d]`. With `sigma_data` s the network sees x/√(α²s² + σ²), of unit
    variance (c_in of Karras et al. 2022, table 1); without, it sees x. The network runs in its own precision
    (`compute_dtype`); x̂0 and the path's algebra are float32. Where a batch shares its time, its coefficients are
    numbers, found once. Raises UsageError as `one_type_or_stated` does.
    """

    takes_moments = True

    def __init__(
        self,
        network: nn.Module,
        path: Path,
        prediction: Prediction,
        clock: Clock = fraction,
        sigma_data: float | None = None,
    ) -> None:
        super().__init__()
        one_type_or_stated(network)
        self.network, self.path, self.prediction = network, path, prediction
        self.clock, self.sigma_data = clock, sigma_data

    @property
    def answers(self) -> int:
        """How many tensors of x's shape the network answers with, side by side along axis 1; the first is F."""
        return int(getattr(self.network, "settings", {}).get("answers", 1))

    def output(self, x: Tensor, t: Time, cond: Cond) -> Tensor:
        """What the network says at x_t = x, float32; all of its `answers` (`raw` is the first)."""
        return asked(self, x, t, cond)

    def raw(self, x: Float[Tensor, "b *d"], t: Time, cond: Cond) -> Float[Tensor, "b *d"]:
        """F, what the network outputs at x_t = x, in float32."""
        every = self.output(x, t, cond)
        return every if self.answers == 1 else every[:, : x.shape[1]]

    def recovered(self, x: Float[Tensor, "b *d"], F: Float[Tensor, "b *d"], t: Time) -> Tensor:
        """x̂0 from x and F at t. Raises UsageError as `recover_factors` does."""
        if not isinstance(t, Moment):
            return recover(self.path, self.prediction, x, F, t)
        of_x, of_F = shared_factors(self.path, self.prediction, t.time)
        return combine((of_x, x), (of_F, F))

    def forward(self, x: Float[Tensor, "b *d"], t: Time, cond: Cond) -> Float[Tensor, "b *d"]:
        """x̂0 = E[x0 | x_t = x, cond], recovered from the network's F. Raises UsageError as `recover_factors` does."""
        x = x if x.dtype == torch.float32 else x.float()
        return self.recovered(x, self.raw(x, t, cond), t)


@runtime_checkable
class OnPath(Protocol):
    """A network that is told noisy data of a path and the time: what `asked` asks."""

    network: nn.Module
    path: Path
    clock: Clock
    sigma_data: float | None


def asked(model: OnPath, x: Tensor, t: Time, *more: Cond) -> Tensor:
    """network(x scaled, time told, *more) at x_t = x, with x in the network's `compute_dtype`; the answer is float32.

    With `sigma_data` x is scaled to unit variance (`input_scale`). A time that the batch shares is told by a fill on
    the device, since a copy would wait for it.
    """
    network, path, sigma_data = model.network, model.path, model.sigma_data
    if isinstance(t, Moment):
        scale, value = shared_reading(path, model.clock, sigma_data, t.time)
        told = filled(value, x.shape[0], x.device)
        x = x if scale == 1 else x * scale
    else:
        told = model.clock(path, t).to(device=x.device, dtype=torch.float32)
        x = x if sigma_data is None else spread(input_scale(path, sigma_data, t), x) * x
    dtype = compute_dtype(network) or x.dtype
    output: Tensor = network(x if dtype == x.dtype else x.to(dtype), told, *more)
    return output if output.dtype == torch.float32 else output.float()


def compute_dtype(network: nn.Module) -> torch.dtype | None:
    """The type a network computes in, and wants x in: its `compute_dtype` where it states one.

    Else that of its first floating-point parameter; None where it has none, and takes x as it is. A network whose
    parameters are of several types (quantised, or with low-rank parts in another precision) states it.
    """
    stated: torch.dtype | None = getattr(network, "compute_dtype", None)
    return stated or next((p.dtype for p in network.parameters() if p.is_floating_point()), None)


def one_type_or_stated(network: nn.Module) -> None:
    """Raise UsageError for a network of several floating-point types that does not state its `compute_dtype`."""
    types = {p.dtype for p in network.parameters() if p.is_floating_point()}
    if len(types) > 1 and getattr(network, "compute_dtype", None) is None:
        names = " and ".join(sorted(str(dtype).removeprefix("torch.") for dtype in types))
        raise UsageError(
            f"{type(network).__name__} has parameters in {names}, and does not state the type it computes in",
            "for example network.compute_dtype = torch.bfloat16",
        )


def filled(value: float, count: int, device: torch.device) -> Tensor:
    """`value` `count` times on a device, float32."""
    return remembered(value, count, device) if count > 1 else repeating(value, count, device)


def repeating(value: float, count: int, device: torch.device) -> Tensor:
    """One number in memory, seen `count` times: a network cannot write to it, unless it is seen once."""
    with torch.inference_mode(False):
        return torch.full((1,), value, dtype=torch.float32, device=device).expand(count)


remembered = lru_cache(maxsize=4096)(repeating)


@dataclass(frozen=True)
class Autocast:
    """`denoiser` with its network in `dtype`; what guides and solvers make of its answers stays in float32."""

    denoiser: NetworkDenoiser
    dtype: torch.dtype
    takes_moments: ClassVar[bool] = True

    @property
    def path(self) -> Path:
        """The denoiser's own."""
        return self.denoiser.path

    def __call__(self, x: Float[Tensor, "b *d"], t: Time, cond: Cond) -> Float[Tensor, "b *d"]:
        """x̂0, float32."""
        with torch.autocast(x.device.type, self.dtype):
            x0: Tensor = self.denoiser(x, t, cond)
        return x0


def input_scale(path: Path, sigma_data: float, t: Float[Tensor, "b"]) -> Float[Tensor, "b"]:
    """1/√(α²s² + σ²), s = `sigma_data`: it gives the network an input of unit variance."""
    return 1 / torch.hypot(sigma_data * path.alpha(t), path.sigma(t))


@lru_cache(maxsize=65536)
def shared_reading(path: Path, clock: Clock, sigma_data: float | None, time: float) -> tuple[float, float]:
    """(input scale, what is told) at one time; every part is frozen: once is enough."""
    t = torch.tensor([time], dtype=torch.float64)
    return 1.0 if sigma_data is None else float(input_scale(path, sigma_data, t)), float(clock(path, t))


@lru_cache(maxsize=65536)
def shared_factors(path: Path, prediction: Prediction, time: float) -> tuple[float, float]:
    """`recover_factors` at one time, as numbers."""
    of_x, of_F = recover_factors(path, prediction, torch.tensor([time], dtype=torch.float64))
    return float(of_x), float(of_F)


@dataclass(frozen=True)
class Retimed:
    """`denoiser` asked on another `path`: the same ratio ν, the input rescaled to the norm the denoiser knows.

    E[x0 | x_t] depends on a Gaussian path only through ν and x/√(α² + σ²), so this is exact wherever the denoiser's own
    path reaches ν; beyond that it is asked at its own end.
    """

    denoiser: Denoiser
    path: Path
    takes_moments: ClassVar[bool] = True

    def __call__(self, x: Float[Tensor, "b *d"], t: Time, cond: Cond) -> Float[Tensor, "b *d"]:
        """D(x·‖(α, σ)‖_u/‖(α, σ)‖_t, u) with ν(u) = ν(t)."""
        inner = self.denoiser.path
        if isinstance(t, Moment):
            then = where(inner, t.lam)
            return answer(self.denoiser, x * (then.norm / t.norm), then, cond)
        u = inner.time(self.path.nsr(t))
        return self.denoiser(spread(inner.norm(u) / self.path.norm(t), x) * x, u, cond)


def retime(denoiser: Denoiser, path: Path) -> Denoiser:
    """`denoiser`, to be asked in the time of `path`."""
    return Retimed(denoiser, path)


def target_error(
    model: Predictor,
    x0: Float[Tensor, "b *d"],
    eps: Float[Tensor, "b *d"],
    t: Float[Tensor, "b"],
    cond: Cond,
    factors: tuple[Tensor, Tensor] | None = None,
) -> Float[Tensor, "b *d"]:
    """F_θ(x_t, t) − (a·x0 + b·ε) at x_t = α·x0 + σ·ε: how far the model is from what it is trained to output.

    `factors` are (a, b) at t where the caller has them already.
    """
    aim = target(factors or model.prediction(model.path, t), x0, eps)
    return model.raw(model.path.mix(x0, eps, t), t, cond) - aim
