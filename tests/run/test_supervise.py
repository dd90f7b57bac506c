"""A whole run with a fault planted in it: skipped, rolled back or stopped, and resumed as if nothing had happened."""

import io
import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from rich.console import Console

import ebb.run.marks
import ebb.run.supervise
from ebb.cli import main
from ebb.cli.output import shown
from ebb.data.loader import Batch, Loader
from ebb.errors import DamagedError
from ebb.recipe.recipe import Recipe
from ebb.run.folder import GuardRecord
from ebb.run.marks import gradient_steps
from ebb.run.meter import Meter
from ebb.run.supervise import good_checkpoint
from ebb.run.train import train
from ebb.store import checkpoint
from ebb.train.gradients import RARE
from ebb.train.guard import unsound
from ebb.train.loop import Step

from .stopped import stop_after

NAN = float("nan")
SMALL = {
    "network": {"width": 8, "depth": 1}, "optimiser": {"lr": 2e-3}, "batch": 16, "precision": "fp32", "steps": 12,
    "sheets": 1, "sample": {"steps": 2},
}  # fmt: skip


@pytest.fixture(autouse=True)
def known_pace(paced):
    """No second is spent on timing steps."""
    paced(1000.0)


@pytest.fixture
def data(tmp_path):
    """60 pictures to learn from and 20 held out."""
    rng = np.random.default_rng(0)
    arrays = {"x_train": (60, 8, 8), "x_test": (20, 8, 8), "y_train": (60,), "y_test": (20,)}
    made = {name: rng.integers(0, 2 if name[0] == "y" else 256, shape, np.uint8) for name, shape in arrays.items()}
    np.savez(tmp_path / "data.npz", **made)
    return tmp_path / "data.npz"


def trained(data, run):
    console = Console(file=io.StringIO(), width=150)
    shown(train(str(data), Recipe(**SMALL), run=run), console)
    return console.file.getvalue()


def log(run):
    return [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]


def events(run):
    return json.loads((run / "guard.json").read_text())


def final(run):
    saved = checkpoint.newest(run / "checkpoints")
    state = {part: checkpoint.read(saved, part) for part in ("model", "ema", "optim", "rng")}
    assert unsound(state) is None
    return saved.name, state


def plant(monkeypatch, at, fault, times=1):
    """Do `fault(training)` after update number `at`, so often."""
    right, left = ebb.run.supervise.updates_of, [times]

    def updates_of(recipe, parts, **options):
        for step in right(recipe, parts, **options):
            if step.number == at and left[0]:
                left[0] -= 1
                with torch.no_grad():
                    fault(parts.training)
            yield step

    monkeypatch.setattr(ebb.run.supervise, "updates_of", updates_of)


def poison(monkeypatch, bad):
    """Batches whose numbers are `bad` hold a NaN."""
    right = Loader.__call__

    def poisoned(self, number):
        batch = right(self, number)
        return Batch(batch.x0 * (NAN if bad(number) else 1), batch.cond)

    monkeypatch.setattr(Loader, "__call__", poisoned)


def test_a_healthy_run_has_levels_and_a_validation_loss_and_no_events(data, tmp_path):
    trained(data, tmp_path / "run")
    lines = log(tmp_path / "run")
    assert [line["step"] for line in lines] == list(range(1, 13))
    assert {line["skipped"] for line in lines} == {0}
    assert all(len(line["levels"]) == 16 for line in lines)
    with_loss = [line["loss"] for line in lines for level in line["levels"] if level is not None]
    assert np.isfinite(with_loss).all()
    measured = [line["step"] for line in lines if "validation" in line]
    assert measured == [4, 8, 12]
    assert all(
        0 < line[name] < 10 for line in lines if "validation" in line for name in ("validation", "validation_ema")
    )
    assert not (tmp_path / "run" / "guard.json").exists()


