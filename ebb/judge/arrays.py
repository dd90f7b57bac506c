"""What a figure is given, as arrays: a tensor, an array or a list of pictures, features or labels, each checked."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from ebb.errors import DataError

Given: TypeAlias = ArrayLike | Tensor
"""A tensor on any device, an array, or a list of numbers."""

BEYOND = 8.0
"""Values this far from 0 are not a sample that left [−1, 1] a little, but of another scale."""


def array_of(what: str, given: Given) -> NDArray[Any]:
    """The numbers as an array; DataError, naming `what` they are of, for what is none."""
    if isinstance(given, Tensor):
        given = given.detach().cpu()
        given = given.float() if given.dtype == torch.bfloat16 else given  # which numpy does not know
    try:
        found = np.asarray(given)
    except (ValueError, TypeError) as error:
        raise DataError(f"expected {what} as a tensor or an array, got {type(given).__name__}: {error}") from error
    if found.dtype.kind not in "uif":
        raise DataError(f"expected {what} as a tensor or an array of numbers, got {type(given).__name__}")
    return found


def features_of(given: Given) -> NDArray[np.float64]:
    """Features [n, d] in float64. Raises DataError for other axes, and for what is not finite."""
    found = array_of("features", given)
    if found.ndim != 2:
        hint = (
            "ebb.compare and ebb.measure take pictures; ebb.judge.features.extract makes features of them, and"
            " x.reshape(len(x), -1) rows of their values"
        )
        raise DataError(f"expected features, a row of numbers for each image, [n, d], got {list(found.shape)}", hint)
    if not np.isfinite(found).all():
        raise DataError("features are not finite", "look for NaN or infinite values in the images")
    return found.astype(np.float64)


def pictures_of(what: str, given: Given) -> NDArray[Any]:
    """Pictures [n, c, h, w], 8-bit or in [−1, 1], in their own precision. Raises DataError for what is neither."""
    found = array_of(what, given)
    if found.ndim != 4 or (found.dtype != np.uint8 and found.dtype.kind != "f"):
        raise DataError(
            f"expected {what} [n, c, h, w], uint8 or floats from -1 to 1, got {found.dtype} {list(found.shape)}"
        )
    if found.dtype.kind == "f" and found.size and max(found.max(), -found.min()) > BEYOND:
        raise DataError(
            f"expected {what} from -1 to 1, got values from {found.min():g} to {found.max():g}",
            "8-bit pixels are given as uint8, or as pixels / 127.5 - 1",
        )
    return found


def values_of(what: str, given: Given) -> NDArray[Any]:
    """Pictures as `pictures_of` has them; of two or three axes rows [n, d] or series [n, c, t] of any numbers, float32.

    Raises DataError for what is neither."""
    found = array_of(what, given)
    if found.ndim not in (2, 3):
        return pictures_of(what, given)
    return found.astype(np.float32)


def indices_of(what: str, given: Given | None) -> NDArray[np.int64] | None:
    """Labels [n] as whole numbers from 0; None where there are none. Raises DataError for what is none of these."""
    if given is None:
        return None
    found = array_of(what, given)
    if found.ndim != 1 or found.dtype.kind not in "ui" or (found.size and found.min() < 0):
        raise DataError(f"expected {what} [n], whole numbers from 0, got {found.dtype} {list(found.shape)}")
    return found.astype(np.int64)
