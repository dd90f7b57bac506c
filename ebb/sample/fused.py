"""A trajectory as arithmetic: a solver's steps read off as matrices, and run as one compiled function with the network.

What a solver makes of x, its memory, the denoiser's answers and its draws are linear combinations of them, with factors
known before the loop. So a step run on unit vectors, in place of tensors, shows its factors. The steps of a grid then
differ in numbers only: one function of tensors and numbers, compiled once, makes them all, with no Python between
the network and the update.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from ebb.errors import UsageError
from ebb.process.denoiser import Cond, Denoiser
from ebb.process.moment import at
from ebb.process.path import Path
from ebb.sample.trajectory import Denoise, Point, Solver, Stepped, checked
from ebb.shapes import Float

CPU = torch.device("cpu")

WRAPPED: dict[str, str | int | bool | Callable[..., Any]] = {"cpp_wrapper": True}
"""How a function for the CPU is compiled: what calls its kernels is C++ too, for Python between the kernels of a small
network takes a tenth of its time."""

PARTS = 64
"""The most tensors a step may combine: x, its memory, its draws and its answers."""


@dataclass
class Recorder:
    """A denoiser and a source of noise that answer with the next row of `rows`, and write down what they were asked."""

    path: Path
    rows: Tensor
    used: int = 0
    asked: list[tuple[float, Tensor]] = field(default_factory=list)
    besides: list[dict[str, float]] = field(default_factory=list)
    answers: list[int] = field(default_factory=list)
    draws: list[tuple[int, tuple[int, ...]]] = field(default_factory=list)

    def next(self) -> Tensor:
        """A row that was not given out before, [1, PARTS]."""
        if self.used == PARTS:
            raise UsageError(f"a step of more than {PARTS} parts cannot be fused", "sample without compile")
        self.used += 1
        return self.rows[self.used - 1 : self.used]

    def __call__(self, x: Tensor, t: Tensor, cond: Cond) -> Tensor:
        """An answer of the denoiser."""
        self.asked.append((float(t[0]), x))
        self.besides.append({name: float(value[0]) for name, value in cond.items()})
        self.answers.append(self.used)
        return self.next()

    def draw(self, like: Tensor, *part: int) -> Tensor:
        """Noise."""
        self.draws.append((self.used, part))
        return self.next()


@dataclass(frozen=True)
class FusedStep:
    """A step as numbers. Each row of `asked` [calls, n] and `left` [2 + memory, n] holds the factors of n tensors:

    x, the memory, the draws and the answers. `asked` are the points the denoiser is asked about, at `times`; `left` are
    x at the destination, x̂0 and the new memory. `parts` says which of its draws each of the step's draws is; `besides`
    what the solver itself asks of each call, by name, such as how far to go.
    """

    times: tuple[float, ...]
    besides: tuple[Mapping[str, float], ...]
    parts: tuple[tuple[int, ...], ...]
    memory: int
    asked: Tensor
    left: Tensor

    @property
    def kind(self) -> tuple[int, int]:
        """Calls and draws: steps of one kind are one function."""
        return len(self.times), len(self.parts)

    def conditions(self, count: int, device: torch.device) -> list[tuple[Tensor, dict[str, Tensor]]]:
        """The time of each call for so many samples, and what is asked of it besides."""
        return [
            (
                torch.full((count,), time, dtype=torch.float64, device=device),
                {name: torch.full((count,), value, device=device) for name, value in besides.items()},
            )
            for time, besides in zip(self.times, self.besides, strict=True)
        ]


def recorded(
    solver: Solver, path: Path, t: float, s: float, memory: Any, rows: Tensor
) -> tuple[Recorder, Stepped, int]:
    """One step of `solver` on rows in place of tensors: who was asked what, what it left, and the memory's size."""
    recorder = Recorder(path, rows)
    x = recorder.next()
    leaves, spec = pytree.tree_flatten(memory)
    size = sum(isinstance(leaf, Tensor) for leaf in leaves)
    fresh = [recorder.next() if isinstance(leaf, Tensor) else leaf for leaf in leaves]
    memory = pytree.tree_unflatten(fresh, spec)
    stepped = solver.step(Denoise(recorder), x, at(path, t), at(path, s), {}, memory, recorder.draw)
    return recorder, stepped, size


def factors(recorder: Recorder, stepped: Stepped) -> Tensor | None:
    """What was asked about, and then what the step left, as factors of the recorder's rows; None for other things."""
    left = [leaf for leaf in pytree.tree_leaves(tuple(stepped)) if isinstance(leaf, Tensor)]
    spoken = [x for _, x in recorder.asked] + left
    if any(x.shape != (1, PARTS) for x in spoken):
        return None
    numbers: Tensor = torch.cat(spoken) @ torch.linalg.inv(recorder.rows)
    return numbers


def close(a: Tensor, b: Tensor) -> bool:
    """Whether two readings of a step agree."""
    return a.shape == b.shape and torch.allclose(a, b, atol=1e-9)


