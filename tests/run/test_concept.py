"""A new word taught to a run: its row alone is learnt, nothing else moves, and drift is measured and ends a run."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

import ebb
from ebb.data.images import settings_of
from ebb.data.of_run import data_of
from ebb.errors import UsageError
from ebb.events import finished
from ebb.recipe.document import from_yaml
from ebb.recipe.recipe import AdapterRecipe
from ebb.run.train import train
from ebb.store import checkpoint
from ebb.system.requests import asked_for, referring
from ebb.system.taught import naming, word_of

from ..command import ebb as command
from ..toys import trained, write

SMALL = {"batch": 4, "precision": "fp32", "sheets": 1, "steps": 3}


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A run on captioned pictures, and four pictures with and without captions of a new word."""
    home = tmp_path_factory.mktemp("concept")
    network = {"width": 16, "depth": 1, "multipliers": (1,), "cross": (0,)}
    trained(write(home / "data"), home / "base", network=network)
    write(home / "bare", 4, missing=4)
    return home


def adapted(home, name="bare", run="run", fresh=True, **asked):
    recipe = AdapterRecipe(adapts=str(home / "base"), **SMALL | asked)
    return finished(train(home / name, recipe, run=home / run, fresh=fresh))


def test_a_word_alone_is_one_row_and_texts_without_it_stay(home):
    run = adapted(home, concept="sks", addition={"kind": "bare"})
    saved = checkpoint.read(checkpoint.newest(run / "checkpoints"), "model")
    system, base = ebb.load(run), ebb.load(home / "base")
    width = 2 * 16
    assert sorted(t.numel() for t in saved.values()) == [1, width, width], "the row, where it began, its bound"
    assert system.conditioner.text.taught == ("sks",)
    for text in ("a bright sky", ""):
        assert torch.equal(system.sample(2, text=text), base.sample(2, text=text))
    assert not torch.equal(system.sample(2, text="a sks"), base.sample(2, text="a sks"))
    recipe = from_yaml(run / "run.yaml")[0]
    assert (recipe.prior, recipe.optimiser.lr) == (0, 2e-2), "a row alone needs no samples, and a rate of its own"
    put = ebb.load(home / "base", adapters=[run])
    assert torch.equal(put.sample(2, text="a sks"), system.sample(2, text="a sks"))


def test_drift_is_measured_and_ends_a_run_that_comes_too_far(home):
    lora = {"addition": {"rank": 2, "layers": ("*conv*",)}, "prior": 8, "optimiser": {"lr": 0.3}, "steps": 12}
    run = adapted(home, run="far", concept="sks", drift=1e-6, **lora)
    recipe = from_yaml(run / "run.yaml")[0]
    assert recipe.steps < 12
    assert "had moved by" in json.loads((run / "choices.json").read_text())["steps"]["reason"]
    assert checkpoint.newest(run / "checkpoints").name == f"step-{recipe.steps:08d}"
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    assert lines[-1]["drift"] > 1e-6
    again = finished(
        train(
            home / "bare", AdapterRecipe(adapts=str(home / "base"), concept="sks", drift=1e-6, **SMALL | lora), run=run
        )
    )
    assert checkpoint.newest(again / "checkpoints").name == f"step-{recipe.steps:08d}", "it is finished"
    far = adapted(home, run="near", concept="sks", drift=100.0, **lora)
    assert from_yaml(far / "run.yaml")[0].steps == 12
    assert "answers for the rest moved" in (far / "report.html").read_text()


def test_a_sheet_shows_what_is_taught(home, monkeypatch):
    """Samples of the new word, or of the pictures as references, and not of the base's texts."""
    heard = []
    request = ebb.System.request
    monkeypatch.setattr(
        ebb.System,
        "request",
        lambda system, given, *rest, **more: heard.append(given) or request(system, given, *rest, **more),
    )
    adapted(home, run="sheet", concept="sks", addition={"kind": "bare"}, steps=1)
    assert {text for given in heard for text in given["text"]} == {"a sks"}
    heard.clear()
    adapted(home, run="sheet-like", reference=True, addition={"kind": "bare"}, prior=0, steps=1)
    assert all(len(given["reference"]) == len(given.get("text", given["reference"])) for given in heard)
    assert heard


