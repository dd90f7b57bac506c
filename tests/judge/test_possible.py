from __future__ import annotations

import numpy as np
import pytest

from ebb.judge.ensemble import means
from ebb.judge.possible import KNOWN, ahead, known, standing


@pytest.mark.parametrize("one", KNOWN, ids=lambda one: one.name)
def test_each_known_set_is_known_by_shape_classes_and_mean(one):
    mean = [2 * value - 1 for value in one.mean]
    assert known(one.shape, one.classes, mean) is one
    assert known(one.shape, one.classes + 1, mean) is None
    assert known((*one.shape[:2], 99), one.classes, mean) is None
    assert known(one.shape, one.classes, [value + 0.2 for value in mean]) is not one


def test_digits_are_known_by_their_pixels(digits):
    assert known(digits.pixels.shape[1:], 10, means(digits.pixels)).name == "scikit-learn's digits"


def check_law(continued):
    """Errors 0.4·n^(-1/2): a half at a quarter of the images, a half again with four times as many."""
    assert continued(1 - 0.2, 1 - 0.4) == pytest.approx(1 - 0.1)


def test_a_power_law_of_errors_is_continued():
    check_law(ahead)
    with pytest.raises(AssertionError):  # a mutant: a straight line promises what no classifier can
        check_law(lambda accuracy, fewer: accuracy + (accuracy - fewer))
    assert ahead(0.8, 0.85) == 0.8  # no law: nothing is promised


def test_a_coarse_judge_is_called_so_and_a_good_one_is_not():
    cifar = next(one for one in KNOWN if one.name == "CIFAR-10")
    assert standing(0.67, None, cifar).coarse
    assert "97.4% is possible on CIFAR-10" in standing(0.67, None, cifar).says
    assert not standing(0.84, None, cifar).coarse
    assert standing(0.5, 0.2, None).coarse
    assert not standing(0.97, 0.95, None).coarse
    assert not standing(0.5, None, None).coarse
    assert np.isclose(standing(0.5, 0.2, None).possible, 1 - 0.25 / 0.8)
