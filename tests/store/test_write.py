"""Every file is absent or complete, and what the system refuses is one clear error with the remedy for that."""

import errno
import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import SafetensorError

from ebb.data.images import save_npz, save_png
from ebb.errors import ResourceError
from ebb.evaluate.analyses import Result
from ebb.evaluate.drawn import keep
from ebb.judge.ensemble import Ensemble, save_ensemble
from ebb.judge.features import ImageClassifier
from ebb.run.folder import Log
from ebb.store import checkpoint
from ebb.store.failure import failed
from ebb.store.tensors import save_tensors
from ebb.store.write import append_text, replace_text, replacing

from ..command import ebb
from .conftest import contents, lengthened, trained

FULL = OSError(errno.ENOSPC, "No space left on device")
TENSORS = SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")


@pytest.mark.parametrize("failure", [FULL, TENSORS, KeyboardInterrupt()], ids=["system", "safetensors", "stopped"])
def test_what_fails_leaves_the_old_file_and_nothing_else(tmp_path, failure):
    (tmp_path / "a.json").write_text("old")

    def write():
        with replacing(tmp_path / "a.json") as partial:
            partial.write_text("half of the ne")
            raise failure

    with pytest.raises((ResourceError, KeyboardInterrupt), match=r"a\.json: No space|^$"):
        write()
    assert contents(tmp_path) == {"a.json": b"old"}


def test_two_writers_of_one_file_do_not_meet(tmp_path):
    with replacing(tmp_path / "a") as one, replacing(tmp_path / "a") as two:
        one.write_text("one")
        two.write_text("two")
    assert contents(tmp_path) == {"a": b"one"}


def test_a_link_is_written_through(tmp_path):
    (tmp_path / "there").mkdir()
    (tmp_path / "a").symlink_to(tmp_path / "there" / "b")
    replace_text(tmp_path / "a", "ü")
    assert (tmp_path / "there" / "b").read_text(encoding="utf8") == "ü"
    assert (tmp_path / "a").is_symlink()


WRITERS = {
    "text": lambda path: replace_text(path, "x" * 9000),
    "png": lambda path: save_png(Image.effect_noise((99, 99), 50), path, {}),
    "npz": lambda path: save_npz(path, {"a": noise()}),
    "npy": lambda path: keep(path, noise()),
    "classifiers": lambda path: save_ensemble(path, Ensemble([ImageClassifier(1, 2)]), 0.5, "f"),
}


def noise():
    return np.random.default_rng(0).integers(0, 256, (90, 1, 10, 10), dtype=np.uint8)


@pytest.mark.parametrize("kind", WRITERS)
def test_a_file_that_is_too_large_is_told_and_not_there(tmp_path, no_file_beyond, kind):
    no_file_beyond(4000)
    with pytest.raises(ResourceError, match=r"file: File too large") as caught:
        WRITERS[kind](tmp_path / "file")
    assert "ulimit -f" in caught.value.hint
    assert list(tmp_path.iterdir()) == []


def test_what_is_added_to_a_file_is_there_whole_or_not_at_all(tmp_path, no_file_beyond):
    append_text(tmp_path / "log", "first\n")
    no_file_beyond(100)
    with pytest.raises(ResourceError, match="log: File too large"):
        append_text(tmp_path / "log", "x" * 200 + "\n")
    assert (tmp_path / "log").read_text() == "first\n"


def test_a_log_that_was_cut_short_anywhere_is_read(tmp_path):
    line = json.dumps({"step": 2, "levels": {"a": 1}})
    for end in range(len(line)):
        (tmp_path / "log.jsonl").write_text('{"step": 1}\n' + line[:end])
        assert Log(tmp_path, 5).last == {"step": 1}


def test_a_checkpoint_that_does_not_fit_leaves_the_one_before(data, run, no_file_beyond, capsys):
    no_file_beyond((lengthened(run) / "checkpoints" / "step-00000001" / "model.safetensors").stat().st_size - 1)
    small = ["--network.width", 8, "--network.depth", 1, "--batch", 8, "--precision", "fp32", "--sheets", 1]
    assert ebb("train", data, "--run", run, *small, "--sample.steps", 1, "--steps", 2) == 4
    said = capsys.readouterr().err
    assert "step-00000002: File too large" in said
    assert "the same command resumes from step 1" in said
    assert [path.name for path in (run / "checkpoints").iterdir()] == ["step-00000001"]
    checkpoint.verify(run / "checkpoints" / "step-00000001")


def test_a_full_disk_before_the_first_checkpoint_promises_none(data, tmp_path, no_file_beyond):
    no_file_beyond(30_000)
    with pytest.raises(ResourceError, match="File too large") as caught:
        trained(data, tmp_path / "run")
    assert "there is no checkpoint yet, so the same command begins anew" in caught.value.hint
    assert list((tmp_path / "run" / "checkpoints").iterdir()) == []


