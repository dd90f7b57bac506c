"""A finished run that goes on: with its weights and moments, a learning rate of its own, and nothing lost on the way."""

import io
import json
import shutil

import numpy as np
import pytest
import torch
from rich.console import Console

import ebb.run.extend
import ebb.run.supervise
from ebb.cli.output import shown
from ebb.cli.parse import longer
from ebb.errors import DataError, UsageError
from ebb.recipe.document import from_yaml
from ebb.recipe.recipe import Recipe
from ebb.run.extend import Extension
from ebb.run.train import train
from ebb.store import checkpoint
from ebb.train.optimiser import WarmupDecay

from ..command import ebb as command
from .stopped import stop_after

SMALL = {
    "network": {"width": 8, "depth": 1}, "optimiser": {"lr": 2e-3}, "batch": 16, "precision": "fp32", "sheets": 1,
    "steps": 4, "sample": {"steps": 1},
}  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """60 pictures to learn from and 20 held out."""
    rng, file = np.random.default_rng(0), tmp_path_factory.mktemp("extend") / "data.npz"
    arrays = {"x_train": (60, 8, 8), "x_test": (20, 8, 8)}
    np.savez(file, **{name: rng.integers(0, 256, shape, np.uint8) for name, shape in arrays.items()})
    return file


@pytest.fixture(scope="module")
def finished_run(data, tmp_path_factory):
    """A run that has made all its updates."""
    run = tmp_path_factory.mktemp("extend") / "run"
    trained(data, run)
    return run


@pytest.fixture
def run(finished_run, tmp_path):
    """A copy of it."""
    return shutil.copytree(finished_run, tmp_path / "run")


def trained(data, run, **how):
    console = Console(file=io.StringIO(), width=200)
    shown(train(str(data), Recipe(**how.pop("asked", SMALL)), run=run, **how), console)
    return console.file.getvalue()


def extended(data, run, length="3", **how):
    """What is said when nothing is asked for besides."""
    return trained(data, run, asked={}, extend=length, **how)


def judging(monkeypatch, *losses):
    """Validation losses one after the other, in the place of measured ones."""
    measured = iter(losses)
    monkeypatch.setattr(ebb.run.extend, "validation_loss", lambda parts: next(measured))


def state(run):
    saved = checkpoint.newest(run / "checkpoints")
    checkpoint.verify(saved)
    return {part: checkpoint.read(saved, part) for part in ("model", "ema", "optim", "rng")}


