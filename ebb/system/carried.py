"""What of its data a system carries with it besides its weights, and the same system without that."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from ebb.data.series import Series, Vectors
from ebb.encode.condition import Condition
from ebb.encode.conditioner import Conditioner
from ebb.encode.labels import Labels
from ebb.encode.pretrained_text import FrozenText
from ebb.encode.text import Text, Vocabulary
from ebb.errors import UsageError, nearest
from ebb.system.system import System

SHOWN = 3
"""Of many names, those that are shown."""


@dataclass(frozen=True)
class Trace:
    """A trace of the data in a system: what it is in words ("" where there is none), and the system without it."""

    says: Callable[[System], str]
    removed: Callable[[System], System]
    loses: str
    """what a system without it cannot do"""


def listed(names: Iterable[str]) -> str:
    """The first of some names, and how many there are."""
    every = list(names)
    some = ", ".join(every[:SHOWN])
    return f"{some} and {len(every) - SHOWN:,} more" if len(every) > SHOWN else some


def hearing(system: System, name: str, condition: Condition) -> System:
    """The system with another condition in the place of the one of this name."""
    return replace(system, conditioner=Conditioner({**system.conditioner.conditions, name: condition}))


def captions_in(system: System) -> str:
    """The captions that are kept as examples of prompts."""
    text = system.conditioner.text
    return f"{len(text.turns)} captions: {listed(map(repr, text.turns))}" if text is not None and text.turns else ""


def words_in(system: System) -> str:
    """The words of a vocabulary that was learnt from captions."""
    text = system.conditioner.text
    known = sorted(text.vocabulary.known) if isinstance(text, Text) else ()
    return f"{len(known):,} words of the captions: {listed(known)}" if known else ""


def without_words(system: System) -> System:
    """The pieces that words are read by stay."""
    text = system.conditioner.text
    if not isinstance(text, Text):
        return system
    return hearing(system, "text", replace(text, vocabulary=Vocabulary(text.vocabulary.merges)))


def without_captions(system: System) -> System:
    """Nothing is asked for where no prompt is given."""
    text = system.conditioner.text
    return system if text is None else hearing(system, "text", replace(text, turns=()))


def without_labels(system: System) -> System:
    """Labels are numbers."""
    names = system.labels.names
    return hearing(system, "label", Labels(tuple(map(str, range(len(names)))))) if names else system


def columns_in(system: System) -> str:
    """The names of a table's columns."""
    modality = system.modality
    return f"{listed(modality.heading.columns)}" if isinstance(modality, Vectors | Series) else ""


def without_columns(system: System) -> System:
    """Columns are numbered."""
    modality = system.modality
    if not isinstance(modality, Vectors | Series):
        return system
    scale, heading = modality.scale, modality.heading
    new = {name: f"column {at}" for at, name in enumerate(dict.fromkeys((*heading.columns, *scale.names)), 1)}
    label = None if heading.label is None else new[heading.label]
    heading = replace(heading, columns=tuple(map(new.__getitem__, heading.columns)), label=label)
    scale = replace(scale, names=tuple(map(new.__getitem__, scale.names)))
    return replace(system, modality=replace(modality, scale=scale, heading=heading))


def paths_in(system: System) -> str:
    """Folders of frozen encoders, which are read where one samples."""
    text = system.conditioner.text
    return f"text encoders: {', '.join(text.folders)}" if isinstance(text, FrozenText) else ""


def without_paths(system: System) -> System:
    """Encoders are looked for by their names, in the folder that one is in."""
    text = system.conditioner.text
    if not isinstance(text, FrozenText):
        return system
    return hearing(system, "text", replace(text, folders=tuple(Path(folder).name for folder in text.folders)))


TRACES: dict[str, Trace] = {
    "labels": Trace(lambda s: listed(s.labels.names), without_labels, "labels are asked for by number"),
    "captions": Trace(captions_in, without_captions, "without a prompt nothing is asked for"),
    "words": Trace(words_in, without_words, "words that no caption had are not named"),
    "columns": Trace(columns_in, without_columns, "columns are numbered"),
    "paths": Trace(paths_in, without_paths, "encoders are looked for where one samples"),
}
"""What can be left out of a system, by the name that says so."""


def travels(system: System) -> dict[str, str]:
    """The traces that a system carries, in words, by name."""
    return {name: said for name, trace in TRACES.items() if (said := trace.says(system))}


def stays(system: System) -> dict[str, str]:
    """What it cannot be asked without, in words, by name."""
    hears = system.conditioner
    found = {"numbers": str(hears.numbers)} if hears.numbers is not None else {}
    return found | ({"beside": ", ".join(hears.maps)} if hears.maps else {})


def stripped(system: System, names: Iterable[str], others: Mapping[str, str]) -> System:
    """The system without the traces of these names; UsageError for a name that is none of them or of `others`."""
    for name in names:
        if name not in TRACES and name not in others:
            raise UsageError(f"there is no {name!r} to leave out", nearest(name, [*TRACES, *others]))
        system = TRACES[name].removed(system) if name in TRACES else system
    return system