def test_it_is_measured_by_what_it_was_taught(home):
    """Where the pictures have no captions by the new word; each drawn picture is its own reference."""
    word = adapted(home, run="asked-word", concept="sks", addition={"kind": "bare"}, steps=1)
    like = adapted(home, run="asked-like", reference=True, addition={"kind": "bare"}, prior=0, steps=1)
    dataset, rows = data_of(word), np.random.default_rng(3).choice(4, 6)
    assert asked_for(ebb.load(word), dataset, 6, 3) == {"text": ["a sks"] * 6}
    assert not {"reference", "sks"} & set(asked_for(ebb.load(home / "base"), dataset, 6, 3))
    given = asked_for(ebb.load(like), dataset, 6, 3)
    assert torch.equal(torch.stack(given["reference"]), dataset.x(rows))
    assert ebb.Sampler(ebb.load(like))(ebb.load(like).request(given, 6, 0)).shape[0] == 6
    named = replace(dataset, captions=("A cat", "a sks", "", "sky"))
    assert asked_for(ebb.load(word), named, 6, 3) == {"text": [named.captions[row] for row in rows]}


def test_a_word_and_changes_become_part_of_a_run(home, tmp_path, capsys):
    asked = {"concept": "sks", "addition": {"rank": 2}, "prior": 4}
    run = adapted(home, run="both", **asked)
    for parameter in (system := ebb.load(run)).model.module.parameters():
        assert not parameter.requires_grad
    assert command("adapter", "merge", home / "base", run, "--out", tmp_path / "whole") == 0
    whole = ebb.load(tmp_path / "whole")
    assert whole.conditioner.text.taught == ("sks",)
    torch.testing.assert_close(whole.sample(2, text="a sks"), system.sample(2, text="a sks"), rtol=1e-4, atol=1e-4)
    assert command("adapter", "show", run, "--run", home / "base") == 0
    assert "1 new word" in capsys.readouterr().out
    assert command("adapter", "convert", run, tmp_path / "peft", "--to", "peft") == 0
    assert command("adapter", "show", tmp_path / "peft", "--run", home / "base") == 0


def test_captions_name_it_or_it_names_the_pictures():
    assert naming(None, "sks", 2) == ["a sks", "a sks"]
    assert naming(["", ""], "sks", 2) == ["a sks", "a sks"]
    assert naming(["a SKS dog", "a dog"], "sks", 2) == ["a SKS dog", "a dog"]
    assert word_of("Sks") == "sks"


def test_a_reference_speaks_for_itself_in_every_other_picture():
    found = referring({"text": ["a", "b", "c"], "label": [0, 1, 2]}, ["x", "y", "z"])
    assert found == {"text": [None, "b", None], "label": [0, 1, 2], "reference": ["x", "y", "z"]}
    assert referring({}, ["x"]) == {"reference": ["x"]}


WRONG = {
    "one word of letters": {"concept": "two words"},
    "a word that this model knows": {"concept": "bright"},
    "no caption of these pictures has": {"concept": "sks", "name": "data"},
    "nothing new to learn": {},
}


@pytest.mark.parametrize("what", WRONG)
def test_what_cannot_be_taught_is_refused(home, what):
    asked = {"addition": {"kind": "bare"}} | WRONG[what]
    with pytest.raises(UsageError, match=what):
        adapted(home, run="wrong", **asked)


