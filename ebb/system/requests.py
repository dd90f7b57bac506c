"""What samples are asked for, so that they can be compared with data: what the data shows."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ebb.data.metadata import Metadata
from ebb.data.scan import Images
from ebb.encode.conditioner import Wishes
from ebb.system.system import System


def asked_for(system: System, images: Images, count: int, seed: int) -> Wishes:
    """What `count` samples are asked for: what is said of images drawn from the data; a larger draw begins with the
    same."""
    return wishes_of(system, images, np.random.default_rng(seed).choice(len(images.pixels), count))


def wishes_of(system: System, images: Images, rows: NDArray[np.int64]) -> Wishes:
    """What is said of some of the images."""
    labels = None if images.labels is None else images.labels[rows]
    captions = None if images.captions is None else [images.captions[row] for row in rows]
    return wishes_from(system, len(rows), labels, captions, images.metadata.take(rows))


def wishes_from(
    system: System, count: int, labels: NDArray[np.int64] | None, captions: Sequence[str] | None, metadata: Metadata
) -> Wishes:
    """What is said of `count` images, null where the model hears what they lack."""
    known = [system.labels.none] * count if labels is None else labels.tolist()
    numbers = () if metadata.numbers is None else tuple(map(tuple, metadata.numbers.tolist()))
    return Wishes(tuple(known), tuple(captions or [""] * count), numbers, metadata.pictures)


def labels_of(system: System, wishes: Wishes, images: Images) -> NDArray[np.int64] | None:
    """The labels that are asked for; None where the model hears none, or the images have none to compare with."""
    return None if images.labels is None or not system.labels.names else np.array(wishes.labels)
