"""Long work is a stream of events: whole, in order, the same in JSON; and closing it leaves nothing half."""

import json
import threading
import time
from itertools import pairwise

import numpy as np
import pytest
import torch

import ebb.run.supervise
from ebb.errors import DataError, UsageError
from ebb.events import (
    KINDS,
    Done,
    Failed,
    Figure,
    Message,
    Overview,
    Preview,
    Progress,
    Saved,
    Update,
    finished,
    from_json,
    streamed,
    to_json,
)
from ebb.recipe.recipe import Recipe
from ebb.run.train import train
from ebb.store import checkpoint
from ebb.testing.of_training import EVENTS

from .command import ebb as command


def test_every_event_is_a_line_of_json_and_back():
    assert {type(event).__name__ for event in EVENTS} == KINDS.keys()
    for event in EVENTS:
        line = to_json(event)
        assert "\n" not in line
        assert from_json(line) == event
    assert json.loads(to_json(Figure("bits", {"mean": float("nan")})))["value"] == {"mean": None}


@pytest.mark.parametrize(
    "line", ["", "[1]", '{"event": "Nothing"}', '{"event": "Done"}', '{"event": "Done", "ran": 1}']
)
def test_a_line_that_is_no_event_is_refused(line):
    with pytest.raises(UsageError, match="expected an event"):
        from_json(line)


def counting(ended, upto=3):
    try:
        for number in range(upto):
            yield Progress("counting", number)
        return upto
    finally:
        ended.append(True)


def test_work_is_read_to_its_end_and_ended_where_a_reader_fails():
    seen, ended = [], []
    assert finished(counting(ended), seen.append) == 3
    assert [event.done for event in seen] == [0, 1, 2]

    def broken(_):
        raise OSError("nobody reads")

    ended.clear()
    work = counting(ended)
    with pytest.raises(OSError, match="nobody reads"):
        finished(work, broken)
    assert ended == [True]


def test_what_a_thread_reports_comes_at_once_and_closing_ends_it():
    read = threading.Event()

    def work(progress):
        progress(Message("first"))
        assert read.wait(5), "the first was not passed on before the second"
        progress(Message("second"))
        return 7

    stream = streamed(work)
    assert next(stream) == Message("first")
    read.set()
    assert finished(stream) == 7

    def failing(_):
        raise DataError("no pictures", "name a folder")

    with pytest.raises(DataError, match="no pictures"):
        finished(streamed(failing))
    made = []

    def endless(progress):
        while True:
            made.append(0)
            progress(Message("again"))
            time.sleep(0.001)

    stream = streamed(endless)
    next(stream)
    stream.close()
    count = len(made)
    time.sleep(0.02)
    assert len(made) == count


@pytest.fixture
def data(tmp_path):
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "data.npz", images=rng.integers(0, 256, (24, 8, 8), np.uint8), labels=np.arange(24) % 2)
    return str(tmp_path / "data.npz")


SMALL = {"network": {"width": 16, "depth": 1}, "batch": 8, "precision": "fp32", "sheets": 1, "sample": {"steps": 1}}


def log(run):
    return [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]


def trained_whole(data, run, steps=2):
    """Train, and hold that the stream tells all that the folder holds."""
    events = list(train(data, Recipe(**SMALL, steps=steps), run=run))
    updates = [event for event in events if isinstance(event, Update)]
    assert [event.step for event in updates] == list(range(1, steps + 1))
    assert [dict(event.figures) for event in updates] == log(run)
    assert {event.of for event in updates} == {steps}
    titles = [event.title for event in events if isinstance(event, Overview)]
    assert [title.partition(":")[0] for title in titles] == ["data", "the recipe"]
    assert [event.file for event in events if isinstance(event, Preview)] == [
        str(run / "samples" / f"step-{steps:06d}.png")
    ]
    saved = [event for event in events if isinstance(event, Saved)]
    assert [event.checkpoint for event in saved] == [str(checkpoint.newest(run / "checkpoints"))]
    assert [type(event) for event in events[-4:]] == [Update, Preview, Saved, Done]
    assert events[-1] == Done(str(run))
    assert all(from_json(to_json(event)) == event for event in events)
    return events


def test_the_stream_of_a_training_tells_all_that_the_folder_holds(data, tmp_path):
    assert trained_whole(data, tmp_path / "run")[-1] == Done(str(tmp_path / "run"))


@pytest.mark.parametrize("kind", [Update, Preview, Saved])
def test_a_stream_that_lost_an_event_is_found_out(data, tmp_path, monkeypatch, kind):
    """The mutant: the first event of a kind is not passed on."""
    right = ebb.run.supervise.supervised

    def supervised(*arguments):
        lost = False
        for event in right(*arguments):
            if isinstance(event, kind) and not lost:
                lost = True
            else:
                yield event

    monkeypatch.setattr(ebb.run.supervise, "supervised", supervised)
    with pytest.raises(AssertionError):
        trained_whole(data, tmp_path / "run")


