"""Where something goes is looked at before the work; and what was made before it is stopped is there."""

import os
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ebb.data.images import settings_of
from ebb.errors import ResourceError, UsageError
from ebb.sample import scheme
from ebb.sample.trajectory import trajectory
from ebb.store.place import by_name, expanded, room_for
from ebb.system.sampler import Sampler

from ..command import ebb
from .conftest import lengthened


def test_a_tilde_is_a_home_where_there_is_one(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert expanded("~/a") == tmp_path / "a"
    assert expanded("~nobody-of-this-name/a") == Path("~nobody-of-this-name/a")
    for words in (("doctor",), ("train", "--fresh")):
        assert ebb(*words, "~nobody-of-this-name") == 3
        assert "~nobody-of-this-name does not exist" in capsys.readouterr().err


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8)).save("a.png")
    return tmp_path


@pytest.mark.parametrize("verb", ["sample", "edit"])
@pytest.mark.parametrize("out", ["not/there/a.png", "not/there", "not/there/a.npz"])
def test_a_chain_of_folders_that_are_not_there_is_refused(run, here, monkeypatch, capsys, verb, out):
    words = ("sample", run) if verb == "sample" else ("edit", "strength", run, "a.png")
    monkeypatch.setattr("ebb.edit.commission.Sampler", lambda *_, **__: pytest.fail("before any work"))
    monkeypatch.setattr("ebb.edit.files.load", lambda *_, **__: pytest.fail("before any work"))
    assert ebb(*words, "--out", out) == 2
    said = capsys.readouterr().err
    assert "there is no folder not\n" in said
    assert "mkdir -p not/there" in said
    assert not Path("not").exists()


@pytest.mark.parametrize("out", ["new/a.png", "new/a.npz", "new"])
def test_one_folder_is_made_when_there_is_something_to_put_into_it(run, here, monkeypatch, out):
    with monkeypatch.context() as patch:
        patch.setattr("ebb.edit.samples.load", lambda *_, **__: (_ for _ in ()).throw(UsageError("no")))
        assert ebb("sample", run, "--out", out) == 2
    assert not Path("new").exists()
    assert ebb("sample", run, "--n", 1, "--steps", 1, "--out", out) == 0
    assert [path.name for path in Path("new").iterdir()] == ["000000.png" if out == "new" else Path(out).name]


def test_a_file_that_is_protected_is_not_replaced(tmp_path, monkeypatch):
    (tmp_path / "a.png").touch()
    monkeypatch.setattr(os, "access", lambda path, mode: not Path(path).is_file())
    with pytest.raises(ResourceError, match=r"a\.png: Permission denied"):
        room_for(tmp_path / "a.png")


def test_a_folder_has_a_name_however_it_is_written(tmp_path, monkeypatch):
    (tmp_path / "run" / "x").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "run")
    for written in (".", "x/..", "../run/."):
        assert by_name(Path(written)).name == "run"
        assert by_name(Path(written)).parent.resolve() == tmp_path
    assert by_name(Path("runs/photos")) == Path("runs/photos")


@pytest.fixture
def stopped(monkeypatch):
    """Ctrl-C in the middle of the third batch of two."""
    left = [2]

    def interrupted(*given):
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        return trajectory(*given)

    monkeypatch.setattr(Sampler, "__post_init__", lambda self: object.__setattr__(self, "batch", 2))
    monkeypatch.setattr(scheme, "trajectory", interrupted)
    return left


def test_sampling_into_a_folder_keeps_what_was_made_when_it_is_stopped(run, here, stopped, capsys):
    assert ebb("sample", run, "--n", 6, "--steps", 1, "--seed", 5, "--out", "some") == 130
    assert "4 of 6 images are in some" in capsys.readouterr().out
    assert sorted(path.name for path in Path("some").iterdir()) == [f"00000{i}.png" for i in range(5, 9)]
    stopped[0] = 9
    assert ebb("sample", run, "--n", 6, "--steps", 1, "--seed", 5, "--out", "all") == 0
    for path in Path("some").iterdir():
        assert (np.asarray(Image.open(path)) == np.asarray(Image.open(Path("all") / path.name))).all()
        assert settings_of(path) == settings_of(Path("all") / path.name)


