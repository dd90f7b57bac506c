"""The command line as a room, and `ebb edit` on a run: what is written, and every mistake on the way."""

import json
import re
import resource
import shutil
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from ebb.data.images import save_png, settings_of
from ebb.errors import DataError, UsageError
from ebb.evaluate.evaluate import evaluate
from ebb.events import finished
from ebb.recipe.recipe import Recipe
from ebb.run.train import train

from ..command import ebb
from .labelled import labelled

RECIPE = Recipe(network={"width": 8, "depth": 1}, batch=16, precision="fp32", steps=2, sample={"steps": 3})


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of two updates on 8×8 grey pictures with the labels above and below."""
    folder = tmp_path_factory.mktemp("edit")
    data = labelled(folder / "data")
    return finished(train(data, RECIPE, run=folder / "run"))


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with pictures a, b (8×8), small (4×4), photo (20×12, in colour), and a mask of each size."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    rng = np.random.default_rng(1)
    for name, size in (("a", (8, 8)), ("b", (8, 8)), ("small", (4, 4)), ("photo", (12, 20, 3))):
        Image.fromarray(rng.integers(0, 255, size, dtype=np.uint8)).save(f"{name}.png")
    for name, size in (("mask", (8, 8)), ("wide", (12, 20)), ("black", (8, 8))):
        pixels = np.zeros(size, dtype=np.uint8)
        pixels[2:5, 3:] = 0 if name == "black" else 255
        Image.fromarray(pixels).save(f"{name}.png")
    (tmp_path / "words.png").write_text("not a picture")
    return tmp_path


def pixels(path):
    return np.asarray(Image.open(path))


def test_samples_do_not_become_data_and_a_picture_that_came_is_named(run, tmp_path, monkeypatch):
    """The commands of a user who works inside the folder of pictures."""
    data = tmp_path / "data"
    shutil.copytree(run.parent / "data", data)
    monkeypatch.chdir(data)
    made = finished(train(".", RECIPE))
    assert ebb("sample", made, "--n", 4) == 0
    assert finished(train(".", RECIPE)) == made, "samples.png beside the class folders changes nothing"
    began = json.loads((made / "env.json").read_text())
    (made / "env.json").write_text(json.dumps(began | {"started": "2020-01-01T00:00:00+0000"}))
    Image.new("L", (8, 8), 7).save("above/new.png")
    with pytest.raises(UsageError, match=r"33 images now, 32 then; added or changed since: above/new.png"):
        finished(train(".", RECIPE))
    with pytest.raises(DataError, match="33 images now, 32 then"):
        finished(evaluate(made, 10))


def test_a_picture_of_ones_own_is_not_written_over_by_the_default_name(run, here, capsys):
    for name, verb in (("samples.png", ["sample", run]), ("edited.png", ["edit", "vary", run, "a.png"])):
        shutil.copy("a.png", name)
        assert ebb(*verb) == 2
        assert f"{name} is there and was not made by ebb" in capsys.readouterr().err
        assert (here / name).read_bytes() == (here / "a.png").read_bytes()
    assert ebb("edit", "vary", run, "a.png", "--out", "a.png") == 2
    assert ebb("edit", "strength", run, "a.png", "--out", "guidance_1.5") == 0
    assert (here / "guidance_1.5" / "000000.png").is_file()


def test_strength_writes_each_picture_beside_its_edits_with_the_settings(run, here, capsys):
    assert ebb("edit", "strength", run, "a.png", "b.png", "--label", "above", "--n", 2, "--seed", 7) == 0
    assert "4 images in edited.png" in capsys.readouterr().out
    assert Image.open("edited.png").size == (3 * 66 + 2, 2 * 66 + 2), "two rows of the picture and its two edits"
    assert (pixels("edited.png")[2:66:8, 2:66:8] == pixels("a.png")).all()
    known = settings_of(here / "edited.png")
    expected = {"edit": "strength", "strength": 0.5, "pictures": ["a.png", "b.png"], "label": "above", "steps": 3}
    assert expected.items() <= known.items()
    assert (known["seed"], known["count"], known["run"]) == (7, 4, "run")


def test_strength_0_gives_the_pixels_back_and_a_seed_belongs_to_its_picture(run, here):
    assert ebb("edit", "strength", run, "a.png", "b.png", "--strength", 0, "--out", "same") == 0
    for name, out in (("a", "000000"), ("b", "000001")):
        assert (pixels(f"same/{out}.png") == pixels(f"{name}.png")).all()
    assert ebb("edit", "vary", run, "a.png", "--n", 3, "--seed", 4, "--out", "many") == 0
    assert ebb("edit", "vary", run, "a.png", "--n", 1, "--seed", 6, "--out", "one") == 0
    assert [settings_of(here / "many" / f"00000{i}.png")["seed"] for i in range(3)] == [4, 5, 6]
    assert np.abs(pixels("many/000002.png").astype(int) - pixels("one/000000.png")).max() <= 1


def test_inpainting_keeps_every_pixel_that_is_not_white_in_the_mask(run, here):
    assert ebb("edit", "inpaint", run, "a.png", "b.png", "--mask", "mask.png", "--repeats", 2, "--out", "filled") == 0
    kept = pixels("mask.png") == 0
    for name, out in (("a", "000000"), ("b", "000001")):
        made, was = pixels(f"filled/{out}.png"), pixels(f"{name}.png")
        assert (made[kept] == was[kept]).all()
        assert (made[~kept] != was[~kept]).any()


def test_outpainting_keeps_the_picture_and_adds_a_border(run, here):
    assert ebb("edit", "outpaint", run, "a.png", "--border", 3, "--repeats", 1, "--n", 2, "--out", "large.npz") == 0
    with np.load("large.npz") as arrays:
        assert arrays["images"].shape == (2, 1, 14, 14)
        assert arrays["before"].shape == (1, 1, 14, 14)
        assert arrays["seeds"].tolist() == [0, 1]
        assert (arrays["images"][:, 0, 3:11, 3:11] == pixels("a.png")).all()


def test_a_photograph_is_made_what_the_model_takes_and_it_is_said(run, here, capsys):
    assert ebb("edit", "inpaint", run, "photo.png", "--mask", "wide.png", "--out", "filled") == 0
    assert "photo.png: made grey and scaled and cropped from 20×12 to 8×8" in capsys.readouterr().out
    assert pixels("filled/000000.png").shape == (8, 8)


def test_guides_and_the_noise_scale_are_named_and_stand_in_the_picture(run, here, capsys):
    asked = (
        "--n",
        2,
        "--guidance",
        2,
        "--guide",
        "rescaled(0.7)",
        "threshold",
        "--solver",
        "ddpm",
        "--noise-scale",
        0.9,
    )
    assert ebb("sample", run, *asked, "--out", "guided.png") == 0
    how = settings_of(here / "guided.png")
    assert (how["guides"], how["noise_scale"]) == (["rescaled(0.7)", "threshold"], 0.9)
    assert ebb("sample", run, *asked[:4], "--solver", "ddpm", "--out", "plain.png") == 0
    assert (pixels("guided.png") != pixels("plain.png")).any()
    for options, message in (
        (("--guide", "rescaled(0.7)"), "add --guidance 2"),
        (("--guide", "treshold"), "did you mean 'threshold'"),
        (("--noise-scale", 0.9), "draws no noise"),
        (("--temperature", 0.9), "did you mean --guide, for guides by name"),
    ):
        assert ebb("sample", run, "--solver", "heun", *options) == 2
        assert message in capsys.readouterr().err
    assert ebb("edit", "strength", run, "a.png", "--label", "above", "--guidance", 2, "--guide", "projected") == 0


def test_interpolation_is_a_strip(run, here):
    assert ebb("edit", "interpolate", run, "--n", 4, "--labels", "above", "below") == 0
    assert Image.open("strip.png").size == (4 * 66 + 2, 68)
    known = settings_of(here / "strip.png")
    assert (known["seeds"], known["labels"]) == ([0, 0], ["above", "below"])
    assert ebb("edit", "interpolate", run, "--n", 3, "--seeds", 2, 9, "--out", "frames") == 0
    assert ebb("sample", run, "--n", 1, "--seed", 2, "--label", "above", "--out", "first") == 0
    assert ebb("edit", "interpolate", run, "--n", 2, "--seeds", 2, 9, "--labels", "above", "--out", "two") == 0
    assert np.abs(pixels("two/000000.png").astype(int) - pixels("first/000002.png")).max() <= 1


def test_translation_and_arithmetic_take_their_own_number_of_steps(run, here, capsys):
    assert ebb("edit", "translate", run, "a.png", "--source", "above", "--label", "below") == 0
    known = settings_of(here / "edited.png")
    assert (known["steps"], known["source"], known["label"]) == (50, "above", "below")
    (here / "with").mkdir()
    (here / "a.png").rename(here / "with" / "a.png")
    arguments = ("edit", "shift", run, "b.png", "--plus", "with", "--minus", "b.png", "--scale", 2, "--steps", 6)
    assert ebb(*arguments, "--out", "shifted") == 0
    assert settings_of(here / "shifted" / "000000.png")["plus"] == ["with"]
    assert settings_of(here / "shifted" / "000000.png")["seed"] is None


def test_restoring_says_how_well_it_agrees(run, here, capsys):
    assert ebb("edit", "upscale", run, "small.png", "--n", 2, "--out", "large") == 0
    said = capsys.readouterr().out
    assert re.search(r"shrunk again, they differ from the pictures by \d+\.\d of 255", said), said
    assert pixels("large/000001.png").shape == (8, 8)
    assert settings_of(here / "large" / "000000.png")["factor"] == 2
    assert ebb("edit", "deblur", run, "a.png", "--sigma", 0.8) == 0
    assert "blurred again, they differ" in capsys.readouterr().out


def test_mistakes_end_with_one_short_message_and_lose_nothing(run, here, capsys):
    save_png(Image.new("L", (3, 3)), here / "old.png", {})
    before, edit = (here / "old.png").read_bytes(), ("edit", "strength", run)
    cases = [
        ((*edit, "a.png", "--strength", 1.5), 2, "got 1.5"),
        ((*edit, "a.png", "--label", "abvoe"), 2, "did you mean 'above'"),
        ((*edit, "a.png", "--guidance", 2), 2, "needs a label or a text to guide towards"),
        ((*edit, "a.png", "--n", 0), 2, "n must be between 1 and 10,000,000, got 0"),
        ((*edit, "a.png", "--steps", 0), 2, "solver steps must be between 1 and"),
        ((*edit, "a.png", "--seed", -1), 2, "seed must be between 0 and 2^62, got -1"),
        (edit, 2, "nothing to edit"),
        ((*edit, "none.png"), 3, "there is no none.png"),
        ((*edit, "words.png"), 3, "words.png is not a picture"),
        ((*edit, "a.png", "--out", "a.jpeg"), 2, "end --out in .png"),
        (("edit", "strength", here, "a.png"), 2, "holds no checkpoint"),
        (("edit", "inpaint", run, "a.png"), 2, "--mask"),
        (("edit", "inpaint", run, "a.png", "--mask", "wide.png"), 2, "the mask wide.png is 20×12, but a.png is 8×8"),
        (("edit", "inpaint", run, "a.png", "--mask", "black.png"), 2, "nothing to make new"),
        (("edit", "inpaint", run, "a.png", "--mask", "none.png"), 3, "there is no none.png"),
        (("edit", "inpaint", run, "a.png", "--mask", "mask.png", "--repeats", 0), 2, "repeats must be between"),
        (("edit", "outpaint", run, "a.png", "--border", 0), 2, "border must be between"),
        (("edit", "translate", run, "a.png", "--source", "left"), 2, "there is no label 'left'"),
        (("edit", "translate", run, "a.png", "--label", "above", "--solver", "ddpm"), 2, "from noise to data only"),
        (("edit", "upscale", run, "a.png"), 2, "whole factor"),
        (("edit", "upscale", run, "a.png", "small.png"), 2, "of one size"),
        (("edit", "upscale", run, "small.png", "--error", -1), 2, "expected noise ≥ 0"),
        (("edit", "deblur", run, "a.png", "--sigma", 0), 2, "wider than 0"),
        (("edit", "interpolate", run, "--labels", "above", "below", "above"), 2, "between two labels"),
        (("edit", "interpolate", run, "--n", 1), 2, "n must be between 2 and"),
        (("edit", "paint", run, "a.png"), 2, "inpaint"),
    ]
    for arguments, code, message in cases:
        out = () if "--out" in arguments or arguments[1] == "paint" else ("--out", "old.png")
        assert ebb(*arguments, *out) == code, arguments
        said = "".join(capsys.readouterr())
        assert message in said, (arguments, said)
        assert "Traceback" not in said
        assert len(said.splitlines()) <= 30, said
    assert (here / "old.png").read_bytes() == before


def test_an_unlabelled_model_is_edited_without_a_label_and_says_so_when_asked_for_one(run, here, capsys, monkeypatch):
    from ..edit.known import system

    monkeypatch.setattr("ebb.edit.files.load", lambda _: system(classes=0))
    assert ebb("edit", "strength", run, "a.png") == 0
    assert ebb("edit", "strength", run, "a.png", "--label", 3) == 2
    assert "trained without label" in capsys.readouterr().err


def test_a_model_of_other_data_than_pictures_is_refused(run, here, capsys, monkeypatch):
    from ..edit.known import system

    monkeypatch.setattr("ebb.edit.files.load", lambda _: system(shape=(2, 8, 8)))
    assert ebb("edit", "strength", run, "a.png") == 2
    assert "models of pictures, this one makes [2, 8, 8]" in capsys.readouterr().err


def test_help_is_quick_and_names_every_edit():
    program = [sys.executable, "-X", "importtime", "-c", "from ebb.cli import main; main(['edit', '--help'])"]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(program, capture_output=True, text=True, check=False)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 1, "seconds of the processor"
    assert not {"torch", "ebb.edit"} & {line.split("|")[-1].strip() for line in done.stderr.splitlines()}
    for verb in ("strength", "vary", "inpaint", "outpaint", "interpolate", "translate", "shift", "upscale", "deblur"):
        assert re.search(rf"^│   • {verb} ", done.stdout, re.MULTILINE), done.stdout