@pytest.mark.parametrize(
    ("number", "remedy"),
    [
        (errno.ENOSPC, "free some space"),
        (errno.EDQUOT, "quota"),
        (errno.EFBIG, "ulimit -f"),
        (errno.EACCES, "permission"),
        (errno.EROFS, "nothing can be written on this disk"),
        (errno.EEXIST, "not a folder"),
        (errno.EISDIR, "a folder stands where a file should be"),
        (errno.ENAMETOOLONG, "shorter name"),
        (errno.EMFILE, "ulimit -n"),
    ],
)
def test_each_refusal_has_its_own_remedy(tmp_path, monkeypatch, capsys, number, remedy):
    def refused(*_):
        raise OSError(number, os.strerror(number), "there.png")

    monkeypatch.setattr("ebb.cli.sample.Sample.__call__", refused)
    assert ebb("sample", tmp_path) == 4
    said = capsys.readouterr().err
    assert f"there.png: {os.strerror(number)}" in said
    assert remedy in said
    assert ("free" in said) == (number == errno.ENOSPC)


# ---- a run that cannot be written to: known before the work


@pytest.fixture
def read_only(monkeypatch):
    """read_only(folder): the system lets nothing be made in it, as on a disk that is mounted so."""

    def read_only(folder):
        real = os.open

        def opened(path, flags, *rest, **more):
            if flags & (os.O_CREAT | os.O_WRONLY | os.O_RDWR) and Path(path).is_relative_to(folder):
                raise OSError(errno.EROFS, "Read-only file system", str(path))
            return real(path, flags, *rest, **more)

        monkeypatch.setattr(os, "open", opened)

    return read_only


@pytest.mark.parametrize("verb", [("evaluate",), ("sweep", "--steps", 1), ("train",)])
def test_a_run_that_cannot_be_written_to_is_known_before_the_work(data, run, read_only, monkeypatch, capsys, verb):
    def work(*_, **__):
        raise AssertionError("work that is lost")

    read_only(run)
    monkeypatch.setattr("ebb.run.train.as_asked", work)
    monkeypatch.setattr("ebb.data.of_run.as_asked", work)
    arguments = (verb[0], data, "--run", run) if verb[0] == "train" else (verb[0], run, *verb[1:])
    assert ebb(*arguments) == 4
    said = capsys.readouterr().err
    assert "Read-only file system" in said
    assert "nothing can be written on this disk" in said
    assert ("cp -r" in said) == (verb[0] != "train")


def test_figures_are_told_where_the_disk_is_full_at_the_end(run, monkeypatch, capsys):
    """Once for each file, however often it was tried."""

    def full(path, _):
        raise failed(path, FULL)

    monkeypatch.setattr("ebb.evaluate.evaluate.parts", lambda _: [("nothing", lambda _: Result({}))])
    monkeypatch.setattr("ebb.evaluate.evaluate.replace_text", full)
    monkeypatch.setattr("ebb.report.run_report.replace_text", full)
    monkeypatch.setenv("COLUMNS", "300")
    assert ebb("evaluate", run, "--n", 10, "--steps", 1) == 0
    said = capsys.readouterr().out
    assert "10 samples, " in said
    for file in ("evaluation.json", "report.html"):
        assert said.count(f"{file}: No space left on device") == 1


def test_figures_that_have_no_place_are_known_before_the_work(run, monkeypatch, capsys):
    (run / "evaluation.json").mkdir()
    monkeypatch.setattr("ebb.data.of_run.as_asked", lambda *_, **__: pytest.fail("work that is lost"))
    assert ebb("evaluate", run) == 4
    assert "evaluation.json: Is a directory" in capsys.readouterr().err


def test_a_doctor_who_can_keep_nothing_tells_what_was_found(run, monkeypatch, capsys):
    monkeypatch.setattr("ebb.doctor.diagnose.RUN_CHECKS", [])
    monkeypatch.setattr("ebb.doctor.diagnose.MODEL_CHECKS", [])
    (run / "doctor.json").mkdir()
    assert ebb("doctor", run) == 0
    said = capsys.readouterr().out
    assert "nothing found in 0 checks" in said
    assert "doctor.json: Is a directory" in said
    assert "report " not in said


def test_tensors_are_readable_as_any_file_is(tmp_path):
    """A folder that is shared opens for others: a new file's mode is the umask's choice, not the library's."""
    save_tensors({"a": torch.ones(2)}, tmp_path / "a.safetensors", {"kind": "x"})
    (tmp_path / "b").write_bytes(b"")
    assert (tmp_path / "a.safetensors").stat().st_mode == (tmp_path / "b").stat().st_mode
