"""The modalities that a checkpoint can name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ebb.data.images import PICTURES, Pixels
from ebb.data.modality import Modality
from ebb.data.series import Series, Vectors
from ebb.errors import DamagedError

MODALITIES: dict[str, Any] = {"pictures": Pixels, "vectors": Vectors, "series": Series}

USUAL: Modality = PICTURES
"""That of a system or contract that names none, as those of before modalities."""


def modality_written(modality: Modality) -> dict[str, Any]:
    """A modality as JSON: its name, and what it holds. Raises KeyError for one without a name here."""
    name = {kind: name for name, kind in MODALITIES.items()}[type(modality)]
    return {"kind": name, **modality.to_json()}


def modality_of(contract: Mapping[str, Any]) -> Modality:
    """The modality of a contract; the USUAL one where it names none.

    Raises DamagedError for one that is not known or not whole.
    """
    written = contract.get("modality")
    if written is None:
        return USUAL
    try:
        modality: Modality = MODALITIES[written["kind"]].from_json(written)
    except (KeyError, TypeError, ValueError) as error:
        raise DamagedError(f"the modality of the system's contract cannot be read: {error!r}") from error
    return modality
