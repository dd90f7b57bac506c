"""Photos of several shapes, by `--data.buckets`, through all that looks at pictures."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from ebb.data.images import settings_of
from ebb.recipe.document import from_yaml
from ebb.store import checkpoint
from ebb.system.system import load

from ..command import ebb
from .stopped import stop_after

QUICK = ["--steps", 4, "--batch", 8, "--sheets", 1, "--precision", "fp32", "--sample.steps", 2]
WORDS = ["--data.buckets", "--data.size", 16]
SMALL = [*QUICK, *WORDS, "--network.width", 16, "--network.depth", 1]


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Captioned photos that lie, stand and are square, in two classes."""
    folder, rng = tmp_path_factory.mktemp("shapes") / "photos", np.random.default_rng(0)
    for i in range(72):
        height, width = [(24, 32), (32, 24), (28, 28)][i % 3]
        place = folder / ("above" if i % 2 else "below")
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (height, width, 3), np.uint8)).save(place / f"{i}.png")
    return folder


@pytest.fixture(scope="module")
def run(photos):
    place = photos.parent / "run"
    assert ebb("train", photos, "--run", place, *SMALL) == 0
    return place


def test_a_run_makes_every_shape_that_it_has_learnt(run, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    system = load(run)
    learnt = {(3, 16, 16), (3, 14, 18), (3, 18, 14)}
    assert {system.shape, *system.others} == learnt
    for _, height, width in learnt:
        assert ebb("sample", run, "--n", 2, "--size", f"{width}x{height}", "--out", "some") == 0
        assert Image.open("some/000000.png").size == (width, height)
    options = settings_of("some/000000.png")["made"]["options"]
    assert options[options.index("--size") + 1] == f"{width}x{height}"
    assert ebb("sample", run, "--from", "some/000000.png", "--out", "again.png") == 0
    assert "byte for byte" in capsys.readouterr().out
    assert ebb("sample", run, "--size", "40x40", "--out", "none.png") == 2
    assert "has learnt" in (said := capsys.readouterr().err)
    assert "not 40×40" in said


def test_it_is_resumed_bit_for_bit(run, photos, monkeypatch):
    place = photos.parent / "halves"
    with monkeypatch.context() as patched:
        stop_after(patched, 2)
        assert ebb("train", photos, "--run", place, *SMALL) == 130
    assert ebb("train", photos, "--run", place, *SMALL) == 0
    mine, other = (torch.cat([p.flatten() for p in load(r, "model").model.module.parameters()]) for r in (place, run))
    assert torch.equal(mine, other)
    assert checkpoint.newest(place / "checkpoints").name == "step-00000004"


@pytest.mark.full
def test_what_there_is_is_said_before_a_run(photos, capsys):
    assert ebb("train", photos, "--run", photos.parent / "dry", *SMALL, "--dry-run") == 0
    said = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert "18×14 (24 images)" in said
    assert "of the area cut off on average" in said


def test_what_there_was_stands_in_the_run(run):
    data = json.loads((run / "data.json").read_text())
    assert [one["count"] for one in data["buckets"]] == [24, 24, 24]
    assert (data["count"], data["square"]) == (72, 16)
    assert from_yaml(run / "run.yaml")[0].data.size == 16


@pytest.mark.full
def test_figures_are_of_the_shape_of_most(photos, run, capsys):
    assert ebb("evaluate", run, "--n", 10, "--likelihood", 0, "--features", "quick") == 0
    said = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert "of one shape" in said
    assert "24 of 72 images" in said


def test_doctor_says_what_buckets_would_spare(photos, capsys):
    assert ebb("doctor", photos, "--out", photos.parent / "page.html") in (0, 1)
    assert "--data.buckets" in capsys.readouterr().out


@pytest.mark.parametrize("positions", ["rope", "learned"])
def test_positions_that_take_any_size_are_needed(photos, tmp_path, positions, capsys):
    words = ["--network.kind", "dit", "--network.positions", positions, "--network.patch", 2, "--steps", 1]
    asked = [word for word in SMALL if word not in ("--steps", 4)]
    assert ebb("train", photos, "--run", tmp_path / "run", *asked, *words) == (0 if positions == "rope" else 2)
    if positions == "learned":
        assert "positions are learned for one size, and buckets have several" in capsys.readouterr().err


def test_latents_are_made_of_every_bucket(photos, tmp_path):
    coder = ["--kind", "autoencoder", "--autoencoding.factor", 2, "--autoencoding.width", 16]
    train = ["train", photos, "--run"]
    assert ebb(*train, tmp_path / "coder", *coder, *QUICK[:-2], *WORDS) == 0
    assert ebb(*train, tmp_path / "run", "--autoencoder", tmp_path / "coder", *SMALL, "--data.flip") == 0
    system = load(tmp_path / "run")
    assert {system.shaped(size).sample(1, steps=1).shape[2:] for size in ((14, 18), (18, 14), (16, 16))} == {
        (14, 18),
        (18, 14),
        (16, 16),
    }
    assert ebb(*train, tmp_path / "odd", *coder[:3], 4, *QUICK[:-2], *WORDS) == 2


def test_shapes_are_learnt_by_few_steps_and_kept_where_it_is_given_away(run, photos, tmp_path):
    few = ["--steps", 1, "--batch", 8, "--run", tmp_path / "few"]
    assert ebb("distil", run, *few) == 0
    assert ebb("sample", tmp_path / "few", "--size", "14x18", "--n", 2, "--out", tmp_path / "some") == 0
    assert Image.open(tmp_path / "some" / "000000.png").size == (14, 18)
    assert ebb("export", run, tmp_path / "shared") == 0
    assert load(tmp_path / "shared").shaped((18, 14)).sample(1, steps=1).shape == (1, 3, 18, 14)
