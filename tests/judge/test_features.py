from __future__ import annotations

import numpy as np
import pytest
import torch

from ebb.data.pictures import batches
from ebb.errors import DataError
from ebb.judge.features import ImageClassifier, RandomFeatures, extract, train_classifier, vote


def test_digits_reach_their_accuracy(trained):
    assert trained[1] >= 0.97


@pytest.mark.full
def test_shuffled_labels_do_not(digits):
    labels = np.random.default_rng(0).permutation(digits.labels)
    assert train_classifier(digits.pixels, labels, 10, seconds=2.0)[1] < 0.3


def test_one_seed_is_one_classifier_and_the_global_state_is_left_alone(digits):
    state = torch.get_rng_state()
    first, again, other = (train_classifier(*digits, 10, seed=s, seconds=0.1)[0] for s in (0, 0, 1))
    assert torch.equal(state, torch.get_rng_state())
    assert torch.equal(first.embed.weight, again.embed.weight)
    assert not torch.equal(first.embed.weight, other.embed.weight)


def test_an_official_held_out_set_is_judged_and_gives_the_scale(digits):
    test = digits.pixels[1500:], digits.labels[1500:]
    classifier, accuracy = train_classifier(digits.pixels[:1500], digits.labels[:1500], 10, seconds=0.2, held_out=test)
    rows = extract(classifier, batches(test[0]))
    np.testing.assert_allclose(np.mean(rows**2), 1, rtol=1e-4)
    assert accuracy == np.mean(vote(classifier, rows) == test[1])


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 32, 20), (4, 64, 64)])
def test_features_of_any_size(shape):
    images = torch.randn(2, *shape)
    for features in (ImageClassifier(shape[0], 5, reduction=max(1, min(shape[1:]) // 14)), RandomFeatures(shape[0])):
        assert features(images).shape == (2, features.dimension)


def test_random_features_are_a_function_of_the_seed():
    images = torch.linspace(-1, 1, 2 * 3 * 12 * 12).view(2, 3, 12, 12)
    assert torch.equal(RandomFeatures(3)(images), RandomFeatures(3)(images))
    assert not torch.equal(RandomFeatures(3)(images), RandomFeatures(3, seed=1)(images))


def test_extract_does_not_depend_on_the_batches(digits, trained):
    rows = extract(trained[0], batches(digits.pixels[:50], size=7))
    assert rows.dtype == np.float64
    np.testing.assert_allclose(rows, extract(trained[0], batches(digits.pixels[:50])), atol=1e-4)
    with pytest.raises(DataError, match="at least one image"):
        extract(trained[0], [])
    with pytest.raises(DataError, match="not finite"):
        extract(trained[0], [torch.full((1, 1, 8, 8), torch.nan)])


def test_wrong_images_and_labels_are_named(digits):
    with pytest.raises(DataError, match="uint8"):
        train_classifier(digits.pixels[:, :, :7], digits.labels, 10)
    with pytest.raises(DataError, match=r"0…8.*0…9"):
        train_classifier(digits.pixels, digits.labels, 9)
    with pytest.raises(DataError, match="one label"):
        train_classifier(digits.pixels, digits.labels[:5], 10)
