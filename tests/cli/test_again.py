"""A picture made again from what stands in it, and what is said where it cannot be the same."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ebb.data.images import save_png, settings_of
from ebb.events import finished
from ebb.recipe.recipe import Recipe
from ebb.run.train import train
from ebb.store.checkpoint import newest, sha256
from ebb.store.provenance import Provenance, public

from ..command import ebb
from .labelled import labelled

RECIPE = Recipe(network={"width": 8, "depth": 1}, batch=16, precision="fp32", steps=1, sample={"steps": 2})


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two runs on the same 8×8 grey pictures with the labels above and below, of different seeds."""
    folder = tmp_path_factory.mktemp("again")
    data = labelled(folder / "data")
    for seed, name in enumerate(("one", "two")):
        finished(train(data, RECIPE.model_copy(update={"seed": seed}), run=folder / "runs" / name))
    return folder / "runs"


@pytest.fixture
def here(runs, tmp_path, monkeypatch):
    """A working folder with runs/one, runs/two and a picture."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    shutil.copytree(runs, tmp_path / "runs")
    Image.fromarray(np.arange(192, 256, dtype=np.uint8).reshape(8, 8)).save("a.png")
    Image.fromarray(np.uint8([[255] * 4 + [0] * 4] * 8)).save("mask.png")
    return tmp_path


ASKED = {
    "a sheet": (("sample", "runs/one", "--n", 5, "--seed", 3, "--label", "below", "--steps", 3), "x.png"),
    "a film": (("sample", "runs/one", "--n", 2, "--solver", "ddpm", "--noise-scale", 0.9), "x.gif"),
    "a film without loss": (("edit", "interpolate", "runs/one", "--labels", "above", "below", "--n", 3), "x.webp"),
    "guided": (("sample", "runs/one", "--n", 2, "--guidance", 2, "--guide", "rescaled(0.7)", "threshold"), "x.png"),
    "edits": (("edit", "inpaint", "runs/one", "a.png", "--mask", "mask.png", "--n", 2, "--label", "above"), "x.png"),
    "an edit without a label": (("edit", "strength", "runs/one", "a.png", "--strength", 1), "x.png"),
    "there and back": (("edit", "translate", "runs/one", "a.png", "--source", "below", "--steps", 3), "x.png"),
}


@pytest.mark.parametrize("asked", ASKED)
def test_the_same_bytes_come_out_again(here, capsys, asked):
    words, out = ASKED[asked]
    assert ebb(*words, "--out", out) == 0
    assert ebb("sample", "--from", out) == 0
    again = Path(f"x-again{Path(out).suffix}")
    assert again.read_bytes() == Path(out).read_bytes()
    assert f"{again} is {out} again, byte for byte" in capsys.readouterr().out


def test_a_picture_of_a_folder_is_made_again_alone_with_those_of_its_batch(here, monkeypatch, capsys):
    monkeypatch.setattr("ebb.edit.commission.AT_ONCE", 3)
    assert ebb("sample", "runs/one", "--n", 8, "--seed", 5, "--out", "some") == 0
    made = []
    monkeypatch.setattr(
        "ebb.data.arriving.save_png", lambda image, path, how: made.append(path) or save_png(image, path, how)
    )
    assert ebb("sample", "--from", "some/000009.png", "--out", "again.png") == 0
    assert [path.name for path in made] == ["000009.png"]
    assert Path("again.png").read_bytes() == Path("some/000009.png").read_bytes()
    assert ebb("edit", "vary", "runs/one", "a.png", "--n", 3, "--out", "edits") == 0
    assert ebb("sample", "--from", "edits/000002.png", "--out", "again.png") == 0
    assert Path("again.png").read_bytes() == Path("edits/000002.png").read_bytes()


def test_what_stands_in_a_picture_tells_all_that_it_depends_on_and_no_place_of_its_maker(here, runs, tmp_path):
    assert ebb("sample", runs / "one", "--n", 1, "--out", "x.png") == 0
    assert ebb("edit", "strength", "runs/one", tmp_path / "a.png", "--out", "y.png") == 0
    for name, run in (("x.png", "one"), ("y.png", "runs/one")):
        settings = settings_of(name)
        made = Provenance.read(settings, Path(name))
        assert made.run == run
        assert made.weights == sha256(newest(Path("runs/one/checkpoints")) / "ema.safetensors")
        assert {"ebb", "torch", "device", "threads"} == set(made.maker)
        assert str(tmp_path) not in json.dumps(settings)
        assert str(runs) not in json.dumps(settings)
    assert made.files == {"a.png": sha256(Path("a.png"))}
    assert (public("/somewhere/else/b.png"), public("../b.png"), public("c/../d.png")) == ("b.png", "b.png", "d.png")


def test_a_run_that_has_moved_is_named(here, capsys):
    assert ebb("sample", "runs/one", "--n", 2, "--out", "x.png") == 0
    Path("runs/one").rename("elsewhere")
    assert ebb("sample", "--from", "x.png") == 2
    assert (
        "the run that made x.png is not here: runs/one\n  → name it: ebb sample RUN --from x.png"
        in capsys.readouterr().err
    )
    assert ebb("sample", "elsewhere", "--from", "x.png") == 0
    assert "x-again.png is x.png again, byte for byte" in capsys.readouterr().out


@pytest.mark.parametrize("place", ["shared", "shared.safetensors"])
def test_what_was_exported_has_the_weights_of_its_run(here, capsys, place):
    assert ebb("sample", "runs/one", "--n", 2, "--out", "x.png") == 0
    assert ebb("export", "runs/one", place) == 0
    shutil.rmtree("runs")
    assert ebb("sample", place, "--from", "x.png") == 0
    assert "x-again.png is x.png again, byte for byte" in capsys.readouterr().out


def test_other_weights_are_refused_unless_they_are_asked_for_and_then_it_is_said(here, capsys):
    assert ebb("sample", "runs/one", "--n", 2, "--out", "x.png") == 0
    before = Path("x.png").read_bytes()
    shutil.rmtree("runs/one")
    Path("runs/two").rename("runs/one")
    assert ebb("sample", "--from", "x.png") == 2
    assert "runs/one has no longer the weights that made x.png" in capsys.readouterr().err
    assert not Path("x-again.png").exists()
    assert ebb("sample", "runs/one", "--from", "x.png") == 0
    assert "of its pixels differ" in (said := capsys.readouterr().out)
    assert "; other weights: " in said
    assert Path("x.png").read_bytes() == before


def test_another_machine_and_another_picture_to_edit_are_said(here, capsys):
    assert ebb("edit", "vary", "runs/one", "a.png", "--n", 2, "--out", "x.png") == 0
    settings = settings_of("x.png")
    settings["made"]["maker"] |= {"threads": 64, "ebb": "0.0.1"}
    save_png(Image.open("x.png"), "y.png", settings)
    assert ebb("sample", "--from", "y.png", "--out", "z.png") == 0
    said = capsys.readouterr().out
    assert "z.png is y.png again, but for this: the same pixels; " in said
    assert f"threads 64, now {torch.get_num_threads()}" in said
    assert "ebb 0.0.1, now " in said
    Image.new("L", (8, 8), 200).save("a.png")
    assert ebb("sample", "--from", "x.png", "--out", "z.png") == 0
    assert "another a.png" in capsys.readouterr().out


def test_it_is_shown(here, capsys):
    assert ebb("sample", "runs/one", "--n", 2, "--label", "below", "--seed", 7, "--out", "some") == 0
    capsys.readouterr()
    assert ebb("show", "some/000008.png") == 0
    said = capsys.readouterr().out
    for words in ("below", "number 1 of 2", "command  ebb sample runs/one --seed 7 --label below", "--solver dpmpp_2m"):
        assert words in said
    assert ebb("show", "runs/one/samples/data-sheet.png") == 0, "a sheet of training says what it can"


@pytest.mark.parametrize(
    ("name", "code", "said"),
    [
        ("none.png", 3, "there is no none.png"),
        ("a.png", 2, "carries no settings of ebb, it is another PNG"),
        ("a.jpg", 2, "carries no settings of ebb, it is a JPEG"),
        ("words.png", 3, "is not a picture"),
        ("old.png", 2, "does not say by which command it was made"),
        ("odd.png", 5, "in a way that this ebb does not know"),
        ("train.png", 5, "in a way that this ebb does not know"),
        ("list.png", 2, "carries no settings"),
    ],
)
def test_what_says_nothing_is_refused(here, capsys, name, code, said):
    Image.new("L", (8, 8)).save("a.jpg")
    Path("words.png").write_text("no picture")
    facts = {"verb": "train", "run": "runs/one", "options": ["--fresh"], "weights": "", "count": 1}
    for other, settings in {
        "old": {"seed": 0},
        "odd": {"made": {"verb": 3}},
        "train": {"made": facts},
        "list": [],
    }.items():
        if settings == []:
            from PIL.PngImagePlugin import PngInfo

            info = PngInfo()
            info.add_text("ebb", "[]")
            Image.new("L", (8, 8)).save("list.png", pnginfo=info)
        else:
            save_png(Image.new("L", (8, 8)), f"{other}.png", settings)
    assert ebb("sample", "--from", name) == code
    assert said in capsys.readouterr().err
    assert ebb("show", name) == (0 if name == "old.png" else code)


def test_a_picture_from_elsewhere_cannot_write_where_it_likes(here, capsys):
    assert ebb("sample", "runs/one", "--n", 1, "--out", "x.png") == 0
    settings = settings_of("x.png")
    settings["made"]["options"] += ["--out", "stolen.png"]
    save_png(Image.open("x.png"), "x.png", settings)
    assert ebb("sample", "--from", "x.png") == 0
    assert not Path("stolen.png").exists()
    settings["made"]["options"] += ["--nothing"]
    save_png(Image.open("x.png"), "x.png", settings)
    assert ebb("sample", "--from", "x.png", "--out", "y.png") == 5


def test_nothing_else_is_asked_for_beside_it(here, capsys):
    assert ebb("sample", "runs/one", "--n", 1, "--out", "x.png") == 0
    assert ebb("sample", "--from", "x.png", "--seed", 3) == 2
    assert "--seed stands beside --from" in capsys.readouterr().err
    assert ebb("sample", "--from", "x.png", "--out", "y.gif") == 2
    assert ebb("sample", "--from", "x.png", "--out", "x.png") == 2
    assert "would take the place of what it is compared with" in capsys.readouterr().err
    assert ebb("sample") == 2
    assert "there is nothing to sample from" in capsys.readouterr().err
