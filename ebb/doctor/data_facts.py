"""What there is in data, in words: how much of what, what the crop takes away, which captions were found."""

from __future__ import annotations

import numpy as np

from ebb.data.buckets import counted, mean_cut, planned
from ebb.data.dataset import Dataset
from ebb.data.images import PICTURES
from ebb.data.originals import Originals
from ebb.doctor.data_subject import DataSubject
from ebb.shapes import sides

UNSEEN = 0.01
"""A smaller share of an area that is cut off is not spoken of."""


def facts_of(data: DataSubject) -> tuple[str, ...]:
    """A line each, of data that could be read."""
    if data.dataset is None:
        return ()
    dataset = data.dataset
    if dataset.modality != PICTURES:
        return (amount(dataset),)
    return amount(dataset), cropped(dataset), captioned(dataset)


def amount(dataset: Dataset) -> str:
    """How many examples of which shape, in which classes."""
    s = dataset.summary
    many = f"{s.count:,} {dataset.modality.things}"
    if dataset.modality == PICTURES:
        looks = f" of {sides(s.shape[1:])}, {'grey' if s.shape[0] == 1 else 'in colour'}"
    else:
        looks = f" ({', '.join(f'{axis} {size}' for axis, size in zip(dataset.modality.axes, s.shape, strict=True))})"
    counts = sorted(s.classes.values())
    if not counts:
        return f"read: {many}{looks}; no classes"
    sizes = f"{counts[0]:,} each" if counts[0] == counts[-1] else f"{counts[0]:,} to {counts[-1]:,}"
    return f"read: {many}{looks}; {len(counts)} classes of {sizes}"


def cropped(dataset: Dataset) -> str:
    """What is lost where pictures are brought to one shape."""
    if dataset.originals is None:
        return "cropped away: nothing"
    shares = dataset.originals.cut(dataset.summary.shape)
    some, worst = int((shares >= UNSEEN).sum()), int(shares.argmax())
    if not some:
        return "cropped away: nothing"
    return (
        f"cropped away: {np.median(shares):.0%} of the area in the median, {shares[worst]:.0%} of "
        f"{dataset.originals.names[worst]} at worst; {some:,} of {len(shares):,} lose some, and the middle stays"
        f"{spared(dataset.originals, dataset.rows.shape[2], float(shares.mean()))}"
    )


SPARED = 0.05
"""The share of the area that buckets spare from which they are spoken of."""


def spared(originals: Originals, side: int, cut: float) -> str:
    """What buckets by shape would leave of pictures of which a share is cut off on average; "" where it is much as it
    is."""
    buckets = counted(originals.sizes, planned(originals.sizes, side))
    left = mean_cut(buckets)
    if cut - left < SPARED:
        return ""
    return f"; --data.buckets: {', '.join(map(str, buckets))} would cut off {left:.0%} on average, this {cut:.0%}"


def captioned(dataset: Dataset) -> str:
    """How many pictures have a caption and from where, and of each source what could not be used."""
    s = dataset.summary
    some = [match for match in s.matches if match.condition == "captions"]
    unused = [str(match) for match in some if match.used < match.count and match.source != "captions"]
    without = [
        f"none for {match.unused}" for match in some if match.source == "captions" and 0 < match.used < match.count
    ]
    have = f"{s.captions:,} of {s.count:,} images have one, {s.captions_distinct:,} different"
    found = ", ".join(filter(None, [have, s.chosen.get("captions", "")])) if s.captions else "none found"
    return "; ".join([f"captions: {found}", *without, *unused])
