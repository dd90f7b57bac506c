from __future__ import annotations

import json
from dataclasses import asdict

import numpy as np
import pytest
import torch

from ebb.errors import DataError
from ebb.evaluate.measure import Classes, as_table, measure, split
from ebb.judge.features import RandomFeatures


def _noisy(pixels, amount):
    noise = np.random.default_rng(0).normal(0, amount, pixels.shape)
    return (pixels + noise).clip(0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def halves(digits):
    order = np.random.default_rng(1).permutation(len(digits.pixels))  # the file is sorted by writer
    return [(digits.pixels[part], digits.labels[part]) for part in (order[:590], order[590:])]


@pytest.fixture(autouse=True)
def brief(monkeypatch):
    """The training on samples is short: what it measures is tested elsewhere."""
    monkeypatch.setattr("ebb.evaluate.two_sample.WORK", 600)


def _far(figure):
    """How far a figure lies on the bad side of where a good model reads, at the least and at the most."""
    signs = {"low": (figure.low, figure.high), "high": (-figure.high, -figure.low)}
    return signs.get(figure.better, (figure.low, figure.high))


def test_worse_samples_score_worse_and_real_ones_meet_the_floor(halves, trained):
    (held, labels), (real, real_labels) = halves
    figures = [
        measure(_noisy(held, x), real, trained[0], Classes(labels, real_labels), resamples=12).distances
        for x in (0, 90)
    ]
    assert list(figures[0]) == NAMES
    for name, same in figures[0].items():
        assert same.low <= same.value <= same.high
        if name == "trained on samples":  # too brief a training to say
            continue
        assert _far(same)[1] < _far(figures[1][name])[0], name
        reach = same.high - same.low
        assert same.low - reach <= same.floor <= same.high + reach, name


NAMES = [
    "Fréchet distance",
    "kernel distance",
    "precision",
    "recall",
    "density",
    "coverage",
    "class score",
    "sliced Wasserstein distance",
    "two-sample test",
    "trained on samples",
]


def test_features_without_classes_leave_the_score_out(halves):
    (held, labels), (real, _) = halves
    found = measure(held, real, RandomFeatures(1), Classes(labels), resamples=2)
    assert [name for name in NAMES if name not in found.distances] == ["class score", "trained on samples"]
    assert any("class score: left out, the features (random network 0) know no classes" in x for x in found.warnings)
    assert any("trained on samples: left out, samples or images have no labels" in x for x in found.warnings)
    assert found.label_accuracy is None


def test_an_ensemble_is_measured_member_by_member(halves, trained):
    """Twice the same classifier is that classifier; its columns side by side, taken as one, are not."""

    class Pair(torch.nn.Module):
        name, dimension, members = "a pair", 256, (trained[0], trained[0])

        def forward(self, images):
            return torch.cat([member(images) for member in self.members], dim=1)

    (held, labels), (real, _) = halves
    worse = _noisy(held, 40)
    one, two = (measure(worse, real, f, Classes(labels), resamples=10) for f in (trained[0], Pair()))
    for name in ("Fréchet distance", "kernel distance", "precision", "coverage", "class score"):
        for part in ("value", "low", "high", "floor"):
            np.testing.assert_allclose(
                getattr(two.distances[name], part), getattr(one.distances[name], part), rtol=1e-4, atol=1e-6
            )
    assert two.distances["Fréchet distance"].needs == one.distances["Fréchet distance"].needs == 1280
    assert two.label_accuracy == one.label_accuracy


def test_label_accuracy_of_real_images_with_right_and_shuffled_labels(halves, trained):
    (held, labels), (real, _) = halves
    names = [f"digit {k}" for k in range(10)]
    right = measure(held, real, trained[0], Classes(labels, names=names), resamples=2)
    assert right.label_accuracy is not None
    assert right.label_accuracy > 0.95
    assert list(right.per_class) == names
    np.testing.assert_allclose(
        sum(right.per_class[names[k]] * np.mean(labels == k) for k in range(10)), right.label_accuracy
    )
    shuffled = measure(held, real, trained[0], Classes(np.random.default_rng(0).permutation(labels)), resamples=2)
    assert shuffled.label_accuracy is not None
    assert 0.05 < shuffled.label_accuracy < 0.2


def test_floats_read_like_the_bytes_they_would_be_saved_as(halves, trained):
    (held, _), (real, _) = halves
    first, second = (
        measure(x, real, trained[0], resamples=2).distances for x in (held, held.astype(np.float32) / 127.5 - 1)
    )
    tests = [found.pop("two-sample test").value for found in (first, second)]
    assert first == second
    assert tests[0] == pytest.approx(tests[1], abs=0.05), "its network is trained, and the last bits decide its way"


def test_the_result_is_json_and_repeats(halves, trained):
    (held, labels), (real, _) = halves
    run = [measure(held, real, trained[0], Classes(labels), resamples=5) for _ in range(2)]
    first, second = (json.loads(json.dumps(asdict(evaluation))) | {"seconds": 0} for evaluation in run)
    assert first == second


def test_fewer_images_than_features_give_no_frechet_distance(halves, trained):
    (held, _), (real, _) = halves
    few = measure(held[:100], real, trained[0], resamples=2)
    assert "Fréchet distance" not in few.distances
    assert "kernel distance" in few.distances
    assert any("100 images give no covariance of 128 features" in text for text in few.warnings)
    some = measure(held[:200], real, trained[0], resamples=2)
    assert "Fréchet distance" in some.distances
    assert any("200 images are few for 128 features" in text for text in some.warnings)
    tiny = measure(held[:10], real, trained[0], resamples=2)
    assert [*tiny.distances] == NAMES[1:8]
    least = measure(held[:9], real, trained[0], resamples=2)
    assert least.distances == {}
    assert any("all figures: left out, a set of 9 images" in text for text in least.warnings)


def test_unbalanced_and_single_classes_are_warned_about(halves, trained):
    (held, labels), (real, real_labels) = halves
    zeros = measure(held, real, trained[0], Classes(0 * labels, real_labels), resamples=2)
    assert any("not mixed" in text for text in zeros.warnings)
    assert any("trained on samples: left out, there is one class only" in text for text in zeros.warnings)
    assert any("by class: left out for every class" in text for text in zeros.warnings)
    short = measure(held, real[:700], trained[0], resamples=2).warnings
    assert any("the floor has 350" in text for text in short)
    two = labels < 5, real_labels < 5  # two classes that have the images
    both = [of.astype(np.int64) for of in two]
    fine = measure(held, real, trained[0], Classes(*both, ["≥", "<"]), resamples=2)
    assert list(fine.frechet_by_class) == ["≥", "<"]
    assert fine.warnings == []
    whole = fine.distances["Fréchet distance"].value
    assert all(whole < value < 3 for value in fine.frechet_by_class.values())  # fewer images: a higher reading


def test_impossible_sets_are_refused(halves, trained):
    (held, labels), (real, _) = halves
    with pytest.raises(DataError, match="shaped like real"):
        measure(held[:, :, :7], real, trained[0])
    with pytest.raises(DataError, match="asked label"):
        measure(held, real, trained[0], Classes(labels[:3]))
    with pytest.raises(DataError, match="one label for each of 1207 images"):
        measure(held, real, trained[0], Classes(real=labels[:3]))
    broken = np.zeros((5, 1, 8, 8), dtype=np.float32)
    broken[2] = np.nan
    with pytest.raises(DataError, match="1 of 5 images"):
        measure(broken, real, trained[0])


def test_the_table_says_what_is_better_than_what(halves, trained):
    (held, labels), (real, _) = halves
    table = dict(as_table(measure(held, real, trained[0], Classes(labels, accuracy=0.99), resamples=5)))
    assert "real ones score" in table["Fréchet distance"]
    assert table["Fréchet distance"].endswith("to be trusted from 1,280 samples on")
    assert "trusted" not in table["kernel distance"]
    assert "99.0%" in table["label accuracy"]
    assert table["images"] == "590 samples, 617 real ones as reference"


@pytest.mark.parametrize(("count", "apart", "wanted"), [(2000, 32, 300), (500, 64, 200), (150, 64, 50), (40, 2, 20)])
def test_windows_of_the_floor_and_of_the_reference_share_no_time(count, apart, wanted):
    """Window i holds the times i … i + apart − 1; parted by chance, nearly all times are in both sets."""
    floor, reference = (
        {time for start in part for time in range(start, start + apart)}
        for part in split(np.arange(count), wanted, 0, apart)
    )
    assert floor
    assert reference
    assert not floor & reference
    mixed = [{t for start in part for t in range(start, start + apart)} for part in split(np.arange(count), wanted, 0)]
    assert mixed[0] & mixed[1]


def test_a_series_without_two_windows_that_share_nothing_is_refused():
    with pytest.raises(DataError, match=r"100 windows, of which 64 in a row overlap.*"):
        split(np.arange(100), 10, 0, 64)
