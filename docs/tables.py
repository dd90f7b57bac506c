"""Measure the tables of sample.md and guide.md, write them into the pages, and draw their pictures.

    python docs/tables.py

Every figure is the difference to an answer in closed form. Sentences come from the docstrings. It takes about a minute.
"""

from __future__ import annotations

import platform
import re
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path as File
from typing import Any

import torch
from drawings import errors, under_guides
from few_steps import targets
from oracles import GUIDES, heuristics
from torch import Tensor

import ebb
from ebb import testing
from ebb.process.moment import at
from ebb.sample.adaptive import follow

DOCS = File(__file__).parent
STEPS = (50, 200)
SMOOTH = [path for path in ebb.PATHS.values() if not isinstance(path, ebb.BetaTable)]
"""The paths of the tables: an order is one of smooth functions, and a table of betas has corners."""


def first_sentence(of: Any) -> str:
    """The first sentence of a docstring; full stops within brackets do not end it."""
    text, depth = " ".join((of.__doc__ or "").split()), 0
    for place, letter in enumerate(text):
        depth += (letter in "([") - (letter in ")]")
        if letter == "." and depth == 0 and re.match(r"\.( |$)", text[place:]):
            return text[:place]
    return text


@dataclass
class Counting:
    """A denoiser that counts how often it is asked."""

    denoiser: ebb.Denoiser
    count: int = 0

    @property
    def path(self) -> ebb.Path:
        """The denoiser's own."""
        return self.denoiser.path

    def __call__(self, x: Tensor, t: Tensor, cond: Any) -> Tensor:
        """One more."""
        self.count += 1
        return self.denoiser(x, t, cond)


def asked(solver: ebb.Solver, steps: int = 100) -> tuple[list[int], bool]:
    """The denoiser calls of each step on a long grid, and whether any step drew noise."""
    denoiser, drawn, counts = Counting(testing.normal(ebb.Cosine())), [0], []

    def noise(step: int, like: Tensor, part: int = 0) -> Tensor:
        drawn[0] += 1
        return torch.zeros_like(like)

    x = torch.zeros(1, 2, dtype=torch.float64)
    for _ in ebb.trajectory(denoiser, solver, testing.graded(denoiser.path, steps), x, {}, noise):
        counts.append(denoiser.count - sum(counts))
    return counts, drawn[0] > 0


def calls(solver: ebb.Solver) -> str:
    """What nearly every step asks, and what the one does that asks for more."""
    if isinstance(solver, ebb.Adaptive):
        return "3 a try"
    counts = asked(solver)[0]
    (usual, _), *_ = Counter(counts).most_common()
    return f"{usual}" if max(counts) == usual else f"{usual}, {max(counts)} once"


def flows(path: ebb.Path) -> list[tuple[ebb.Denoiser, Tensor, Tensor]]:
    """(denoiser, noise, where the flow takes it) for a Gaussian and a mixture: those of `ebb.testing.check_solver`."""
    generator = torch.Generator().manual_seed(0)
    end, start = torch.full((64,), path.end, dtype=torch.float64), torch.zeros(64, dtype=torch.float64)
    gauss, humps, scale = testing.normal(path), testing.two_humps(path), at(path, path.end).sigma
    x2, x1 = (scale * torch.randn(64, n, dtype=torch.float64, generator=generator) for n in (2, 1))
    return [(gauss, x2, gauss.flow(x2, end, start)), (humps, x1, testing.quantile_flow(humps, x1, end, start))]


def order(solver: ebb.Solver, denoiser: ebb.Denoiser, x: Tensor, exact: Tensor) -> float:
    """The slope of log error against log step size; for the adaptive solver against the calls, by its tolerance."""
    if not isinstance(solver, ebb.Adaptive):
        return testing.measured_order(solver, denoiser, x, exact).slope
    begin, end = at(denoiser.path, denoiser.path.end), at(denoiser.path, 0.0)
    logs = []
    for tolerance in (1e-4, 1e-5, 1e-6):
        there, attempts = follow(denoiser, replace(solver, tolerance=tolerance), begin, end, x, {})
        logs.append([attempts.calls.double().mean().log(), (there - exact).pow(2).mean().sqrt().log()])
    cost, error = (torch.tensor(logs) - torch.tensor(logs).mean(0)).T
    return -float((cost * error).sum() / (cost * cost).sum())


