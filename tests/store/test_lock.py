"""One writer of a run at a time: a second says who the first is, and nobody waits for a process that is dead."""

import errno
import os
import signal
import subprocess
import sys
import threading
import time

import pytest
import torch

from ebb.data.of_run import data_of
from ebb.errors import EbbError, Exit, ResourceError
from ebb.evaluate.evaluate import evaluate, measuring
from ebb.evaluate.sweep import Candidates, sweep
from ebb.events import Message, finished
from ebb.store import checkpoint, lock
from ebb.store.lock import MADE, MEASURED, TRAINED, held
from ebb.store.shards import cached

from ..command import ebb
from .conftest import contents, trained

BUSY = rf"is being trained by process {os.getpid()} since \d{{4}}-\d\d-\d\d"


@pytest.mark.parametrize("fresh", [False, True])
def test_a_run_is_trained_by_one_process(data, run, fresh):
    before = contents(run)
    with held(run, TRAINED), pytest.raises(ResourceError, match=BUSY) as caught:
        trained(data, run, fresh=fresh, seed=1)
    assert "--run FOLDER" in caught.value.hint
    assert contents(run) == before


def test_two_first_commands_at_once_do_not_both_work(data, tmp_path, monkeypatch):
    """The second comes while the first reads its data, and there is no run yet."""
    second, begun = [], threading.Event()

    def reads(*_, **__):
        begun.set()
        with pytest.raises(ResourceError, match=BUSY):
            trained(data, tmp_path / "run")
        second.append(True)
        raise KeyboardInterrupt

    monkeypatch.setattr("ebb.run.train.as_asked", reads)
    with pytest.raises(KeyboardInterrupt):
        trained(data, tmp_path / "run")
    assert second
    assert not (tmp_path / "run").exists()


def test_the_command_line_ends_with_a_code_of_its_own(data, run, capsys):
    with held(run, TRAINED):
        assert ebb("train", data, "--run", run, "--steps", 1) == Exit.BUSY == 6
    assert "is being trained by process" in capsys.readouterr().err


def test_a_lock_goes_with_its_process(tmp_path):
    program = (
        "import sys, time; from pathlib import Path; from ebb.store.lock import held\n"
        "with held(Path(sys.argv[1]), 'trained'): print('held', flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", program, tmp_path], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "held\n"
        with pytest.raises(ResourceError, match=rf"process {other.pid} since"), held(tmp_path, TRAINED):
            pass
        os.kill(other.pid, signal.SIGKILL)
        other.wait()
        with held(tmp_path, TRAINED):
            pass
    assert list(tmp_path.iterdir()) == []


def test_what_was_made_for_a_lock_goes_and_what_came_to_hold_something_stays(tmp_path):
    with held(tmp_path / "a" / "b", TRAINED):
        pass
    assert not (tmp_path / "a").exists()
    with held(tmp_path / "a" / "b", TRAINED):
        (tmp_path / "a" / "b" / "run.yaml").touch()
    assert [path.name for path in (tmp_path / "a" / "b").iterdir()] == ["run.yaml"]


def test_where_there_are_no_locks_it_is_said_once_and_work_goes_on(data, run, monkeypatch):
    def none(_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(lock, "lock", none)
    _, said = trained(data, run)
    assert said.count("this file system has no locks") == 1
    assert "finished at step 1" in said


def test_a_run_is_measured_while_it_is_trained_but_by_one_process(run):
    with held(run, TRAINED), measuring(run):
        pass
    with measuring(run):
        for work in (evaluate(run, 10), sweep(run, Candidates(["ddim"], [1]), 10)):
            with pytest.raises(ResourceError, match="is being measured by process"):
                finished(work)


def test_a_run_that_is_measured_is_not_replaced(data, run):
    before = contents(run)
    with held(run, MEASURED), pytest.raises(ResourceError, match="is being measured by process"):
        trained(data, run, steps=2, fresh=True)
    assert contents(run) == before


def test_a_measurement_is_of_the_weights_that_it_loaded(run, monkeypatch):
    """Whatever checkpoints a training adds meanwhile."""
    first = run / "checkpoints" / "step-00000001"
    state = {part: checkpoint.read(first, part) for part in ("model", "ema", "optim", "rng")}

    def meanwhile(run, place=None):
        checkpoint.save(run / "checkpoints", 2, state, checkpoint.about(first))
        return data_of(run, place)

    def settings_of(one, *_):
        raise EbbError(one.checkpoint)

    monkeypatch.setattr("ebb.evaluate.evaluate.data_of", meanwhile)
    monkeypatch.setattr("ebb.evaluate.evaluate.settings_of", settings_of)
    monkeypatch.setattr("ebb.evaluate.evaluate.measure", lambda *_, **__: None)
    with pytest.raises(EbbError, match="step-00000001"):
        finished(evaluate(run, 10, steps=1))


def test_a_second_process_waits_for_what_the_first_makes(tmp_path):
    """Of two that want the same latents, one makes them."""
    asked, said, free = [], [], threading.Event()

    def make(first, last):
        asked.append((first, last))
        return {"x0": torch.zeros(last - first, 2)}

    def first():
        with held(tmp_path, MADE):
            free.wait(10)

    holder = threading.Thread(target=first)
    holder.start()
    while not (tmp_path / ".made.lock").exists():
        time.sleep(0.01)
    threading.Timer(0.3, free.set).start()
    began = time.monotonic()
    finished(cached(tmp_path, {"data": "a"}, 4, make), said.append)
    holder.join()
    assert time.monotonic() - began > 0.25
    assert ["waiting for it" in event.text for event in said if isinstance(event, Message)] == [True]
    assert asked == [(0, 4)]
