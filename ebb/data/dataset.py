"""What a run learns from, in memory: examples as they are stored, what is known of them, and what was found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ebb.data.buckets import Bucket
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

    `shape` is that of x, of images [c, h, w], in buckets that of most; `mean`, `std` and the 16 bins of `histogram`,
    which tables have not, are per channel, in units of x;
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
    buckets: tuple[Bucket, ...] = ()
    square: int | None = None
    """the side of the square about which the shapes of the buckets lie; None where the data was not put into buckets"""


@dataclass(frozen=True)
class Dataset:
    """Examples in memory: `rows` [n, …] as their `modality` stores them, `labels` int64 [n] indexing `names`, None when
    unlabelled.

    `captions` has one for each example, "" where it is missing; None where the source has none. `metadata` is what
    further fields of a metadata.jsonl say, where they are asked for; `originals` the pictures that were read.

    All of these have one shape. Data in buckets by shape is that of most images, with the `others`; its `summary`, and
    that of what is held out, is of all of them.
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

    others: tuple[Dataset, ...] = ()
    """examples of other shapes, which no batch holds together with these; their labels index the same names"""

    @property
    def buckets(self) -> tuple[Dataset, ...]:
        """The examples of each shape."""
        return self, *self.others

    def x(self, some: NDArray[np.int64] | slice = slice(None)) -> Tensor:
        """Some of the examples as a model meets them, float32 [n, *d]."""
        return self.modality.unit(torch.from_numpy(np.array(self.rows[some])))


def bucketed(whole: Dataset, buckets: Sequence[np.ndarray]) -> Dataset:
    """Data in buckets: labels, captions, metadata and originals of `whole` are of all rows, bucket after bucket."""
    parts, first = list[Dataset](), 0
    for rows in buckets:
        some = np.arange(first, first := first + len(rows))
        parts.append(
            replace(
                whole,
                rows=rows,
                labels=None if whole.labels is None else whole.labels[some],
                captions=None if whole.captions is None else tuple(whole.captions[row] for row in some),
                metadata=whole.metadata.take(some),
                originals=None if whole.originals is None else whole.originals.take(some),
                summary=replace(whole.summary, shape=rows.shape[1:]),
            )
        )
    return replace(parts[0], others=tuple(parts[1:]))
