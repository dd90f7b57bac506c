"""Pictures that are wider than high, by `--data.size 24x16`, through all that looks at pictures."""

import json

import numpy as np
import pytest
from PIL import Image

from ebb.data.images import settings_of
from ebb.data.reading import as_asked
from ebb.errors import UsageError
from ebb.recipe.recipe import Recipe
from ebb.system.system import load

from ..command import ebb

QUICK = ["--steps", 1, "--batch", 8, "--sheets", 1, "--precision", "fp32", "--sample.steps", 2]
SMALL = [*QUICK, "--network.width", 32, "--network.depth", 1]


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Pictures of several shapes with two labels, a gradient from left to right in each, bright above or below."""
    folder, rng = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    for name in ("above", "below"):
        (folder / "data" / name).mkdir(parents=True)
        for i in range(24):
            height, width = 32 + 4 * (i % 3), 48 + 8 * (i % 2)
            pixels = rng.integers(0, 40, (height, width, 3), dtype=np.uint8)
            pixels[..., 0] = np.linspace(0, 200, width)
            pixels[: height // 2 if name == "above" else None][-height // 2 :] += 40
            Image.fromarray(pixels).save(folder / "data" / name / f"{i}.png")
    return folder / "data"


@pytest.fixture(scope="module")
def run(photos):
    place = photos.parent / "run"
    assert ebb("train", photos, "--run", place, "--data.size", "24x16", *SMALL) == 0
    return place


@pytest.mark.parametrize(
    ("written", "size", "sides"),
    [(32, 32, (32, 32)), ("32", 32, (32, 32)), ("96x64", "96x64", (64, 96)), (" 96 × 64 ", "96x64", (64, 96))],
)
def test_a_size_is_a_side_or_width_times_height(written, size, sides):
    recipe = Recipe(data={"size": written})
    assert (recipe.data.size, recipe.data.sides) == (size, sides)
    assert Recipe(**recipe.model_dump()) == recipe


@pytest.mark.parametrize(
    ("written", "said"), [("96*64", "WIDTHxHEIGHT, got '96*64'"), ("2000x64", "between 4 and 1,024")]
)
def test_what_is_no_size_is_refused(photos, capsys, written, said):
    assert ebb("train", photos, "--data.size", written) == 2
    assert said in " ".join(capsys.readouterr().err.split())


def test_pictures_are_scaled_to_cover_it_and_cut_at_the_centre(photos):
    found = as_asked(str(photos), Recipe(data={"size": "24x16"}))
    assert found.summary.shape == (3, 16, 24)
    across, down = found.rows[:, 0].mean((0, 1)), found.rows[:, 1].mean((0, 2))
    assert (np.diff(across) > 0).all(), "the gradient lies along the width"
    assert abs(float(down[0]) - float(down[-1])) < 20
    with pytest.raises(UsageError, match="scenes of shapes are square"):
        as_asked("shapes", Recipe(data={"size": "24x16"}))


def test_what_is_made_has_that_shape_also_in_a_grid_and_after_resuming(run, photos, tmp_path, capsys):
    assert load(run).shape == (3, 16, 24)
    assert ebb("sample", run, "--n", 2, "--out", tmp_path / "some") == 0
    assert Image.open(tmp_path / "some" / "000000.png").size == (24, 16)
    assert ebb("sample", run, "--n", 2, "--out", tmp_path / "grid.png") == 0
    assert Image.open(tmp_path / "grid.png").size == (2 * (2 * 24 + 2) + 2, 2 * 16 + 4)
    assert ebb("train", photos, "--run", run, "--data.size", "24x16", *SMALL) == 0
    assert "finished at step 1" in capsys.readouterr().out
    assert ebb("train", photos, "--run", run, "--data.size", "16x24", *SMALL) == 2
    assert "data.size: 24x16 → 16x24" in (said := capsys.readouterr().err)
    assert "of 16×24 now, 24×16 then" in said


EDITS = {
    "strength": ["a.png"],
    "inpaint": ["a.png", "--mask", "mask.png", "--repeats", 1],
    "outpaint": ["a.png", "--border", 4, "--repeats", 1],
    "upscale": ["small.png"],
    "deblur": ["a.png"],
    "translate": ["a.png", "--steps", 2],
}


@pytest.mark.parametrize("edit", EDITS)
def test_pictures_are_edited_as_they_lie(run, tmp_path, monkeypatch, edit):
    monkeypatch.chdir(tmp_path)
    for name, size in (("a", (24, 16)), ("mask", (24, 16)), ("small", (12, 8))):
        Image.new("RGB", size, "white").save(f"{name}.png")
    assert ebb("edit", edit, run, *EDITS[edit], "--out", "edited") == 0
    border = 8 * (edit == "outpaint")
    assert Image.open("edited/000000.png").size == (24 + border, 16 + border)
    assert settings_of("edited/000000.png")["edit"] == edit


@pytest.mark.parametrize("network", [["dit"], ["dit", "--network.positions", "learned"], ["mmdit"]])
def test_transformers_know_both_sides(photos, tmp_path, network):
    words = ["--data.size", "24x16", "--network.kind", *network, "--network.patch", 4]
    assert ebb("train", photos, "--run", tmp_path / "run", *words, *SMALL) == (2 if network == ["mmdit"] else 0)
    if network != ["mmdit"]:  # which hears texts alone
        assert load(tmp_path / "run").sample(2, steps=1).shape == (2, 3, 16, 24)


def test_latents_have_the_shape_of_their_pictures(photos, tmp_path, capsys):
    coder = ["--kind", "autoencoder", "--autoencoding.factor", 4, "--autoencoding.width", 16]
    train = ["train", photos, "--run"]
    assert ebb(*train, tmp_path / "coder", *coder, *QUICK[:-2], "--data.size", "24x16") == 0
    assert ebb(*train, tmp_path / "run", "--autoencoder", tmp_path / "coder", *SMALL, "--data.size", "24x16") == 0
    system = load(tmp_path / "run")
    assert (system.inner[1:], system.sample(1, steps=1).shape) == ((4, 6), (1, 3, 16, 24))
    assert ebb(*train, tmp_path / "odd", *coder, *QUICK[:-2], "--data.size", "26x16") == 2
    assert "--data.size 24x16" in capsys.readouterr().err


def test_settings_are_swept_in_its_shape(run, photos):
    words = ("--solvers", "ddim", "--steps", 1, "--guidance", 1, "--n", 10, "--no-keep", "--no-search")
    assert ebb("sweep", run, *words) == 0
    sheet = Image.open(run / "sweep.png")
    assert sheet.size[0] > sheet.size[1] or len(json.loads((run / "sweep.json").read_text())["cells"]) == 1
    assert json.loads((run / "sweep.json").read_text())["cells"][0]["distance"] > 0


@pytest.mark.full
def test_runs_and_data_are_examined(run, photos):
    assert ebb("doctor", photos, "--out", photos.parent / "page.html") in (0, 1)
    assert ebb("doctor", run) in (0, 1)
    assert json.loads((run / "doctor.json").read_text())
