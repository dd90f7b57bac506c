"""`ebb.compare`: two sets of samples, systems or runs beside the same data, against distances in closed form."""

import pytest
import torch

import ebb
from ebb.errors import DataError, UsageError
from ebb.events import finished
from ebb.judge.distances import Moments
from ebb.recipe.recipe import Recipe
from ebb.run.train import train

from .. import toys

COUNT, WIDTH = 800, 3


def normal(shift, scale=1.0, seed=0, count=COUNT):
    """N(shift, scale²·I): |shift|² + d·(scale − 1)² from the data, N(0, I) (Heusel et al. 2017, eq. 6)."""
    draws = torch.randn(count, WIDTH, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return shift + scale * draws


@pytest.fixture(autouse=True)
def brief(monkeypatch):
    """Intervals of a third of the resamples, and a classifier of both sets that learns for a moment."""
    monkeypatch.setattr("ebb.evaluate.two_sets.RESAMPLES", 60)
    monkeypatch.setattr("ebb.evaluate.two_sample.EPOCHS", 2)


@pytest.fixture(scope="module")
def real():
    return normal(0.0, seed=9, count=2 * COUNT)


def check_difference(a, b, real, truth, winner):
    """The interval of the difference of the distances holds the one in closed form, and the winner is named."""
    found = ebb.compare(a, b, real)
    distance = found.differences["Fréchet distance"]
    assert distance.low <= truth <= distance.high
    assert distance.says.startswith(f"{winner} is better by")
    assert f"Fréchet distance: {winner} is better" in found.says
    return found


def test_the_interval_holds_the_difference_in_closed_form(real):
    near, far = normal(0.1), normal(0.5, 1.2)
    found = check_difference(near, far, real, WIDTH * (0.01 - 0.25 - 0.04), "a")
    distance = found.differences["Fréchet distance"]
    assert distance.value - distance.other == pytest.approx(distance.difference)
    assert (found.features, found.count) == ("values", COUNT)
    assert {"kernel distance", "precision", "recall", "density", "coverage"} <= found.differences.keys()
    with pytest.raises(AssertionError):
        check_difference(far, near, real, WIDTH * (0.01 - 0.25 - 0.04), "a")


def test_pairs_tell_more_than_their_sets_and_equals_are_called_so(real):
    """Two sets of one distribution show no difference; shared draws have a narrower interval than others."""
    here, there = normal(0.3), normal(0.3, seed=1)
    same = ebb.compare(here, there, real).differences["Fréchet distance"]
    assert same.low < 0 < same.high
    assert same.says == f"no difference that {COUNT:,} samples can show"
    closer = normal(0.27)
    widths = [d.high - d.low for d in (
        ebb.compare(here, other, real).differences["Fréchet distance"] for other in (closer, normal(0.27, seed=1))
    )]  # fmt: skip
    assert widths[0] < 0.5 * widths[1]


def test_tensors_and_arrays_and_fewer_of_them(real):
    a, b = normal(0.1), normal(0.5)
    found = ebb.compare(a, b.numpy(), real.numpy(), n=100)
    assert found.count == 100
    assert found == ebb.compare(a[:100], b[:100], real)
    pictures = torch.rand(3, 40, 1, 8, 8) * 2 - 1
    assert "random network" in ebb.compare(*pictures[:2], torch.cat([*pictures])).features


class Sides:
    """The side of 0 that the first number lies on, as a classifier of two classes."""

    name, dimension = "sides", 1

    def __init__(self):
        self.head = torch.nn.Linear(1, 2)

    def __call__(self, x):
        return x[:, :1]

    def logits(self, features):
        return torch.cat([-features, features], 1)


def check_labels(a, b, real, labels):
    """One set shows its labels, the other in half of the cases: the difference of a half is in the interval."""
    found = ebb.compare((a, labels), (b, labels), real, Sides()).differences["label accuracy"]
    assert (found.value, found.paired) == (1.0, True)
    assert found.low < 0.5 < found.high
    assert found.says.startswith("a is better")


def test_samples_with_the_labels_they_were_asked_for_have_a_label_accuracy(real):
    labels = (torch.arange(COUNT) % 2).numpy()
    shown = normal(0.0)
    shown[:, 0] = shown[:, 0].abs() * torch.from_numpy(2 * labels - 1)
    check_labels(shown, normal(0.0, seed=2), real, labels)
    with pytest.raises(AssertionError):
        check_labels(shown, shown, real, labels)
    assert "label accuracy" not in ebb.compare(shown, shown, real, Sides()).differences


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((normal(0.0), normal(0.0)[:50]), DataError, "counted together, and there are 800 and 50"),
        ((normal(0.0)[:5], normal(0.0)[:5]), DataError, "10 and 20 are the least"),
        ((normal(0.0), torch.zeros(COUNT, 4)), DataError, r"b is of shape \[4\], and the data of \[3\]"),
        ((normal(0.0), "nowhere"), UsageError, "nowhere"),
    ],
    ids=["lengths", "few", "shapes", "no run"],
)
def test_mistakes_are_explained(arguments, error, message, real):
    with pytest.raises(error, match=message):
        ebb.compare(*arguments, real)


def test_data_has_to_come_from_somewhere():
    with pytest.raises(UsageError, match=r"ebb.compare\(a, b, data\)"):
        ebb.compare(normal(0.0), normal(0.1))


def test_frechet_is_the_closed_form_of_tensors_arrays_and_moments():
    """Rows whose mean and covariance are exact: N(0, I) and N(1, 4·I) are d·1 + d·1 apart."""
    rows = torch.cat([torch.eye(WIDTH), -torch.eye(WIDTH)]).double() * (2 * WIDTH - 1) ** 0.5 / 2**0.5
    moved = 1 + 2 * rows
    assert torch.allclose(rows.T.cov(), torch.eye(WIDTH).double())
    for a, b in ((rows, moved), (rows.numpy(), moved), (Moments.of(rows.numpy()), moved.numpy())):
        assert ebb.frechet(a, b) == pytest.approx(2 * WIDTH)
    with pytest.raises(DataError, match=r"x.reshape\(len\(x\), -1\)"):
        ebb.frechet(torch.zeros(4, 1, 2, 2), torch.zeros(4, 1, 2, 2))


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    pytest.importorskip("sklearn")
    home = tmp_path_factory.mktemp("runs")
    small = toys.SMALL | {"steps": 2}
    del small["autoencoding"]
    return [finished(train("digits", Recipe(**small, seed=seed), run=home / f"of-{seed}")) for seed in (0, 1)]


def test_runs_and_systems_are_asked_for_what_the_data_shows(runs):
    one, two = runs
    found = ebb.compare(str(one), two, n=40)
    assert (found.run, found.other, found.settings["steps"]) == ("of-0", "of-1", 2)
    assert "label accuracy" in found.differences
    systems = ebb.compare(ebb.load(one), ebb.load(two), "digits", n=40)
    assert (systems.run, systems.other, systems.features) == ("a", "b", "random network 0")
    assert ebb.compare(one, ebb.load(one), n=40).differences["label accuracy"].difference == 0