def deterministic() -> Iterable[Sequence[str]]:
    """A row for each solver that draws no noise: the least and the largest order over paths and data."""
    yield "name", "class", "calls a step", "order", "measured", "what it is"
    for name, solver in ebb.SOLVERS.items():
        if not asked(solver)[1]:
            found = [order(solver, *flow) for path in SMOOTH for flow in flows(path)]
            measured = f"{min(found):.2f} – {max(found):.2f}"
            yield f"`{name}`", class_of(solver), calls(solver), f"{solver.order}", measured, first_sentence(solver)


def moments(solver: ebb.Solver, path: ebb.Path, steps: int) -> tuple[float, float]:
    """How far the mean and the covariance of its samples are from the data's, without sampling error."""
    gauss = testing.normal(path)
    found = testing.columns(solver, gauss, gauss.mean, testing.graded(path, steps))
    if found is None:
        raise RuntimeError(f"the samples of {solver} are not affine in its noise")
    return float((found[0] - gauss.mean).abs().max()), float((found[1] - gauss.covariance).abs().max())


def stochastic() -> Iterable[Sequence[str]]:
    """A row for each solver that draws noise: the worst errors over the paths."""
    few, many = STEPS
    yield "name", "class", "calls a step", "order", f"mean, {few} steps", "covariance", f"at {many} steps", "what it is"
    for name, solver in ebb.SOLVERS.items():
        if asked(solver)[1]:
            worst = [[moments(solver, path, steps) for path in SMOOTH] for steps in STEPS]
            (mean, covariance), later = (map(max, zip(*errors, strict=True)) for errors in worst)
            gain = max(mean, covariance) / max(later)
            figures = f"{mean:.4f}", f"{covariance:.4f}", f"{gain:.1f} times nearer"
            yield f"`{name}`", class_of(solver), calls(solver), f"{solver.order}", *figures, first_sentence(solver)


def class_of(solver: ebb.Solver) -> str:
    """Its class, as code."""
    return f"`{type(solver).__name__}`"


def guides() -> Iterable[Sequence[str]]:
    """A row for each guide: the worst difference over the paths."""
    yield "guide", "what it computes", "off", "held against", "worst difference"
    for one in GUIDES:
        worst = max(one.difference(path) for path in SMOOTH)
        formula = first_sentence(one.formula).replace("|", "\\|")  # bars would end the cell
        yield f"`{one.call}`", formula, one.off, one.difference.__doc__ or "", f"{worst:.0e}" if worst else "0"


# --- pages ------------------------------------------------------------------------------------------------------------


def table(rows: Iterable[Sequence[str]]) -> str:
    """Markdown; the first row is the head."""
    head, *body = ([cell.strip() for cell in cells] for cells in rows)
    lines = [head, ["---"] * len(head), *body]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def written(page: str, name: str, text: str) -> str:
    """`page` with what stands between the markers of `name` replaced."""
    mark = re.compile(rf"(<!-- {name}: [^\n]* -->\n).*?(<!-- end of {name} -->)", re.DOTALL)
    if len(mark.findall(page)) != 1:
        raise RuntimeError(f"the page has no place, or several, for {name!r}")
    return mark.sub(lambda found: f"{found[1]}{text}\n{found[2]}", page)


def machine() -> str:
    """The processor's name."""
    about = File("/proc/cpuinfo")
    named = re.search(r"model name\s*: (.*)", about.read_text()) if about.exists() else None
    return named[1] if named else platform.machine()


def main() -> None:
    """Measure, write, draw."""
    torch.set_num_threads(1)
    tables = {
        "sample.md": {"deterministic": deterministic, "stochastic": stochastic},
        "guide.md": {"guides": guides, "heuristics": heuristics},
    }
    for file, parts in tables.items():
        page, began = (DOCS / file).read_text(encoding="utf8"), time.perf_counter()
        for name, rows in parts.items():
            page = written(page, name, table(rows()))
        took = f"{time.perf_counter() - began:.0f} s on one thread"
        about = (
            f"Measured on {date.today()} by `python docs/tables.py`: {took} of {machine()}, torch {torch.__version__}."
        )
        (DOCS / file).write_text(written(page, "measured", about), encoding="utf8")
    under_guides(DOCS / "pictures" / "guide-guides.png")
    errors(DOCS / "pictures" / "sample-errors.png")
    targets(DOCS / "pictures" / "few-targets.png")


if __name__ == "__main__":
    main()
