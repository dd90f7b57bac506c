"""Where a model of few steps lands: its own samples against unseen examples, and the average that landed nearest."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ebb.data.loader import Batch
from ebb.networks.evaluating import evaluating
from ebb.process.denoiser import Cond
from ebb.sample.noise import Noise
from ebb.sample.scheme import last
from ebb.sample.trajectory import Point
from ebb.shapes import Float

STEPS = (1, 2)
"""Steps in which the samples are made."""


def energy_distance(x: Float[Tensor, "n d"], y: Float[Tensor, "m d"]) -> float:
    """(2·E|x − y| − E|x − x'| − E|y − y'|)/E|y − y'|, over all pairs: 0 where both are the same examples.

    Its square root is a metric (Székely & Rizzo 2013), so that means in place of samples are as far off as wrong
    ones. Of n and n samples of one distribution it is about 1/n + 1/n.
    """
    apart, mine, theirs = (float(torch.cdist(a, b).double().mean()) for a, b in ((x, y), (x, x), (y, y)))
    return (2 * apart - mine - theirs) / max(theirs, 1e-12)


@dataclass(frozen=True, eq=False)
class Landing:
    """The `energy_distance` of samples from unseen examples, for the same conditions, the mean over STEPS.

    `draw(model, steps)` is how samples are drawn (`ebb.system.model.Draw`), of the `batches`' shapes; the noise of
    sample i is keyed by seed + i, so that at every asking only the model differs.
    """

    batches: Sequence[Batch]
    draw: Callable[[Any, tuple[int, ...], int], Callable[[Cond, Noise], Iterator[Point]]]
    seed: int = 0
    passes: ClassVar[int] = sum(STEPS)
    """forward passes of each example"""

    def __call__(self, model: nn.Module) -> float:
        """Of `model` in evaluation mode; its modes are restored, no generator moves."""
        real = defaultdict[tuple[int, ...], list[Batch]](list)
        for batch in self.batches:
            real[tuple(batch.x0.shape[1:])].append(batch)
        with torch.no_grad(), evaluating(model):
            found = [self.of_shape(model, shape, some) for shape, some in real.items()]
        return sum(figure * count for figure, count in found) / sum(count for _, count in found)

    def of_shape(self, model: nn.Module, shape: tuple[int, ...], some: Sequence[Batch]) -> tuple[float, int]:
        """The figure by examples of one shape, and how many these are."""
        theirs, total = torch.cat([batch.x0 for batch in some]).flatten(1).float(), 0.0
        for steps in STEPS:
            draw, made, first = self.draw(model, shape, steps), list[Tensor](), self.seed
            for batch in some:
                made.append(last(draw(batch.cond, Noise.of(first, len(batch.x0)))))
                first += len(batch.x0)
            total += energy_distance(torch.cat(made).flatten(1).float(), theirs)
        return total / len(STEPS), len(theirs)


WORSE = 1.05
"""How much farther the last average has to land for an earlier one to stand in its place."""


@dataclass(eq=False)
class NearestAverage:
    """The averaged weights that landed nearest so far, with the update they are of."""

    figure: float = float("inf")
    step: int = 0
    weights: dict[str, Tensor] = field(default_factory=dict)

    def offer(self, figure: float, step: int, average: nn.Module) -> None:
        """Remember the average after update `step` where it lands nearer than those before."""
        if figure < self.figure:
            weights = {name: value.detach().clone() for name, value in average.state_dict().items()}
            self.figure, self.step, self.weights = figure, step, weights

    def settle(self, figure: float, step: int, average: nn.Module) -> str | None:
        """At the end: let `average`, after update `step`, be the nearest where it is WORSE than that, and say so."""
        lowest, weights, self.figure, self.weights = self.figure, self.weights, float("inf"), {}
        if not weights or figure <= WORSE * lowest:
            return None
        average.load_state_dict(weights)
        return (
            f"samples are of the average after update {self.step:,}, which lands nearer to unseen examples in one and"
            f" two steps ({lowest:.3g}) than that after {step:,} ({figure:.3g})"
        )

    def state(self) -> dict[str, Tensor]:
        """All of it as tensors, for a checkpoint."""
        about = {"figure": torch.tensor(self.figure, dtype=torch.float64), "step": torch.tensor(self.step)}
        return about | {f"weights.{name}": value for name, value in self.weights.items()}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Go on from `state()`."""
        self.figure, self.step = float(state["figure"]), int(state["step"])
        self.weights = {
            name.removeprefix("weights."): value for name, value in state.items() if name not in ("figure", "step")
        }
