from __future__ import annotations

import json
from dataclasses import asdict

import numpy as np
import pytest

from ebb.errors import DataError
from ebb.evaluate.features import RandomFeatures
from ebb.evaluate.measure import as_table, measure


def _noisy(pixels, amount):
    noise = np.random.default_rng(0).normal(0, amount, pixels.shape)
    return (pixels + noise).clip(0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def halves(digits):
    order = np.random.default_rng(1).permutation(len(digits.pixels))  # the file is sorted by writer
    return [(digits.pixels[part], digits.labels[part]) for part in (order[:590], order[590:])]


def test_worse_samples_score_worse_and_real_ones_meet_the_floor(halves, trained):
    (held, _), (real, _) = halves
    for features in (trained[0], RandomFeatures(1)):
        same, bad, worse = (measure(_noisy(held, x), real, features, resamples=50).distances for x in (0, 40, 80))
        for name in same:
            assert same[name].value < bad[name].low
            assert bad[name].high < worse[name].low
        frechet = same["Fréchet distance"]
        assert 0.5 * frechet.floor < frechet.value < 2 * frechet.floor


def test_label_accuracy_of_real_images_with_right_and_shuffled_labels(halves, trained):
    (held, labels), (real, real_labels) = halves
    names = [f"digit {k}" for k in range(10)]
    right = measure(held, real, trained[0], asked=labels, real_labels=real_labels, class_names=names, resamples=2)
    assert right.label_accuracy is not None
    assert right.label_accuracy > 0.95
    assert list(right.per_class) == names
    np.testing.assert_allclose(
        sum(right.per_class[names[k]] * np.mean(labels == k) for k in range(10)), right.label_accuracy
    )
    shuffled = measure(held, real, trained[0], asked=np.random.default_rng(0).permutation(labels), resamples=2)
    assert shuffled.label_accuracy is not None
    assert 0.05 < shuffled.label_accuracy < 0.2


def test_floats_read_like_the_bytes_they_would_be_saved_as(halves, trained):
    (held, _), (real, _) = halves
    first, second = (
        measure(x, real, trained[0], resamples=2).distances for x in (held, held.astype(np.float32) / 127.5 - 1)
    )
    assert first == second


def test_the_result_is_json_and_repeats(halves, trained):
    (held, labels), (real, _) = halves
    run = [measure(held, real, trained[0], asked=labels, settings={"steps": 20}, resamples=5) for _ in range(2)]
    first, second = (json.loads(json.dumps(asdict(evaluation))) | {"seconds": 0} for evaluation in run)
    assert first == second
    assert first["settings"] == {"steps": 20}


def test_small_and_unbalanced_sets_are_warned_about(halves, trained):
    (held, labels), (real, real_labels) = halves
    few = measure(held[:100], real, trained[0], resamples=2).warnings
    assert any("few for 128" in text for text in few)
    zeros = measure(held, real, trained[0], asked=0 * labels, real_labels=real_labels, resamples=2).warnings
    assert any("not mixed" in text for text in zeros)
    short = measure(held, real[:700], trained[0], resamples=2).warnings
    assert any("the floor has 350" in text for text in short)
    assert measure(held, real, trained[0], asked=labels, real_labels=real_labels, resamples=2).warnings == []


def test_impossible_sets_are_refused(halves, trained):
    (held, labels), (real, _) = halves
    with pytest.raises(DataError, match="shaped like real"):
        measure(held[:, :, :7], real, trained[0])
    with pytest.raises(DataError, match="asked label"):
        measure(held, real, trained[0], asked=labels[:3])
    broken = np.zeros((5, 1, 8, 8), dtype=np.float32)
    broken[2] = np.nan
    with pytest.raises(DataError, match="1 of 5 samples"):
        measure(broken, real, trained[0])


def test_the_table_says_what_is_better_than_what(halves, trained):
    (held, labels), (real, _) = halves
    table = dict(as_table(measure(held, real, trained[0], asked=labels, classifier_accuracy=0.99, resamples=5)))
    assert "real against real" in table["Fréchet distance"]
    assert "99.0%" in table["label accuracy"]
    assert table["images"] == "590 samples, 617 real ones as reference"
