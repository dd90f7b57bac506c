from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch

from ebb.evaluate.by_class import distance_by_class, judges, label_accuracy, score_counted
from ebb.judge.distances import frechet_counted, once
from ebb.judge.features import ImageClassifier, RandomFeatures


def score(p):
    return once(score_counted, p, p)


class Logits(torch.nn.Module):
    """Passes what it is given: torchmetrics then scores these logits."""

    num_features = 5

    def forward(self, images):
        return images


def check_score(statistic):
    """The inception score of torchmetrics, without its splits, and counts that stand for repeated rows."""
    from torchmetrics.image.inception import InceptionScore

    logits = torch.randn(80, 5, generator=torch.Generator().manual_seed(0)).double() * 3 + torch.arange(5)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # on its use of memory, and on the spread of one split
        judge = InceptionScore(feature=Logits(), splits=1)
        judge.update(logits)
        expected = float(judge.compute()[0])
    p = logits.softmax(dim=1).numpy()
    np.testing.assert_allclose(once(statistic, p, p), expected, rtol=1e-6)
    counts = np.random.default_rng(0).integers(0, 4, size=(1, 80)).astype(float)
    repeated = np.repeat(p, counts[0].astype(int), axis=0)
    np.testing.assert_allclose(statistic(p, p, counts, counts)[0], once(statistic, repeated, repeated), rtol=1e-10)


def test_the_score_agrees_with_torchmetrics():
    check_score(score_counted)


def test_a_score_without_the_certainty_is_caught():
    def mutant(a, b, counts_a, counts_b):
        mixed = counts_a @ a / counts_a.sum(axis=1)[:, None]
        return np.exp(-(mixed * np.log(mixed)).sum(axis=1))

    with pytest.raises(AssertionError):
        check_score(mutant)


def test_the_score_lies_between_one_and_the_number_of_classes():
    np.testing.assert_allclose(score(np.tile([0.2, 0.3, 0.5], (9, 1))), 1, rtol=1e-12)
    np.testing.assert_allclose(score(np.tile(np.eye(4), (5, 1))), 4, rtol=1e-12)  # zeros in the logarithm
    np.testing.assert_allclose(score(np.tile(np.eye(4)[:2], (5, 1))), 2, rtol=1e-12)


def test_the_score_of_few_rows_reads_as_low_as_its_rule_says():
    """Sure of 10 equal classes, from 1000 rows: the logarithm reads 9/2000 low on average."""
    draw = np.random.default_rng(1)
    found = [np.log(score(np.eye(10)[draw.integers(10, size=1000)])) for _ in range(60)]
    np.testing.assert_allclose(np.log(10) - np.mean(found), 9 / 2000, rtol=0.25)


def test_distance_by_class_sees_what_all_classes_together_hide():
    """Two classes that swapped places: the whole set is right, each class is not."""
    draw = np.random.default_rng(2)
    places = np.array([[0.0, 0.0], [5.0, 0.0]])
    labels = np.repeat([0, 1], 300)
    real = places[labels] + draw.normal(size=(600, 2))
    swapped = places[1 - labels] + draw.normal(size=(600, 2))
    names = ["cat", "dog", "bird"]
    found, few = distance_by_class(frechet_counted, 2, (swapped, labels), (real, labels), names)
    assert once(frechet_counted, swapped, real) < 0.3
    assert list(found) == ["cat", "dog"]
    np.testing.assert_allclose(list(found.values()), 25, rtol=0.1)
    assert few == []
    labels = np.where(np.arange(600) < 597, labels, 2)  # three of one class
    found, few = distance_by_class(frechet_counted, 2, (real, labels), (real, labels), names)
    assert (list(found), few) == (["cat", "dog"], ["bird"])
    np.testing.assert_allclose(list(found.values()), 0, atol=1e-10)


def test_only_classifiers_judge():
    rows, asked, classifier = np.zeros((3, 128)), np.arange(3), ImageClassifier(1, 3)
    assert judges(classifier)
    assert not judges(RandomFeatures(1))
    assert label_accuracy(RandomFeatures(1), rows, asked, None) == (None, {})
    assert label_accuracy(classifier, rows, None, None) == (None, {})
