"""What a run learns from, in memory: examples as they are stored, what is known of them, and what was found."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ebb.data.images import PICTURES
from ebb.data.match import Match
from ebb.data.metadata import NOTHING, Metadata
from ebb.data.modality import Modality
from ebb.data.originals import Originals


@dataclass(frozen=True)
class DataNote:
    """Something a user would want to know: what, how often, up to five names, and what was done about it."""

    kind: str
    count: int
    examples: tuple[str, ...]
    action: str


@dataclass(frozen=True)
class Summary:
    """What was found, JSON-able through dataclasses.asdict.

    `shape` is that of x, of images [c, h, w]; `mean`, `std` and the 16 bins of `histogram`, which tables have not, are
    per channel, in units of x;
    `fingerprint` is sha256 over pixels, labels, label names and, where there are any, captions, numbers and pictures
    beside, `examples` that without the last two; `captions` says how many images have one, `captions_distinct` how many
    different ones there are, and `caption_lengths` the characters of the shortest and the longest; `chosen` gives each
    automatic choice its reason, and `matches` say how much of what is given beside the examples, which are called
    `things`, could be used.
    """

    kind: str
    name: str
    count: int
    shape: tuple[int, ...]
    classes: dict[str, int]
    captions: int
    mean: list[float]
    std: list[float]
    histogram: list[list[int]]
    fingerprint: str
    chosen: dict[str, str]
    findings: tuple[DataNote, ...]
    captions_distinct: int = 0
    caption_lengths: tuple[int, int] = (0, 0)
    examples: str = ""
    matches: tuple[Match, ...] = ()
    things: str = PICTURES.things


@dataclass(frozen=True)
class Dataset:
    """Examples in memory: `rows` [n, …] as their `modality` stores them, `labels` int64 [n] indexing `names`, None when
    unlabelled.

    `captions` has one for each example, "" where it is missing; None where the source has none. `metadata` is what
    further fields of a metadata.jsonl say, where they are asked for; `originals` the pictures that were read.
    """

    rows: np.ndarray
    labels: np.ndarray | None
    names: tuple[str, ...]
    summary: Summary
    held_out: Dataset | None
    captions: tuple[str, ...] | None = None
    metadata: Metadata = NOTHING
    modality: Modality = PICTURES
    originals: Originals | None = None
    apart: int = 1
    """examples so many places apart share no value: windows of one series that are nearer overlap"""

    def x(self, some: NDArray[np.int64] | slice = slice(None)) -> Tensor:
        """Some of the examples as a model meets them, float32 [n, *d]."""
        return self.modality.unit(torch.from_numpy(np.array(self.rows[some])))
