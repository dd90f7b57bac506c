from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.datasets import load_digits

from ebb.judge.features import ImageClassifier, train_classifier


class Digits(NamedTuple):
    pixels: NDArray[np.uint8]
    labels: NDArray[np.int64]


@pytest.fixture(scope="session")
def digits() -> Digits:
    found = load_digits()
    return Digits((found.images * 15.9375).astype(np.uint8)[:, None], found.target.astype(np.int64))


@pytest.fixture(scope="session")
def trained(digits: Digits) -> tuple[ImageClassifier, float]:
    return train_classifier(*digits, 10, seconds=5)
