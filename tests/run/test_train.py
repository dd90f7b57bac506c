"""The whole way on real pictures: train, resume, sample, evaluate, and every mistake on the way."""

import io
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from html.parser import HTMLParser
from itertools import repeat
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from rich.console import Console

from ebb.cli.form import Form
from ebb.cli.output import shown
from ebb.cli.parse import given_in
from ebb.cli.parse import verb as verb_of
from ebb.cli.sample import Sample
from ebb.cli.train import Train, overlaid
from ebb.data.images import settings_of
from ebb.data.scan import read
from ebb.errors import ResourceError, UsageError
from ebb.events import finished
from ebb.recipe.document import from_yaml, to_yaml, validated
from ebb.recipe.recipe import Recipe
from ebb.recipe.starting import complete
from ebb.run.build import updates_of
from ebb.run.marks import sheet_steps
from ebb.run.plan import RESERVE, paces, resolve, sheet_seconds
from ebb.run.prepare import prepared
from ebb.run.supervise import CHECKPOINT_EVERY, interruptible
from ebb.run.train import resumed, train
from ebb.store import checkpoint
from ebb.system.families.family import facts_of
from ebb.terminal import as_options

from ..command import ebb

SMALL = {"network": {"width": 8, "depth": 1}, "batch": 16, "precision": "fp32", "sheets": 1, "sample": {"steps": 4}}


def quiet():
    return Console(file=io.StringIO(), width=150)


def trained(data, run, steps=12, budget=None, **kwargs):
    console = quiet()
    folder = shown(train(str(data), Recipe(**SMALL, steps=steps, budget=budget), run=run, **kwargs), console)
    return folder, console.file.getvalue()


def weights(run):
    where = checkpoint.newest(run / "checkpoints")
    return {part: checkpoint.read(where, part) for part in ("model", "ema", "optim")}


def same(found, expected):
    """Bit by bit, in every part."""
    assert found.keys() == expected.keys()
    for part, tensors in expected.items():
        for name, tensor in tensors.items():
            assert torch.equal(found[part][name], tensor), f"{part} {name}"


def test_a_run_folder_holds_all_that_is_needed_to_repeat_it(pictures, tmp_path):
    run, said = trained(pictures, tmp_path / "run")
    names = {p.relative_to(run).as_posix() for p in run.rglob("*") if p.is_file()}
    documents = {"run.yaml", "env.json", "data.json", "choices.json", "log.jsonl", "latest", "card.md", "report.html"}
    assert documents | {"samples/data-sheet.png", "samples/step-000012.png"} <= names
    parts = {f"checkpoints/step-00000012/{p}.safetensors" for p in ("model", "ema", "optim", "rng")}
    assert parts | {"checkpoints/step-00000012/manifest.json"} <= names
    assert not {p for p in names if p.endswith((".pt", ".pkl", ".py", ".ckpt"))}
    recipe, about = from_yaml(run / "run.yaml")
    assert (recipe.steps, recipe.batch, recipe.network.width) == (12, 16, 8)
    assert about["command"].startswith(f"ebb train {pictures} --steps 12 --batch 16")
    assert recipe_in(about["command"]).asked() == Recipe(**SMALL, steps=12).asked()
    log = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    assert [entry["step"] for entry in log] == list(range(1, 13))
    assert "because" in said
    assert "48 images, class folders" in said


def test_interrupted_and_resumed_equals_uninterrupted_bit_for_bit(pictures, tmp_path, monkeypatch):
    whole, _ = trained(pictures, tmp_path / "whole")
    draws = iter(range(100))

    def stop_after_five():
        from contextlib import contextmanager

        @contextmanager
        def interruptible():
            yield lambda: signal.SIGINT if next(draws) >= 4 else 0  # asked once a step

        return interruptible

    with monkeypatch.context() as patch:
        patch.setattr("ebb.run.supervise.interruptible", stop_after_five())
        with pytest.raises(KeyboardInterrupt):
            trained(pictures, tmp_path / "halves")
    stopped = checkpoint.newest(tmp_path / "halves" / "checkpoints").name
    assert stopped == "step-00000005"
    torch.manual_seed(123)
    halves, _ = trained(pictures, tmp_path / "halves")
    same(weights(halves), weights(whole))
    steps = [json.loads(line)["step"] for line in (halves / "log.jsonl").read_text().splitlines()]
    assert steps == list(range(1, 13))


