"""From a run to a control of it: it follows maps, the base stays to the bit, and what cannot be asked for is refused."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image

from ebb.adapt.controlled import Controlled
from ebb.data.extractors import Edges
from ebb.data.scenes import truth
from ebb.events import finished
from ebb.recipe.document import from_yaml
from ebb.recipe.recipe import AutoencoderRecipe, DiffusionRecipe
from ebb.run.complete import hints_used
from ebb.run.train import train
from ebb.system.system import load
from tests.command import ebb

SMALL = {"batch": 8, "precision": "fp32", "sheets": 1, "steps": 2, "sample": {"steps": 2}}
NETWORK = {"width": 32, "depth": 1}
QUICK = ("--steps", 2, "--batch", 8)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """Scenes, some as files with a map beside each; a base, one in latents, and controls of both."""
    root, scenes = tmp_path_factory.mktemp("control"), truth(220, 5, side=24).pixels
    np.savez(root / "scenes.npz", images=scenes)
    (root / "files" / "maps").mkdir(parents=True)
    lines = []
    for i, pixels in enumerate(scenes[:24]):
        Image.fromarray(pixels.transpose(1, 2, 0)).save(root / "files" / f"{i}.png")
        Image.fromarray(pixels.max(0)).save(root / "files" / "maps" / f"{i}.png")
        lines.append(json.dumps({"file_name": f"{i}.png", "depth": f"maps/{i}.png"}))
    (root / "files" / "metadata.jsonl").write_text("\n".join(lines))
    finished(train(root / "scenes.npz", DiffusionRecipe(network=NETWORK, **SMALL), run=root / "base"))
    assert ebb("adapt", root / "base", root / "scenes.npz", "--control", "edges", *QUICK) == 0
    return root


def stirred(system):
    """A control that has learnt something."""
    torch.manual_seed(0)
    for parameter in system.model.addition.parameters():
        parameter.data.add_(0.05 * torch.randn_like(parameter))
    return system


def test_a_control_is_a_run_that_hears_maps(home):
    """Its own name, its condition in the contract, a figure of how much the hint is used in its log."""
    run, base = load(home / "base-edges"), load(home / "base")
    control = run.conditioner.conditions["edges"]
    assert (control.shape, control.extractor, control.whole) == ((1, 24, 24), "edges", True)
    assert isinstance(run.denoiser.network, Controlled)
    lines = [json.loads(line) for line in (home / "base-edges" / "log.jsonl").read_text().splitlines()]
    assert any("hint_use" in line for line in lines)
    assert from_yaml(home / "base-edges" / "run.yaml")[0].addition.extractor == "edges"
    stirred(run)
    hint = torch.from_numpy(Edges()(truth(3, 9, side=24).pixels)) / 127.5 - 1
    alone, led = base.sample(3, seed=3), run.sample(3, seed=3, given={"edges": hint})
    assert torch.equal(run.sample(3, seed=3), alone), "no hint: the base, to the bit"
    assert not torch.allclose(led, alone, atol=1e-3)
    assert not torch.allclose(led, run.sample(3, seed=3, given={"edges": hint.roll(1, 0)}), atol=1e-4)


def test_samples_follow_a_picture_of_a_file(home, tmp_path, capsys):
    """By the run, or by the base with it; a map that was drawn is taken as it is; scale 0 is the base."""
    scene = truth(1, 9, side=24).pixels[0]
    Image.fromarray(scene.transpose(1, 2, 0)).resize((48, 48), 0).save(tmp_path / "large.png")
    Image.fromarray(scene.transpose(1, 2, 0)).save(tmp_path / "scene.png")
    Image.fromarray(Edges()(scene[None])[0, 0]).save(tmp_path / "lines.png")

    def asked(out, run, *options):
        code = ebb("sample", home / run, "--n", 2, "--out", tmp_path / f"{out}.npz", *options)
        return code or np.load(tmp_path / f"{out}.npz")["images"]

    hint = ("--control", f"edges={tmp_path / 'scene.png'}")
    own = asked("own", "base-edges", *hint)
    assert np.array_equal(asked("put", "base", "--adapter", home / "base-edges", *hint), own)
    drawn = asked("drawn", "base-edges", "--control", f"edges=map:{tmp_path / 'lines.png'}")
    assert np.array_equal(drawn, own)
    assert asked("large", "base-edges", "--control", f"edges={tmp_path / 'large.png'}").shape == own.shape
    base = asked("base", "base")
    assert np.array_equal(asked("off", "base-edges", *hint, "--control-scale", 0), base)
    assert np.array_equal(asked("off", "base", "--adapter", f"{home / 'base-edges'}:0", *hint), base)
    capsys.readouterr()
    Image.new("RGB", (48, 24)).save(tmp_path / "wide.png")
    Image.new("RGB", (12, 12)).save(tmp_path / "small.png")
    for run, option, message in (
        ("base-edges", f"edges={tmp_path / 'wide.png'}", "wide.png is 48×24"),
        ("base-edges", f"edges={tmp_path / 'small.png'}", "small.png is 12×12"),
        ("base-edges", f"edgse={tmp_path / 'scene.png'}", "has the controls edges"),
        ("base-edges", f"{tmp_path / 'scene.png'}", "names none of them"),
        ("base-edges", "edges=nowhere.png", "there is no picture nowhere.png"),
        ("base", f"edges={tmp_path / 'scene.png'}", "this model has no control"),
    ):
        assert ebb("sample", home / run, "--n", 1, "--out", tmp_path / "no.npz", "--control", option) != 0
        said = capsys.readouterr()
        assert message in " ".join((said.out + said.err).split())
    assert ebb("sample", home / "base", "--control-scale", 0.5, "--out", tmp_path / "no.npz") != 0
    assert "has no control to scale" in " ".join(capsys.readouterr().err.split())


def test_maps_of_the_users_own_stand_beside(home, tmp_path):
    """A field of metadata.jsonl; both controls on one base are heard, each by its name."""
    assert ebb("adapt", home / "base", home / "files", "--control", "depth", "--form", "two_way", *QUICK) == 0
    run = load(home / "base-depth")
    assert run.conditioner.conditions["depth"].extractor is None
    both = load(home / "base", adapters=[home / "base-edges", home / "base-depth"])
    assert set(both.conditioner.maps) == {"edges", "depth"}
    hint = torch.zeros(1, 24, 24)
    assert both.sample(2, given={"edges": hint, "depth": hint}).shape == (2, 3, 24, 24)


def test_in_latents(home):
    small = {"batch": 8, "precision": "fp32", "sheets": 1, "steps": 2}
    codec = {"factor": 2, "latent": 3, "width": 16}
    finished(train(home / "scenes.npz", AutoencoderRecipe(autoencoding=codec, **small), run=home / "ae"))
    asked = DiffusionRecipe(network=NETWORK, autoencoder=str(home / "ae"), **SMALL)
    finished(train(home / "scenes.npz", asked, run=home / "latent"))
    assert ebb("adapt", home / "latent", home / "scenes.npz", "--control", "grey", *QUICK) == 0
    run = load(home / "latent-grey")
    assert run.conditioner.conditions["grey"].factor == 2
    hint = torch.zeros(1, 24, 24)
    assert run.sample(2, given={"grey": hint}).shape == (2, 3, 24, 24)


def test_what_cannot_be_controlled_is_said_in_a_line(home, tmp_path, capsys):
    for data, options, message in (
        ("scenes.npz", ("--control", "edgse"), "no extractor 'edgse'"),
        ("files", ("--control", "dept"), "no row of metadata.jsonl has the field 'dept'"),
        ("scenes.npz", ("--control", "edges(hihg=1)"), "has no field 'hihg'"),
        ("scenes.npz", ("--control", "edges", "--form", "two"), "no form of control called 'two'"),
        ("scenes.npz", ("--control", "edges", "--rank", 2), "--rank is of a change of weights"),
        ("scenes.npz", ("--form", "two_way"), "is lora or dora"),
    ):
        assert ebb("adapt", home / "base", home / data, *options, *QUICK, "--run", tmp_path / "no") != 0
        said = capsys.readouterr()
        assert message in " ".join((said.out + said.err).split())


def test_the_update_from_which_a_hint_is_used():
    def log(*uses):
        return [{"step": 10 * i, "hint_use": use} for i, use in enumerate(uses, 1)] + [{"step": 5}]

    assert "from update 30 on" in hints_used(log(0.0, 0.01, 0.3, 0.5), ["edges"])
    assert "1.5 times" in hints_used(log(0.0, 0.01, 0.3, 0.5), ["edges"])
    assert "from update 40 on" in hints_used(log(0.05, 0.1, 0.01, 0.5), ["edges"]), "what was forgotten does not count"
    assert "not used yet" in hints_used(log(0.0, 0.01), ["edges"])
