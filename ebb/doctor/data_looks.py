"""Pictures that look otherwise than the rest of their set: blurred ones, and ones whose content is cut off."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ebb.doctor.data_subject import BLOCK, DataSubject, worst
from ebb.doctor.finding import Check, Finding, Suspect
from ebb.doctor.looks import contents, margins, sharpness

RARE, LEAST = 0.005, 3
"""The share of a set, and the number, from which odd pictures are spoken of: fewer are in every set."""

BLURRED = -4.5
"""Deviations from the median sharpness of a set (by its median absolute deviation) below which a picture is blurred.
CIFAR-10's lowest of 3,000 is at -3.3, MNIST's at -3.1, and 1 in 1,000 of emoji below -3.7; a Gaussian blur of 1.2
pixels leaves CIFAR-10's at -5.8 in the median, nine in ten below -5.2, MNIST's at -8, emoji's at -19."""

SHARP_SIDE = 16
"""Pixels a side below which half a picture shows nothing."""

FAR, TOUCHING, FREE = 24, 0.1, 0.3
"""Content differs from the ground by so many levels of 255; cut off it touches a tenth of an edge and leaves free three
tenths before the opposite one. Of MNIST 1 in 2,000 is so, of emoji none; of either 98 % after a shift by 0.4."""

PLAIN, ON_GROUND = 0.02, 0.9
"""A picture stands on a ground if content touches at most this share of each edge; the set is of such pictures from
this share on."""


def each(measure: Callable[[Tensor], Tensor], images: NDArray[np.uint8]) -> Tensor:
    """A measure of every image, a block at a time."""
    parts = (torch.from_numpy(np.ascontiguousarray(images[i : i + BLOCK])) for i in range(0, len(images), BLOCK))
    return torch.cat([measure(part.float()) for part in parts])


def deviations(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """How far values lie from their median, in deviations as the median absolute one gives them for a normal set."""
    middle = np.median(values)
    spread = 1.4826 * np.median(np.abs(values - middle))
    found: NDArray[np.float64] = (values - middle) / max(float(spread), 0.05)
    return found


def rare(count: int, of: int) -> bool:
    """Whether so few are odd that nothing is said."""
    return count < max(LEAST, RARE * of)


def check_blurred(data: DataSubject) -> Finding | None:
    """Pictures far less sharp than the set they are in (`looks.sharpness`, BLURRED), from RARE and LEAST of them on.

    Pictures of less than SHARP_SIDE a side have no detail that they could miss.
    """
    images = data.read.rows
    if min(images.shape[2:]) < SHARP_SIDE:
        return None
    away = deviations(each(sharpness, images).double().numpy())
    order = np.argsort(away, kind="stable")
    found = order[: int((away < BLURRED).sum())].tolist()
    if rare(len(found), len(images)):
        return None
    suspects = tuple(Suspect((row,), f"{away[row]:.1f} deviations") for row in found)
    return Finding(
        "blurred",
        "some images are blurred",
        f"{len(found):,} of {len(images):,} have fine detail more than {-BLURRED:g} deviations below that of the set: "
        f"{worst([data.names[row] for row in found])}",
        "they were enlarged, out of focus, or saved at a low quality",
        "delete what is blurred, or make it again from larger originals: a model learns blur as well",
        suspects=suspects,
    )


def check_cut_off(data: DataSubject) -> Finding | None:
    """Pictures whose content is cut off at an edge, in a set whose pictures stand on an even ground.

    It touches TOUCHING of an edge and leaves FREE of the side before the opposite one; what fills its frame is not cut
    off. In a set of which fewer than ON_GROUND stand on a ground (photographs) none differs from the others.
    """
    images = data.read.rows

    def looked(part: Tensor) -> Tensor:
        return torch.cat(margins(contents(part, FAR)), 1)

    touched, empty = each(looked, images).numpy().reshape(len(images), 2, 4).swapaxes(0, 1)
    if (touched.max(1) <= PLAIN).mean() < ON_GROUND:
        return None
    across = empty[:, [1, 0, 3, 2]]
    found = np.flatnonzero(((touched >= TOUCHING) & (across >= FREE)).any(1)).tolist()
    if rare(len(found), len(images)):
        return None
    edges = ("upper", "lower", "left", "right")
    named = worst([data.names[row] for row in found])
    suspects = tuple(Suspect((row,), f"touches the {edges[int(touched[row].argmax())]} edge") for row in found)
    return Finding(
        "cut off",
        "the content of some images is cut off at an edge",
        f"{len(found):,} of {len(images):,} touch an edge and leave {FREE:.0%} of the side free before the opposite "
        f"one, where {(touched.max(1) <= PLAIN).mean():.0%} touch none: {named}",
        "a crop or a shift that missed its middle",
        "crop these images again around their content, or delete them: a model learns to cut off",
        suspects=suspects,
    )


LOOK_CHECKS: list[Check[DataSubject]] = [check_blurred, check_cut_off]
"""What is asked about single pictures, in this order."""
