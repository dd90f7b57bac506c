"""What samples are asked for, so that they can be compared with data: what the data shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ebb.adapt.reference import REFERENCE
from ebb.data.dataset import Dataset
from ebb.encode.conditioner import Conditioner, Values
from ebb.encode.text import Text
from ebb.store.shards import Rows
from ebb.system.system import System


def asked_for(system: System, dataset: Dataset, count: int, seed: int) -> Values:
    """What `count` samples are asked for: what is said of examples drawn from the data, by the word that the model was
    taught where nothing is, and like these examples where it was taught references; a larger draw begins with the
    same."""
    rows = np.random.default_rng(seed).choice(len(dataset.rows), count)
    heard, text = system.conditioner.conditions, system.conditioner.text
    given = dict(values_of(dataset, rows))
    if isinstance(text, Text) and text.taught and wordless(given.get("text")):
        given["text"] = alone(text.taught[-1], count)
    given = {name: values for name, values in given.items() if name in heard}
    return referring(given, list(dataset.x(rows))) if REFERENCE in heard else given


def wordless(captions: Sequence[str] | None) -> bool:
    """Whether none of them says anything."""
    return captions is None or not any(caption.strip() for caption in captions)


def alone(word: str, count: int) -> list[str]:
    """What is asked for by a word without a caption."""
    return [f"a {word}"] * count


def referring(given: Values, examples: Sequence[Any]) -> Values:
    """What is said of examples, with each as its own reference, which has to speak for itself in every other one: these
    have no text."""
    silent = {"text": [text if at % 2 else None for at, text in enumerate(given["text"])]} if "text" in given else {}
    return {**given, **silent, REFERENCE: examples}


def values_of(dataset: Dataset, rows: NDArray[np.int64] | None = None) -> Values:
    """What is said of examples, or of some, by name: labels by theirs, captions, rows of numbers and what is as
    large as x, of these what there is."""
    some = np.arange(len(dataset.rows)) if rows is None else rows
    labels = None if dataset.labels is None else dataset.labels[some]
    captions = None if dataset.captions is None else [dataset.captions[row] for row in some]
    metadata = dataset.metadata.take(some)
    given: dict[str, Any] = {} if labels is None else {"label": [dataset.names[label] for label in labels]}
    given |= {} if captions is None else {"text": captions}
    if metadata.numbers is not None:
        given["numbers"] = [None if np.isnan(row).any() else tuple(row.tolist()) for row in metadata.numbers]
    return {**given, **metadata.beside}


def conditions_of(
    conditioner: Conditioner, given: Values, count: int, ready: Mapping[str, Rows] | None = None
) -> dict[str, Any]:
    """The conditions of `count` examples for `ebb.data.loader.Examples`: those that are as large as x are made batch by
    batch; those that are `ready` are as they are."""
    ready, conditions = ready or {}, conditioner.conditions
    beside = {name: each for name, each in conditions.items() if each.port.beside and name in given}
    rest = {name: each for name, each in conditions.items() if name not in beside and name not in ready}
    made = Conditioner(rest)({name: given[name] for name in rest if name in given}, count)
    arrays = {name: rows.numpy() for name, rows in made.items()}
    return {"cond": {**arrays, **ready, **{name: given[name] for name in beside}}, "folded": beside}


def labels_of(system: System, given: Values, dataset: Dataset) -> NDArray[np.int64] | None:
    """The labels that are asked for, as the data numbers them; None where the model hears none, or the data has none to
    compare with."""
    if dataset.labels is None or not system.labels.names:
        return None
    return np.array([dataset.names.index(name) for name in given["label"]], np.int64)
