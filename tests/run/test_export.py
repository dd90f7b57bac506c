"""A run for others: it samples what the run samples where run and data are gone, and says what of the data it holds."""

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

import ebb
from ebb.data.images import settings_of
from ebb.doctor.diagnose import diagnose
from ebb.errors import DamagedError, UsageError
from ebb.run.export import Sharing, export
from ebb.store import checkpoint

from ..command import ebb as command
from ..toys import trained, write


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A run on captioned pictures, its data, and an autoencoder with a run in its latents."""
    home = tmp_path_factory.mktemp("export")
    trained(write(home / "data"), home / "runs" / "run", steps=2)
    trained(home / "data", home / "runs" / "codec", kind="autoencoder", steps=2)
    trained(home / "data", home / "runs" / "latent", autoencoder=str(home / "runs" / "codec"), steps=2)
    return home


@pytest.fixture(scope="module")
def table(home):
    """A run on a table with a label."""
    file = home / "power.csv"
    file.write_text("a,b,season\n" + "".join(f"{i * 0.37 % 1:.3f},{i * 0.61 % 1:.3f},s{i % 2}\n" for i in range(60)))
    assert command("train", file, "--run", home / "runs" / "power", "--steps", 2, "--batch", 8) == 0
    return home / "runs" / "power"


def same(one, other, **asked):
    torch.testing.assert_close(
        ebb.load(one).sample(3, seed=1, **asked), ebb.load(other).sample(3, seed=1, **asked), rtol=0, atol=0
    )


@pytest.mark.parametrize("run", ["run", "codec", "latent"])
@pytest.mark.parametrize("out", ["folder", "one.safetensors"])
def test_what_was_exported_samples_what_the_run_samples(home, run, out, tmp_path):
    made = export(home / "runs" / run, tmp_path / out)
    same(tmp_path / out, home / "runs" / run)
    saved = checkpoint.newest(home / "runs" / run / "checkpoints")
    whole = sum(file.stat().st_size for file in saved.iterdir())
    assert made.bytes < whole, "neither raw weights nor moments"
    modes = {file.stat().st_mode for file in ([made.place] if made.place.is_file() else made.place.iterdir())}
    assert len(modes) == 1, "others may read all of it, or nothing"
    ebb.load(tmp_path / out).save(tmp_path / "again.safetensors")
    same(tmp_path / "again.safetensors", home / "runs" / run)
    with pytest.raises(UsageError, match="holds no model weights"):
        ebb.load(tmp_path / out, weights="model")


def test_a_script_is_told_what_was_written(home, tmp_path, capsys):
    out = tmp_path / "out"
    assert command("export", home / "runs" / "run", out, "--without", "samples", "--json") == 0
    said = json.loads(capsys.readouterr().out)
    assert said.keys() == {"place", "bytes", "carried", "left_out"}
    assert (said["place"], said["bytes"]) == (str(out), sum(file.stat().st_size for file in out.iterdir()))
    assert said["left_out"] == {"samples": "no samples are shown"}
    assert "captions" in said["carried"]


def test_settings_that_the_run_found_go_with_it(home, tmp_path):
    run = shutil.copytree(home / "runs" / "run", tmp_path / "run")
    settings = ebb.load(run).settled(solver="ddim", steps=3).model_dump()
    (run / "sampling.json").write_text(json.dumps({"sampling": settings, "because": "measured"}))
    export(run, tmp_path / "out")
    assert ebb.load(tmp_path / "out").sampling.solver == "ddim"


def test_a_file_that_changed_on_its_way_is_refused(home, tmp_path):
    file = tmp_path / "one.safetensors"
    export(home / "runs" / "run", file)
    good = file.read_bytes()
    for at in (-5, good.index(b'\\"steps\\"') + 13, len(good) // 2):
        bad = bytearray(good)
        bad[at] ^= 1
        file.write_bytes(bad)
        with pytest.raises((DamagedError, UsageError)):
            ebb.load(file)
    file.write_bytes(good[: len(good) // 2])
    with pytest.raises(DamagedError):
        ebb.load(file)
    file.write_bytes(b"something else")
    with pytest.raises(UsageError, match="no model that ebb exported"):
        ebb.load(file)


def test_it_says_what_of_the_data_travels_and_leaves_it_out(home, tmp_path, capsys):
    out = tmp_path / "out"
    assert command("export", home / "runs" / "run", out, "--licence", "CC-BY-4.0") == 0
    said = capsys.readouterr().out
    assert "a bright sky" in said
    card = (out / "card.md").read_text()
    for words in (
        "licence: CC-BY-4.0",
        f"ebb sample {out.name} --n 16",
        "a bright sky",
        "sha256",
        "None were measured",
    ):
        assert words in card, words
    with Image.open(out / "samples.png") as picture:
        assert not picture.text.get("ebb", "{}").strip("{}"), "no settings, which would name places"
    bare = tmp_path / "bare"
    without = ["captions", "words", "samples", "figures"]
    assert command("export", home / "runs" / "run", bare, "--without", *without) == 0
    assert "left out" in capsys.readouterr().out
    everything = b"".join(file.read_bytes() for file in bare.iterdir())
    for word in (b"bright", b"ground", str(home).encode()):
        assert word not in everything, word
    assert not (bare / "samples.png").exists()
    same(bare, out, text="a bright sky")


def test_no_export_names_a_place_of_this_machine(home, tmp_path):
    for run in ("run", "latent", "codec"):
        export(home / "runs" / run, tmp_path / run)
        assert all(str(home).encode() not in file.read_bytes() for file in (tmp_path / run).iterdir())


def test_names_of_labels_and_columns_stay_at_home(table, tmp_path):
    export(table, tmp_path / "out", Sharing(without=("labels", "columns")))
    system = ebb.load(tmp_path / "out")
    assert system.labels.names == ("0", "1")
    head = system.modality.table(np.zeros((1, 2)), ["0"]).splitlines()[0]
    assert head == "column 1,column 2,column 3"
    with pytest.raises(UsageError, match="did you mean 'labels'"):
        export(table, tmp_path / "other", Sharing(without=("lables",)))


@pytest.fixture
def briefly(monkeypatch):
    """Figures by a hundredth of the usual work, and none of the analyses beside them."""
    monkeypatch.setattr("ebb.evaluate.two_sample.WORK", 20)
    monkeypatch.setattr("ebb.evaluate.evaluate.parts", lambda subject: ())


@pytest.mark.usefixtures("briefly")
def test_it_is_measured_beside_the_data_where_that_is_now(home, tmp_path, capsys):
    """One file in a folder beside it, whose card has the figures then."""
    file, data = tmp_path / "one.safetensors", tmp_path / "elsewhere"
    export(home / "runs" / "run", file)
    shutil.copytree(home / "data", data)
    measured = ("evaluate", file, "--n", 16, "--likelihood", 0)
    assert command(*measured) == 3
    assert "--data PLACE" in capsys.readouterr().err
    assert command(*measured, "--data", data) == 0
    card = (export(tmp_path / "one", tmp_path / "again").place / "card.md").read_text()
    assert "| sliced Wasserstein distance | " in card
    assert "16 samples" in card
    (data / "00.png").unlink()
    assert command(*measured, "--data", data) == 3
    assert "is not what" in capsys.readouterr().err
    export(home / "runs" / "latent", file)
    assert command(*measured, "--data", home / "data") == 2
    assert "another model" in capsys.readouterr().err


def test_one_file_is_sampled_and_examined(home, tmp_path):
    file, out = tmp_path / "one.safetensors", tmp_path / "a.png"
    export(home / "runs" / "run", file)
    assert command("sample", file, "--n", 2, "--out", out) == 0
    assert settings_of(out)["checkpoint"] == "one.safetensors"
    assert diagnose(str(file)).kind == "model"


def test_only_what_was_exported_is_replaced(home, tmp_path):
    run = home / "runs" / "run"
    export(run, tmp_path / "out")
    export(home / "runs" / "latent", tmp_path / "out")
    same(tmp_path / "out", home / "runs" / "latent")
    (tmp_path / "out" / "notes.txt").write_text("mine")
    (tmp_path / "mine.safetensors").write_bytes(b"mine")
    for out, why in (
        ("out", "holds notes.txt"), ("mine.safetensors", "no model that ebb exported"), ("a.zip", "cannot write"),
        ("typo/deep/out", "there is no folder"),
    ):  # fmt: skip
        with pytest.raises(UsageError, match=why):
            export(run, tmp_path / out)
    assert (tmp_path / "out" / "notes.txt").read_text() == "mine"
    with pytest.raises(UsageError, match="holds"):
        export(run, home / "runs" / "codec")