def weights(run):
    saved = checkpoint.newest(run / "checkpoints")
    return saved.name, {part: checkpoint.read(saved, part) for part in ("model", "ema", "optim", "rng")}


def closed_at(work, kind):
    """Read until the first event of a kind, and no further."""
    for event in work:
        if isinstance(event, kind):
            break
    work.close()


def same(data, tmp_path, kind):
    """A run whose stream is closed at the first event of a kind, and gone on with, ends as if it had not been."""
    asked = Recipe(**SMALL, steps=4)
    finished(train(data, asked, run=tmp_path / "whole"))
    closed_at(train(data, asked, run=tmp_path / "parts"), kind)
    assert weights(tmp_path / "parts")[0] == "step-00000001"
    events = list(train(data, asked, run=tmp_path / "parts"))
    assert [event.step for event in events if isinstance(event, Update)] == [2, 3, 4]
    (name, one), (other, two) = weights(tmp_path / "whole"), weights(tmp_path / "parts")
    assert name == other
    for part, tensors in one.items():
        assert all(torch.equal(two[part][key], value) for key, value in tensors.items()), part
    lines = [[(line["step"], line["loss"]) for line in log(tmp_path / run)] for run in ("whole", "parts")]
    assert lines[0] == lines[1]


def test_a_stream_closed_at_a_checkpoint_goes_on_bit_for_bit(data, tmp_path, monkeypatch):
    monkeypatch.setattr(ebb.run.supervise, "CHECKPOINT_EVERY", 0.0)
    same(data, tmp_path, Saved)


def test_a_stream_closed_between_checkpoints_saves_one(data, tmp_path):
    same(data, tmp_path, Update)


def test_the_mutant_that_does_not_save_when_it_is_closed_is_found_out(data, tmp_path, monkeypatch):
    monkeypatch.setattr(ebb.run.supervise.Supervisor, "leave", lambda *_: None)
    with pytest.raises((AssertionError, AttributeError)):
        same(data, tmp_path, Update)


def test_closed_before_the_first_update_there_is_no_checkpoint_and_no_lock(data, tmp_path):
    closed_at(train(data, Recipe(**SMALL, steps=2), run=tmp_path / "run"), Overview)
    assert not (tmp_path / "run").exists()


ASKED = ("--steps", 2, "--batch", 8, "--precision", "fp32", "--sheets", 1, "--network.width", 16, "--sample.steps", 1)


def test_train_in_json_is_the_stream_and_nothing_else_and_words_go_to_stderr(data, tmp_path, capsys):
    assert command("train", data, *ASKED, "--run", tmp_path / "run", "--json") == 0
    out, err = capsys.readouterr()
    assert f"report   {tmp_path / 'run' / 'report.html'}" in err
    lines = out.splitlines()
    events = [from_json(line) for line in lines]
    assert [dict(event.figures) for event in events if isinstance(event, Update)] == log(tmp_path / "run")
    assert events[0] == Progress("reading the data")
    assert events[-1] == Done(str(tmp_path / "run"))
    assert [to_json(event) for event in events] == lines
    steps = [event.step for event in events if isinstance(event, Update | Preview | Saved)]
    assert all(one <= other for one, other in pairwise(steps))


def test_what_fails_is_an_event_too_and_an_error_as_ever(tmp_path, capsys, monkeypatch):
    nothing = str(tmp_path / "nothing")
    cases = [
        (("train", nothing, "--run", tmp_path / "run"), 3),
        (("train", nothing, "--stpes", 3), 2),
        (("train", nothing, "--steps", "many"), 2),
        (("evaluate", nothing), 2),
        (("sweep", nothing), 2),
        (("doctor", nothing), 3),
        (("config", "show", nothing), 2),
        (("sample", nothing), 2),
    ]
    for arguments, code in cases:
        assert command(*arguments, "--json") == code, arguments
        out, err = capsys.readouterr()
        [line] = out.splitlines()[-1:]
        event = from_json(line)
        assert isinstance(event, Failed)
        assert event.code == code
        assert event.what in err
        assert all(isinstance(json.loads(line), dict) for line in out.splitlines())

    def stop(*_, **__):
        raise KeyboardInterrupt("nothing is lost")

    monkeypatch.setattr("ebb.evaluate.evaluate.evaluate", stop)
    assert command("evaluate", nothing, "--json") == 130
    assert from_json(capsys.readouterr().out.splitlines()[-1]).code == 130