def test_the_same_command_goes_on_in_a_folder_and_makes_nothing_twice(run, here, stopped, capsys):
    words = ("sample", run, "--n", 7, "--steps", 1)
    assert ebb(*words, "--out", "some") == 130
    assert "4 of 7 images are in some; the same command goes on from there" in capsys.readouterr().out
    Path("some/000003.png").unlink()
    before = {path: path.stat().st_mtime_ns for path in Path("some").iterdir()}
    stopped[0] = 9
    assert ebb(*words, "--out", "some") == 0
    assert "2 of 7 images are in some already: going on from there" in capsys.readouterr().out
    assert {path for path, at in before.items() if path.stat().st_mtime_ns == at} == {
        Path("some/000000.png"), Path("some/000001.png"),
    }, "whole batches, since the last bits depend on what is made together"  # fmt: skip
    stopped[0] = 9
    assert ebb(*words, "--out", "all") == 0
    for path in Path("all").iterdir():
        assert path.read_bytes() == (Path("some") / path.name).read_bytes()
    stopped[0] = 0
    assert ebb(*words, "--out", "some") == 0
    assert "7 of 7 images are in some already: all there is to make" in capsys.readouterr().out
    assert ebb(*words[:-1], 2, "--out", "some") == 130, "other settings make other pictures"


@pytest.mark.parametrize("out", ["grid.png", "arrays.npz"])
def test_one_file_holds_what_was_made_when_it_is_stopped(run, here, stopped, capsys, out):
    words = ("sample", run, "--steps", 1, "--out")
    assert ebb(*words, out, "--n", 6) == 130
    assert f"4 of 6 images are in {out}; the same command begins anew" in capsys.readouterr().out
    stopped[0] = 9
    assert ebb(*words, f"few-{out}", "--n", 4) == 0
    assert Path(out).read_bytes() == Path(f"few-{out}").read_bytes(), "what it says of itself is true"
    Path(out).unlink()
    stopped[0] = 0
    assert ebb(*words, out, "--n", 6) == 130
    assert f"nothing was written to {out}" in capsys.readouterr().out
    assert not Path(out).exists()


def test_edits_in_a_folder_stay_when_they_are_stopped(run, here, monkeypatch, capsys):
    from ebb.edit import editor

    left, sdedit = [2], editor.sdedit

    def interrupted(*given):
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        return sdedit(*given)

    monkeypatch.setattr(editor, "sdedit", interrupted)
    monkeypatch.setattr(editor.Editor, "parts", lambda _, given: list(given.split(2)))
    words = ("edit", "vary", run, "a.png", "--n", 6, "--steps", 2, "--seed", 3)
    assert ebb(*words, "--out", "some") == 130
    assert "4 of 6 images are in some" in capsys.readouterr().out
    left[0] = 99
    assert ebb(*words, "--out", "all") == 0
    assert [settings_of(path)["seed"] for path in sorted(Path("all").iterdir())] == [3, 4, 5, 6, 7, 8]
    for path in Path("some").iterdir():
        assert path.read_bytes() == (Path("all") / path.name).read_bytes()


@pytest.mark.parametrize("saved", [False, True])
def test_a_stopped_training_promises_what_is_there(made, tmp_path, monkeypatch, capsys, saved):
    """Ctrl-C twice, before the first checkpoint or after it."""
    run = tmp_path / "run"
    if saved:
        lengthened(shutil.copytree(made / "run", run))

    def stop(*_):
        raise KeyboardInterrupt(signal.SIGINT)

    monkeypatch.setattr("ebb.run.complete.follow", stop)
    small = ["--network.width", 8, "--network.depth", 1, "--batch", 8, "--precision", "fp32", "--sheets", 1]
    small += ["--sample.steps", 1, "--steps", 2 if saved else 1]
    for _ in range(2):
        assert ebb("train", made / "data", "--run", run, *small) == 130
        said = capsys.readouterr()
        assert ("resumes from step 1" in said.err) == saved
        assert ("begins anew" in said.err) != saved
    assert ("going from the beginning: it has no checkpoint yet" in said.out) != saved