def recipe_in(command):
    """What the real parser makes of a recorded command."""
    words = shlex.split(command)[1:]
    return overlaid(None, verb_of(words).recipe, given_in(words))


def test_the_recorded_command_asks_for_the_same_recipe():
    asked = Recipe(
        budget="90s",
        data={"flip": True},
        network={"multipliers": (1, 2, 2), "attention": (1,)},
        path="edm(sigma_max=20.0)",
    )
    assert recipe_in(shlex.join(["ebb", "train", "a folder", *as_options(asked.asked())])) == asked


def test_seconds_go_on_after_a_resume(pictures, tmp_path):
    run, _ = trained(pictures, tmp_path / "run")
    lines = (run / "log.jsonl").read_text().splitlines()
    late = json.loads(lines[-1]) | {"seconds": 1000.0}
    (run / "log.jsonl").write_text("\n".join([*lines[:-1], json.dumps(late)]) + "\n")
    text = (run / "run.yaml").read_text()
    (run / "run.yaml").write_text(text.replace("steps: 12", "steps: 14"))
    trained(pictures, run, steps=14)
    log = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    assert log[-1]["step"] == 14
    assert log[-1]["seconds"] > 1000


def test_the_engine_may_change_when_a_run_goes_on_and_nothing_else(pictures, tmp_path):
    run, _ = trained(pictures, tmp_path / "run")
    text = (run / "run.yaml").read_text()
    assert text.count("engine: eager") == 1
    (run / "run.yaml").write_text(text.replace("engine: eager", "engine: compiled"))
    engine = lambda **how: resumed(run, Recipe(**SMALL, steps=12, **how), read(str(pictures)), False).runs  # noqa: E731
    assert engine() == "compiled"
    assert engine(engine="eager") == "eager", "as the error says that asks for it"
    with pytest.raises(UsageError, match="other recipe:\n    seed: chosen → 1\n"):
        engine(engine="eager", seed=1)


def test_fresh_keeps_the_old_run_until_the_new_one_stands(pictures, tmp_path, monkeypatch):
    run, _ = trained(pictures, tmp_path / "run")
    impossible = Recipe(**SMALL | {"network": {"attention": (7,)}}, steps=2)
    with pytest.raises(UsageError, match="attention resolutions"):
        finished(train(str(pictures), impossible, run=run, fresh=True))
    assert checkpoint.newest(run / "checkpoints").name == "step-00000012"

    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("ebb.run.folder.save_png", full)
        with pytest.raises(ResourceError, match="No space"):
            trained(pictures, run, fresh=True)
        with pytest.raises(ResourceError, match="No space"):
            trained(pictures, tmp_path / "other")
    assert not (tmp_path / "other").exists()
    assert checkpoint.newest(run / "checkpoints").name == "step-00000012"
    other, _ = trained(pictures, tmp_path / "other", steps=2)
    assert checkpoint.newest(other / "checkpoints").name == "step-00000002"


def test_a_report_that_could_not_be_written_is_written_by_the_same_command(pictures, tmp_path):
    run, _ = trained(pictures, tmp_path / "run")
    (run / "report.html").unlink()
    (run / "card.md").unlink()
    trained(pictures, run)
    assert (run / "report.html").exists()
    assert "192 images seen" in (run / "card.md").read_text()


def test_what_ebb_made_is_not_what_it_learns_from(pictures):
    trained(pictures, pictures / "runs" / "it", steps=2)
    _, said = trained(pictures, pictures / "runs" / "it", steps=2)
    assert "finished at step 2" in said


def test_odd_names_are_shown_and_do_no_harm(pictures, tmp_path):
    (pictures / "above" / "a[bold]b.png").write_bytes(b"not a picture")
    _, said = trained(pictures, tmp_path / "run", steps=1)
    assert "a[bold]b.png" in said


