"""What the examples that an adapter is taught are asked for as, as far as its base hears it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ebb.data.dataset import Dataset
from ebb.data.pictures import Pictures
from ebb.encode.conditioner import Conditioner, Values
from ebb.encode.text import normal
from ebb.errors import UsageError
from ebb.recipe.recipe import AdapterRecipe
from ebb.store import shared
from ebb.system.put_on import base_run
from ebb.system.requests import alone, referring, values_of, wordless
from ebb.system.system import System, load, locate


def given_of(recipe: AdapterRecipe, dataset: Dataset, hears: Conditioner) -> Values:
    """What is said of the examples, as far as it is heard, with the new word and the references."""
    given = dict(values_of(dataset))
    if recipe.concept is not None:
        given["text"] = naming(given.get("text"), word_of(recipe.concept), len(dataset.rows))
    heard = {name: values for name, values in given.items() if name in hears.conditions}
    return referring(heard, list(dataset.x(slice(None)))) if recipe.reference else heard


def some_of(given: Values, rows: NDArray[np.int64]) -> Values:
    """What is said of some of the examples."""
    return {
        name: values[rows] if isinstance(values, Pictures) else [values[row] for row in rows.tolist()]
        for name, values in given.items()
    }


def naming(captions: Sequence[str] | None, word: str, count: int) -> list[str]:
    """Captions with a word in them; of pictures without any, the word alone. UsageError where no caption has it."""
    if captions is None or wordless(captions):
        return alone(word, count)
    if not any(word in normal(caption).split() for caption in captions):
        raise UsageError(f"no caption of these pictures has the word {word}", f"such as: a photo of {word}")
    return list(captions)


def word_of(concept: str) -> str:
    """A new word as texts have it; UsageError for what is not one word of letters and digits."""
    if not (word := normal(concept)).isalnum():
        raise UsageError(f"a concept is one word of letters and digits, got {concept!r}", "such as --concept sks")
    return word


def base_of(run: Path) -> System:
    """The system that an adapter's run is put on, without it; UsageError where that is not there or another by now."""
    where = locate(run)
    contract, _ = shared.opened(where)
    return load(base_run(contract, where))