def steps(run):
    return [json.loads(line)["step"] for line in (run / "log.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("decay", [0.25, 1.0])
def test_the_rate_takes_its_course_once_more_after_a_step(decay):
    """The course over steps 40 to 140 is that over 0 to 100, 40 steps later."""
    first, again = WarmupDecay(2.0, 100, 10, decay), WarmupDecay(2.0, 140, 10, decay, start=40)
    assert [again(40 + step) for step in range(101)] == pytest.approx([first(step) for step in range(101)])
    assert again.level == first.level + 40
    assert again(139) < again(40) < again(49) == 2.0


def test_lengths_are_times_or_updates():
    assert Extension.of("30m") == Extension(None, "30m")
    assert Extension.of("500") == Extension.of("+500") == Extension(500, None)
    for wrong in ("soon", "-3", "0", "0m", "1.5"):
        with pytest.raises(UsageError):
            Extension.of(wrong)
    assert longer(["train", "d", "--steps", "+500", "--seed", "1"]) == ["train", "d", "--extend", "500", "--seed", "1"]
    assert longer(["train", "d", "--steps=+500"]) == ["train", "d", "--extend", "500"]
    assert longer(["train", "d", "--steps", "500"]) == ["train", "d", "--steps", "500"]
    assert longer(["sample", "d", "--steps", "+5"]) == ["sample", "d", "--steps", "+5"]


def test_a_run_goes_on_from_its_weights_and_moments_and_becomes_the_longer_one(data, run, monkeypatch):
    assert "--extend" in trained(data, run), "a finished run says how to go on"
    judging(monkeypatch, 2.0, 1.0)
    said = extended(data, run)
    assert "goes on from update 4: the learning rate, which had fallen, rises again to 0.002 at update 5" in said
    assert "and falls to 0 at 7" in said
    assert "better: the validation loss is 1, and was after 4 updates 2" in said
    assert [saved.name for saved in checkpoint.finished(run / "checkpoints")] == ["step-00000004", "step-00000007"]
    assert (run / "latest").read_text() == "step-00000007"
    assert {int(t) for name, t in state(run)["optim"].items() if name.endswith("step")} == {7}
    assert steps(run) == list(range(1, 8))
    assert (run / "samples" / "step-000007.png").is_file()
    assert not (run / "extension").exists()
    recipe, about = from_yaml(run / "run.yaml")
    assert (recipe.steps, about["extended"][0]["step"], about["extended"][0]["to"]) == (7, 4, 7)
    assert "finished at step 7" in trained(data, run), "its own command is still its own"


def test_what_is_not_better_stays_beside_the_run_as_one_of_its_own(data, run, tmp_path, monkeypatch):
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file() and "report" not in path.name}
    judging(monkeypatch, 2.0, 2.0, 2.0, float("nan"))
    assert "not better: the validation loss is 2, and was after 4 updates 2" in extended(data, run)
    assert all(path.read_bytes() == content for path, content in before.items())
    longer = run / "extension"
    assert checkpoint.newest(longer / "checkpoints").name == "step-00000007"
    assert command("sample", longer, "--n", 1, "--out", tmp_path / "a.png") == 0
    assert "not finite" in extended(data, run, "2"), "another length begins anew"
    assert steps(longer) == list(range(1, 7))


def test_runs_that_stand_on_it_are_named_before_its_weights_change(data, run, tmp_path, monkeypatch):
    child = {**SMALL, "kind": "few_step", "teacher": str(run), "steps": 1}
    del child["sample"], child["network"]
    trained(data, tmp_path / "child", asked=child)
    trained(data, tmp_path / "other", asked={**SMALL, "steps": 1})
    judging(monkeypatch, 2.0, 1.0)
    said = extended(data, run)
    assert f"{tmp_path / 'child'} stood on the weights that {run} has now" in said.replace("\n", " ")
    assert "other stood" not in said
    judging(monkeypatch, 2.0, 1.0)
    assert "stood on" not in extended(data, run, "2"), "its weights are others by now"


def test_stopped_and_gone_on_is_what_it_would_have_been(data, run, tmp_path, monkeypatch):
    whole, halves = shutil.copytree(run, tmp_path / "whole"), run
    judging(monkeypatch, 2.0, 1.0, 2.0, 1.0)
    extended(data, whole)
    with monkeypatch.context() as patch:
        stop_after(patch, 2)
        with pytest.raises(KeyboardInterrupt, match="resumes from step 6"):
            extended(data, halves)
    assert checkpoint.newest(halves / "checkpoints").name == "step-00000004", "nothing has changed yet"
    with pytest.raises(UsageError, match=r"(?s)being extended by 3: update 6 of 7.*--extend 3"):
        extended(data, halves, "1m")
    torch.manual_seed(9)
    extended(data, halves)
    one, two = state(whole), state(halves)
    assert all(torch.equal(tensor, two[part][name]) for part in one for name, tensor in one[part].items())


def test_an_adoption_that_was_cut_short_is_completed(data, run, monkeypatch):
    judging(monkeypatch, 2.0, 1.0)

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(ebb.run.extend, "replace_text", killed)
        patch.setattr(ebb.run.extend, "begin", keeping(ebb.run.extend.begin, patch))
        with pytest.raises(KeyboardInterrupt):
            extended(data, run)
    assert checkpoint.newest(run / "checkpoints").name == "step-00000007"
    assert from_yaml(run / "run.yaml")[0].steps == 4
    assert "finished at step 7" in trained(data, run)
    assert from_yaml(run / "run.yaml")[0].steps == 7
    assert steps(run) == list(range(1, 8))
    assert not (run / "extension").exists()


def keeping(begin, patch):
    """`begin` with the writing that it had."""
    from ebb.store.write import replace_text

    def begun(*given):
        with pytest.MonkeyPatch.context() as own:
            own.setattr(ebb.run.extend, "replace_text", replace_text)
            begin(*given)

    return begun


def test_a_time_is_as_many_updates_as_fit_into_it(data, run, monkeypatch, paced):
    paced(1000.0)
    stop_after(monkeypatch, 1)
    with pytest.raises(KeyboardInterrupt):
        extended(data, run, "20m")
    recipe, about = from_yaml(run / "extension" / "run.yaml")
    assert (
        about["extends"]["validation"] == json.loads((run / "log.jsonl").read_text().splitlines()[-1])["validation_ema"]
    )
    assert recipe.budget == "20m"
    assert recipe.steps == pytest.approx(0.96 * 1200 * 1000 / 16, rel=0.15)


def test_what_cannot_go_on_is_refused_with_the_way(data, tmp_path, monkeypatch):
    run = tmp_path / "own"
    with pytest.raises(UsageError, match="there is no run"):
        extended(data, run)
    assert not run.exists()
    with monkeypatch.context() as patch:
        stop_after(patch, 2)
        with pytest.raises(KeyboardInterrupt):
            trained(data, run)
    with pytest.raises(UsageError, match=r"(?s)not finished: 2 of 4.*without --extend"):
        extended(data, run)
    trained(data, run)
    with pytest.raises(UsageError, match=r"(?s)another recipe:\n    seed: 0 → 1"):
        trained(data, run, asked={"seed": 1}, extend="3")
    with pytest.raises(UsageError, match="--fresh replaces"):
        extended(data, run, fresh=True)
    other = tmp_path / "other.npz"
    np.savez(other, np.zeros((60, 8, 8), np.uint8))
    with pytest.raises(DataError, match="is not what"):
        extended(other, run)
    assert command("train", data, "--run", run, "--extend", 3, "--dry-run") == 2