def test_a_budget_is_kept_with_sheets_and_all(pictures, monkeypatch, paced):
    """The plan adds up: updates and sheets at the measured speed take the budget, whatever the machine."""
    monkeypatch.setattr("ebb.run.plan.time", SimpleNamespace(perf_counter=lambda: 7.0))
    paced({"fp32": 50.0, "bf16": 80.0})
    learnt = finished(prepared(Recipe(), read(str(pictures))))
    for budget in (30, 300):
        asked = Recipe(budget=f"{budget}s", batch=16, network={"width": 8})
        recipe, reasons = finished(resolve(asked, learnt, torch.device("cpu")))
        sheet = 40 * 16 / (3 * 80.0)
        planned = recipe.steps * 16 / 80.0 + recipe.sheets * sheet
        assert planned == pytest.approx(RESERVE * budget, rel=0.02)
        assert recipe.sheets == (1 if budget == 30 else 10)
        assert "tenth of the time that is left" in reasons["sheets"]
        late, _ = finished(resolve(asked, learnt, torch.device("cpu"), began=7 - budget / 3))
        planned = late.steps * 16 / 80.0 + late.sheets * sheet
        assert planned == pytest.approx((RESERVE - 1 / 3) * budget, rel=0.02)
        assert late.sheets == (1 if budget == 30 else 7)


@pytest.mark.parametrize(
    ("bf16", "fp32", "faster", "timed"),
    [
        ((1, 1, 1), (2, 2, 2), "bf16", (3, 2)),  # given up after two
        ((9, 1, 9), (2, 2, 2), "bf16", (3, 2)),  # something else ran meanwhile
        ((3, 3, 3), (9, 9, 2), "bf16", (3, 2)),
        ((3, 3, 3), (9, 4, 2), "fp32", (3, 3)),
        ((3, 3, 3), (1, 1, 1), "fp32", (2, 3)),
    ],
)
def test_precisions_take_turns_and_the_fastest_update_decides(pictures, monkeypatch, bf16, fp32, faster, timed):
    took, made = {"bf16": bf16, "fp32": fp32}, Counter()

    def clock(recipe, _):
        for seconds in took[recipe.precision]:
            made[recipe.precision] += 1
            yield float(seconds)

    monkeypatch.setattr("ebb.run.plan.timed", clock)
    monkeypatch.setattr("ebb.run.plan.multiplies_bf16", lambda device: True)
    learnt = finished(prepared(Recipe(), read(str(pictures))))
    found = paces(complete(Recipe(batch=16), facts_of(learnt))[0], learnt, torch.device("cpu"))
    assert max(found, key=found.get) == faster
    assert (made["bf16"], made["fp32"]) == timed
    assert found[faster] == 16 / min(took[faster])


@pytest.mark.parametrize("fits", [0, 1, 2])
@pytest.mark.parametrize("full", [("fp32",), ("bf16",), ("fp32", "bf16")])
def test_a_precision_that_does_not_fit_is_not_chosen(pictures, monkeypatch, full, fits):
    """It fails after so many updates, which were the fastest."""

    def clock(recipe, _):
        if recipe.precision in full:
            yield from repeat(0.1, fits)
            raise torch.OutOfMemoryError("CUDA out of memory")
        yield from repeat(0.12)

    monkeypatch.setattr("ebb.run.plan.timed", clock)
    monkeypatch.setattr("ebb.run.plan.multiplies_bf16", lambda device: True)
    given = Recipe(batch=16, steps=2), finished(prepared(Recipe(), read(str(pictures)))), torch.device("cpu")
    if len(full) == 2:
        with pytest.raises(torch.OutOfMemoryError, match="16 images in fp32 and bf16"):
            finished(resolve(*given))
    else:
        recipe, reasons = finished(resolve(*given))
        assert recipe.precision not in full
        assert f"{full[0]} too large" in reasons["precision"]
        assert "133 images/s" in reasons["precision"]


def on_a_clock(monkeypatch, speed):
    """A list of one number, the seconds of a clock that updates of 16 images move: speed(seconds) images per second."""
    now = [0.0]

    def made(*args, **kwargs):
        for step in updates_of(*args, **kwargs):
            now[0] += 16 / speed(now[0])
            yield step

    for module in ("plan", "meter"):
        reads = SimpleNamespace(perf_counter=lambda: now[0], monotonic=lambda: now[0])
        monkeypatch.setattr(f"ebb.run.{module}.time", reads)
    monkeypatch.setattr("ebb.run.supervise.updates_of", made)
    return now