def test_the_command_teaches_a_word(home, capsys, monkeypatch):
    monkeypatch.chdir(home)
    words = "adapt", "base", "bare", "--concept", "sks", "--steps", 1, "--batch", 4, "--run", "word"
    assert command(*words) == 0
    out = capsys.readouterr().out
    assert "--text 'a sks'" in out
    assert "of their size for what it was taught" in out
    effect = json.loads((home / "word" / "effect.json").read_text())
    assert [row["name"] for row in effect["rows"]][::2] == ["what it was taught", "the rest"]
    assert effect["rows"][-1]["size"]["value"] == 0, "texts without the word are answered as before"
    assert "answers moved by" in (home / "word" / "card.md").read_text()
    page = (home / "word" / "report.html").read_text()
    assert "error gone" in page
    assert "without and with" in page
    assert command("sample", "base", "--adapter", "word", "--text", "a sks", "--n", 2, "--out", "s.png") == 0
    assert "no caption that was trained on has" not in capsys.readouterr().out
    assert settings_of(home / "s.png")["effect"][0].startswith("word ")
    assert command(*words, "--fresh") == 0, "all that it wrote is its own"


def test_a_reference_is_taught_and_asked_for(home, tmp_path, monkeypatch):
    monkeypatch.chdir(home)
    words = "adapt", "base", "data", "--reference", "--prior", 4, "--steps", 2, "--batch", 4, "--run", "seen"
    assert command(*words) == 0
    for parameter in (system := ebb.load(home / "seen")).model.module.parameters():
        parameter.data.add_(0.3)
    base, shown = ebb.load(home / "base"), system.shape
    assert torch.equal(system.sample(2, text="a bright sky"), base.sample(2, text="a bright sky"))
    like = {"text": "a bright sky", "reference": torch.ones(*shown)}
    assert not torch.equal(system.sample(2, given=like), base.sample(2, text="a bright sky"))
    ask = "sample", "seen", "--n", 2, "--text", "a bright sky", "--out"
    assert command(*ask, tmp_path / "a.npz", "--reference", home / "data" / "00.png:0") == 0
    assert command(*ask[:1], "base", *ask[2:], tmp_path / "b.npz") == 0
    first, second = (np.load(tmp_path / f"{name}.npz")["images"] for name in "ab")
    assert (first == second).all(), "scale 0 is the base"
    assert command(*ask, tmp_path / "c.png", "--reference", home / "data" / "00.png:0.5") == 0
    assert settings_of(tmp_path / "c.png")["reference"] == ["data/00.png:0.5"]
    assert command("sample", "base", "--n", 1, "--reference", home / "data" / "00.png") == 2
    assert command("adapter", "merge", "base", "seen", "--out", tmp_path / "x") == 2


def test_a_control_and_a_reference_on_one_run(home, tmp_path, monkeypatch):
    """By the command line: each by its scale, at 0 the base to the bit, and each alone as it is alone."""
    monkeypatch.chdir(home)
    few = "--steps", 1, "--batch", 4
    assert command("adapt", "base", "data", "--reference", "--prior", 4, *few, "--run", "like") == 0
    assert command("adapt", "base", "data", "--control", "grey", *few, "--run", "led") == 0
    picture = home / "data" / "00.png"

    def drawn(*adapters, **asked):
        system = ebb.load(home / "base", adapters=adapters)
        for part in (*system.model.under, system.model.addition) if adapters else ():
            torch.manual_seed(part.size)
            for parameter in part.parameters():
                parameter.data.add_(0.2 * torch.randn_like(parameter))
        return system.sample(2, given={"text": "a bright sky"} | {name: str(picture) for name in asked})

    base, both = drawn(), drawn("like", "led", reference=1, grey=1)
    assert torch.equal(drawn("led", "like", reference=1, grey=1), both)
    assert torch.equal(drawn("led:0", "like:0", reference=1, grey=1), base)
    for name, asked in (("like", {"reference": 1}), ("led", {"grey": 1})):
        alone = drawn(name, **asked)
        assert torch.equal(drawn("like", "led", **asked), alone)
        assert not torch.equal(alone, both)
    words = "--adapter", "like", "led:0.5", "--reference", f"{picture}:0.7", "--control", f"grey={picture}"
    assert command("sample", "base", "--n", 1, "--text", "a bright sky", *words, "--out", tmp_path / "s.png") == 0
    assert settings_of(tmp_path / "s.png")["reference"]
