"""Runs whose captions are read by frozen encoders. The encoder here is a stand-in with the same four members;
tests/encode/test_text_pretrained.py holds the real ones to their files."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from ebb.data.scan import read
from ebb.encode import pretrained_text
from ebb.encode.pretrained_text import FrozenText, PretrainedText
from ebb.errors import UsageError
from ebb.events import finished
from ebb.networks.ports import StatesPort
from ebb.recipe.recipe import Recipe
from ebb.run.prepare import prepared
from ebb.system.system import load
from ebb.understand.concepts import concepts

from .toys import CAPTIONS, sampled, trained, write

WIDTH, READ = 6, []


class Encoder(PretrainedText):
    """Reads a word as fixed random numbers; its one file says which."""

    def __init__(self, folder, length=77, device=None):
        self.width, self.length, self.seed = WIDTH, length, (Path(folder) / "seed").read_text()

    @property
    def fingerprint(self):
        return hashlib.sha256(f"{self.seed} {self.length}".encode()).hexdigest()

    def count(self, text):
        return len(text.split())

    def states(self, texts):
        READ.extend(texts)
        rows = torch.zeros(len(texts), self.length, self.width)
        for row, text in zip(rows, texts, strict=True):
            for at, word in enumerate(text.split()[: self.length]):
                key = int(hashlib.sha256(f"{self.seed}{word}".encode()).hexdigest()[:8], 16)
                row[at] = torch.randn(self.width, generator=torch.Generator().manual_seed(key))
        return rows


@pytest.fixture(autouse=True)
def stand_in(monkeypatch):
    monkeypatch.setattr(pretrained_text, "PretrainedText", Encoder)


def encoder(folder, seed="1"):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "seed").write_text(seed)
    return str(folder)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    root = tmp_path_factory.mktemp("frozen")
    write(root / "data")
    one, two = encoder(root / "one"), encoder(root / "two", "2")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pretrained_text, "PretrainedText", Encoder)
        trained(root / "data", root / "run", text={"encoders": [one, two], "length": 4})
    return root


def test_a_model_hears_the_states_of_its_encoders(home):
    system = load(home / "run")
    assert system.conditioner.conditions["text"].port == StatesPort(WIDTH, 8)
    heard = system.conditions({"text": [CAPTIONS[0]]}, 1)["text"]
    own = torch.cat([Encoder(home / name, 4).states([CAPTIONS[0]]) for name in ("one", "two")], 1)
    assert torch.equal(heard, own), "one after the other"
    assert not system.null()["text"].any(), "nothing is said by rows of 0"
    with torch.no_grad():
        for parameter in system.denoiser.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)))
    sky, ground = (system.sample(2, text=caption, seed=1) for caption in CAPTIONS)
    assert not torch.allclose(sky, ground)


def test_captions_are_read_once_and_again_when_one_changes(home, tmp_path):
    recipe = Recipe(text={"encoders": [str(home / "one")], "length": 4})
    dataset = read(str(home / "data"))
    READ.clear()
    first = finished(prepared(recipe, dataset, cache=tmp_path))
    assert len(READ) == 32
    again = finished(prepared(recipe, dataset, cache=tmp_path))
    assert len(READ) == 32, "from the files"
    index, device = np.arange(5), torch.device("cpu")
    own = Encoder(home / "one", 4).states(dataset.captions[:5])
    for learnt in (first, again):
        torch.testing.assert_close(learnt.examples.conditions(index, device)["text"], own, atol=1e-3, rtol=1e-3)
    lines = (home / "data" / "metadata.jsonl").read_text().replace(CAPTIONS[1], "another ground", 1)
    shutil.copytree(home / "data", tmp_path / "data")
    (tmp_path / "data" / "metadata.jsonl").write_text(lines)
    READ.clear()
    finished(prepared(recipe, read(str(tmp_path / "data")), cache=tmp_path))
    assert "another ground" in READ


def test_other_encoders_than_those_of_training_are_refused(home, tmp_path):
    system = load(home / "run")
    encoder(home / "two", "3")
    with pytest.raises(UsageError, match="not those that this model was trained with"):
        system.sample(1, text=CAPTIONS[0])
    encoder(home / "two", "2")
    load(home / "run").sample(1, text=CAPTIONS[0])
    assert "the model hears the first 8" in sampled(home / "run", tmp_path / "x.png", "a sky " * 9)


def test_their_pieces_are_no_words(home):
    system = load(home / "run")
    with pytest.raises(UsageError, match="not told apart by words"):
        concepts(system, CAPTIONS[0], steps=2)
    assert FrozenText.from_json(system.conditioner.text.to_json()) == system.conditioner.text
