"""Runs that are not of one denoiser on pixels: with captions, of an autoencoder, in its latent space."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from pydantic import ValidationError
from torch import nn

from ebb.data.images import settings_of
from ebb.data.scan import read
from ebb.edit.editor import Editor
from ebb.edit.samples import Prompt, hint, joined, region
from ebb.encode.autoencoder import Autoencoder
from ebb.encode.latent import LatentSpace
from ebb.errors import DataError, UsageError
from ebb.evaluate.analyses import attended, attends
from ebb.evaluate.evaluate import as_table, evaluate, evenness_in_words
from ebb.events import finished
from ebb.judge.matcher import train_matcher
from ebb.judge.scene_reader import judge
from ebb.recipe.recipe import Recipe, Sampling
from ebb.report.captions_section import words
from ebb.run.prepare import prepared
from ebb.store import checkpoint
from ebb.system.families.variational import LatentPrior
from ebb.system.sampler import Sampler
from ebb.system.system import System, load
from ebb.understand.concepts import concepts

from .command import ebb
from .toys import CAPTIONS, SMALL, sampled, trained, write


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    root = tmp_path_factory.mktemp("kinds")
    write(root / "data")
    trained(root / "data", root / "text")
    trained(root / "data", root / "ae", kind="autoencoder")
    trained(root / "data", root / "latent", autoencoder=str(root / "ae"))
    return root


@pytest.mark.parametrize("kind", ["text", "latent"])
def test_a_model_of_captions_hears_a_prompt(home, kind):
    system = load(home / kind)
    with torch.no_grad():  # after three steps it still answers alike
        for parameter in system.denoiser.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)))
    sky, ground = (system.sample(2, text=caption, seed=1) for caption in CAPTIONS)
    assert sky.shape == (2, 1, 8, 8)
    assert not torch.allclose(sky, ground)
    torch.testing.assert_close(system.sample(2, text=list(CAPTIONS), seed=1)[1], ground[1])
    guided = system.sample(2, text=CAPTIONS[0], seed=1, guidance=3.0)
    assert not torch.allclose(guided, sky)


def test_without_a_prompt_captions_of_the_data_come_in_turn(home):
    system = load(home / "text")
    assert set(system.conditioner.text.turns) == set(CAPTIONS)
    assert len(set(system.given(8)["text"])) == 2


@pytest.mark.parametrize("kind", ["mmdit", "dit"])
def test_transformers_hear_captions_too(home, tmp_path, kind):
    trained(home / "data", tmp_path / "run", network={"kind": kind, "width": 16, "depth": 1, "patch": 2})
    assert load(tmp_path / "run").sample(1, text="a bright sky").shape == (1, 1, 8, 8)


def test_missing_captions_are_learnt_without_or_refused_by_choice(tmp_path):
    data = write(tmp_path / "data", missing=5)
    learnt = finished(prepared(Recipe(), read(str(data))))
    silent = (learnt.examples.cond["text"] == 0).all(1).sum()
    assert silent == 5
    with pytest.raises(DataError, match=r"5 of 32 images have no caption"):
        finished(prepared(Recipe(text={"captions": "required"}), read(str(data))))
    assert finished(prepared(Recipe(text={"captions": "ignored"}), read(str(data)))).conditioner.text is None
    (data / "metadata.jsonl").unlink()
    assert finished(prepared(Recipe(), read(str(data)))).conditioner.text is None
    with pytest.raises(DataError, match="no captions"):
        finished(prepared(Recipe(text={"captions": "required"}), read(str(data))))


def test_an_autoencoder_reconstructs_and_samples_from_its_prior(home):
    system = load(home / "ae")
    assert system.model.family == "autoencoder"
    assert system.inner == (3, 4, 4)
    assert system.sample(3).shape == (3, 1, 8, 8)
    x = torch.zeros(2, 1, 8, 8)
    assert system.decode(system.encode(x)).shape == x.shape
    assert "An autoencoder" in (home / "ae" / "card.md").read_text()


class Half(Autoencoder):
    """Two latents for each picture of two, each with a mean and deviation of its own."""

    def __init__(self):
        super().__init__()
        self.settings, self.channels, self.factor, self.latent = {}, 2, 1, 2
        self.scale = nn.Parameter(torch.ones(()))

    def encode(self, x):
        return x

    def decode(self, z):
        return self.scale * z


def test_an_autoencoder_may_have_shortcuts_around_every_change_of_resolution(home, tmp_path):
    shape = {"factor": 4, "width": 16, "residual": True}
    trained(home / "data", tmp_path / "run", kind="autoencoder", autoencoding=shape)
    assert load(tmp_path / "run").space.autoencoder.settings["residual"]


def test_the_prior_is_sampled_with_the_mean_and_deviation_of_the_latents():
    space = LatentSpace(Half(), (0.1, -0.2), (0.2, 0.05))
    system = System(LatentPrior(space), (2, 1, 1), sampling=Sampling())
    x = Sampler(system, 4000)(system.request(system.given(4000), 4000)).flatten(1)
    torch.testing.assert_close(x.mean(0), torch.tensor([0.1, -0.2]), atol=0.01, rtol=0)
    torch.testing.assert_close(x.std(0), torch.tensor([0.2, 0.05]), atol=0, rtol=0.04)


def test_latents_have_unit_variance_and_are_made_once(home):
    recipe, dataset, said = Recipe(autoencoder=str(home / "ae")), read(str(home / "data")), []
    learnt = finished(prepared(recipe, dataset, cache=home), said.append)
    z = learnt.examples.read(np.arange(len(dataset.rows)), torch.device("cpu"))
    assert z.shape[1:] == (3, 4, 4)
    torch.testing.assert_close(z.mean((0, 2, 3)), torch.zeros(3), atol=1e-4, rtol=0)
    torch.testing.assert_close(z.std((0, 2, 3), unbiased=False), torch.ones(3), atol=1e-3, rtol=0)
    assert not said  # the run in latent space had made them
    x = torch.from_numpy(dataset.rows[:4]) / 127.5 - 1
    torch.testing.assert_close(learnt.space.encode(x), z[:4], atol=1e-4, rtol=1e-4)


def test_mirrored_latents_are_those_of_mirrored_pictures(home, tmp_path):
    recipe, dataset = Recipe(autoencoder=str(home / "ae"), data={"flip": True}), read(str(home / "data"))
    learnt = finished(prepared(recipe, dataset, cache=tmp_path))
    x = torch.from_numpy(dataset.rows[:4]).flip(-1) / 127.5 - 1
    mirrored = learnt.examples.read(np.arange(4), torch.device("cpu"), mirrored=True)
    torch.testing.assert_close(mirrored, learnt.space.encode(x), atol=1e-4, rtol=1e-4)


def test_a_latent_run_holds_its_autoencoder_and_is_measured(home, tmp_path):
    run = shutil.copytree(home / "latent", tmp_path / "latent")
    system = load(run)
    assert system.inner == (3, 4, 4)
    assert system.sample(2).shape == (2, 1, 8, 8)
    found = finished(evaluate(run, 10, likelihood=2))
    assert found.reconstruction.count > 0
    assert found.levels is not None
    assert found.likelihood is None
    assert "Reconstruction" in (run / "report.html").read_text()
    assert (run / "evaluation" / "reconstructions.png").is_file()


def test_an_autoencoder_is_measured_as_a_model_of_its_own(home, tmp_path):
    run = shutil.copytree(home / "ae", tmp_path / "ae")
    found = finished(evaluate(run, 10))
    assert found.levels is None
    assert found.reconstruction.evidence.kl > 0


@pytest.mark.parametrize("kind", ["kl", "vq", "latent"])
def test_each_kind_resumes_bit_for_bit(home, tmp_path, monkeypatch, kind):
    monkeypatch.setattr("ebb.run.supervise.CHECKPOINT_EVERY", 0.0)
    asked = {
        "kind": "autoencoder",
        "autoencoding": SMALL["autoencoding"] | {"kind": kind} | ({"codes": 8} if kind == "vq" else {}),
    }
    if kind == "latent":
        asked = {"autoencoder": str(home / "ae")}
    run = tmp_path / "run"
    trained(home / "data", run, **asked | {"steps": 4})
    whole = checkpoint.read(checkpoint.newest(run / "checkpoints"), "model")
    trained(home / "data", tmp_path / "half", **asked | {"steps": 4})
    half = tmp_path / "half"
    last = checkpoint.newest(half / "checkpoints")
    shutil.rmtree(last)
    assert checkpoint.newest(half / "checkpoints").name == "step-00000003"
    trained(home / "data", half, **asked | {"steps": 4})
    again = checkpoint.read(checkpoint.newest(half / "checkpoints"), "model")
    assert all(torch.equal(whole[name], again[name]) for name in whole)


def test_an_autoencoder_that_changed_is_noticed(home, tmp_path):
    root = tmp_path
    shutil.copytree(home / "ae", root / "ae")
    trained(home / "data", root / "latent", autoencoder=str(root / "ae"))
    trained(home / "data", root / "ae", fresh=True, kind="autoencoder", seed=1)
    for changed in (
        r"autoencoder has been trained anew since this run began: .*sha256",
        "autoencoder has been trained anew",
    ):
        with pytest.raises(UsageError, match=changed):
            trained(home / "data", root / "latent", autoencoder=str(root / "ae"))
        about = yaml.safe_load((root / "latent" / "run.yaml").read_text())  # as runs were recorded before origins were
        about.pop("origins", None)
        (root / "latent" / "run.yaml").write_text(yaml.safe_dump(about))


def test_autoencoders_that_do_not_fit_are_refused_by_name(home, tmp_path):
    other = write(tmp_path / "other", count=20)
    with pytest.raises(UsageError, match="trained on other data"):
        trained(other, tmp_path / "run", autoencoder=str(home / "ae"))
    with pytest.raises(UsageError, match="without an autoencoder"):
        trained(home / "data", tmp_path / "run", autoencoder=str(home / "text"))
    with pytest.raises(UsageError, match="2, 4, 8"):
        trained(home / "data", tmp_path / "run", kind="autoencoder", autoencoding={"factor": 3})
    odd = write(tmp_path / "odd", side=9)
    with pytest.raises(UsageError, match="multiple"):
        trained(odd, tmp_path / "run", kind="autoencoder", autoencoding={"factor": 2, "width": 16})
    with pytest.raises(UsageError, match="no labels"):
        trained(home / "data", tmp_path / "run", kind="autoencoder", autoencoding={"perceptual": 0.1})


def test_a_unet_attends_to_each_concept_alone(home, tmp_path):
    apart = {"concepts": 2}
    trained(home / "data", tmp_path / "run", text=apart)
    system = load(tmp_path / "run")
    with torch.no_grad():
        for parameter in system.denoiser.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)))
    both, turned, one = (
        system.sample(1, text=text, seed=1)
        for text in ("a bright sky and a bright ground", "a bright ground and a bright sky", "a bright sky")
    )
    torch.testing.assert_close(both, turned, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(both, one, atol=1e-2)
    with pytest.raises(UsageError, match="for each concept"):
        concepts(system, CAPTIONS[0])
    with pytest.raises(ValidationError, match=r"network\.kind dit attends to whole texts"):
        trained(home / "data", tmp_path / "dit", text=apart, network={"kind": "dit", "width": 16, "depth": 1})
    with pytest.raises(UsageError, match="hear a whole caption"):
        trained(home / "data", tmp_path / "frozen", text=apart | {"encoders": ("clip",)})


def test_prompts_are_sampled_in_turn_or_together(home, tmp_path):
    sampled(home / "text", tmp_path / "turn", *CAPTIONS)
    assert [settings_of(tmp_path / "turn" / f"{i:06d}.png")["text"] for i in range(4)] == [*CAPTIONS, *CAPTIONS]
    sampled(home / "text", tmp_path / "both.png", *CAPTIONS, together=True, guidance=2.0)
    assert settings_of(tmp_path / "both.png")["together"]
    with pytest.raises(UsageError, match="two or more"):
        sampled(home / "text", tmp_path / "one.png", CAPTIONS[0], together=True)


def test_each_prompt_has_its_region(home, tmp_path):
    Image.fromarray(np.repeat(np.uint8([[0], [255]]), 4, 0).repeat(8, 1)).save(tmp_path / "below.png")
    sampled(home / "text", tmp_path / "words.npz", *CAPTIONS, regions=("top", "bottom"), guidance=2.0)
    sampled(home / "text", tmp_path / "file.npz", *CAPTIONS, regions=("top", str(tmp_path / "below.png")), guidance=2.0)
    words, file = (np.load(tmp_path / f"{name}.npz")["images"] for name in ("words", "file"))
    np.testing.assert_array_equal(words, file)
    sampled(home / "latent", tmp_path / "latent.png", *CAPTIONS, regions=("left", "right"))
    assert settings_of(tmp_path / "latent.png")["regions"] == ["left", "right"]
    (tmp_path / "no.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match="not a picture"):
        sampled(home / "text", tmp_path / "x.png", CAPTIONS[0], regions=(str(tmp_path / "no.png"),))
    with pytest.raises(UsageError, match="2 prompts and 1 regions"):
        sampled(home / "text", tmp_path / "x.png", *CAPTIONS, regions=("top",))
    Image.new("L", (4, 4)).save(tmp_path / "small.png")
    for wrong, why in (("middle", "words such as"), ("top bottom", "nowhere"), (str(tmp_path / "small.png"), "8×8")):
        with pytest.raises(UsageError, match=why):
            sampled(home / "text", tmp_path / "x.png", CAPTIONS[0], regions=(wrong,))


def test_a_region_is_what_was_drawn_on_nothing_and_it_is_said(home, tmp_path):
    strokes = Image.new("LA", (8, 8), (0, 0))
    strokes.paste((255, 255), (0, 4, 8, 8))
    strokes.save(tmp_path / "strokes.png")
    assert torch.equal(region(str(tmp_path / "strokes.png"), (8, 8)), region("bottom", (8, 8)))
    said = []
    hint(load(home / "text"), Prompt(text=CAPTIONS[:1], regions=[str(tmp_path / "strokes.png")]), said.append)
    assert "what is drawn on the transparent ground is the region, 50% of the picture" in said[0].text
    Image.new("LA", (8, 8), (255, 0)).save(tmp_path / "clear.png")
    with pytest.raises(UsageError, match="marks nothing"):
        region(str(tmp_path / "clear.png"), (8, 8))


def test_words_are_the_part_they_name():
    assert region("top left", (4, 6)).tolist() == [[1, 1, 1, 0, 0, 0]] * 2 + [[0] * 6] * 2
    assert region("bottom", (4, 2)).tolist() == [[0, 0]] * 2 + [[1, 1]] * 2


def test_prompts_together_are_the_composition_of_the_prompts(home, tmp_path):
    system = load(home / "text")
    with torch.no_grad():
        for parameter in system.denoiser.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)))
    x, t = torch.randn(2, 1, 8, 8), torch.full((2,), 0.5)
    null = system.null()
    one, two, none = (system.denoiser(x, t, {"text": system.conditioner.text([text] * 2)}) for text in (*CAPTIONS, ""))
    guided = joined(system, CAPTIONS, 1.5)(system.denoiser)(x, t, {"text": null["text"].expand(2, -1)})
    torch.testing.assert_close(guided, none + 1.5 * (one - none) + 1.5 * (two - none), atol=1e-4, rtol=1e-4)


def test_words_that_were_never_heard_and_long_prompts_are_named(home, tmp_path):
    said = sampled(home / "text", tmp_path / "x.png", "a purple дом " + "sky " * 300, "")
    assert "purple" in said
    assert "дом" in said
    assert "the model hears the first" in said
    assert Image.open(tmp_path / "x.png").size[0] > 0


def test_a_prompt_is_explained_by_words_and_by_maps(home, tmp_path, capsys):
    out = tmp_path / "x.png"
    assert ebb("sample", home / "text", "--n", 2, "--text", *CAPTIONS, "--explain", "--out", out) == 0
    printed = capsys.readouterr().out
    assert all(word in printed for word in ("bright", "sky", "over places", "over words"))
    about = settings_of(tmp_path / "x-words.png")
    assert [list(one) for one in about["entropies"]] == [caption.split() for caption in CAPTIONS]
    assert Image.open(tmp_path / "x-words.png").size[0] > 4 * 64
    assert ebb("sample", home / "text", "--explain", "--out", tmp_path / "no.png") == 2
    assert "a prompt is what is explained" in capsys.readouterr().err
    assert not (tmp_path / "no.png").exists()


def test_the_words_of_captions_are_measured(home, unchecked):
    unchecked()  # a part of a subject is enough
    system = load(home / "text")
    assert attends(system)
    subject = SimpleNamespace(system=system, texts=(*CAPTIONS, "", CAPTIONS[0]), seed=0)
    found = attended(subject).found["words"]
    assert found.prompts == 2
    assert {one.words for one in found.concepts} == {"a", "bright", "sky", "ground"}
    page = words(asdict(found))
    assert page.count("from everywhere alike") == 1 + len(found.everywhere)
    assert f"{len(found.everywhere)} of 4" in evenness_in_words(found)
    assert words({}) == ""


@pytest.mark.full
def test_samples_of_captions_are_matched_with_them(tmp_path, monkeypatch):
    write(tmp_path / "data", count=440)
    lines = [{"file_name": f"{i:02d}.png", "text": f"the {i}th {CAPTIONS[i % 2]}"} for i in range(440)]
    (tmp_path / "data" / "metadata.jsonl").write_text("\n".join(map(json.dumps, lines)))
    trained(tmp_path / "data", tmp_path / "run")
    quick = partial(train_matcher, seconds=0.05)
    monkeypatch.setattr("ebb.evaluate.analyses.train_matcher", quick)
    found = finished(evaluate(tmp_path / "run", 30, likelihood=0))
    assert (found.matched.count, found.matched.among, found.matched.ceiling) == (30, 20, None)
    assert found.matched_unseen.count == 22
    assert 0 <= found.matched_unseen.share <= 1
    assert found.matched_unseen.ceiling is not None
    assert {"trained captions", "unseen captions"} <= {row[0] for row in as_table(found)}
    page = (tmp_path / "run" / "report.html").read_text()
    assert "22 unseen captions that find their sample among 20" in page
    assert settings_of(tmp_path / "run" / "evaluation" / "captions.png")["captions"][0].startswith("the ")


@pytest.mark.full
def test_samples_of_shapes_are_read_by_a_judge(tmp_path, monkeypatch):
    monkeypatch.setattr("ebb.data.scenes.TRAIN", 80)
    monkeypatch.setattr("ebb.data.scenes.HELD_OUT", 20)
    monkeypatch.setattr("ebb.judge.scene_reader.JUDGED", 200)
    monkeypatch.setattr("ebb.judge.scene_reader.REAL", 100)
    monkeypatch.setattr("ebb.evaluate.analyses.judge", lambda side: judge(side, seconds=0.05))
    trained("shapes", tmp_path / "run", steps=2)
    found = finished(evaluate(tmp_path / "run", 10, likelihood=0))
    assert found.agreement.count == 10
    assert 0 <= found.agreement.share <= found.agreement.ceiling <= 1
    assert any(row[0] == "captions" for row in as_table(found))


def test_pictures_are_edited_in_latents_and_the_known_part_stays(home):
    editor = Editor.of(load(home / "latent"), label="a bright sky", steps=2)
    x0 = torch.rand(3, 1, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
    new = torch.zeros(8, 8, dtype=torch.bool)
    new[:, 4:] = True
    made = editor.inpaint(x0, new, seed=3)
    assert torch.equal(made[..., :4], x0[..., :4])
    other = torch.where(new, -x0, x0)  # what is replaced must not be seen
    torch.testing.assert_close(editor.inpaint(other, new, seed=3)[..., 4:], made[..., 4:], atol=1e-5, rtol=0)
    assert editor.strength(x0, 0.5).shape == x0.shape
    assert editor.outpaint(x0, 2).shape == (3, 1, 12, 12)
    with pytest.raises(UsageError, match="2 times smaller"):
        editor.outpaint(x0, 3)
    small = torch.nn.functional.avg_pool2d(made, 2)
    larger = editor.upscale(small, error=0.05)
    assert larger.shape == x0.shape
    away = (torch.nn.functional.avg_pool2d(larger, 2) - small).square().mean()
    fresh = (torch.nn.functional.avg_pool2d(editor.strength(x0, 1.0), 2) - small).square().mean()
    assert away < 0.5 * fresh  # after three steps of training it knows little, but it heard what was asked