@pytest.mark.parametrize(
    ("speed", "misses"),
    [
        (lambda _: 20.0, 0.04),
        pytest.param(lambda _: 40.0, 0.04, marks=pytest.mark.full),
        pytest.param(lambda now: 5.0 if now < 6 else 40.0, 0.04, marks=pytest.mark.full),
        pytest.param(lambda now: 60.0 if now < 12 else 30.0, 0.1, marks=pytest.mark.full),
        (lambda now: 60.0 if now < 16.5 else 20.0, 0.55),  # so late that fewer updates would have changed those made
    ],
)
def test_the_clock_settles_how_many_updates_there_are(pictures, tmp_path, monkeypatch, paced, speed, misses):
    """Planned at 30 images/s, the run turns out slower or faster: it ends when its budget does, at a rate of zero.

    Where the speed changes on the way, the recipe that was settled on is trained again, to the same weights.
    """
    paced(30.0)
    asked, console = Recipe(**SMALL, budget="30s"), quiet()
    now = on_a_clock(monkeypatch, speed)
    run = shown(train(str(pictures), asked, run=tmp_path / "run", began=0.0), console)
    recipe, about = from_yaml(run / "run.yaml")
    log = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    assert now[0] + sheet_seconds(recipe, speed(now[0])) == pytest.approx(RESERVE * 30, rel=misses)
    assert log[-1]["step"] == recipe.steps == int(checkpoint.newest(run / "checkpoints").name[5:])
    level, peak = int(0.75 * recipe.steps), recipe.optimiser.lr
    assert log[level - 1]["lr"] == peak
    assert log[-1]["lr"] == pytest.approx(peak / (recipe.steps - level))
    choice = json.loads((run / "choices.json").read_text())["steps"]
    assert choice["value"] == recipe.steps
    assert re.fullmatch(r"30s at \d+ images/s, measured up to update \d+", choice["reason"])
    assert console.file.getvalue().count("were planned: 30s at") == 1
    assert about["asked"] == json.loads(json.dumps(asked.asked()))
    again = quiet()
    shown(train(str(pictures), asked, run=run), again)
    assert f"finished at step {recipe.steps}" in again.file.getvalue()
    if speed(0.0) != speed(30.0):
        same(weights(finished(train(str(pictures), recipe, run=tmp_path / "same"))), weights(run))


@pytest.mark.parametrize(
    "optimiser",
    [
        {"decay": 0.0},
        pytest.param({"decay": 1.0}, marks=pytest.mark.full),
        pytest.param({"warmup": 1000}, marks=pytest.mark.full),
        {"accumulate": 2},
    ],
)
def test_a_run_ends_with_its_budget_however_its_rate_goes(pictures, tmp_path, monkeypatch, paced, optimiser):
    paced(30.0)
    now, sheets = on_a_clock(monkeypatch, lambda _: 10.0), []
    monkeypatch.setattr("ebb.run.supervise.draw", lambda *_: sheets.append(now[0]))
    asked = Recipe(**SMALL, budget="60s", optimiser=optimiser)
    run = finished(train(str(pictures), asked, run=tmp_path / "run", began=0.0))
    recipe, _ = from_yaml(run / "run.yaml")
    sheet = sheet_seconds(recipe, 10 * recipe.optimiser.accumulate)
    assert now[0] + sheet == pytest.approx(RESERVE * 60, rel=0.05)
    assert sheets == [now[0]], "the end came more than once"
    assert checkpoint.newest(run / "checkpoints").name == f"step-{recipe.steps:08d}"


def test_checkpoints_do_not_wait_until_the_length_is_settled(pictures, tmp_path, monkeypatch, paced):
    paced(5.0)
    now, saved = on_a_clock(monkeypatch, lambda _: 5.0), []
    monkeypatch.setattr("ebb.run.supervise.time", SimpleNamespace(monotonic=lambda: now[0]))
    monkeypatch.setattr("ebb.run.supervise.checkpoint.save", lambda folder, number, *_: saved.append(now[0]))
    finished(train(str(pictures), Recipe(**SMALL, budget="4m"), run=tmp_path / "run", began=0.0))
    assert np.diff([0, *saved]).max() < CHECKPOINT_EVERY + 5


