"""What samples are asked for, so that they can be compared with data: what the data shows."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ebb.data.scan import Images
from ebb.encode.conditioner import Wishes
from ebb.system import System


def asked_for(system: System, images: Images, count: int, seed: int) -> Wishes:
    """What `count` samples are asked for: what is said of images drawn from the data; a larger draw begins with the
    same."""
    return wishes_of(system, images, np.random.default_rng(seed).choice(len(images.pixels), count))


def wishes_of(system: System, images: Images, rows: NDArray[np.int64]) -> Wishes:
    """What is said of some of the images, null where the model hears what the images lack."""
    labels = np.full(len(rows), system.labels.none) if images.labels is None else images.labels[rows]
    texts = tuple("" if images.captions is None else images.captions[row] for row in rows)
    told = images.told.take(rows)
    numbers = () if told.numbers is None else tuple(map(tuple, told.numbers.tolist()))
    return Wishes(tuple(labels.tolist()), texts, numbers, told.pictures)


def labels_of(system: System, wishes: Wishes, images: Images) -> NDArray[np.int64] | None:
    """The labels that are asked for; None where the model hears none, or the images have none to compare with."""
    return None if images.labels is None or not system.labels.names else np.array(wishes.labels)
