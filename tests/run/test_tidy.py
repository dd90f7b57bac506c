"""What of a run may go: counted to the byte, removed when it is asked for, and what still works without it."""

import json
import shutil

import pytest

from ebb.errors import UsageError
from ebb.recipe.document import from_yaml, to_yaml
from ebb.run.tidy import REMOVABLE, TrainedRun, items, tidied
from ebb.store import checkpoint
from ebb.store.owned import contents
from ebb.system.system import load

from ..command import ebb as command
from ..toys import trained, write


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A run in latents, with samples as a measurement leaves them."""
    home = tmp_path_factory.mktemp("tidy")
    trained(write(home / "data"), home / "runs" / "codec", kind="autoencoder", steps=1)
    trained(home / "data", home / "runs" / "run", autoencoder=str(home / "runs" / "codec"), steps=3, sheets=3)
    drawn = home / "runs" / "run" / "evaluation" / "samples-0123456789ab"
    drawn.mkdir(parents=True)
    for name in ("00000.npy", "manifest.json"):
        (drawn / name).write_bytes(b"{}")
    return home


@pytest.fixture
def run(made, tmp_path):
    shutil.copytree(made, tmp_path / "home")
    run = tmp_path / "home" / "runs" / "run"
    shutil.copytree(checkpoint.newest(run / "checkpoints"), run / "checkpoints" / "step-00000001")
    (run / "samples" / "mine.png").write_text("mine")
    return run


def size(folder):
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def test_every_byte_that_is_promised_goes(run):
    whole = run.parent
    for item in items(TrainedRun.of(run)):
        before, manifest = size(whole), (checkpoint.newest(run / "checkpoints") / "manifest.json").stat().st_size
        (gone,) = tidied(run, [item.name])
        written = manifest - (checkpoint.newest(run / "checkpoints") / "manifest.json").stat().st_size
        assert before - size(whole) == item.bytes + written == gone.bytes + written, item.name
    assert items(TrainedRun.of(run)) == []
    assert (run / "samples" / "mine.png").read_text() == "mine"


def test_what_is_there_has_its_names(run):
    assert {item.name for item in items(TrainedRun.of(run))} == {
        "old", "optimiser", "raw", "samples", "sheets", "latents",
    }  # fmt: skip


def test_a_run_without_its_optimiser_samples_and_says_why_it_cannot_go_on(run, capsys):
    before = load(run).sample(2, seed=3)
    tidied(run, ["optimiser", "raw", "old"])
    checkpoint.verify(checkpoint.newest(run / "checkpoints"))
    assert load(run).sample(2, seed=3).equal(before)
    data = run.parents[1] / "data"
    for more in ((), ("--extend", 2)):
        assert command("train", data, "--run", run, *more) == 2
    with pytest.raises(UsageError, match=r"(?s)optimiser or its raw weights were removed.*--base"):
        trained(data, run, autoencoder=str(from_yaml(run / "run.yaml")[0].autoencoder), steps=3, sheets=3)


def test_an_unfinished_run_keeps_what_it_goes_on_from(run):
    recipe, about = from_yaml(run / "run.yaml")
    (run / "run.yaml").write_text(to_yaml(recipe.model_copy(update={"steps": 9}), **about))
    everything = sorted(contents(run))
    for name in ("optimiser", "raw"):
        with pytest.raises(UsageError, match=f"(?s)not finished, 6 updates are left.*without {name}"):
            tidied(run, ["old", name])
    assert sorted(contents(run)) == everything, "nothing goes before all is looked at"
    tidied(run, ["old"])
    assert len(checkpoint.finished(run / "checkpoints")) == 1


def test_a_script_is_told_what_there_is_and_what_went(run, capsys):
    there = items(TrainedRun.of(run))
    assert command("tidy", run, "--json") == 0
    before = json.loads(capsys.readouterr().out)
    assert before == {
        "removed": False,
        "bytes": sum(item.bytes for item in there),
        "items": [{"name": i.name, "files": i.files, "bytes": i.bytes, "loses": i.loses} for i in there],
    }
    assert command("tidy", run, "--remove", "old", "--json") == 0
    after = json.loads(capsys.readouterr().out)
    assert after["removed"]
    assert after["items"] == [item for item in before["items"] if item["name"] == "old"]
    assert command("tidy", run, "--remove", "nothing", "--json") == 2
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["event"] == "Failed"


def test_mistakes_are_named(run, tmp_path, capsys):
    assert command("tidy", run, "--remove", "optimizer") == 2
    assert "did you mean 'optimiser'" in capsys.readouterr().err
    assert command("tidy", tmp_path) == 2
    assert command("tidy", run) == 0
    said = capsys.readouterr().out
    assert "--remove old optimiser raw" in said
    assert json.loads((run / "data.json").read_text())["count"] == 32
    assert set(REMOVABLE) >= {item.name for item in items(TrainedRun.of(run))}
