"""The probability-flow ODE with steps as long as the tolerance allows, for each sample by itself."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from ebb.errors import UsageError
from ebb.process.denoiser import Cond, Denoiser
from ebb.process.moment import Moment, where
from ebb.process.path import Path, spread
from ebb.sample.trajectory import Denoise, Draw, Stepped
from ebb.shapes import Float

Field = Callable[[Tensor, Tensor], Tensor]
"""(y [b, *d], angle [b]) → dy/dangle [b, *d]; angles on the CPU."""

NODES = (1 / 2, 3 / 4, 1.0)
STAGES = ((1 / 2,), (0.0, 3 / 4), (2 / 9, 1 / 3, 4 / 9))
"""Bogacki & Shampine 1989: the last row is the third-order answer, and its slope begins the next step."""
ERROR = (-5 / 72, 1 / 12, 1 / 9, -1 / 8)
"""The third-order answer less the second-order one."""
LOCAL = 3
"""The error of one step of the second-order answer falls with this power of its length."""

SAFETY, LEAST, MOST = 0.9, 0.2, 5.0
"""The next step aims at this share of the longest that would do, and is at most so much shorter or longer."""


@dataclass(frozen=True, eq=False)
class Attempts:
    """Every step that was tried, in order: whose it was, where it began and ended (angles), its error in units of the
    tolerance, and whether it was kept. Each is [n] on the CPU; `calls` [b] counts the denoiser's answers per sample."""

    sample: Tensor
    start: Tensor
    stop: Tensor
    error: Tensor
    accepted: Tensor
    calls: Tensor

    @classmethod
    def none(cls, count: int) -> Attempts:
        """No attempt by `count` samples."""
        empty = torch.zeros(0, dtype=torch.float64)
        return cls(empty.long(), empty, empty, empty, empty.bool(), torch.zeros(count, dtype=torch.long))

    def angles(self, sample: int) -> Float[Tensor, "n"]:
        """Where the accepted steps of one sample lie in atan ν, both ends of all included."""
        own = self.accepted & (self.sample == sample)
        return torch.cat([self.start[own][:1], self.stop[own]])

    def times(self, sample: int, path: Path) -> Float[Tensor, "n"]:
        """The same places as times of `path`."""
        return path.time(torch.tan(self.angles(sample)))


class Memory(NamedTuple):
    """What the controller knows of each sample: the size of its next step, its last two errors (each [b]), its past."""

    size: Tensor
    errors: tuple[Tensor, Tensor]
    attempts: Attempts

    def asked_again(self) -> Memory:
        """With one more call counted for every sample."""
        return self._replace(attempts=replace(self.attempts, calls=self.attempts.calls + 1))


@dataclass(frozen=True)
class Adaptive:
    """Bogacki & Shampine's embedded pair 3(2) under a PID step controller (Söderlind 2003), each sample by itself.

    The variable is the angle θ = atan ν and the unknown z = x/√(α² + σ²), for which the flow of every path is

        dz/dθ = −sin θ·x̂0 + cos θ·ε̂ = (cos θ·z − x̂0)/sin θ,

    regular from α = 0 (θ = π/2) on. At σ = 0 it is 0/0: the last piece, θ < √tolerance/10, is a jump, whose error is at
    most about θ²/(2·std) for data that varies on the scale std. A step is kept where the root mean square of its error
    is at most tolerance·(1 + that of z). The next one is longer by 0.9·(1/e)^{(p+i+d)/3}·(e₁)^{(p+2d)/3}·(1/e₂)^{d/3},
    e, e₁, e₂ being its error and the two before in units of what is allowed. Three denoiser calls a step.

    The batch stays whole, for guides that hold something for each sample: one that has arrived is asked where it is
    until the last one has, so a batch costs the calls of its slowest. None depends on another. Two times are grid
    enough. On Gaussians and mixtures this pair needs fewer calls than Dormand & Prince's 5(4) for errors above 2e-5;
    p = 0.3, i = 0.4 rejects fewer steps than p = 0, i = 1, and d brought nothing.

    State: a `Memory`, whose `attempts` are the steps taken (`follow` returns them). Raises UsageError where a sample
    needs more than `limit` attempts between two times of the grid.
    """

    tolerance: float = 1e-3
    p: float = 0.3
    i: float = 0.4
    d: float = 0.0
    limit: int = 1000
    order: ClassVar[int] = 3

    def __post_init__(self) -> None:
        if not (0 < self.tolerance < 1 and self.i > 0 and self.limit >= 1):
            raise UsageError(f"an adaptive solver needs 0 < tolerance < 1, i > 0 and limit ≥ 1, got {self}")

    def start(self, path: Path) -> None:
        """Nothing known."""

    def step(
        self, denoise: Denoise, x: Tensor, t: Moment, s: Moment, cond: Cond, state: Memory | None, draw: Draw
    ) -> Stepped:
        """As many inner steps as it takes."""
        begin, last = math.atan(t.nsr), math.atan(s.nsr) if s.sigma else min(math.atan(t.nsr), self.sliver)
        field, count = flow(denoise.denoiser, cond), len(x)
        z, angle = x / t.norm, torch.full((count,), begin, dtype=torch.float64)
        here = Waypoint(angle, z, field(z, angle))
        x0 = math.cos(begin) * z - math.sin(begin) * here.slope
        (_, z, _), state = integrate(field, here, last, self, state or self.fresh(count), rms)
        if s.sigma == 0:  # asked again, though the slope tells x̂0 to within rounding: what a guide holds stays exact
            near = where(denoise.path, -math.log(math.tan(last)))
            landed = denoise(near.norm * z, near, cond)
            return Stepped(landed, x0, state.asked_again())
        return Stepped(s.norm * z, x0, state)

    @property
    def sliver(self) -> float:
        """The angle from which the way to σ = 0 is one jump."""
        return math.sqrt(self.tolerance) / 10

    def fresh(self, count: int) -> Memory:
        """The memory of `count` samples before their first step."""
        ones = torch.ones(count, dtype=torch.float64)
        return Memory(ones * self.tolerance ** (1 / LOCAL) / 2, (ones, ones), Attempts.none(count))

    def longer(self, error: Tensor, errors: tuple[Tensor, Tensor]) -> Tensor:
        """By what factor the next step differs, from this error and the two before."""
        now, once, twice = (e.clamp(min=1e-8) ** (1 / LOCAL) for e in (error, *errors))
        factor = SAFETY * now ** -(self.p + self.i + self.d) * once ** (self.p + 2 * self.d) * twice**-self.d
        return torch.nan_to_num(factor, nan=LEAST).clamp(LEAST, MOST)


