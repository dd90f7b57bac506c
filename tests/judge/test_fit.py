"""The training of judges: what decides when it ends, whether mirror images are alike, and what they see first."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ebb.judge.fit import Course, Crops, fit
from ebb.judge.residual_classifier import LEAST_VARIANCE, ResidualClassifier

from .test_ensemble import last, trained


def errors_of(course, marks):
    """The course after marks with these errors, one every 100 images."""
    for number, error in enumerate(marks, 1):
        course.note(100 * number, error)
    return course


def check_ends(noted):
    """Errors that fall are waited for; where three marks bring nothing the rate falls over as many images again."""
    falling = [0.9 * 0.8**n for n in range(20)]
    assert noted(falling).last == 10_000
    stuck = noted([0.5, 0.3, 0.2, 0.2, 0.21, 0.2, 0.19])
    assert (stuck.level, stuck.last) == (600, 1200)
    assert stuck.rate(599) == 1
    assert 0 < stuck.rate(1199) < 0.01


def test_unseen_images_decide_when_the_rate_falls():
    check_ends(lambda marks: errors_of(Course(10_000), marks))


def test_a_training_that_never_asks_is_caught():
    with pytest.raises(AssertionError):
        check_ends(lambda marks: Course(10_000))


def test_the_rate_rises_stays_and_falls_to_nothing():
    course = Course(1000)
    rates = [course.rate(shown) for shown in range(0, 1000, 10)]
    assert rates[0] < 0.05
    assert max(rates) == 1
    assert rates[5:50] == [1] * 45
    assert rates[-1] == pytest.approx(0.02)


def halves(rng, count, side):
    """Images that are bright on one side: left is class 0, right is class 1."""
    labels = rng.integers(0, 2, count)
    images = rng.integers(0, 60, (count, 1, 8, 8), dtype=np.uint8)
    for image, label in zip(images, labels, strict=True):
        bright = (slice(0, 4) if label else slice(4, 8)) if side else slice(None)
        if side:
            image[0, :, bright] += 150
        else:
            image[0, slice(0, 4) if label else slice(4, 8)] += 150
    return images, labels.astype(np.int64)


@pytest.mark.parametrize("side", [True, False])
def test_mirror_images_count_as_images_where_they_are(side):
    """Left and right are classes: turned over, each is the other. Above and below are not."""
    rng = np.random.default_rng(0)
    found = trained(fit(halves(rng, 320, side), halves(rng, 100, side), 2, seed=0, most=3200))
    assert bool(found.classifier.mirrored) == (not side)
    assert found.accuracy > 0.95


def test_mirrored_features_are_those_of_the_mirror_image_too():
    network = ResidualClassifier(3, 4).eval()
    network.whiten(torch.randn(50, 3, 16, 16))
    images = torch.randn(2, 3, 16, 16)
    assert not torch.allclose(network(images), network(images.flip(3)), atol=1e-3)
    network.mirrored.fill_(True)
    torch.testing.assert_close(network(images), network(images.flip(3)))


def test_the_first_filters_whiten_patches():
    """The covariance of what they answer to the data is λ/(λ + ε) on the diagonal and 0 elsewhere."""
    torch.manual_seed(0)
    network, images = ResidualClassifier(1, 2), torch.randn(400, 1, 9, 9)
    images = images + images.roll(1, 3)  # neighbours are alike
    network.whiten(images)
    answers = torch.nn.functional.conv2d(images, network.filters, stride=2)
    rows = answers[:, :9].transpose(0, 1).flatten(1)
    found = torch.cov(rows)
    assert (found.diagonal() > 0.9).all()
    assert (found.diagonal() <= 1.01).all()
    assert (found - found.diagonal().diag()).abs().max() < 0.01 + LEAST_VARIANCE
    torch.testing.assert_close(network.filters[:9], -network.filters[9:])


def test_crops_are_the_images_moved_with_a_reflection_at_the_edge(generator):
    images = torch.arange(64, dtype=torch.uint8).reshape(1, 1, 8, 8)
    seen = {tuple(Crops(images)(torch.tensor([0]), generator, mirrored=False).flatten().tolist()) for _ in range(100)}
    assert len(seen) == 9  # one place in each direction
    turned = Crops(images)(torch.zeros(200, dtype=torch.int64), generator, mirrored=True)
    assert 60 < (turned[:, 0, 4, 2] > turned[:, 0, 4, 5]).sum() < 140


def test_a_small_set_is_not_seen_more_often_than_it_teaches(digits):
    """Of 60 images the work is at most 40 passes, whatever is allowed."""
    few = digits.pixels[:60], digits.labels[:60]
    assert trained(fit(few, last(digits), 10, seed=0, most=10**6)).shown <= 40 * 60
