"""A run in the place of another: whatever the folder is, and whenever it is interrupted, one of the two stands whole."""

import errno
import os
import shutil
from pathlib import Path

import pytest

from ebb.data.images import settings_of
from ebb.errors import ResourceError
from ebb.store import checkpoint, exchange
from ebb.store.exchange import exchanged, recover

from ..command import ebb
from .conftest import contents, trained


@pytest.fixture
def mounted(monkeypatch):
    """mounted(folder): it can be neither renamed nor removed, and nothing can be made beside it."""

    def mounted(folder):
        for name in ("rename", "replace", "rmdir", "mkdir"):
            real = getattr(os, name)

            def refuse(path, *rest, real=real, name=name, **more):
                if Path(path) == folder:
                    raise OSError(errno.EBUSY, "Device or resource busy", str(path))
                if name == "mkdir" and Path(path).parent == folder.parent:
                    raise OSError(errno.EROFS, "Read-only file system", str(path))
                return real(path, *rest, **more)

            monkeypatch.setattr(os, name, refuse)

    return mounted


def test_an_empty_mount_works_as_run_folder_and_fresh_replaces_the_run_in_it(data, tmp_path, mounted):
    run = tmp_path / "volume"
    (run / "lost+found").mkdir(parents=True)
    mounted(run)
    trained(data, run)
    assert checkpoint.newest(run / "checkpoints").name == "step-00000001"
    trained(data, run, steps=2, fresh=True)
    assert [found.name for found in checkpoint.finished(run / "checkpoints")] == ["step-00000002"]
    assert (run / "lost+found").is_dir()


def test_fresh_through_a_link_keeps_the_link(data, run, tmp_path):
    (tmp_path / "link").symlink_to(run)
    trained(data, tmp_path / "link", steps=2, fresh=True)
    assert (tmp_path / "link").is_symlink()
    assert checkpoint.newest(run / "checkpoints").name == "step-00000002"


@pytest.mark.parametrize("name", [exchange.NEW, exchange.OLD, exchange.GONE])
def test_what_a_link_leads_to_is_not_taken_for_an_interrupted_exchange(data, run, tmp_path, name):
    shutil.copytree(data, tmp_path / "mine")
    (run / name).symlink_to(tmp_path / "mine")
    before = contents(tmp_path / "mine")
    assert recover(run) == ""
    assert contents(tmp_path / "mine") == before
    assert (run / name).is_symlink()


def test_a_run_is_where_one_works(data, run, monkeypatch):
    """Its name is not lost, also in what is sampled."""
    monkeypatch.chdir(run)
    trained(data, Path(), steps=2, fresh=True)
    assert checkpoint.newest(run / "checkpoints").name == "step-00000002"
    assert (run / "card.md").read_text().startswith("# run\n")
    assert ebb("sample", ".", "--n", 1, "--steps", 1, "--out", "one.png") == 0
    assert settings_of(Path("one.png"))["run"] == "run"
    (run / "samples").mkdir(exist_ok=True)
    trained(data, Path("samples") / "..", steps=1, fresh=True)
    assert checkpoint.newest(run / "checkpoints").name == "step-00000001"


OLD = {
    "run.yaml": "recipe: old",
    "latest": "step-1",
    "checkpoints/step-1/model.safetensors": "w",
    "samples/step-1.png": "p",
}
NEW = {"run.yaml": "recipe: new", "env.json": "{}", "samples/data-sheet.png": "d"}
MINE = {"notes.txt": "mine", "samples/mine.png": "mine"}


def write(folder, files):
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


class KilledError(BaseException):
    """What no handler of the program sees."""


@pytest.mark.parametrize("old", [OLD, {}], ids=["over a run", "in an empty folder"])
def test_an_exchange_killed_at_any_moment_is_undone_or_completed(tmp_path, monkeypatch, old):
    """Before every change of the disk: then the next start finds the one run or the other, whole."""
    real = {name: getattr(os, name) for name in ("rename", "replace", "mkdir", "rmdir", "unlink")}
    ends, moment, left = set(), 0, [0]

    def act(name):
        def at(*given, **more):
            left[0] -= 1
            if left[0] < 0:
                raise KilledError
            return real[name](*given, **more)

        return at

    finished = False
    while not finished:
        folder = tmp_path / str(moment)
        write(folder, old | MINE)
        left[0] = moment
        with monkeypatch.context() as patch:
            patch.setattr(exchange, "recover", lambda folder: recover(folder) if left[0] >= 0 else "")
            for name in real:
                patch.setattr(os, name, act(name))
            try:
                with exchanged(folder) as made:
                    write(made, NEW)
                finished = True
            except KilledError:
                pass
        recover(folder)
        found = {name: text.decode() for name, text in contents(folder).items()}
        assert found in (old | MINE, NEW | MINE)
        ends.add("old" if found == old | MINE else "new")
        assert not [path for path in folder.rglob("step-*") if path.is_dir()] or found == old | MINE
        moment += 1
    assert moment > 8
    assert ends == {"old", "new"}


def test_what_was_interrupted_is_told_at_the_next_start(data, run):
    """The old run was on its way out when the machine went down."""
    (run / exchange.OLD).mkdir()
    (run / "run.yaml").rename(run / exchange.OLD / "run.yaml")
    (run / exchange.NEW).mkdir()
    _, said = trained(data, run)
    assert "an interrupted --fresh was found, the old run is back in its place" in said
    assert "finished at step 1" in said
    assert not (run / exchange.NEW).exists()


def test_what_cannot_be_moved_leaves_the_old_run(data, run, monkeypatch):
    """Such as a folder of it that is a mount of its own."""
    before, real = contents(run), os.replace

    def busy(source, target):
        if Path(source).name == "ema.safetensors" and exchange.OLD in str(target):
            raise OSError(errno.EBUSY, "Device or resource busy")
        real(source, target)

    monkeypatch.setattr(os, "replace", busy)
    with pytest.raises(ResourceError, match="run: Device or resource busy"):
        trained(data, run, steps=2, fresh=True)
    assert contents(run) == before


def test_what_could_not_be_written_leaves_the_old_run(data, run, no_file_beyond):
    before = contents(run)
    shutil.rmtree(run / "samples")
    no_file_beyond(300)
    with pytest.raises(ResourceError, match="File too large"):
        trained(data, run, steps=2, fresh=True)
    assert contents(run) == {name: text for name, text in before.items() if not name.startswith("samples")}
