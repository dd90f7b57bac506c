"""What a model can be asked for, by name: any number of conditions of each kind, and the tensors its network hears."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import Tensor

from ebb.data.dataset import Dataset
from ebb.encode.condition import Condition
from ebb.encode.labels import Labels
from ebb.encode.numbers import Numbers
from ebb.encode.picture import Picture
from ebb.encode.pretrained_text import FrozenText
from ebb.encode.reference_picture import ReferencePicture
from ebb.encode.text import Text
from ebb.errors import UsageError, nearest
from ebb.networks.ports import Port

Values = Mapping[str, Any]
"""A value for each of some samples, by the name of what they are asked for: a list, a tensor, or what reads some when
they are needed; JSON, but for tensors. What is left out asks for nothing."""

CONDITIONS: dict[str, Any] = {
    "labels": Labels,
    "text": Text,
    "frozen_text": FrozenText,
    "numbers": Numbers,
    "picture": Picture,
    "reference": ReferencePicture,
}
"""The kinds of condition that a contract can name; each has `to_json` and `from_json`."""


def part(given: Values, first: int, count: int) -> Values:
    """What samples `first`, `first` + 1, …, at most `count` of them, are asked for."""
    return {name: values[first : first + count] for name, values in given.items()}


@dataclass(frozen=True)
class Conditioner:
    """The conditions of a model by name, such as {"label": Labels(…), "text": Text(…), "depth": Picture(…)}."""

    conditions: Mapping[str, Condition] = field(default_factory=dict)

    @property
    def labels(self) -> Labels:
        """Those that can be asked for as "label"; without names where none can."""
        found = self.conditions.get("label")
        return found if isinstance(found, Labels) else Labels()

    @property
    def text(self) -> Text | FrozenText | None:
        """What is asked for as "text"; None where nothing can be."""
        found = self.conditions.get("text")
        return found if isinstance(found, Text | FrozenText) else None

    @property
    def numbers(self) -> Numbers | None:
        """What is asked for as "numbers"; None where nothing can be."""
        found = self.conditions.get("numbers")
        return found if isinstance(found, Numbers) else None

    @property
    def maps(self) -> dict[str, Picture]:
        """What is as large as x, such as pictures beside its own, and can be asked for."""
        return {name: found for name, found in self.conditions.items() if isinstance(found, Picture)}

    @property
    def shown(self) -> bool:
        """Whether it hears what samples can only be asked for with examples, such as numbers, or a picture."""
        return any(not condition.turns for condition in self.conditions.values())

    @property
    def ports(self) -> dict[str, Port]:
        """What a network hears all of it by."""
        return {name: condition.port for name, condition in self.conditions.items()}

    def __call__(self, given: Values, count: int) -> dict[str, Tensor]:
        """The conditions [count, …] of `count` samples, of all that the model hears; what else is given is not heard.

        Raises UsageError for values that are not one for each sample.
        """
        for name, values in given.items():
            if len(values) != count:
                raise UsageError(f"expected one {name} for each of {count} samples, got {len(values)}")
        return {name: condition(given.get(name, [None] * count)) for name, condition in self.conditions.items()}

    def null(self) -> dict[str, Tensor]:
        """One row that asks for nothing."""
        return self({}, 1)

    def examples(self) -> dict[str, Tensor]:
        """Some rows of each condition, that differ."""
        return {name: condition.examples() for name, condition in self.conditions.items()}

    def given(self, count: int, asked: Mapping[str, Any], seed: int = 0) -> dict[str, Any]:
        """What `count` samples are asked for by what a user asks for: of each name one value for all, or one for each.

        A model that hears several is asked for nothing in those that are not given, or are None. Where nothing is asked
        at all sample i gets number (seed + i) of the labels, or else of the example texts, in turn.

        Raises UsageError for what the model does not hear or know, and for a list that is not one for each sample.
        """
        said = {name: value for name, value in asked.items() if value is not None}
        for name in said:
            if name not in self.conditions:
                known = ", ".join(self.conditions) or "nothing"
                raise UsageError(
                    f"this model was trained without {name}, so it cannot be asked for it; it hears {known}",
                    nearest(name, self.conditions) if self.conditions else "",
                )
        if not said:
            turns = ((name, c.turns) for name, c in self.conditions.items() if c.turns)
            return {name: [every[(seed + i) % len(every)] for i in range(count)] for name, every in [*turns][:1]}
        return {name: self.conditions[name].given(value, count) for name, value in said.items()}

    def about(self, asked: Any) -> dict[str, Any]:
        """What one sample is asked for by a label, or, where it is none and the model hears texts, by a text."""
        is_text = self.text is not None and str(asked) not in self.labels.names
        return self.given(1, {"text" if is_text else "label": str(asked) if is_text else asked})

    def to_json(self) -> dict[str, Any]:
        """Plain values from which `from_json` makes it again. Raises UsageError for a condition of no known kind."""
        kinds = {kind: name for name, kind in CONDITIONS.items()}
        for name, condition in self.conditions.items():
            if type(condition) not in kinds:
                raise UsageError(
                    f"{name} is a {type(condition).__name__}, which is not one of {', '.join(CONDITIONS)}",
                    "only these can be stored by name in a checkpoint",
                )
        return {name: {"kind": kinds[type(c)], **c.to_json()} for name, c in self.conditions.items()}  # type: ignore[attr-defined]

    @classmethod
    def from_json(cls, found: Mapping[str, Mapping[str, Any]]) -> Conditioner:
        """The conditions of a contract. Raises KeyError, TypeError, ValueError or DamagedError where it holds none."""
        return cls({name: CONDITIONS[one["kind"]].from_json(one) for name, one in found.items()})


def following(conditioner: Conditioner, dataset: Dataset, name: str, extractor: str | None, factor: int) -> Conditioner:
    """What a model can be asked for that is controlled by the maps `name` of the data; UsageError where it hears such
    itself."""
    if name in conditioner.conditions:
        raise UsageError(f"this model hears {name} itself", f"ebb sample RUN --beside {name}=FILE")
    shape = dataset.metadata.beside[name].shape
    control = Picture(shape, factor, extractor, dataset.summary.shape[0], whole=True)
    return Conditioner({**conditioner.conditions, name: control})


def conditioner_of(dataset: Dataset, text: Text | FrozenText | None, factor: int) -> Conditioner:
    """What a model of the data can be asked for, where what is denoised is `factor` times smaller."""
    read = dataset.metadata
    conditions: dict[str, Condition] = {"label": Labels(dataset.names)} if dataset.names else {}
    if read.numbers is not None:
        every = [each.metadata.numbers for each in dataset.buckets if each.metadata.numbers is not None]
        conditions["numbers"] = Numbers.of(read.fields.numbers, np.concatenate(every))
    if text is not None:
        conditions["text"] = text
    return Conditioner(conditions | {name: Picture(each.shape, factor) for name, each in read.beside.items()})