def test_gradients_by_level_are_logged_where_they_cost_a_hundredth_of_the_run(data, tmp_path, monkeypatch):
    """In a short run nowhere; where they may cost more, at the validations, and the page draws them."""
    trained(data, tmp_path / "run")
    assert not any("gradients" in line for line in log(tmp_path / "run"))
    monkeypatch.setattr(ebb.run.marks, "SHARE", 100)
    trained(data, tmp_path / "other")
    found = {line["step"]: line["gradients"] for line in log(tmp_path / "other") if "gradients" in line}
    assert set(found) == {line["step"] for line in log(tmp_path / "other") if "validation" in line}
    for each in found.values():
        assert sum(each["share"]) == pytest.approx(1)
        assert all((norm is None) == (share <= RARE) for norm, share in zip(each["norm"], each["share"], strict=True))
        assert each["seconds"] > 0
    page = (tmp_path / "other" / "report.html").read_text()
    assert "Gradient at each noise level, step 12" in page
    assert "Share of each noise level in the squared gradient" in page
    names = [checkpoint.read(checkpoint.newest(tmp_path / run / "checkpoints"), "model") for run in ("run", "other")]
    assert all(torch.equal(value, names[1][name]) for name, value in names[0].items()), "training is another"


@pytest.mark.parametrize(("device", "steps", "count"), [("cpu", 100, 0), ("cpu", 2000, 5), ("cuda", 2000, 2)])
def test_gradients_by_level_cost_a_hundredth_by_design(device, steps, count, unchecked):
    """Ten passes of 8 images, each as dear as 20, of 64 a step; on a GPU as a whole batch."""
    unchecked()
    recipe = Recipe(steps=steps, batch=64)
    parts = SimpleNamespace(
        validation=None,
        gradients=SimpleNamespace(passes=lambda model: 10),
        system=SimpleNamespace(denoiser=None),
        loader=SimpleNamespace(device=torch.device(device)),
    )
    marks = gradient_steps(recipe, parts)
    assert len(marks) == count
    assert not marks or max(marks) == steps
    assert len(marks) * 10 * (20 if device == "cpu" else 64) <= 0.01 * steps * 64


def test_a_poisoned_batch_is_skipped_and_named(data, tmp_path, monkeypatch):
    poison(monkeypatch, {3}.__contains__)
    said = trained(data, tmp_path / "run")
    assert "skipped step 4: the loss is nan" in said
    event = events(tmp_path / "run")[0]
    assert (event["step"], event["what"], event["batch"], event["loss"]) == (4, "skipped", 3, None)
    lines = log(tmp_path / "run")
    assert [line["step"] for line in lines] == [1, 2, 3, *range(5, 13)]
    assert [line["skipped"] for line in lines] == [0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0]
    name, state = final(tmp_path / "run")
    assert name == "step-00000012"
    assert {int(t) for k, t in state["optim"].items() if k.endswith("step")} == {11}


def ruin(part):
    """Put a NaN in the weights, their average or a moment."""

    def fault(training):
        tensor = [t for t in training.state()[part].values() if t.ndim > 1][-1]
        tensor[(0,) * tensor.ndim] = NAN

    return fault


@pytest.mark.parametrize("part", ["model", "ema", "optim"])
def test_a_lost_weight_takes_the_run_back_to_the_beginning(data, tmp_path, monkeypatch, part):
    plant(monkeypatch, 5, ruin(part))
    said = trained(data, tmp_path / "run")
    event = [event for event in events(tmp_path / "run") if event["what"] == "rolled back"]
    assert len(event) == 1
    assert (event[0]["to"], event[0]["rate"]) == (0, 0.5)
    assert f"{'model' if part == 'optim' else part} " in event[0]["cause"] or part in event[0]["cause"]
    assert "is not finite" in event[0]["cause"]
    assert "back to step 0, with another order and 0.5 of the learning rate" in said
    assert [line["step"] for line in log(tmp_path / "run")] == list(range(1, 13))
    assert final(tmp_path / "run")[0] == "step-00000012"


def test_a_rollback_goes_to_the_last_checkpoint_with_another_order_and_a_lower_rate(data, tmp_path, monkeypatch):
    trained(data, tmp_path / "healthy")
    monkeypatch.setattr(ebb.run.supervise, "CHECKPOINT_EVERY", 0.0)  # after each step
    plant(monkeypatch, 6, ruin("model"))
    trained(data, tmp_path / "run")
    turn = next(event for event in events(tmp_path / "run") if event["what"] == "rolled back")
    assert turn["to"] == 5
    was, now = log(tmp_path / "healthy"), log(tmp_path / "run")
    assert [line["loss"] for line in was[:5]] == [line["loss"] for line in now[:5]]
    assert all(a["loss"] != b["loss"] for a, b in zip(was[5:], now[5:], strict=True))
    assert [b["lr"] / a["lr"] for a, b in zip(was, now, strict=True)] == [1.0] * 5 + [0.5] * 7


