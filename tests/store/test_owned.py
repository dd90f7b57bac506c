"""Ebb deletes what it made, known by its name, and nothing else: not data, not a neighbour, not a user's own files."""

import shutil

import pytest

from ebb.errors import UsageError
from ebb.evaluate.drawn import forget
from ebb.store import checkpoint
from ebb.store.owned import OWN, claimable

from .conftest import contents, trained


def test_a_neighbour_called_new_stays(data, tmp_path):
    """The pictures just trained on, too."""
    shutil.copytree(data, tmp_path / "d.new")
    trained(tmp_path / "d.new", tmp_path / "d")
    trained(tmp_path / "d.new", tmp_path / "d", fresh=True)
    assert len(list((tmp_path / "d.new").glob("*.png"))) == 24


def test_every_file_of_a_run_is_known_by_its_name(run):
    assert [name for name in contents(run) if not OWN.fullmatch(name)] == []


def test_fresh_keeps_what_a_user_put_into_a_run_and_says_so(data, run):
    mine = {"notes.txt": b"years", "samples/best.png": b"mine", "checkpoints/why.md": b"because", "paper/a.tex": b"a"}
    for name, text in mine.items():
        (run / name).parent.mkdir(exist_ok=True)
        (run / name).write_bytes(text)
    _, said = trained(data, run, steps=2, fresh=True)
    assert {name: (run / name).read_bytes() for name in mine} == mine
    assert "for ebb did not make them: checkpoints/why.md, notes.txt, paper, samples/best.png" in said
    assert [found.name for found in checkpoint.finished(run / "checkpoints")] == ["step-00000002"]


def test_fresh_does_not_empty_a_checkpoint_around_a_file_of_the_user(data, run):
    (run / "checkpoints" / "step-00000001" / "notes.txt").write_text("the best one")
    before = contents(run)
    with pytest.raises(UsageError, match=r"notes\.txt is not ebb's"):
        trained(data, run, steps=2, fresh=True)
    assert contents(run) == before


@pytest.mark.parametrize("part", ["samples", "pictures"])
def test_fresh_is_refused_where_the_data_lies_in_the_run(data, run, part):
    if part == "pictures":
        shutil.copytree(data, run / part)
    before = contents(run)
    with pytest.raises(UsageError, match=rf"the data .*{part} lies in .*run, which would be replaced"):
        trained(run / part, run, fresh=True)
    assert contents(run) == before


def test_fresh_is_refused_where_the_autoencoder_lies_in_the_run(data, run):
    before = contents(run)
    with pytest.raises(UsageError, match=r"--autoencoder .*step-00000001 lies in"):
        trained(data, run, fresh=True, autoencoder=str(run / "checkpoints" / "step-00000001"))
    assert contents(run) == before


def test_a_run_yaml_of_something_else_makes_no_run(tmp_path):
    (tmp_path / "run.yaml").write_text("jobs: [a, b]")
    with pytest.raises(UsageError, match=r"is not a run of ebb: its run\.yaml holds no recipe"):
        claimable(tmp_path)


def test_pruning_keeps_what_a_user_put_into_a_checkpoint(tmp_path):
    folder, state = tmp_path / "checkpoints", {part: {} for part in ("model", "ema", "optim", "rng")}
    (folder / "step-of-mine.tmp").mkdir(parents=True)
    (folder / "step-1.tmp").write_text("a file")
    checkpoint.save(folder, 1, state, {})
    (folder / "step-00000001" / "notes.txt").write_text("the best one")
    for step in (2, 3):
        checkpoint.save(folder, step, state, {})
    assert [found.name for found in checkpoint.finished(folder)] == ["step-00000002", "step-00000003"]
    assert [path.read_text() for path in folder.rglob("notes.txt")] == ["the best one"]
    assert (folder / "step-of-mine.tmp").is_dir()


def test_a_measurement_deletes_no_folder_that_it_did_not_make(tmp_path):
    for name in ("samples-mine", "samples-0123456789ab", "samples-ba9876543210"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "00000.npy").write_bytes(b"")
    (tmp_path / "samples-ba9876543210" / "picked.txt").write_text("mine")
    forget(tmp_path)
    assert set(contents(tmp_path)) == {"samples-mine/00000.npy", "samples-ba9876543210/picked.txt"}