def rms(z: Float[Tensor, "b *d"]) -> Float[Tensor, "b"]:
    """The root mean square of each sample."""
    return z.flatten(1).square().mean(1).sqrt()


def flow(denoiser: Denoiser, cond: Cond) -> Field:
    """dz/dθ = (cos θ·z − x̂0)/sin θ, the flow of any path for z = x/√(α² + σ²) and θ = atan ν."""
    path = denoiser.path

    def field(z: Tensor, angle: Tensor) -> Tensor:
        t = path.time(torch.tan(angle))
        x0 = denoiser(spread(path.norm(t), z) * z, t, cond)
        return spread(1 / torch.tan(angle), z) * z - spread(1 / torch.sin(angle), z) * x0

    return field


def tried(field: Field, y: Tensor, first: Tensor, angle: Tensor, h: Tensor) -> tuple[Tensor, ...]:
    """One step of the pair by `h` [b]: (y there, the slope there, the error of y)."""
    slopes, there, step = [first], y, spread(h, y)
    for weights, node in zip(STAGES, NODES, strict=True):
        there = y + step * sum(w * k for w, k in zip(weights, slopes, strict=True) if w)
        slopes.append(field(there, (angle + node * h).clamp(max=math.pi / 2)))
    return there, slopes[-1], step * sum(w * k for w, k in zip(ERROR, slopes, strict=True) if w)


class Waypoint(NamedTuple):
    """Where a way is: the angle [b], y [b, *d], and its slope dy/dangle [b, *d]."""

    angle: Tensor
    y: Tensor
    slope: Tensor


def integrate(
    field: Field, place: Waypoint, stop: float, rule: Adaptive, memory: Memory, norm: Callable[[Tensor], Tensor]
) -> tuple[Waypoint, Memory]:
    """Follow dy/dangle = field from `place` to the angle `stop`: the place and the memory there.

    `norm` measures y and its error per sample. Every sample keeps its own step; raises UsageError beyond rule.limit.
    """
    angle, y, slope = place
    size, errors = memory.size, torch.stack(memory.errors)
    calls, past = memory.attempts.calls + 1, [memory.attempts]
    for _ in range(rule.limit):
        left = (stop - angle).abs()
        active = left > 0
        if not active.any():
            return Waypoint(angle, y, slope), Memory(size, (errors[0], errors[1]), joined(past, calls))
        ends = size >= left
        h = torch.where(ends, left, size) * torch.sign(stop - angle)
        there, last, off = tried(field, y, slope, angle, h)
        error = (norm(off) / (rule.tolerance * (1 + torch.maximum(norm(y), norm(there))))).double().cpu()
        calls = calls + len(STAGES) * active
        reached = torch.where(ends, torch.full_like(angle, stop), angle + h)
        good = active & (error <= 1)
        own = active.nonzero()[:, 0]
        past.append(Attempts(own, angle[own], reached[own], error[own], good[own], calls))
        factor = rule.longer(error, (errors[0], errors[1]))
        proposed = h.abs() * torch.where(good, factor, factor.clamp(max=SAFETY))
        proposed = torch.where(good & ends, torch.maximum(size, proposed), proposed)
        size = torch.where(active, proposed, size)
        kept = spread(good.double(), y) > 0
        y, slope, angle = torch.where(kept, there, y), torch.where(kept, last, slope), torch.where(good, reached, angle)
        errors = torch.where(good, torch.stack([error, errors[0]]), errors)
    active = (angle != stop).nonzero()[:, 0]
    raise UsageError(
        f"{len(active)} of {len(y)} samples did not reach their end in {rule.limit} attempts; the first is at angle"
        f" {float(angle[active[0]]):.6g} with steps of {float(size[active[0]]):.3g}",
        f"allow a larger tolerance than {rule.tolerance:g}: {y.dtype} cannot resolve every one",
    )


def joined(past: list[Attempts], calls: Tensor) -> Attempts:
    """One record of them all."""
    columns = {
        name: torch.cat([getattr(part, name) for part in past])
        for name in ("sample", "start", "stop", "error", "accepted")
    }
    return Attempts(**columns, calls=calls)


def follow(
    denoiser: Denoiser, solver: Adaptive, t: Moment, s: Moment, x: Float[Tensor, "b *d"], cond: Cond
) -> tuple[Float[Tensor, "b *d"], Attempts]:
    """x_s from x_t by the adaptive flow, and the steps it took."""

    def silent(like: Tensor, part: int = 0) -> Tensor:
        raise UsageError("the adaptive solver draws no noise")

    with torch.no_grad():
        there, _, memory = solver.step(Denoise(denoiser), x, t, s, cond, None, silent)
    return there, memory.attempts