def test_the_second_rollback_goes_further_back(data, tmp_path, monkeypatch):
    monkeypatch.setattr(ebb.run.supervise, "CHECKPOINT_EVERY", 0.0)
    plant(monkeypatch, 6, ruin("model"), times=2)
    trained(data, tmp_path / "run")
    turns = [event for event in events(tmp_path / "run") if event["what"] == "rolled back"]
    assert [(turn["to"], turn["rate"]) for turn in turns] == [(5, 0.5), (4, 0.25)]
    assert final(tmp_path / "run")[0] == (tmp_path / "run" / "latest").read_text() == "step-00000012"


def test_a_run_that_cannot_be_helped_is_stopped_with_the_cause(data, tmp_path, monkeypatch, capsys):
    poison(monkeypatch, lambda number: number >= 3)
    options = ["--steps", 12, "--network.width", 8, "--network.depth", 1, "--batch", 16, "--precision", "fp32"]
    with pytest.raises(SystemExit) as end:
        main([str(word) for word in ("train", data, "--run", tmp_path / "run", *options)])
    said = capsys.readouterr().err
    assert end.value.code == 1
    assert "stopped at step 6, after going back to step 0 and 0: the loss is nan: batch 5 holds a x0" in said
    assert "Traceback" not in said
    assert [event["what"] for event in events(tmp_path / "run")].count("rolled back") == 2
    assert events(tmp_path / "run")[-1]["what"] == "stopped"
    assert checkpoint.newest(tmp_path / "run" / "checkpoints") is None


def test_the_last_update_is_believed_bad_only_if_its_batch_is_not(data, tmp_path, monkeypatch):
    """Nothing comes after it that could tell a lost weight from a bad batch."""
    with monkeypatch.context() as patch:
        poison(patch, {11}.__contains__)
        trained(data, tmp_path / "batch")
        assert [event["what"] for event in events(tmp_path / "batch")] == ["skipped"]

    def loud(training):
        [t for k, t in training.model.state_dict().items() if t.ndim > 1][-1].mul_(1e4)

    plant(monkeypatch, 11, loud)
    trained(data, tmp_path / "weight")
    assert [event["what"] for event in events(tmp_path / "weight")] == ["skipped", "rolled back"]
    final(tmp_path / "weight")


def test_resuming_is_exact_across_a_skip_and_a_rollback(data, tmp_path, monkeypatch):
    """Interrupted after the rollback: 8 updates, back to the beginning (asked there too), and 4 more."""
    for name, stop in (("whole", 10**6), ("halves", 13)):
        with monkeypatch.context() as patch:
            poison(patch, {2, 9}.__contains__)
            plant(patch, 5, ruin("model"))
            with patch.context() as inner:
                stop_after(inner, stop)
                if name == "whole":
                    trained(data, tmp_path / name)
                    continue
                with pytest.raises(KeyboardInterrupt):
                    trained(data, tmp_path / name)
            assert final(tmp_path / name)[0] == "step-00000004"
            torch.manual_seed(123)
            trained(data, tmp_path / name)
    found = [event["what"] for event in events(tmp_path / "whole")]
    assert found == ["skipped"] * 4 + ["rolled back"] + ["skipped"] * 2
    assert events(tmp_path / "whole") == events(tmp_path / "halves")
    whole, halves = (final(tmp_path / name)[1] for name in ("whole", "halves"))
    for part, tensors in whole.items():
        for name, tensor in tensors.items():
            assert torch.equal(tensor, halves[part][name]), f"{part} {name}"


