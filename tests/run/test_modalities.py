"""Runs on tables: from a file to samples in a file like it, with known answers; and a modality of one's own."""

import csv
import dataclasses
import re
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest
import torch
from PIL import Image

from ebb.data.dataset import Dataset, Summary
from ebb.data.images import PICTURES
from ebb.data.of_run import data_of
from ebb.data.reading import as_asked
from ebb.edit.editor import Editor
from ebb.edit.samples import Prompt, sample_to
from ebb.errors import DamagedError, DataError, UsageError
from ebb.evaluate.compare import against
from ebb.evaluate.evaluate import Measuring, evaluate
from ebb.evaluate.measure import measure
from ebb.evaluate.sweep import Candidates, sweep
from ebb.events import finished
from ebb.judge.features import Projections
from ebb.recipe.recipe import Recipe
from ebb.run.build import build, updates_of
from ebb.run.plan import resolve
from ebb.run.prepare import prepared
from ebb.run.train import train
from ebb.system.modalities import MODALITIES
from ebb.system.system import System, load

CPU = torch.device("cpu")
SMALL = {"network": {"width": 16, "depth": 1}, "batch": 16, "precision": "fp32", "sheets": 1, "steps": 2}
SMALL |= {"sample": {"steps": 2}}


def run_on(place, folder, **asked):
    """Train, and what it reports."""
    events = []
    finished(train(place, Recipe(**SMALL | asked), run=folder), events.append)
    return " ".join(map(str, events))


def samples_in(run, out, count, **asked):
    sample_to(run, out, Prompt(count), **asked)
    return out


MEAN, COVARIANCE = np.array([5.0, -200.0]), np.array([[4.0, 24.0], [24.0, 225.0]])  # a correlation of 0.8


@pytest.fixture(scope="module")
def gaussian(tmp_path_factory):
    """A run on correlated columns of very different scale, beside one that is constant."""
    home = tmp_path_factory.mktemp("gaussian")
    rows = np.random.default_rng(0).multivariate_normal(MEAN, COVARIANCE, 2000)
    rows = np.insert(rows, 1, 3.5, axis=1)
    np.savetxt(home / "table.csv", rows, delimiter=",", header="a,same,b", comments="", fmt="%.6g")
    recipe = {"steps": 250, "batch": 128, "network": {"width": 64, "depth": 2}, "ema_halflife": 4000}
    run_on(home / "table.csv", home / "run", **recipe, sample={"steps": 12})
    return home / "run"


def as_drawn(rows):
    """Whether mean, deviations and correlation are those of the Gaussian, to what training so short leaves."""
    apart = np.abs(rows.mean(0) - MEAN) / np.sqrt(np.diag(COVARIANCE))
    wide = rows.std(0) / np.sqrt(np.diag(COVARIANCE))
    return bool((apart < 0.15).all() and (np.abs(wide - 1) < 0.15).all() and abs(np.corrcoef(rows.T)[0, 1] - 0.8) < 0.1)


def test_a_gaussian_table_comes_back_with_its_mean_and_covariance(gaussian, tmp_path):
    lines = list(csv.reader(samples_in(gaussian, tmp_path / "new.csv", 2000).open()))
    assert lines[0] == ["a", "same", "b"]
    rows = np.array(lines[1:], float)
    assert (rows[:, 1] == 3.5).all()
    assert as_drawn(rows[:, [0, 2]])


def test_without_the_statistics_it_would_not(gaussian):
    """The mutants: neither statistics, nor those of columns in another order."""
    system = load(gaussian)
    x = system.sample(1000)
    right, scale = system.modality.stored(x)[:, [0, 2]], system.modality.scale
    assert as_drawn(right)
    assert not as_drawn(x.double().numpy())
    swapped = dataclasses.replace(scale, mean=scale.mean[::-1], deviation=scale.deviation[::-1])
    assert not as_drawn(swapped.stored(x)[:, [0, 2]])


def test_series_come_back_in_the_units_of_their_channels(tmp_path):
    """A slow wave around 1000 beside its opposite, which is a thousand times smaller, and a channel that is constant."""
    wave = np.sin(np.arange(1500) / 5) + 0.1 * np.random.default_rng(0).normal(size=1500)
    rows = np.stack([1000 + 50 * wave, np.full(1500, 2.0), -0.05 * wave], 1)
    np.savetxt(tmp_path / "wave.csv", rows, delimiter=",", header="u,same,v", comments="", fmt="%.6g")
    recipe = {"steps": 60, "batch": 32, "network": {"width": 16, "depth": 1}, "ema_halflife": 500}
    run_on(tmp_path / "wave.csv", tmp_path / "run", **recipe, data={"window": 8}, sample={"steps": 8})
    lines = list(csv.reader(samples_in(tmp_path / "run", tmp_path / "new.csv", 300).open()))
    assert lines[0] == ["series", "u", "same", "v"]
    made = np.array(lines[1:], float)
    assert len(made) == 300 * 8
    assert (made[:, 2] == 2).all()
    for mine, real in ((made[:, 1], rows[:, 0]), (made[:, 3], rows[:, 2])):
        assert mine.mean() == pytest.approx(real.mean(), abs=0.3 * real.std())
        assert mine.std() == pytest.approx(real.std(), rel=0.3)
    assert np.corrcoef(made[:, 1], made[:, 3])[0, 1] < -0.8


