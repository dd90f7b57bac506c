"""A run measured from end to end: what is written, what an interruption costs, and every mistake on the way."""

from __future__ import annotations

import functools
import io
import json
import shutil
import time

import numpy as np
import pytest
import yaml
from PIL import Image
from rich.console import Console

from ebb.cli.output import Reader
from ebb.data.of_run import data_of
from ebb.data.scan import read
from ebb.errors import DataError, Exit, UsageError
from ebb.evaluate import analyses, two_sample
from ebb.evaluate.compare import against, as_rows
from ebb.evaluate.evaluate import Measuring, as_table, evaluate
from ebb.evaluate.sweep import Candidates, sweep
from ebb.events import Done, Figure, Progress, finished, from_json, strict, to_json
from ebb.judge.features import train_classifier
from ebb.recipe.recipe import Recipe
from ebb.run.train import train
from ebb.store import checkpoint
from ebb.system.requests import asked_for, labels_of
from ebb.system.sampler import Sampler
from ebb.system.system import load

from ..command import ebb

COUNT = 20


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """Pictures of two classes, a run on them, and another with other weights."""
    root, rng = tmp_path_factory.mktemp("home"), np.random.default_rng(0)
    for name, half in (("above", slice(0, 4)), ("below", slice(4, 8))):
        (root / "data" / name).mkdir(parents=True)
        for i in range(24):
            pixels = rng.integers(0, 60, (8, 8), dtype=np.uint8)
            pixels[half] += 180
            Image.fromarray(pixels).save(root / "data" / name / f"{i:02d}.png")
    small = {"network": {"width": 8, "depth": 1}, "batch": 16, "precision": "fp32", "sheets": 1, "sample": {"steps": 2}}
    for name, seed in (("one", 0), ("two", 1)):
        finished(train(str(root / "data"), Recipe(**small, steps=4, seed=seed), run=root / name))
    return root


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Classifiers that learn little: what they say is tested elsewhere."""
    monkeypatch.setattr(two_sample, "train_classifier", lambda *a, **k: train_classifier(*a, **k | {"seconds": 0.01}))


@pytest.fixture
def run(home, tmp_path):
    return shutil.copytree(home / "one", tmp_path / "one")


@pytest.fixture
def other(home, tmp_path):
    return shutil.copytree(home / "two", tmp_path / "two")


def figures(run):
    return json.loads((run / "evaluation.json").read_text())


def test_everything_is_measured_and_written(run):
    said = []
    found = finished(evaluate(run, COUNT, likelihood=2), said.append)
    written = figures(run)
    assert written == json.loads(json.dumps(found.facts()))
    assert {"memorisation", "levels", "likelihood", "bound", "cost", "distances", "settings"} <= set(written)
    assert written["likelihood"]["count"] == written["bound"]["count"] == 2
    assert written["cost"]["evaluations"] == 2
    assert written["settings"]["weights"] == "ema"
    assert (run / "evaluation" / "closest.png").read_bytes().startswith(b"\x89PNG")
    page = (run / "report.html").read_text()
    for title in ("Figures", "Noise levels", "Memorisation", "Likelihood", "Cost of a sample"):
        assert f"<h2>{title}</h2>" in page
    assert any(event == Progress("sampling", 20, 20, 0.0) for event in said)
    table = dict(as_table(found))
    assert table["memorisation"] == found.memorisation.verdict
    assert "2 evaluations" in table["cost"]
    assert "bits" in table["likelihood"]


def test_without_held_out_images_it_says_what_it_did_instead(run):
    warnings = finished(evaluate(run, COUNT, likelihood=2)).figures.warnings
    for part in ("memorisation", "likelihood"):
        assert any(text.startswith(f"{part}: no image was held out") for text in warnings)


def test_an_interruption_between_parts_loses_no_part_before_it(run, monkeypatch):
    def stop(_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(analyses, "noise", stop)
        with pytest.raises(KeyboardInterrupt):
            finished(evaluate(run, COUNT, likelihood=0))
    assert "memorisation" in figures(run)
    assert "levels" not in figures(run)
    assert figures(run)["n_samples"] == COUNT
    before = sorted((run / "evaluation").glob("samples-*/*.npy"))
    finished(evaluate(run, COUNT, likelihood=0))
    assert "levels" in figures(run)
    assert sorted((run / "evaluation").glob("samples-*/*.npy")) == before


def test_a_part_that_cannot_be_had_is_explained_and_the_others_are_there(run, monkeypatch):
    def refuse(_):
        raise DataError("too few images for that")

    monkeypatch.setattr(analyses, "copies", refuse)
    found = finished(evaluate(run, COUNT, likelihood=0))
    assert found.memorisation is None
    assert found.levels is not None
    assert any("too few images for that" in text for text in found.figures.warnings)
    assert "likelihood" not in figures(run)


def test_raw_weights_are_other_samples_and_say_so(run):
    averaged, raw = (finished(evaluate(run, COUNT, Measuring(w), likelihood=0)) for w in ("ema", "model"))
    assert raw.figures.settings["weights"] == "model"
    assert raw.figures.distances != averaged.figures.distances


def test_a_run_without_averaged_weights_says_what_to_do(run):
    (checkpoint.newest(run / "checkpoints") / "ema.safetensors").unlink()
    with pytest.raises(UsageError, match=r"(?s)no averaged.*--weights model"):
        finished(evaluate(run, COUNT))


def test_labels_of_more_samples_begin_with_those_of_fewer(home):
    dataset, system = read(str(home / "data")), load(home / "one")
    many = asked_for(system, dataset, 700, 3)
    assert {name: values[:41] for name, values in many.items()} == asked_for(system, dataset, 41, 3)
    assert many != asked_for(system, dataset, 700, 4)
    assert np.bincount(labels_of(system, many, dataset)) == pytest.approx([350, 350], abs=80)


def test_changed_images_are_refused(run, home, tmp_path):
    data = shutil.copytree(home / "data", tmp_path / "data")
    tree = yaml.safe_load((run / "run.yaml").read_text())
    (run / "run.yaml").write_text(yaml.safe_dump(tree | {"data": str(data)}))
    assert data_of(run).summary.count == 48
    Image.new("L", (8, 8), 77).save(data / "above" / "new.png")
    with pytest.raises(DataError, match="is not what"):
        finished(evaluate(run, COUNT))


def test_data_that_was_moved_is_found_where_it_is_named(run, home, tmp_path):
    """And is what it was: other images are refused there too."""
    moved = shutil.copytree(home / "data", tmp_path / "moved")
    tree = yaml.safe_load((run / "run.yaml").read_text())
    (run / "run.yaml").write_text(yaml.safe_dump(tree | {"data": str(tmp_path / "gone")}))
    for place in (None, str(tmp_path / "elsewhere")):
        for work in (
            evaluate(run, COUNT, Measuring(data=place)),
            sweep(run, Candidates((), ()), how=Measuring(data=place)),
        ):
            with pytest.raises(DataError, match=r"(?s)the data of .* is not at .*→ .*--data PLACE"):
                finished(work)
    assert data_of(run, str(moved)).summary.count == 48
    assert len(finished(evaluate(run, COUNT, Measuring(data=str(moved)), likelihood=0)).figures.distances) > 1
    Image.new("L", (8, 8), 77).save(moved / "above" / "new.png")
    with pytest.raises(DataError, match=r"(?s)is not what.*--data PLACE"):
        data_of(run, str(moved))


def test_a_run_that_was_trained_before_images_were_held_back_can_still_be_measured(run, home, tmp_path):
    rng = np.random.default_rng(1)
    np.savez(tmp_path / "many.npz", images=rng.integers(0, 255, (240, 8, 8), dtype=np.uint8))
    now, then = (read(str(tmp_path / "many.npz"), hold_back=held) for held in (True, False))
    assert now.summary.fingerprint != then.summary.fingerprint
    tree = yaml.safe_load((run / "run.yaml").read_text())
    for dataset in (now, then):
        changed = {"data": str(tmp_path / "many.npz"), "fingerprint": dataset.summary.fingerprint}
        (run / "run.yaml").write_text(yaml.safe_dump(tree | changed))
        assert len(data_of(run).rows) == len(dataset.rows)


def test_a_copy_of_a_run_is_as_good_as_the_run(run, tmp_path):
    twin = shutil.copytree(run, tmp_path / "twin")
    found = finished(against(run, twin, COUNT))
    for name, gap in found.differences.items():
        assert gap.difference == 0, name
        assert gap.says == "no difference that 20 samples can show"
        if gap.paired:
            assert gap.low == gap.high == 0, name


def test_two_runs_meet_the_same_images_with_the_same_seeds(run, other):
    found = finished(against(run, other, COUNT))
    assert json.loads((run / "against-two.json").read_text())["differences"].keys() == found.differences.keys()
    assert "<h3>Against two</h3>" in (run / "report.html").read_text()
    alone = finished(evaluate(run, COUNT, likelihood=0)).figures
    for name in ("kernel distance", "precision", "coverage", "sliced Wasserstein distance", "two-sample test"):
        assert found.differences[name].value == pytest.approx(alone.distances[name].value, rel=1e-6), name
    assert found.differences["label accuracy"].value == pytest.approx(alone.label_accuracy)
    back = finished(against(other, run, COUNT))
    for name, gap in back.differences.items():
        assert gap.value == pytest.approx(found.differences[name].other, rel=0.02), name  # features are its own
    assert any("Fréchet distance: left out" in text for text in found.warnings)
    assert as_rows(found)[0][0] == "kernel distance"


def test_runs_that_do_not_compare_are_refused_by_name(run, other):
    with pytest.raises(UsageError, match="compared with itself"):
        finished(against(run, run, COUNT))
    tree = yaml.safe_load((other / "run.yaml").read_text())
    (other / "run.yaml").write_text(yaml.safe_dump(tree | {"fingerprint": "0" * 64}))
    with pytest.raises(UsageError, match=r"two was trained on other images than .*one"):
        finished(against(run, other, COUNT))


def test_the_command_line_measures_compares_and_examines(run, other, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    (run / "card.md").write_text("# one\n\nmade by a machine\n")
    assert ebb("evaluate", run, "--n", COUNT, "--likelihood", 0) == 0
    said = capsys.readouterr().out
    first = next(line for line in said.splitlines() if "next:" in line)
    assert first.startswith(figures(run)["verdict"])
    assert said.index(first) < said.index("memorisation")
    assert f"next: ebb doctor {run}" in first or f"next: ebb sweep {run}" in first or "next: ebb sample" in first
    assert "real ones score" in said
    card = (run / "card.md").read_text()
    assert card.startswith("# one\n\nmade by a machine\n\n## Figures\n\n" + figures(run)["verdict"])
    assert "| kernel distance |" in card
    assert "evaluations" in said
    assert ebb("evaluate", run, "--n", COUNT, "--against", other) == 0
    said = capsys.readouterr().out
    assert "no difference that 20 samples can show" in said
    assert said.index(" figure") < said.index("no difference that")
    assert "the judge is right for" in said
    assert (run / "card.md").read_text() == card, "a comparison is no figure of its own"


def test_mistakes_end_with_one_short_message_and_their_code(run, home, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    (tmp_path / "weights.pth").write_bytes(b"pickle")
    cases = [
        (("--n", 1), 2, "n must be between 10 and"),
        (("--likelihood", -1), 2, "likelihood must be between 0 and"),
        (("--features", "vgg:x"), 2, "inception"),
        (("--features", f"dino:{tmp_path / 'none.safetensors'}"), 2, "none.safetensors"),
        (("--features", f"dino:{tmp_path / 'weights.pth'}"), 2, "safetensors"),
        (("--weights", "raw"), 2, "--weights"),
        (("--against", tmp_path / "nowhere"), 2, "nowhere"),
        (("--against", run), 2, "itself"),
    ]
    for options, code, message in cases:
        assert ebb("evaluate", run, *options) == code, options
        said = "".join(capsys.readouterr())
        assert message in said, (options, said)
        assert "Traceback" not in said


def test_ctrl_c_while_sampling_says_how_to_go_on(run, capsys, monkeypatch):
    whole, calls = Sampler.__call__, []

    def stop(self, request):
        calls.append(request)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return whole(self, request)

    monkeypatch.setattr("ebb.evaluate.drawn.SHARD", 8)
    monkeypatch.setattr(Sampler, "__call__", stop)
    assert ebb("evaluate", run, "--n", COUNT, "--seed", 71) == 130
    assert "samples are kept; the same command goes on" in capsys.readouterr().err


def test_figures_of_samples_drawn_before_say_so_and_fresh_draws_them_anew(run, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "300")
    monkeypatch.setattr("ebb.evaluate.evaluate.parts", lambda _: [])
    old = "20 of the 20 samples were drawn before with the same settings, at "
    command = ("evaluate", run, "--n", COUNT)
    assert ebb(*command) == 0
    assert "drawn before" not in capsys.readouterr().out
    assert ebb(*command) == 0
    said = capsys.readouterr().out
    assert old + time.strftime("%Y-%m-%d") in said
    assert f"ebb evaluate {run} --fresh draws all anew" in said
    (run / "evaluation" / "samples-mine").mkdir()
    shards, judge = next(run.glob("evaluation/samples-*/00000.npy")), run / "classifier.safetensors"
    before = [path.stat().st_mtime_ns for path in (shards, judge)]
    assert ebb(*command, "--fresh") == 0
    assert "drawn before" not in capsys.readouterr().out
    assert all(path.stat().st_mtime_ns > then for path, then in zip((shards, judge), before, strict=True))
    assert (run / "evaluation" / "samples-mine").is_dir()


def test_a_measurement_stopped_before_it_drew_anything_promises_nothing(run, capsys, monkeypatch):
    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("ebb.evaluate.evaluate.data_of", stop)
    assert ebb("evaluate", run, "--n", COUNT) == 130
    assert "no samples were kept" in capsys.readouterr().err


def test_in_json_stdout_has_what_is_written_into_the_run_and_nothing_else(run, other, capsys):
    assert ebb("evaluate", run, "--n", COUNT, "--likelihood", 0, "--json") == 0
    out, err = capsys.readouterr()
    assert out.count("\n") == 1
    assert json.loads(out) == strict(figures(run))
    assert "memorisation" in err
    assert ebb("evaluate", run, "--n", COUNT, "--against", other, "--json") == 0
    out = capsys.readouterr().out
    assert json.loads(out) == strict(json.loads((run / "against-two.json").read_text()))
    assert {"differences", "verdict", "judge"} <= json.loads(out).keys()


def test_events_hold_what_is_written_into_the_run(run):
    events = list[object]()
    finished(evaluate(run, COUNT, likelihood=0), events.append)
    events = [from_json(to_json(event)) for event in events]
    assert events[-1] == Done(str(run))
    figures = {event.name: dict(event.value) for event in events if isinstance(event, Figure)}
    document = strict(json.loads((run / "evaluation.json").read_text()))
    first = figures.pop("figures")
    first.pop("warnings")  # there may be more by the end
    assert {name: document[name] for name in first} == first
    assert figures
    assert {name: document[name] for name in figures} == figures
    assert any(isinstance(event, Progress) and event.done == event.of == COUNT for event in events)


def test_progress_reaches_a_file_now_and_then_and_brackets_survive(monkeypatch):
    monkeypatch.setattr("ebb.cli.output.QUIET", -1.0)
    console = Console(file=io.StringIO(), width=100)
    with Reader(console) as reader:
        reader.show(Progress("sampling runs/[bold]it", 5, 10))
    assert console.file.getvalue().splitlines() == ["sampling runs/[bold]it: 5 of 10"]
    monkeypatch.setattr("ebb.cli.output.QUIET", 60.0)
    with Reader(console) as reader:
        reader.show(Progress("again"))
    assert "again" not in console.file.getvalue()


def test_the_doctor_ends_with_a_code_for_what_is_wrong_and_one_for_what_it_could_not_see(capsys, monkeypatch, tmp_path):
    from ebb.doctor import diagnose, finding

    (tmp_path / "run.yaml").touch()

    def diagnosed(**parts):
        whole = {"checked": ["a", "b"], "findings": []} | parts
        monkeypatch.setattr(diagnose, "diagnose", lambda where, **_: finding.Diagnosis(where, "data", **whole))

    for severity, code in (("warning", Exit.DONE), ("error", Exit.ERROR)):
        found = finding.Finding("a", "grey images", "std 0.01", "no training", "ebb train DATA", severity)
        diagnosed(findings=[found])
        assert ebb("doctor", tmp_path) == code
        said = capsys.readouterr().out
        for part in ("grey images", "std 0.01", "no training", "ebb train DATA"):
            assert part in said
        assert ebb("doctor", tmp_path, "--json") == code
        assert json.loads(capsys.readouterr().out)["findings"][0]["severity"] == severity
    diagnosed()
    assert ebb("doctor", tmp_path) == 0
    assert "nothing found in 2 checks" in capsys.readouterr().out
    diagnosed(inapplicable=["copies: nothing was held out"])
    assert ebb("doctor", tmp_path) == 0
    assert "nothing to check for copies: nothing was held out" in capsys.readouterr().out
    diagnosed(unchecked=["grey: the data is gone"])
    assert ebb("doctor", tmp_path) == Exit.UNCHECKED == 7
    diagnosed(unchecked=["grey: the data is gone"], findings=[found])
    assert ebb("doctor", tmp_path) == Exit.ERROR


def test_a_misspelt_setting_is_refused_before_anything_is_judged_or_drawn(run, other):
    for measured in (evaluate, functools.partial(against, other)):
        with pytest.raises(UsageError, match=r"(?s)no sampling setting 'stesp'.*did you mean 'steps'"):
            finished(measured(run, COUNT, stesp=5))
    assert not (run / "classifier.safetensors").exists()
    assert not any((run / "evaluation").glob("*"))