def test_a_stop_between_fault_and_notice_goes_back_first(data, tmp_path, monkeypatch):
    """At Ctrl-C the weights are looked at: what is not finite is not saved, and the rollback is remembered."""
    plant(monkeypatch, 6, ruin("ema"))
    with monkeypatch.context() as patch:
        stop_after(patch, 6)
        with pytest.raises(KeyboardInterrupt):
            trained(data, tmp_path / "run")
    assert checkpoint.newest(tmp_path / "run" / "checkpoints") is None
    trained(data, tmp_path / "run")
    assert [(event["step"], event["what"]) for event in events(tmp_path / "run")] == [(6, "rolled back")]
    assert log(tmp_path / "run")[-1]["lr"] == pytest.approx(0.5 * 2e-3 / 3)  # half the last rate


def test_events_are_cut_back_to_where_a_run_goes_on(tmp_path):
    written = [(3, "skipped"), (9, "skipped"), (10, "rolled back"), (4, "skipped"), (8, "skipped"), (9, "stopped")]
    GuardRecord(tmp_path, 0).add([{"step": step, "what": what, "loss": NAN} for step, what in written])
    left = GuardRecord(tmp_path, 5)
    assert [(event["step"], event["what"]) for event in left.list] == written[:4]
    assert left.list == events(tmp_path)
    assert left.list[0]["loss"] is None
    assert [event["step"] for event in left.rollbacks] == [10]
    for text in ("{", "3", '[{"what": "skipped"}]'):
        (tmp_path / "guard.json").write_text(text)
        with pytest.raises(DamagedError, match=r"guard\.json is not a list of events"):
            GuardRecord(tmp_path, 5)


def test_the_checkpoint_that_did_not_help_is_not_taken_twice(tmp_path):
    assert good_checkpoint(tmp_path, None) is None
    for step in (3, 7):
        checkpoint.save(tmp_path / "checkpoints", step, {part: {} for part in ("model", "ema", "optim", "rng")}, {})
    names = [good_checkpoint(tmp_path, tried).name for tried in (None, 3, 7, 3)]
    assert names == ["step-00000007", "step-00000007", "step-00000003", "step-00000003"]
    assert (tmp_path / "latest").read_text() == "step-00000003"


def test_a_checkpoint_that_goes_is_never_there_in_part(tmp_path, monkeypatch):
    for step in (3, 7):
        checkpoint.save(tmp_path / "checkpoints", step, {part: {} for part in ("model", "ema", "optim", "rng")}, {})

    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("ebb.store.checkpoint.delete", killed)
    with pytest.raises(KeyboardInterrupt):
        good_checkpoint(tmp_path, 7)
    assert [found.name for found in checkpoint.finished(tmp_path / "checkpoints")] == ["step-00000003"]


def step_of(number, loss, skipped, tally=None):
    return Step(number, torch.tensor(loss), {}, torch.tensor(loss), 0.1, 16 * number, tally, torch.tensor(skipped))


def test_a_line_of_the_log_is_the_mean_of_the_updates_that_were_made():
    meter = Meter(10, accumulate=2)
    tally = torch.zeros(2, 16)
    tally[0, 3], tally[1, 3] = 6.0, 2.0
    for step in (step_of(1, 2.0, False, tally), step_of(2, NAN, True, tally * NAN), step_of(3, 4.0, False, 3 * tally)):
        meter.note(step)
    reading = meter.read()
    assert (reading.entry["loss"], reading.entry["grad_norm"], reading.entry["skipped"]) == (3.0, 4.0, 1)
    assert reading.entry["levels"] == [None] * 3 + [3.0] + [None] * 12
    assert [(skip.step, skip.batch) for skip in reading.skips] == [(2, 2)]
    meter.note(step_of(4, NAN, True))
    assert meter.read().entry is None
    meter.note(step_of(5, 1.0, False))
    line = meter.read().entry
    assert (line["skipped"], "levels" in line) == (1, False)
    assert [images for images, _ in meter.worked] == [48, 16], "a reading of skipped updates alone tells no speed"


def test_the_speed_is_that_of_the_last_readings_and_never_of_one():
    meter = Meter(10, start=5, seen=80)
    meter.note(step_of(6, 1.0, False))
    meter.read()
    assert meter.worked[0][0] == 16, "what was seen before a stop is not counted"
    meter.worked = [(1, 1.0)] * 3
    assert meter.speed() is None
    meter.worked += [(1, 100.0)]
    assert meter.speed() == pytest.approx(3 / 102)
    meter.worked += [(2, 1.0)] * 12
    assert meter.speed() == pytest.approx(2)
