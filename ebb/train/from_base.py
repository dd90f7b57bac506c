"""How far a denoiser's answers lie from another's, to the same noise: what moved, where nothing should."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from ebb.networks.evaluating import evaluating
from ebb.process.denoiser import Cond, Denoiser
from ebb.process.flow_map import placed
from ebb.sample.noise import Noise


@dataclass(frozen=True, eq=False)
class Probe:
    """Examples x0 [n, *d] as a denoiser has them, and what each is asked for: of the one without what was put on, which
    may know less, and of the one with it."""

    name: str
    x0: Tensor
    without: Cond
    with_it: Cond

    def part(self, at: int, count: int) -> Probe:
        """Some of the examples."""
        here = slice(at, at + count)
        of = [{name: rows[here] for name, rows in cond.items()} for cond in (self.without, self.with_it)]
        return Probe(self.name, self.x0[here], *of)


def answers(denoiser: Denoiser, x0: Tensor, cond: Cond, shares: Tensor, seed: int) -> Tensor:
    """x̂0 of examples with noise at the shares τ = σ/(α + σ) [n], keyed by seed + example."""
    t = placed(denoiser.path, shares)
    with torch.no_grad():
        return denoiser(denoiser.path.mix(x0, Noise.of(seed, len(x0))(0, x0), t), t, cond)


def squares(x: Tensor) -> Tensor:
    """Σ x² of each example, float64 [n]."""
    return x.double().flatten(1).square().sum(1).cpu()


@dataclass(frozen=True, eq=False)
class Departure:
    """The root mean square of x̂0 with less x̂0 without, over that of x̂0 without: of a model over `base`, by a probe.

    The n examples together cover every noise level, once. `bound` is how far it may come, None as far as it does.
    """

    base: Denoiser
    probe: Probe
    bound: float | None = None
    seed: int = 0

    @cached_property
    def shares(self) -> Tensor:
        """τ of each example."""
        count = len(self.probe.x0)
        return (torch.arange(count, dtype=torch.float64) + 0.5) / count

    @cached_property
    def before(self) -> Tensor:
        """What the base answers."""
        return answers(self.base, self.probe.x0, self.probe.without, self.shares, self.seed)

    def __call__(self, model: Denoiser) -> float:
        """Of a model in evaluation mode; its modes are restored, no generator moves."""
        with evaluating(model):
            now = answers(model, self.probe.x0, self.probe.with_it, self.shares, self.seed)
        return float((squares(now - self.before).sum() / squares(self.before).sum().clamp(min=1e-30)).sqrt())
