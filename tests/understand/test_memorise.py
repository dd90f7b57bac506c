"""Copies that were planted are found, and generators that copy nothing are not accused."""

import json
from dataclasses import asdict, replace

import numpy as np
import pytest
from scipy import stats
from sklearn.neighbors import NearestNeighbors

import ebb.understand.memorise as module
from ebb.errors import DataError
from ebb.judge.features import RandomFeatures
from ebb.understand.memorise import (
    SURE,
    NearestImages,
    binomial,
    memorisation,
    nearest,
    surprise,
    verdict,
)


def parts(digits, seed=0):
    """(samples that are real images, training images, unseen images): 400, 900 and 497 digits."""
    order = np.random.default_rng(seed).permutation(len(digits.pixels))
    return tuple(digits.pixels[part] for part in np.split(order, [400, 1300]))


def noisy(pixels, amount, seed=0):
    noise = np.random.default_rng(seed).normal(0, amount, pixels.shape)
    return (pixels + noise).round().clip(0, 255).astype(np.uint8)


def told(samples, train, unseen, features=None, seed=0):
    return memorisation(samples, None, train, unseen, features, seed=seed)


def check_found(samples, train, unseen, planted, **settings):
    """The planted copies, sample i of training image i, are a sign of memorisation, and the closest pairs."""
    found = told(samples, train, unseen, **settings)
    if not found.verdict.startswith("some samples are copies"):
        raise AssertionError(f"{planted} copies were planted, and the verdict is: {found.verdict}")
    assert abs(found.spaces[0].closer - planted / len(samples)) < 0.03
    assert found.spaces[0].low < found.spaces[0].closer < found.spaces[0].high
    assert len(found.pairs) == 12
    assert all(i == j < planted for i, j, _ in found.pairs)
    return found


def check_silent(digits, seeds):
    for seed in seeds:
        found = told(*parts(digits, seed), seed=seed)
        if not found.verdict.startswith("no sign"):
            raise AssertionError(f"an honest generator, seed {seed}, is told: {found.verdict}")


def test_an_honest_generator_is_not_accused(digits):
    check_silent(digits, range(20))
    samples, train, unseen = parts(digits)
    found = told(samples, train, unseen, RandomFeatures(1))
    assert found.verdict.startswith("no sign of memorisation")
    assert [space.space for space in found.spaces] == ["pixels", "random network 0"]
    for space in found.spaces:
        assert space.closer < 0.04
        assert space.expected == pytest.approx(0.01, rel=0.01)
        assert space.distance == pytest.approx(space.held_out_distance, rel=0.1)
    assert (found.n_samples, found.n_train, found.n_held_out, found.leaked) == (400, 900, 497, 0)
    json.dumps(asdict(found))


@pytest.mark.parametrize("amount", [0, 8])
def test_planted_copies_are_found(digits, amount):
    samples, train, unseen = parts(digits)
    samples[:24] = noisy(train[:24], amount)
    found = check_found(samples, train, unseen, 24, features=RandomFeatures(1))
    for i, j, distance in found.pairs:
        gap = samples[i].astype(float) - train[j].astype(float)
        assert distance == pytest.approx(np.sqrt(np.mean(gap**2)))
    assert found.spaces[0].beyond == pytest.approx(0.06, abs=0.01)
    assert found.spaces[1].chance < SURE


def check_dense(seed=0):
    """A generator that draws from the densest twentieth of the data alone copies nothing."""
    rng = np.random.default_rng(seed)

    def drawn(count, dense):
        tight = (rng.random(count) < dense)[:, None, None, None]
        noise = rng.normal(0, 1, (count, 1, 8, 8))
        return np.where(tight, 40 + 4 * noise, 180 + 20 * noise).clip(0, 255).astype(np.uint8)

    found = told(drawn(200, 1), drawn(2000, 0.05), drawn(500, 0.05))
    if not found.verdict.startswith("no sign"):
        raise AssertionError(f"a generator of simple images is told: {found.verdict}")


def test_simple_images_are_no_copies():
    check_dense()


