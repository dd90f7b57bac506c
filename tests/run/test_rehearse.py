"""What a run would cost: figures that are right, from a rehearsal that leaves nothing behind."""

import dataclasses
import re
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from torch import nn

from ebb import machine
from ebb.data.scan import read
from ebb.errors import ResourceError
from ebb.events import finished
from ebb.recipe.recipe import Recipe
from ebb.run import rehearse as module
from ebb.run.folder import write_documents
from ebb.run.rehearse import as_rows, rehearse, workshop
from ebb.understand.cost import gflop

from ..command import ebb

SMALL = {"network": {"width": 8, "depth": 1}, "batch": 16, "precision": "fp32", "sample": {"steps": 2}}


@pytest.fixture(autouse=True)
def known_machine(monkeypatch, paced):
    """Rates that are known and cost no time, for what is not about them."""
    monkeypatch.setattr("ebb.run.rehearse.matrix_rate", lambda dtype, device: 50e9)
    paced(1000.0)
    monkeypatch.setattr("ebb.run.rehearse.SPEND", 0.01)


def rehearsed(data, run, started=None, **asked):
    return finished(rehearse(str(data), Recipe(**SMALL | asked), run=run, started=started))


def everything_in(folder):
    return {p.relative_to(folder): p.read_bytes() if p.is_file() else None for p in folder.rglob("*")}


def test_the_figures_agree_with_each_other_and_nothing_is_left(pictures, tmp_path):
    before = everything_in(tmp_path)
    found = rehearsed(pictures, tmp_path / "runs" / "deep" / "run", steps=12, optimiser={"accumulate": 2})
    assert everything_in(tmp_path) == before
    assert (found.steps, found.batch, found.budget, found.precision) == (12, 32, None, "fp32")
    assert found.passes == 12 * 32 / 48
    assert found.timed >= 1
    assert found.training_gflops == 3 * found.forward_gflop * found.examples_per_second
    assert found.share == pytest.approx(found.training_gflops / 50)
    assert 0 < found.save < 5
    assert 0 < found.sample < 5
    rows = as_rows(found)
    assert all(isinstance(cell, str) for row in rows for cell in row)
    assert ("the run", "8 passes over the data", "12 updates of 32") in rows
    values = dataclasses.asdict(found).values()
    assert all(isinstance(value, int | float | str | None) for value in values)


@pytest.mark.parametrize(
    ("asked", "words", "by"),
    [
        ({"budget": "12m"}, "about 12 minutes", "its budget"),
        ({"budget": "50s", "sheets": 1}, "about 50 seconds", "its budget"),
        ({}, "about 2 minutes", "its budget"),  # 100,000 images at 1,000 a second
        ({"steps": 1000, "sheets": 2, "budget": "12m"}, "about 1", "the speed measured here"),
        ({"steps": 100_000_000, "sheets": 2}, "about 12 days", "the speed measured here"),
    ],
)
def test_how_long_it_takes_is_said_in_words_however_it_is_asked_for(pictures, tmp_path, monkeypatch, asked, words, by):
    monkeypatch.setattr(module, "made_updates", lambda *_: [0.5, 0.51])
    found = rehearsed(pictures, tmp_path / "runs" / "run", started=0.0, **asked)
    (what, how_long, why), *_ = as_rows(found)
    assert what == "duration"
    assert words in how_long
    assert by in why
    assert (found.budget is None) == ("steps" in asked)
    if "steps" in asked:
        assert found.seconds == pytest.approx(0.5 + 0.01 * (asked["steps"] - 1) + 2 * 40 * found.sample + found.save)


def test_a_run_of_the_same_name_is_untouched(pictures, tmp_path, capsys):
    """Also where the run itself would be refused, for it is of another recipe."""
    run = tmp_path / "run"
    write_documents(run, Recipe(steps=3), Recipe(steps=3), {}, read(str(pictures)), str(pictures))
    (run / "checkpoints" / "step-00000003").mkdir(parents=True)
    (run / "latest").write_text("step-00000003")
    before = everything_in(tmp_path)
    words = ["--run", run, "--batch", 16, "--network.width", 8, "--network.depth", 1, "--precision", "fp32"]
    assert ebb("train", pictures, *words, "--sample.steps", 2, "--steps", 2, "--dry-run") == 0
    said = capsys.readouterr().out
    assert everything_in(tmp_path) == before
    for figure in ("passes over the data", "images/s", "MB", "GFLOP/s", "first update", "saved in", "ms each"):
        assert figure in said, figure


@contextmanager
def kept(parent):
    """Wrong: the folder stays."""
    parent.mkdir(parents=True, exist_ok=True)
    yield parent


def test_a_rehearsal_that_left_its_folder_would_be_seen(pictures, tmp_path, monkeypatch):
    monkeypatch.setattr("ebb.run.rehearse.workshop", kept)
    before = everything_in(tmp_path)
    rehearsed(pictures, tmp_path / "runs" / "run", steps=2)
    assert everything_in(tmp_path) != before


def test_the_workshop_goes_also_after_a_failure_and_with_the_folders_made_for_it(tmp_path):
    (tmp_path / "kept").mkdir()

    def fail():
        with workshop(tmp_path / "kept" / "a" / "b") as folder:
            (folder / "checkpoints").mkdir()
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert list(tmp_path.rglob("*")) == [tmp_path / "kept"]