def test_labels_are_asked_for_and_written(tmp_path):
    rows = [f"{value:.4f},{value + 10 * (at % 2):.4f},{'hi' if at % 2 else 'lo'}" for at, value in
            enumerate(np.random.default_rng(0).normal(size=60))]  # fmt: skip
    (tmp_path / "t.csv").write_text("\n".join(["a,b,kind", *rows]))
    told = run_on(tmp_path / "t.csv", tmp_path / "run")
    assert "the only column of words" in told
    lines = list(csv.reader(samples_in(tmp_path / "run", tmp_path / "new.csv", 4).open()))
    assert lines[0] == ["a", "b", "kind"]
    assert [line[2] for line in lines[1:]] == ["hi", "lo", "hi", "lo"]
    samples_in(tmp_path / "run", tmp_path / "new.npz", 4)
    with np.load(tmp_path / "new.npz") as found:
        assert (found["rows"].shape, list(found["labels"]), list(found["names"])) == ((4, 2), [0, 1, 0, 1], ["a", "b"])
    samples_in(tmp_path / "run", tmp_path / "new.png", 4)
    with pytest.raises(UsageError, match=r"in \.png for a sheet, \.npz for arrays, \.csv for a table"):
        samples_in(tmp_path / "run", tmp_path / "folder", 4)
    with pytest.raises(UsageError, match="says not whether ebb made it: it would be lost"):
        samples_in(tmp_path / "run", tmp_path / "t.csv", 4)
    sample_to(tmp_path / "run", tmp_path / "even.csv", Prompt(9, seed=1, by_label=True))
    even = as_asked(str(tmp_path / "even.csv"), Recipe())
    assert (even.names, even.summary.classes) == (("hi", "lo"), {"hi": 5, "lo": 5}), "read back, with their labels"


def test_a_run_of_a_table_has_documents_and_resumes(tmp_path):
    rows = np.cumsum(np.random.default_rng(0).normal(size=(40, 12)), 1)
    np.savetxt(tmp_path / "s.csv", rows, delimiter=",", fmt="%.5f")
    run_on(tmp_path / "s.csv", tmp_path / "run")
    assert {path.name for path in (tmp_path / "run" / "samples").iterdir()} == {"data-sheet.png", "step-000002.png"}
    assert "<img" in (tmp_path / "run" / "report.html").read_text()
    assert "12" in (tmp_path / "run" / "card.md").read_text()
    assert "finished at step 2" in run_on(tmp_path / "s.csv", tmp_path / "run")


def test_systems_of_before_make_pictures_and_unknown_modalities_are_refused(gaussian):
    contract = load(gaussian).contract()
    assert System.from_contract(contract).modality == load(gaussian).modality
    assert (
        System.from_contract({name: what for name, what in contract.items() if name != "modality"}).modality == PICTURES
    )
    with pytest.raises(DamagedError, match="modality"):
        System.from_contract(contract | {"modality": {"kind": "smells"}})


@dataclass(frozen=True)
class Angles:
    """Directions in degrees, stored [n]; x [n, 2] holds cosine and sine."""

    axes: ClassVar = ("part",)
    things: ClassVar = "angles"
    forms: ClassVar = ("arrays",)

    def unit(self, stored):
        return torch.stack([torch.cos(torch.deg2rad(stored)), torch.sin(torch.deg2rad(stored))], 1).float()

    def bounded(self, x):
        return x

    def stored(self, x):
        return torch.rad2deg(torch.atan2(x[:, 1], x[:, 0])).numpy()

    def sheet(self, stored, columns=None, captions=()):
        return Image.new("RGB", (len(stored), 1))

    def arrays(self, stored):
        return {"angles": stored}

    def table(self, stored, labels=()):
        return "\n".join(map(str, stored))

    def to_json(self):
        return {}

    @classmethod
    def from_json(cls, found):
        return cls()


