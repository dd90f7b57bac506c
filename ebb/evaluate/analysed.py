"""What the parts of an evaluation are given, and what each gives."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ebb.data.dataset import Dataset
from ebb.evaluate.drawn import Drawn
from ebb.judge.features import Features
from ebb.system.system import System


@dataclass(frozen=True, eq=False)
class Analysed:
    """A run with its samples, as the parts see it; `labels` and `texts` are those the samples were asked for."""

    run: Path
    system: System
    dataset: Dataset
    drawn: Drawn
    labels: NDArray[np.int64] | None
    texts: tuple[str, ...]
    features: Features
    seed: int
    coded: int
    """images whose likelihood is found"""


@dataclass(frozen=True)
class Result:
    """What a part found, by the name of its field in `Evaluated`, and what a reader must know about it."""

    found: dict[str, Any]
    warnings: tuple[str, ...] = ()