class Net(nn.Module):
    """A 3×3 convolution of 4 channels to 8 on 10×12 pixels, and a linear layer of 16 to 5 on 7 rows."""

    def __init__(self):
        super().__init__()
        self.conv, self.linear = nn.Conv2d(4, 8, 3, padding=1), nn.Linear(16, 5)

    def forward(self):
        return self.conv(torch.zeros(2, 4, 10, 12)), self.linear(torch.zeros(7, 16))


CONVOLUTION, LINEAR = 2 * 10 * 12 * 8 * 4 * 9, 7 * 16 * 5
"""Multiply-adds of `Net`, from the sums in the definitions of its layers."""


def test_arithmetic_is_two_for_each_multiply_add():
    found = 1e9 * gflop(Net())
    assert found == pytest.approx(2 * (CONVOLUTION + LINEAR))
    assert found != pytest.approx(CONVOLUTION + LINEAR)  # wrong: a multiply-add as one
    assert found != pytest.approx(2 * CONVOLUTION)  # wrong: convolutions alone


def test_arithmetic_of_a_convolution_does_not_depend_on_its_precision_or_layout():
    net = Net().to(memory_format=torch.channels_last)
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        assert 1e9 * gflop(net) == pytest.approx(2 * (CONVOLUTION + LINEAR))


def test_the_forward_pass_is_counted_for_one_image(pictures, tmp_path):
    """Twice the batch is the same image; twice the width of a narrow network is about four times the arithmetic."""
    one, two, wide = (
        rehearsed(pictures, tmp_path / "run", steps=2, **asked).forward_gflop
        for asked in ({}, {"batch": 32}, {"network": {"width": 16, "depth": 1}})
    )
    assert one == two
    assert 3.5 < wide / one < 4


def test_a_budget_too_small_for_one_update(pictures, tmp_path, capsys):
    words = ["--run", tmp_path / "run", "--batch", 16, "--network.width", 8, "--precision", "fp32"]
    assert ebb("train", pictures, *words, "--budget", "0.0001s", "--dry-run") == 2
    said = capsys.readouterr().err
    assert "no update fits in a budget of 0.0001s: one of 16 images takes" in said
    assert re.search(r"try --budget \d+s", said)
    assert not (tmp_path / "run").exists()


def test_a_budget_that_suits_is_taken(pictures, tmp_path):
    assert rehearsed(pictures, tmp_path / "run", budget="3s").budget == "3s"


def test_a_disk_with_room_for_one_checkpoint_but_not_for_three(pictures, tmp_path, monkeypatch):
    """Saving the one succeeds; a run would fail at its third."""

    def shrunken(size):
        class Usage:
            free = size

        return lambda folder: Usage

    full = rehearsed(pictures, tmp_path / "run", steps=2)
    size = int(1e6 * full.checkpoint_mb)
    monkeypatch.setattr(module.shutil, "disk_usage", shrunken(3 * size))
    assert rehearsed(pictures, tmp_path / "run", steps=2).checkpoint_mb == pytest.approx(full.checkpoint_mb, rel=0.01)
    monkeypatch.setattr(module.shutil, "disk_usage", shrunken(int(1.5 * size)))
    with pytest.raises(ResourceError, match="holds 3 checkpoints"):
        rehearsed(pictures, tmp_path / "run", steps=2)
    monkeypatch.setattr(module.shutil, "disk_usage", shrunken(size // 2))
    with pytest.raises(ResourceError, match="a checkpoint needs"):
        rehearsed(pictures, tmp_path / "run", steps=2)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "failure",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
    ],
    ids=["python", "cuda", "cpu"],
)
def test_too_little_memory_names_a_batch_that_is_smaller(pictures, tmp_path, monkeypatch, failure):
    def fail(*_, **__):
        raise failure

    monkeypatch.setattr("ebb.run.rehearse.build", fail)
    with pytest.raises(ResourceError, match="more memory than there is") as caught:
        rehearsed(pictures, tmp_path / "run", steps=2)
    assert "--batch 8" in caught.value.hint
    monkeypatch.setattr("ebb.run.rehearse.build", lambda *_: (_ for _ in ()).throw(RuntimeError("memory format")))
    with pytest.raises(RuntimeError, match="memory format"):
        rehearsed(pictures, tmp_path / "run", steps=2)


def test_the_first_update_is_timed_from_the_start_that_is_named(pictures, tmp_path):
    found = rehearsed(pictures, tmp_path / "run", started=time.perf_counter() - 1000, steps=2)
    assert 1000 < found.first_update < 1030


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="not Linux")
def test_the_age_of_a_process_includes_its_interpreter():
    program = (
        "import sys, time; time.sleep(0.3); sys.modules['torch'] = sys;"  # not asked for, and slow to import
        "from ebb.machine import seconds_since_start; print(seconds_since_start())"
    )
    began = time.perf_counter()
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert 0.3 <= float(said) <= time.perf_counter() - began + 0.02


def test_the_rate_of_a_matrix_product_counts_two_for_each_multiply_add(monkeypatch):
    """Against a clock that makes every product take 1 s."""
    ticks = iter(range(100))
    monkeypatch.setattr(machine.time, "perf_counter", lambda: float(next(ticks)))
    monkeypatch.setattr(machine.torch, "mm", lambda a, b: None)
    assert machine.matrix_rate(torch.float32, torch.device("cpu"), spend=3) == 2 * 2048**3