def test_a_modality_of_ones_own_is_one_class(monkeypatch):
    """Nothing of the package knows of angles; it trains on them, samples and saves them."""
    rng = np.random.default_rng(0)
    stored = 90 + 5 * rng.normal(size=500)
    summary = Summary("angles", "angles", 500, (2,), {}, 0, [0.0, 1.0], [0.1, 0.1], [], "", {}, ())
    data = finished(prepared(Recipe(), Dataset(stored, None, (), summary, None, modality=Angles())))
    asked = Recipe(steps=150, batch=128, precision="fp32", engine="eager", sheets=1, ema_halflife=2000)
    recipe, _ = finished(resolve(asked, data, CPU))
    parts = build(recipe, data, CPU)
    for step in updates_of(recipe, parts, steps=150):
        assert torch.isfinite(step.loss)
    system = parts.averaged()
    made = system.modality.stored(system.sample(300))
    assert np.median(made) == pytest.approx(90, abs=4)
    monkeypatch.setitem(MODALITIES, "angles", Angles)
    assert System.from_contract(system.contract()).modality == Angles()


def test_a_run_of_a_table_is_measured_and_examined(gaussian):
    """Distances to the data beside those of data, copies, the density, which is known, and nothing wrong is found."""
    found = finished(evaluate(gaussian, 300, likelihood=64, seed=0))
    figures = found.figures
    assert figures.features == "values"
    assert figures.distances["Fréchet distance"].value < 0.1
    assert {
        "kernel distance",
        "precision",
        "sliced Wasserstein distance",
        "two-sample test",
    } <= figures.distances.keys()
    assert abs(figures.distances["two-sample test"].value - 0.5) < 0.15
    assert found.memorisation.verdict.startswith("no sign")
    truth = 0.5 * np.log2(2 * np.pi * np.e) + 0.25 * np.log2(1 - 0.8**2)  # the entropy of two numbers, each of them
    assert found.likelihood.value == pytest.approx(truth, abs=0.35)
    assert "density" in found.likelihood.unit
    assert found.bound is None
    assert (gaussian / "evaluation" / "closest.png").is_file()
    page = (gaussian / "report.html").read_text()
    assert "two-sample test" in page
    shown = " ".join(re.findall(r">([^<>]+)<", page.partition("</style>")[2]))
    assert "real rows" in shown
    assert not re.search(r"\b(image|picture|pixel)s?\b", shown)


def test_samples_in_other_units_would_be_far_off(gaussian):
    """The mutant of the measurement: the same samples, of which nothing but the scale of one column is another."""
    system, dataset = load(gaussian), data_of(gaussian)
    x, real = system.sample(300).numpy(), dataset.x().numpy()
    value = {
        scale: measure(x * [1, scale], real, Projections((2,))).distances["Fréchet distance"].value for scale in (1, 2)
    }
    assert value[2] > 5 * value[1]


def test_data_whose_columns_have_changed_is_refused_by_name(gaussian, tmp_path):
    rows = list(csv.reader((gaussian.parent / "table.csv").open()))
    for order, said in (((2, 1, 0), "column 1 is 'b', not 'a'"), ((0, 1), "has no column 'b'")):
        changed = tmp_path / "changed.csv"
        changed.write_text("\n".join(",".join(row[at] for at in order) for row in rows))
        with pytest.raises(DataError, match=said):
            data_of(gaussian, str(changed))


def test_two_runs_on_a_table_are_compared_and_settings_swept(gaussian, monkeypatch):
    """More updates are better, and so are more steps."""
    monkeypatch.setattr("ebb.evaluate.two_sample.WORK", 20)
    monkeypatch.setattr("ebb.evaluate.compare.RESAMPLES", 40)
    poor = gaussian.parent / "poor"
    run_on(gaussian.parent / "table.csv", poor, sample={"steps": 12})
    found = finished(against(gaussian, poor, 100))
    assert found.differences["Fréchet distance"].high < 0
    assert found.verdict.startswith("run is better")
    assert not any("image" in one.says for one in found.differences.values())
    candidates = Candidates(("euler",), (1, 12), search=False)
    cells = finished(sweep(gaussian, candidates, 200)).cells
    assert [cell.sampling.steps for cell in sorted(cells, key=lambda cell: cell.distance)] == [12, 1]
    assert "rows score" in (gaussian / "sweep.html").read_text()
    (gaussian / "sampling.json").unlink()


def test_what_is_of_pictures_alone_says_so(gaussian):
    with pytest.raises(UsageError, match="what is edited is pictures"):
        Editor.of(load(gaussian))
    with pytest.raises(UsageError, match="looks at pictures"):
        finished(evaluate(gaussian, 20, Measuring(features="dino:FILE")))