def read(solver: Solver, path: Path, times: Float[Tensor, "n"]) -> list[FusedStep]:
    """The steps of `solver` along `times` as numbers, float64.

    Raises UsageError for a solver that is not linear, such as `adaptive`: rows that are not unit vectors show other
    factors then.
    """
    units = torch.eye(PARTS, dtype=torch.float64)
    other = units + 0.1 * torch.randn(units.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    memory, found = solver.start(path), []
    for t, s in pairwise(checked(times, path)):
        recorder, stepped, size = recorded(solver, path, t, s, memory, units)
        again, stepped_again, _ = recorded(solver, path, t, s, memory, other)
        numbers, same = factors(recorder, stepped), factors(again, stepped_again)
        if numbers is None or same is None or not close(numbers, same):
            raise UsageError(f"{type(solver).__name__} is not linear in what it is told", "sample without compile")
        calls, memory = len(recorder.asked), stepped.state
        order = torch.tensor([*range(1 + size), *(place for place, _ in recorder.draws), *recorder.answers])
        parts, when = tuple(part for _, part in recorder.draws), tuple(time for time, _ in recorder.asked)
        besides = tuple(recorder.besides)
        found.append(FusedStep(when, besides, parts, size, numbers[:calls, order], numbers[calls:, order]))
    return found


@dataclass(frozen=True)
class FusedRow:
    """Which tensors enter a sum, in any of the steps; `plain` where it is one tensor, itself, in all of them."""

    places: tuple[int, ...]
    plain: bool

    def sum(self, numbers: Tensor, tensors: list[Tensor]) -> Tensor:
        """Σ numbers[i]·tensors[i]."""
        first, *rest = self.places
        if self.plain:
            return tensors[first]
        total = numbers[first] * tensors[first]
        for place in rest:
            total = total + numbers[place] * tensors[place]
        return total


@dataclass(frozen=True)
class Kind:
    """Steps with equally many calls and draws, as one function and a table of numbers [calls + left, n] for each.

    Where a step remembers less than others do, its factors for what they remember are zeros.
    """

    memory: int
    asked: tuple[FusedRow, ...]
    left: tuple[FusedRow, ...]
    numbers: dict[int, Tensor]

    @classmethod
    def of(cls, steps: dict[int, FusedStep]) -> Kind:
        """The function of `steps`, given by their place in the trajectory."""
        memory, deepest = max(s.memory for s in steps.values()), max(len(s.left) for s in steps.values())
        calls, _ = next(iter(steps.values())).kind
        tables, rows = {}, []
        for place, step in steps.items():
            table = torch.cat([step.asked, step.left])
            absent = torch.zeros(len(table), memory - step.memory)
            tables[place] = torch.cat([table[:, : 1 + step.memory], absent, table[:, 1 + step.memory :]], 1)
        for row in range(calls + deepest):
            stated = torch.stack([table[row] for table in tables.values() if row < len(table)])
            places = tuple((stated != 0).any(0).nonzero().flatten().tolist()) or (0,)
            rows.append(FusedRow(places, len(places) == 1 and bool((stated[:, places[0]] == 1).all())))
        padded = {
            place: torch.nn.functional.pad(table, (0, 0, 0, calls + deepest - len(table))).float()
            for place, table in tables.items()
        }
        return cls(memory, tuple(rows[:calls]), tuple(rows[calls:]), padded)

    def __call__(
        self,
        denoiser: Denoiser,
        tensors: list[Tensor],
        calls: list[tuple[Tensor, dict[str, Tensor]]],
        numbers: Tensor,
        cond: Cond,
    ) -> list[Tensor]:
        """x at the destination, x̂0 and the memory, from x, memory and draws; `calls` are `FusedStep.conditions`."""
        tensors = list(tensors)
        for row, factors, (t, besides) in zip(self.asked, numbers, calls, strict=False):
            tensors.append(denoiser(row.sum(factors, tensors), t, {**cond, **besides}))
        return [row.sum(factors, tensors) for row, factors in zip(self.left, numbers[len(self.asked) :], strict=True)]


@dataclass(frozen=True, eq=False)
class Fused:
    """`trajectory` for one denoiser, solver and grid, with the commonest kind of step compiled, network and all.

    The first call compiles, for the shape it is given; other kinds of steps (the last, often) are run as they are.
    """

    denoiser: Denoiser
    steps: list[FusedStep]
    ends: list[float]
    kinds: dict[tuple[int, int], Kind]
    compiled: Callable[..., list[Tensor]]
    """the commonest of `kinds`"""
    commonest: tuple[int, int]

    def __call__(self, x: Float[Tensor, "b *d"], cond: Cond, noise: Callable[..., Tensor]) -> Iterator[Point]:
        """A Point after each step, from x at the first time."""
        memory: list[Tensor] = []
        asked = [step.conditions(len(x), x.device) for step in self.steps]
        numbers = [self.kinds[step.kind].numbers[place].to(x.device) for place, step in enumerate(self.steps)]
        for place, (step, end) in enumerate(zip(self.steps, self.ends, strict=True)):
            kind = self.kinds[step.kind]
            draws = [noise(place, x, *part) for part in step.parts]
            absent = [torch.zeros_like(x) for _ in range(kind.memory - step.memory)]
            tensors = [x, *memory[: step.memory], *absent, *draws]
            run = self.compiled if step.kind == self.commonest else kind
            with torch.no_grad():
                x, x0, *memory = run(self.denoiser, tensors, asked[place], numbers[place], cond)
            yield Point(end, x, x0)


def fused(denoiser: Denoiser, solver: Solver, times: Float[Tensor, "n"], device: torch.device = CPU) -> Fused:
    """`solver` along `times`, compiled with the denoiser: `fused(…)(x, cond, noise)` is `trajectory` but for rounding.

    It is called with tensors on `device`.

    It pays for small networks and for many samples: compiling takes as long as that of the network. Raises UsageError
    for a solver that is not linear in what it is told (`adaptive`, a learned variance).
    """
    steps = read(solver, denoiser.path, times)
    places: dict[tuple[int, int], dict[int, FusedStep]] = {}
    for index, step in enumerate(steps):
        places.setdefault(step.kind, {})[index] = step
    kinds = {kind: Kind.of(members) for kind, members in places.items()}
    commonest = max(places, key=lambda kind: len(places[kind]))
    options = WRAPPED if device.type == CPU.type else None
    compiled = torch.compile(kinds[commonest], dynamic=False, options=options)
    return Fused(denoiser, steps, times.tolist()[1:], kinds, compiled, commonest)