def test_mutants_are_caught(digits, monkeypatch):
    """Distance in place of the ratio; a bar that is lower than that of unseen images, and one that is higher."""
    closeness = module.closeness

    def plain(rows, train, occurrences):
        found = closeness(rows, train, occurrences)
        return replace(found, ratio=found.distance)

    with monkeypatch.context() as patch:
        patch.setattr(module, "closeness", plain)
        with pytest.raises(AssertionError, match="a generator of simple images"):
            check_dense()
    with monkeypatch.context() as patch:
        patch.setattr(module, "limit", lambda unseen: float(np.quantile(unseen.ratio, 0.2)))
        with pytest.raises(AssertionError, match="an honest generator"):
            check_silent(digits, range(3))
    samples, train, unseen = parts(digits)
    samples[:24] = noisy(train[:24], 8)
    monkeypatch.setattr(module, "distinct", lambda images: (np.arange(900), np.ones(900, int), set()))
    with pytest.raises(AssertionError, match="24 copies were planted"):
        check_found(samples, train, np.concatenate([unseen, train[300:500]]), 24)


def test_a_handful_that_is_nearer_than_every_unseen_image_is_found(digits):
    """Twelve exact copies among 400 are hardly more than the hundredth that lies near by chance."""
    samples, train, unseen = parts(digits)
    samples[:12] = train[:12]
    found = check_found(samples, train, unseen, 12)
    assert found.spaces[0].beyond >= 0.03
    assert [distance for *_, distance in found.pairs] == [0.0] * 12


def test_a_few_exact_copies_are_named(digits):
    samples, train, unseen = parts(digits)
    samples[:4] = train[:4]
    found = told(samples, train, unseen)
    assert found.verdict.startswith("no sign of memorisation but 4 exact copies: ")
    assert found.identical == 4
    assert [distance for *_, distance in found.pairs[:5]].count(0.0) == 4


def test_images_that_leaked_between_the_splits_do_not_hide_copies(digits):
    samples, train, unseen = parts(digits)
    samples[:24] = train[:24]
    unseen[:200] = train[300:500]
    found = check_found(samples, train, unseen, 24)
    assert (found.leaked, found.n_held_out) == (200, 297)


def test_training_images_that_occur_twice_do_not_hide_copies(digits):
    samples, train, unseen = parts(digits)
    samples[:24] = noisy(train[:24], 4)
    check_found(samples, np.concatenate([train] * 3), unseen, 24)


