import dataclasses
import json
from functools import partial
from html import escape

import numpy as np
import pytest

import ebb
from ebb.errors import DamagedError, EbbError, UsageError
from ebb.evaluate import two_sample
from ebb.evaluate.evaluate import Measuring
from ebb.evaluate.references import references
from ebb.evaluate.sweep import Candidates, Cell, Trial, as_rows, choose, counted, sweep
from ebb.events import Progress, finished, strict
from ebb.judge.features import train_classifier
from ebb.judge.possible import Standing
from ebb.recipe.groups import UNetRecipe
from ebb.recipe.recipe import Recipe, Sampling
from ebb.report.sweep_section import chart
from ebb.run.train import train

from ..command import ebb as command


@pytest.fixture(scope="module", autouse=True)
def quick():
    """Classifiers that learn for a moment, and figures alone: a sweep only needs some features."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ebb.evaluate.judges.SECONDS", 0.1)
        patch.setattr("ebb.evaluate.evaluate.parts", lambda _: [])
        patch.setattr("ebb.evaluate.enough.ROWS", 0)  # so few samples choose nothing: what is kept of them is looked at
        patch.setattr(two_sample, "train_classifier", lambda *a, **k: train_classifier(*a, **k | {"seconds": 0.01}))
        yield


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "digits"
    pytest.importorskip("sklearn")
    network, sample = UNetRecipe(width=16, depth=1), Sampling(steps=4)
    recipe = Recipe(steps=4, batch=16, sheets=1, precision="fp32", network=network, sample=sample)
    finished(train("digits", recipe, run=folder))
    return folder


@pytest.fixture(scope="module")
def swept(run):
    return finished(sweep(run, Candidates(["ddim", "ddpm"], [2, 3], [1.0, 2.0]), 64))


def test_every_setting_is_measured_once_with_and_without_a_search(swept):
    found = [
        (c.sampling.solver, c.sampling.steps, c.sampling.guidance, "given" in c.sampling.grid) for c in swept.cells
    ]
    assert len(found) == len(set(found)) == 2 * 2 * 2 + 2 * 2  # noise of ddpm: no search
    assert not any(searched for solver, _, _, searched in found if solver == "ddpm")


def test_evaluations_are_counted_at_the_network(swept):
    for cell in swept.cells:
        assert cell.evaluations == cell.sampling.steps * (1 if cell.sampling.guidance == 1 else 2)
        assert cell.seconds > 0
    assert [c.evaluations for c in swept.cells] == sorted(c.evaluations for c in swept.cells)


def test_the_run_samples_with_what_was_chosen(run, swept):
    system = ebb.load(run)
    assert system.sampling == swept.chosen.sampling
    assert (
        ebb.load(ebb.system.system.locate(run)).sampling != swept.chosen.sampling
    )  # a checkpoint itself is never rewritten
    again = system.sample(4, seed=3)
    explicit = system.sample(4, seed=3, **swept.chosen.sampling.model_dump())
    assert np.array_equal(again.numpy(), explicit.numpy())


@pytest.mark.full
def test_a_sweep_is_a_function_of_run_and_settings(run, swept):
    again = finished(sweep(run, Candidates(["ddim"], [3], [2.0], search=False), 64))
    one = next(c for c in swept.cells if c.sampling == again.cells[0].sampling)
    assert again.cells[0].distance == pytest.approx(one.distance, rel=1e-9)


@pytest.mark.full
def test_the_figure_is_that_of_evaluate(run, swept):
    from ebb.evaluate.evaluate import evaluate

    cell = finished(sweep(run, Candidates(["ddim"], [3], [2.0], search=False), 160)).cells[0]
    alone = finished(evaluate(run, 160, likelihood=0, **cell.sampling.model_dump())).figures
    assert alone.distances["Fréchet distance"].value == pytest.approx(cell.distance, rel=1e-6)


def test_the_files_it_leaves(run, swept):
    finished(sweep(run, Candidates(["ddim"], [2], [1.0], search=False), 32))
    document = json.loads((run / "sweep.json").read_text())
    assert len(document["cells"]) == 1
    page = (run / "sweep.html").read_text()
    assert "<svg" in page
    assert "data:image/png;base64," in page
    assert "<script" not in page
    assert (run / "sweep.png").read_bytes().startswith(b"\x89PNG")
    assert not list(run.glob("*.tmp"))


def cell(distance, evaluations, **settings):
    return Cell(Sampling(guidance=1.0, **settings), distance, None, evaluations, 0.1, np.zeros((1, 1, 8, 8), np.uint8))


def test_the_cheapest_within_five_percent_is_chosen():
    cells = [cell(1.0, 50), cell(1.04, 10), cell(1.049, 8), cell(1.06, 4), cell(1.045, 8)]
    best, chosen = choose(cells)
    assert (best.distance, chosen.distance) == (1.0, 1.045)


def test_the_table_marks_both():
    cells = (cell(1.04, 10), cell(1.0, 50))
    from ebb.evaluate.sweep import SweepResult

    result = SweepResult(cells, cells[1], cells[0], (0.9, 1.1), 0.5, {})
    assert [row[-1] for row in as_rows(result)] == ["default", "best"]
    assert [row[-1] for row in as_rows(dataclasses.replace(result, chosen=cells[1]))] == ["", "best, default"]


def test_a_chart_has_a_line_for_each_solver_times_and_guidance():
    facts = [
        dict(cell(d, n, steps=n).facts(), solver=s)
        for s, d, n in (("ddim", 2.0, 5), ("ddim", 1.0, 10), ("heun", 1.5, 5))
    ]
    assert chart(facts).count("<polyline") == 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"solvers": []}, "at least one solver"),
        ({"solvers": ["ddimm"]}, "no solver called 'ddimm'"),
        ({"count": 1}, "n must be between 10 and"),
        ({"steps": [0]}, "solver steps must be between 1"),
    ],
)
def test_mistakes_are_named_before_anything_is_measured(run, change, message):
    asked = {"solvers": ["ddim"], "steps": [2], "guidance": [1.0], "count": 16} | change
    count = asked.pop("count")
    before = (run / "sweep.json").read_bytes() if (run / "sweep.json").exists() else None
    with pytest.raises(UsageError, match=message):
        finished(sweep(run, Candidates(**asked), count))
    assert ((run / "sweep.json").read_bytes() if (run / "sweep.json").exists() else None) == before


@pytest.mark.parametrize("work", [partial(sweep, candidates=Candidates(["ddim"], [2])), references])
def test_features_are_those_that_are_asked_for(run, work):
    with pytest.raises(UsageError, match="nobodys-features"):
        finished(work(run, count=16, how=Measuring(features="nobodys-features")))


def test_a_damaged_default_is_refused_with_what_to_do(run, tmp_path):
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    (copy / "sampling.json").write_text('{"sampling": {"speed": 3}}')
    with pytest.raises(DamagedError, match=r"sampling\.json"):
        ebb.load(copy)


def test_what_a_network_is_shown_is_counted_and_the_hook_goes():
    import torch

    network = torch.nn.Linear(2, 2)
    with counted(network) as seen:
        network(torch.zeros(5, 2))
        network(torch.zeros(3, 2))
    network(torch.zeros(7, 2))
    assert seen == [8]


def test_a_mutant_that_counts_calls_and_not_samples_is_caught(run, monkeypatch):
    from contextlib import contextmanager

    @contextmanager
    def calls(network):
        seen = [0]
        hook = network.register_forward_pre_hook(lambda *_: seen.__setitem__(0, seen[0] + 1))
        yield seen
        hook.remove()

    monkeypatch.setattr("ebb.evaluate.sweep.counted", calls)
    with pytest.raises(AssertionError):
        test_evaluations_are_counted_at_the_network(
            finished(sweep(run, Candidates(["ddim"], [3], [2.0], search=False), 32))
        )


def test_settings_search_only_where_it_helps(run):
    system = ebb.load(ebb.system.system.locate(run))
    found = finished(Candidates(["ddim"], [20], [1.0]).settings(system))
    assert [how.grid for how in found] == ["log_snr"]


def test_one_setting_that_fails_does_not_lose_the_others(run, monkeypatch):
    right = Trial.__call__

    def failing(self, how):
        if how.guidance == 3:
            raise EbbError("sampling gave values that are not finite")
        return right(self, how)

    monkeypatch.setattr(Trial, "__call__", failing)
    result = finished(sweep(run, Candidates(["ddim"], [2], [1.0, 3.0], search=False), 16))
    assert [c.sampling.guidance for c in result.cells] == [1.0]
    assert any("guidance 3" in warning for warning in result.about["warnings"])


def test_settings_named_twice_are_measured_once(run):
    system = ebb.load(ebb.system.system.locate(run))
    assert len(finished(Candidates(["ddim", "ddim"], [20, 20], [1.0, 1.0], False).settings(system))) == 1


def test_evaluate_measures_what_sample_samples(run, swept):
    from ebb.evaluate.evaluate import evaluate

    finished(sweep(run, Candidates(["ddim"], [2], [1.0], search=False), 16))
    assert finished(evaluate(run, 16, likelihood=0)).figures.settings["solver"] == "ddim"


def test_a_sweep_says_how_far_its_judge_lies_from_what_is_possible(run, swept, capsys, monkeypatch):
    says = swept.about["judge"]["says"]
    assert "is possible on scikit-learn's digits" in says
    assert escape(says) in (run / "sweep.html").read_text()

    def measured(*_, **__):
        yield Progress("measuring")
        return swept

    monkeypatch.setattr("ebb.evaluate.sweep.sweep", measured)
    assert command("sweep", run, "--json") == 0
    out, err = capsys.readouterr()
    assert json.loads(out) == strict(json.loads(json.dumps(swept.facts())))
    assert f"judge    {says}" in err
    assert f"real ones score {swept.floor:.4f}" in err


def test_a_judge_that_misses_much_is_noted_beside_every_distance(run, monkeypatch):
    monkeypatch.setattr("ebb.evaluate.sweep.standing_of", lambda *_: Standing(0.5, 0.99, "right for 50 %"))
    result = finished(sweep(run, Candidates(["ddim"], [2], [1.0], search=False), 16, keep=False))
    assert any(line.startswith("these figures are coarse: right for 50 %") for line in result.about["warnings"])