def test_a_budget_that_is_over_before_the_first_update_is_refused(pictures, tmp_path, paced):
    paced(8.0)
    began = time.perf_counter() - 9
    said = r"budget of 10s: one of 16 images takes 2 s and 1 sheet of samples 6\.7 s, after 9"
    with pytest.raises(UsageError, match=said) as refused:
        finished(train(str(pictures), Recipe(**SMALL, budget="10s"), run=tmp_path / "run", began=began))
    assert re.search(r"try --budget 22[56]s", str(refused.value))
    assert not (tmp_path / "run").exists()


def test_where_nothing_is_open_nothing_is_timed(pictures, tmp_path, monkeypatch):
    timed = []
    monkeypatch.setattr("ebb.run.plan.timed", lambda *given: timed.append(given) or repeat(1.0))
    trained(pictures, tmp_path / "run", steps=2)
    assert not timed


def test_what_cannot_be_trained_does_not_replace_a_run(pictures, tmp_path, monkeypatch):
    run, _ = trained(pictures, tmp_path / "run", steps=2)

    def full(*_, **__):
        raise MemoryError

    monkeypatch.setattr("ebb.run.plan.updates_of", full)
    with pytest.raises(MemoryError):
        trained(pictures, run, steps=3, fresh=True)
    assert checkpoint.newest(run / "checkpoints").name == "step-00000002"


def test_a_run_that_was_told_its_steps_keeps_them(pictures, tmp_path, monkeypatch):
    monkeypatch.setattr("ebb.run.meter.Meter.speed", lambda _: 1e6)
    run, _ = trained(pictures, tmp_path / "run", budget="1s", steps=40)
    assert from_yaml(run / "run.yaml")[0].steps == 40


def test_sheets_are_drawn_early_and_at_the_end():
    assert sheet_steps(4, 1000) == [125, 354, 650, 1000]
    assert sheet_steps(10, 3) == [1, 2, 3]


def test_a_finished_run_says_so_and_is_left_alone(pictures, tmp_path):
    run, _ = trained(pictures, tmp_path / "run")
    before = (run / "log.jsonl").read_text()
    _, said = trained(pictures, run)
    assert "finished at step 12" in said
    assert (run / "log.jsonl").read_text() == before


def test_another_recipe_is_refused_with_the_difference_unless_fresh(pictures, tmp_path):
    run, _ = trained(pictures, tmp_path / "run")
    with pytest.raises(UsageError, match=r"(?s)steps: 12 → 13.*--fresh"):
        trained(pictures, run, steps=13)
    assert checkpoint.newest(run / "checkpoints").name == "step-00000012"
    fresh, _ = trained(pictures, run, steps=13, fresh=True)
    assert checkpoint.newest(fresh / "checkpoints").name == "step-00000013"


def test_other_data_is_refused(pictures, tmp_path):
    run, _ = trained(pictures, tmp_path / "run")
    Image.new("L", (8, 8), 77).save(pictures / "above" / "new.png")
    with pytest.raises(UsageError, match="other images"):
        trained(pictures, run)