def test_an_image_that_the_data_repeats_is_no_copy(digits):
    """A tenth of the data, and of what an honest generator makes of it, is blank, or nearly so."""
    samples, train, unseen = parts(digits)
    for images in (samples, train, unseen):
        images[-len(images) // 10 :] = 7
    samples[-5:] = noisy(samples[-5:], 2)
    assert told(samples, train, unseen).verdict.startswith("no sign")
    samples[:24] = train[:24]
    check_found(samples, train, unseen, 24)
    with pytest.raises(DataError, match="all samples lie nearest to images that occur 10 times or more"):
        told(samples[-20:], train, unseen)


def test_a_model_of_nothing_but_copies(digits):
    _, train, unseen = parts(digits)
    found = told(noisy(train[:300], 4), train, unseen)
    assert found.verdict.startswith("most samples are copies: ")
    assert "in pixels, as only 1 % of unseen images do" in found.verdict
    assert found.spaces[0].closer > 0.95


def test_samples_that_are_near_without_being_copies_are_not_called_so():
    """Between the verdicts: more are near than chance allows, and few of them nearer than all unseen images."""
    near = NearestImages("pixels", 0.05, 0.01, 0.04, 0.06, 0.001, 1e-6, [], [], 1.0, 1.0)
    assert verdict([near], 1000, 1000, 0).startswith(
        "some samples lie closer to training images than unseen ones do: 5 %"
    )
    assert verdict([replace(near, beyond=0.03)], 1000, 1000, 0).startswith("some samples are copies")
    assert verdict([replace(near, chance=SURE)], 1000, 1000, 0).startswith("no sign of memorisation")
    elsewhere = replace(near, space="a network", beyond=0.04, chance=1e-9)
    assert "3 %" not in verdict([near, elsewhere], 1000, 1000, 0)
    assert "in the features of a network" in verdict([near, elsewhere], 1000, 1000, 0)


def test_the_share_of_each_label(digits):
    samples, train, unseen = parts(digits)
    asked = np.arange(400) % 4
    samples[asked == 3] = train[:100]
    found = memorisation(samples, asked, train, unseen, None, seed=0)
    assert list(found.by_label) == ["0", "1", "2", "3"]
    assert found.by_label["3"] == 1
    assert max(found.by_label[key] for key in "012") < 0.06


def test_few_images_tell_nothing_and_none_are_refused(digits):
    samples, train, unseen = parts(digits)
    assert told(samples[:3], train, unseen[:3]).verdict.startswith("cannot tell: 3 samples and 3 unseen images")
    assert told(samples[:1], train[:2], unseen).n_train == 2
    with pytest.raises(DataError, match="2 or more different training images"):
        told(samples, train[:1], unseen)
    with pytest.raises(DataError, match="training does not hold, got 900 and 0"):
        told(samples, train, train[:50])
    for wrong in ((samples[:0], train, unseen), (samples, train, unseen[:, :, :4])):
        with pytest.raises(DataError, match="of the shape of the training images"):
            told(*wrong)
    with pytest.raises(DataError, match="one label for each of 400 samples"):
        memorisation(samples, np.arange(3), train, unseen, None, seed=0)


def test_large_sets_are_looked_at_in_part(digits, monkeypatch):
    samples, train, unseen = parts(digits)
    samples[:40] = train[:40]
    monkeypatch.setattr(module, "MOST", 200)
    found = told(samples, train, unseen)
    assert (found.n_samples, found.n_held_out) == (200, 200)
    assert all(i == j < 40 for i, j, _ in found.pairs)
    assert found == told(samples, train, unseen)
    assert found.pairs != told(samples, train, unseen, seed=1).pairs


@pytest.mark.parametrize("offset", [0, 1000])
def test_neighbours_are_the_right_ones(monkeypatch, offset):
    """Also far from the origin, across the blocks of the search, and in tight clusters."""
    rng = np.random.default_rng(0)
    centres = rng.normal(0, 1, (20, 30))
    train = (centres[rng.integers(0, 20, 1500)] + 0.03 * rng.normal(0, 1, (1500, 30)) + offset).astype(np.float32)
    rows = (centres[rng.integers(0, 20, 70)] + 0.03 * rng.normal(0, 1, (70, 30)) + offset).astype(np.float32)
    monkeypatch.setattr(module, "ROWS", 32)
    monkeypatch.setattr(module, "COLUMNS", 400)
    distance, index = nearest(rows, train, 11)
    search = NearestNeighbors(n_neighbors=11, algorithm="brute").fit(train.astype(np.float64))
    exact, places = search.kneighbors(rows.astype(np.float64))
    np.testing.assert_allclose(distance, exact / np.sqrt(30), rtol=1e-4)
    assert (index == places).mean() > 0.99


@pytest.mark.parametrize(("n", "r", "m"), [(10, 1, 10), (400, 5, 497), (5000, 50, 5000), (3, 1, 2000)])
def test_the_chance_is_that_of_an_independent_formula(n, r, m):
    """The share below the r-th of m others is a Beta variable, and the count beta-binomial; the rank after is not."""
    for x in {0, 1, min(n, 3 * r), n // 2, n}:
        exact = stats.betabinom(n, r, m - r + 1).sf(x - 1)
        assert surprise(x, n, r, m) == pytest.approx(exact, rel=1e-6, abs=1e-9)  # which is SciPy's own error
    assert surprise(r, n, r, m) != pytest.approx(surprise(r, n, r + 1, m), rel=1e-2)


@pytest.mark.parametrize(("hits", "count"), [(0, 5), (3, 100), (50, 50), (17, 4000)])
def test_the_interval_of_a_share(hits, count):
    exact = stats.binomtest(hits, count).proportion_ci(method="wilson")
    assert binomial(hits, count) == pytest.approx((exact.low, exact.high), abs=1e-4)
