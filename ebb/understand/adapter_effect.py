"""What an adapter does and what it leaves alone: one figure with an interval, beside controls at the same noise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from ebb.data.dataset import Dataset
from ebb.data.loader import keyed
from ebb.encode.conditioner import Values
from ebb.recipe.recipe import AdapterRecipe
from ebb.system.sampler import Sampler
from ebb.system.system import System
from ebb.system.taught import given_of, some_of
from ebb.train.from_base import Probe
from ebb.understand.effect import Change, Estimate, changes

PROBED = 64
"""Examples of a probe, at most."""

SHOWN = 8
"""Samples that are drawn with it and without, of what was taught and of the rest."""

TAUGHT, SHUFFLED, REST = "what it was taught", "the same as something else", "the rest"
"""Probes: the pictures that it was taught, asked for as what they are; the same, asked for as what they are not, which
is the control; and the base's own samples, as what they were asked for."""


@dataclass(frozen=True)
class AdapterEffect:
    """What changed of each probe (TAUGHT first), and what the adapter is."""

    rows: tuple[Change, ...]
    adapter: str

    @property
    def size(self) -> Estimate:
        """The effect: how far x̂0 moves for what was taught, as a share of it."""
        return self.rows[0].size

    def of(self, name: str) -> Change | None:
        """A row by its probe."""
        return next((row for row in self.rows if row.name == name), None)

    def __str__(self) -> str:
        """In a sentence."""
        first, rest = self.rows[0], self.of(REST)
        moves = f"moves answers by {first.size} of their size for what it was taught, {first.gain} of the error gone"
        return moves if rest is None else f"{moves}; for the rest by {rest.size}"


@dataclass(frozen=True, eq=False)
class Taught:
    """An adapter's system, that of its base, the examples that it was taught, and what is said of each."""

    system: System
    base: System
    dataset: Dataset
    values: Values

    @classmethod
    def of(cls, recipe: AdapterRecipe, dataset: Dataset, system: System, base: System) -> Taught:
        """That of an adapter's run."""
        return cls(system, base, dataset, given_of(recipe, dataset, system.conditioner))

    def some(self, count: int, seed: int) -> tuple[Tensor, Values]:
        """At most `count` examples as they are denoised, drawn by the seed, and what is said of them."""
        rows = np.sort(keyed(seed, 0).permutation(len(self.dataset.rows))[:count])
        x0 = self.system.encode(self.dataset.x(rows).to(self.system.device))
        return x0, some_of(self.values, rows)

    def probes(self, seed: int = 0) -> list[Probe]:
        """TAUGHT, SHUFFLED where there is anything else to ask for, and REST."""
        x0, values = self.some(PROBED, seed)
        found = [self.probe(TAUGHT, x0, values)]
        if other := others(values, self.base):
            found.append(self.probe(SHUFFLED, x0, other))
        given = self.base.given(PROBED, {}, seed)
        drawn = self.base.encode(Sampler(self.base)(self.base.request(given, PROBED, seed)))
        return [*found, self.probe(REST, drawn, given)]

    def probe(self, name: str, x0: Tensor, values: Values) -> Probe:
        """Examples asked for so of both."""
        without = self.base.conditions(known(values, self.base), len(x0))
        return Probe(name, x0, without, self.system.conditions(values, len(x0)))

    def pairs(self, seed: int = 0) -> list[tuple[str, Tensor, Tensor]]:
        """SHOWN samples without it and with it from the same noise: of what was taught, and of the rest."""
        _, values = self.some(SHOWN, seed)
        count = len(next(iter(values.values()))) if values else SHOWN
        wanted = [(TAUGHT, values, count), (REST, self.base.given(SHOWN, {}, seed), SHOWN)]
        return [(name, *self.both(given, n, seed)) for name, given, n in wanted]

    def both(self, values: Values, count: int, seed: int) -> tuple[Tensor, Tensor]:
        """Samples of the base, and of the adapter."""
        without = self.base.request(known(values, self.base), count, seed)
        with_it = self.system.request(values, count, seed)
        return Sampler(self.base)(without), Sampler(self.system)(with_it)


def effect_of(taught: Taught, seed: int = 0) -> AdapterEffect:
    """The effect of an adapter over its base."""
    rows = changes(taught.base.denoiser, taught.system.denoiser, taught.probes(seed), seed)
    return AdapterEffect(tuple(rows), taught.system.model.card()[0].rstrip(","))


def known(values: Values, base: System) -> Values:
    """What is asked for as far as a model knows it: a label that it does not know is none; new words stay in texts."""
    names = base.labels.names
    found: dict[str, Any] = {name: each for name, each in values.items() if name in base.conditioner.conditions}
    if "label" in found:
        found["label"] = [label if label in names else None for label in found["label"]]
    return found


def others(values: Values, base: System) -> Mapping[str, Sequence[Any]]:
    """Of each example something else to be asked for: labels and texts of the base in turn that are not its own, and
    of what the base does not hear that of another example."""
    found: dict[str, Sequence[Any]] = {}
    for name in values.keys() - base.conditioner.conditions.keys():  # such as a reference: that of another example
        found[name] = [*values[name][1:], *values[name][:1]]
    for name, each in values.items():
        turns = list(base.conditioner.conditions[name].turns) if name in base.conditioner.conditions else []
        free = [[turn for turn in turns if turn != value] for value in each]
        if turns and all(free):
            found[name] = [some[at % len(some)] for at, some in enumerate(free)]
    return found