def test_a_folder_that_is_not_a_run_is_never_touched(pictures, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    for fresh in (False, True):
        with pytest.raises(UsageError, match="is not a run of ebb"):
            trained(pictures, tmp_path / "mine", fresh=fresh)
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "years of work"


@pytest.mark.full
def test_from_digits_to_a_measured_model(tmp_path, monkeypatch, capsys):
    """End to end on real scans: recognisable digits of the asked class after a few seconds of training."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("ebb.evaluate.judges.SECONDS", 3)
    monkeypatch.setattr("ebb.evaluate.two_sample.WORK", 600)
    small = ["--steps", 300, "--batch", 64, "--sheets", 1, "--network.width", 16, "--precision", "fp32"]
    assert ebb("train", "digits", *small) == 0
    assert "--fresh" not in capsys.readouterr().out
    run = Path("runs/digits")
    assert ebb("sample", run, "--n", 6, "--label", 7, "--steps", 8, "--seed", 3, "--out", "sevens.png") == 0
    assert settings_of(Path("sevens.png"))["label"] == "7"
    assert ebb("sample", run, "--n", 4, "--out", "arrays.npz") == 0
    with np.load("arrays.npz") as arrays:
        assert arrays["images"].shape == (4, 1, 8, 8)
        assert arrays["labels"].tolist() == [0, 1, 2, 3]
    assert ebb("sample", run, "--n", 3, "--seed", 5, "--out", "single") == 0
    assert [settings_of(p)["seed"] for p in sorted(Path("single").iterdir())] == [5, 6, 7]
    capsys.readouterr()
    assert ebb("evaluate", run, "--n", 300, "--likelihood", 8) == 0
    figures = json.loads((run / "evaluation.json").read_text())
    assert figures["classifier_accuracy"] > 0.95
    assert figures["label_accuracy"] > 0.8
    frechet = figures["distances"]["Fréchet distance"]
    assert 0 < frechet["value"] < 2 * frechet["floor"], "300 images cannot tell a good model from the data"
    assert "label accuracy" in capsys.readouterr().out
    HTMLParser().feed((run / "report.html").read_text())
    assert ebb("config", "diff", run, run) == 0
    assert "no difference" in capsys.readouterr().out
    assert ebb("config", "show", run) == 0
    assert ebb("config", "validate", run) == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_first(pictures, tmp_path, monkeypatch, capsys, number):
    def struck(*args, **kwargs):
        for step in updates_of(*args, **kwargs):
            if step.number == 3:
                signal.raise_signal(number)
            yield step

    monkeypatch.setattr("ebb.run.supervise.updates_of", struck)
    small = ["--steps", 12, "--network.width", 8, "--network.depth", 1, "--batch", 16, "--precision", "fp32"]
    assert ebb("train", pictures, "--run", tmp_path / "run", *small, "--sheets", 1) == 128 + number
    errors = capsys.readouterr().err
    assert "the same command resumes" in errors
    assert "Traceback" not in errors
    saved = checkpoint.newest(tmp_path / "run" / "checkpoints")
    assert saved.name == "step-00000003"
    checkpoint.verify(saved)


@pytest.mark.full
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_process_of_its_own_saves_first(pictures, tmp_path, number):
    command = [sys.executable, "-c", "from ebb.cli import main; main()", "train", pictures, "--run", tmp_path / "run"]
    options = ["--steps", "100000", "--network.width", "8", "--network.depth", "1", "--precision", "fp32"]
    process = subprocess.Popen(
        [*map(str, command), *options], stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    log = tmp_path / "run" / "log.jsonl"
    until = time.monotonic() + 60
    while time.monotonic() < until and not (log.exists() and log.read_text()):
        time.sleep(0.1)
    os.kill(process.pid, number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert "the same command resumes" in errors
    assert "Traceback" not in errors
    saved = checkpoint.newest(tmp_path / "run" / "checkpoints")
    checkpoint.verify(saved)


def test_a_second_signal_of_either_kind_acts_at_once():
    with interruptible() as stopped:
        signal.raise_signal(signal.SIGINT)
        assert stopped() == signal.SIGINT
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGTERM)


def damaged(run):
    target = checkpoint.newest(run / "checkpoints") / "ema.safetensors"
    content = bytearray(target.read_bytes())
    content[-10] ^= 255
    target.write_bytes(content)


def test_mistakes_end_with_one_short_message_and_their_code(pictures, tmp_path, capsys, monkeypatch):
    run, _ = trained(pictures, tmp_path / "run", steps=2)
    (tmp_path / "empty").mkdir()
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.txt").write_text("a")
    cases = [
        (("train", tmp_path / "nothing"), 3, "nothing"),
        (("train", tmp_path / "empty"), 3, "empty"),
        (("train", tmp_path / "texts"), 3, "texts"),
        (("train", pictures, "--network.widht", 9), 2, "--network.width"),
        (("train", pictures, "--network.width", 1), 2, "network.width must be between 8"),
        (("train", pictures, "--budget", "soon"), 2, "for example --budget 10m"),
        (("train", pictures, "--path", "linaer"), 2, "did you mean 'linear'"),
        (("train", pictures, "--run", run), 2, "is a run of another recipe"),
        (("train", pictures, "--base", tmp_path / "none.yaml"), 2, "cannot read"),
        (("trian", pictures), 2, "train"),
        (("train", pictures, "--steps", 3, "--budget", "1m"), 2, "both say how long"),
        (("train", pictures, "--run", tmp_path / "texts" / "a.txt"), 2, "is a file"),
        (
            ("train", pictures, "--network.kind", "dit", "--network.width", 65, "--run", tmp_path / "odd"),
            2,
            "even width",
        ),
        (("sample", run, "--out", tmp_path / "texts" / "a.txt" / "b.png"), 4, "a.txt"),
        (("sample", run, "--label", "abvoe", "--out", tmp_path / "a.png"), 2, "did you mean 'above'"),
        (("sample", run, "--steps", 0, "--out", tmp_path / "a.png"), 2, "solver steps must be between 1"),
        (("sample", run, "--n", 0, "--out", tmp_path / "a.png"), 2, "n must be between 1 and"),
        (("sample", run, "--out", tmp_path / "a.jpeg"), 2, "end --out in .png"),
        (("sample", tmp_path / "nowhere"), 2, "holds no checkpoint"),
        (("evaluate", tmp_path / "empty"), 2, "holds no checkpoint"),
        (("evaluate", run, "--n", 1), 2, "n must be between 10 and"),
        (("config", "show", tmp_path / "none.yaml"), 2, "cannot read"),
    ]
    for arguments, code, message in cases:
        monkeypatch.setenv("COLUMNS", "200")
        assert ebb(*arguments) == code, arguments
        said = "".join(capsys.readouterr())
        assert message in said, (arguments, said)
        assert "Traceback" not in said
        assert len(said.splitlines()) <= 30, said
    damaged(run)
    assert ebb("sample", run, "--out", tmp_path / "a.png") == 5
    assert "ema.safetensors" in capsys.readouterr().err


def test_a_full_disk_ends_with_code_four_and_keeps_what_was_saved(pictures, tmp_path, monkeypatch, capsys):
    run, _ = trained(pictures, tmp_path / "run", steps=2)

    def full(*_, **__):
        raise OSError(28, "No space left on device", "samples.png")

    monkeypatch.setattr("ebb.edit.commission.save_png", full)
    assert ebb("sample", run, "--out", tmp_path / "samples.png") == 4
    assert "No space left" in capsys.readouterr().err
    monkeypatch.setattr("ebb.store.tensors.save_file", full)
    options = ["--steps", 3, "--network.width", 8, "--network.depth", 1, "--batch", 16, "--precision", "fp32"]
    assert ebb("train", pictures, "--run", tmp_path / "other", *options) == 4
    said = capsys.readouterr().err
    assert "step-00000003: No space left on device" in said
    assert "there is no checkpoint yet, so the same command begins anew" in said
    assert checkpoint.newest(run / "checkpoints") is not None


@pytest.mark.parametrize(("verb", "kind"), [("train", Train), ("sample", Sample)])
def test_full_memory_is_told_and_nothing_else_is_taken_for_it(tmp_path, monkeypatch, capsys, verb, kind):
    def fails(words):
        def call(*_):
            raise RuntimeError(words)

        monkeypatch.setattr(kind, "__call__", call)
        return ebb(verb, tmp_path)

    assert fails("CUDA out of memory. Tried to allocate 2.00 GiB") == 4
    said = capsys.readouterr().err
    assert "out of memory" in said
    assert "smaller --batch" in said
    with pytest.raises(RuntimeError, match="illegal"):
        fails("CUDA error: an illegal memory access was encountered")


def test_a_recipe_file_is_a_base_that_options_win_over(pictures, tmp_path):
    run, _ = trained(pictures, tmp_path / "run", steps=2)
    assert ebb("train", pictures, "--base", run / "run.yaml", "--run", tmp_path / "again", "--steps", 3) == 0
    assert (from_yaml(tmp_path / "again" / "run.yaml")[0].steps, from_yaml(run / "run.yaml")[0].steps) == (3, 2)


def test_a_shown_recipe_is_a_file_again(pictures, tmp_path, monkeypatch, capsys):
    """In a narrow terminal too, and whatever the fields hold."""
    monkeypatch.setenv("COLUMNS", "40")
    file = tmp_path / "a[bold]b" / "recipe.yaml"
    file.parent.mkdir()
    recipe = Recipe(path="ddpm_linear(beta_start=0.0001, beta_end=0.02, steps=1000)", network={"attention": (1,)})
    file.write_text(to_yaml(recipe))
    assert ebb("config", "show", file) == 0
    assert validated(yaml.safe_load(capsys.readouterr().out)["recipe"], "shown") == recipe
    assert ebb("config", "validate", file) == 0
    assert capsys.readouterr().out == f"{file} is a valid recipe\n"


def test_two_recipes_differ_for_a_script_as_for_a_reader(tmp_path, capsys):
    files = [tmp_path / "a.yaml", tmp_path / "b.yaml"]
    for file, recipe in zip(files, (Recipe(seed=1), Recipe(seed=2, network={"attention": (1,)})), strict=True):
        file.write_text(to_yaml(recipe))
    assert ebb("config", "diff", *files, "--json") == 0
    assert json.loads(capsys.readouterr().out) == {
        "differences": {"network.attention": {"a": None, "b": [1]}, "seed": {"a": 1, "b": 2}}
    }
    assert ebb("config", "diff", *files) == 0
    assert {line.split(":")[0] for line in capsys.readouterr().out.splitlines()} == {"network.attention", "seed"}


def test_an_option_wins_also_where_it_is_the_default():
    base = Recipe(seed=5, path="cosine", steps=9, data={"flip": True})
    given = given_in(["--seed", "0", "--path=linear", "--data.no-flip", "--budget", "2m"])
    merged = overlaid(base, Form(budget="2m"), given)
    assert (merged.seed, merged.path, merged.data.flip, merged.steps, merged.budget) == (0, "linear", False, None, "2m")


def commands_of(page):
    blocks = re.findall(r"```sh\n(.*?)```", page.read_text(), re.DOTALL)
    lines = [line.split("#")[0].strip() for block in blocks for line in block.splitlines()]
    return [line for line in lines if line.startswith("ebb ")]


@pytest.mark.parametrize("page", ["README.md", pytest.param("docs/runs.md", marks=pytest.mark.full)])
def test_every_command_of_the_pages_runs_in_its_order(page, pictures, tmp_path, monkeypatch, capsys):
    """At toy size: the same lines, with fewer steps and samples, on a small folder in the place of the data."""
    monkeypatch.chdir(tmp_path)
    root = Path(__file__).parents[2]
    for name in ("photos", "mnist"):
        shutil.copytree(pictures, name)
        for number, folder in (("7", "above"), ("3", "below")):
            (tmp_path / name / folder).rename(tmp_path / name / number)
    with (tmp_path / "power.csv").open("w") as table:
        table.write("a,b,season\n" + "".join(f"{i * 0.37 % 1:.3f},{i * 0.61 % 1:.3f},{i % 2}\n" for i in range(60)))
    lines = commands_of(root / page)
    if page != "README.md":
        assert ebb("train", "mnist", "--steps", 2, "--network.width", 8) == 0
    for line in lines:
        sized = "--network" in line or not line.startswith("ebb train")
        small = "" if sized else " --network.width 8 --network.depth 1"
        little = f"--steps 2 --batch 8{small}" + " --sheets 1 --sample.steps 2" * line.startswith("ebb train")
        line = re.sub(r"--budget \w+", little, line)
        line = re.sub(r"--extend \w+", "--extend 2", line)
        if line.startswith("ebb sweep"):
            line = re.sub(r"--(steps|solvers|guidance)( [\w.]+)+", "", line)
            line += " --solvers ddim --steps 2 --no-search --no-keep"
        line = re.sub(r"--n (\d+)", lambda found: f"--n {min(int(found[1]), 12)}", line)
        line += " --likelihood 2" * line.startswith("ebb evaluate")
        found = line.startswith("ebb doctor")  # two steps make no model: it must say so, and end with 1
        assert ebb(*shlex.split(line)[1:]) == found, (line, capsys.readouterr())
