from __future__ import annotations

import numpy as np
import pytest
from prdc import compute_prdc

from ebb.errors import DataError
from ebb.judge.distances import wilson
from ebb.judge.manifold import interval, membership, radii


def figures(samples, real):
    found = membership(samples, real, radii(samples), radii(real))
    return {name: float(scores.mean()) for name, scores in vars(found).items()}


def clouds(seed, d=6, n=220, m=180, shift=0.4):
    draw = np.random.default_rng(seed)
    return draw.normal(shift, 1, size=(n, d)), draw.normal(size=(m, d))


def check_agreement(measured):
    """The package of the paper on density and coverage; precision and recall are its own at 3 neighbours."""
    for seed, settings in enumerate([{}, {"shift": 1.5}, {"n": 90}, {"d": 40}]):
        samples, real = clouds(seed, **settings)
        three, five = (compute_prdc(real, samples, nearest_k=k) for k in (3, 5))
        expected = {name: three[name] for name in ("precision", "recall")}
        expected |= {name: five[name] for name in ("density", "coverage")}
        found = measured(samples, real)
        for name, value in expected.items():
            np.testing.assert_allclose(found[name], value, rtol=1e-12, err_msg=name)


def test_agrees_with_prdc(monkeypatch, capsys):
    check_agreement(figures)
    monkeypatch.setattr("ebb.judge.manifold.BLOCK", 37)
    check_agreement(figures)
    capsys.readouterr()


@pytest.mark.parametrize("nearest", [(2, 5), (3, 4)])
def test_one_neighbour_fewer_is_caught(monkeypatch, capsys, nearest):
    monkeypatch.setattr("ebb.judge.manifold.NEAREST", nearest)
    with pytest.raises(AssertionError):
        check_agreement(figures)


def test_the_sets_the_wrong_way_round_are_caught(capsys):
    with pytest.raises(AssertionError):
        check_agreement(lambda samples, real: figures(real, samples))


def test_points_on_a_line():
    """Real rows at 0, 1, …, 9: balls of radius 3 and 5 at the ends, 2 and 3 inside."""
    real = np.arange(10.0)[:, None]
    np.testing.assert_allclose(radii(real)[:, [0, 1, 4, 5, 9]], np.square([[3, 2, 2, 2, 3], [5, 4, 3, 3, 5]]))
    far = np.arange(100.0, 106.0)[:, None]
    assert figures(far, real) == {"precision": 0, "recall": 0, "density": 0, "coverage": 0}
    one = np.full((6, 1), 4.5)  # a collapsed model: every sample in a true place, nothing else shown
    found = membership(one, real, radii(one), radii(real))
    assert found.precision.tolist() == [1] * 6
    assert found.recall.sum() == 0
    np.testing.assert_allclose(found.density, 10 / 5)  # even the balls of 0 and 9 reach 5 far
    assert found.coverage.tolist() == [1] * 10


def test_of_one_distribution_coverage_is_what_five_neighbours_give():
    """A real row's ball stays empty if its 5 nearest of both sets are its own: 2⁻⁵ at equal counts."""
    found = [figures(*clouds(seed, d=3, n=400, m=400, shift=0)) for seed in range(8)]
    np.testing.assert_allclose(np.mean([each["coverage"] for each in found]), 1 - 2**-5, atol=0.006)
    np.testing.assert_allclose(np.mean([each["density"] for each in found]), 1, atol=0.03)


def test_float32_and_moved_rows_give_nearly_the_same():
    samples, real = clouds(3, d=128, n=300, m=300, shift=0.05)
    plain = figures(samples, real)
    single = figures(samples.astype(np.float32), real.astype(np.float32))
    for name, value in plain.items():
        np.testing.assert_allclose(single[name], value, atol=2 / 300)


def check_interval(rule):
    """At least 9 of 10 intervals hold the expected figure, at equal and at unequal counts."""
    for n, m in ((120, 120), (60, 240)):
        values, ends = [], []
        for seed in range(100):
            samples, real = clouds(seed, d=4, n=n, m=m, shift=0.3)
            found = vars(membership(samples, real, radii(samples), radii(real)))
            values.append([scores.mean() for scores in found.values()])
            ends.append([rule(scores, n, m) for scores in found.values()])
        low, high = np.moveaxis(np.array(ends), 2, 0)
        expected = np.mean(values, axis=0)
        held = np.mean((low <= expected) & (expected <= high), axis=0)
        assert held.min() >= (0.9 if n == m else 0.8), held


def test_the_interval_covers_the_expected_figure():
    check_interval(interval)


def test_an_interval_of_the_rows_asked_alone_is_caught():
    def mutant(scores, samples, real):
        mean, reach = scores.mean(), 1.96 * scores.std() / np.sqrt(len(scores))
        return (mean - reach, mean + reach) if scores.max() > 1 else wilson(mean, len(scores))

    with pytest.raises(AssertionError):
        check_interval(mutant)


def test_few_rows_are_refused():
    with pytest.raises(DataError, match="got 5"):
        radii(np.zeros((5, 2)))
