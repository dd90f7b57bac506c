"""The very text of README's Python, on runs of every kind: it must give what `System.sample` gives, bit for bit."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import ebb
from ebb.sample.noise import START
from ebb.sample.scheme import Scheme

from .toys import trained

ROOT = Path(__file__).parents[1]
SNIPPET = next(
    block for block in re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL) if "ebb" in block
)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Ten classes of two 8×8 pictures, each with its caption."""
    folder, rng = tmp_path_factory.mktemp("readme") / "data", np.random.default_rng(0)
    for label in range(10):
        (folder / str(label)).mkdir(parents=True)
        for i in range(2):
            Image.fromarray(rng.integers(0, 255, (8, 8), dtype=np.uint8)).save(folder / str(label) / f"{i}.png")
            (folder / str(label) / f"{i}.txt").write_text(f"digit {label}")
    return folder


LABELS = {"text": {"captions": "ignored"}}
KINDS = {
    "linear": LABELS,
    "edm": LABELS | {"path": "edm"},
    "noise prediction": LABELS | {"prediction": "noise"},
    "latents": LABELS | {"autoencoder": "codec"},
    "labels and captions": {},
}


@pytest.fixture(scope="module")
def runs(data):
    """A run of each kind, made when it is asked for."""
    made = {}

    def run(kind):
        if kind not in made:
            asked = {"steps": 1, **KINDS.get(kind, {"kind": "autoencoder"})}
            if "autoencoder" in asked:
                asked["autoencoder"] = str(run("codec"))
            made[kind] = data.parent / "runs" / kind
            trained(data, made[kind], **asked)
        return made[kind]

    return run


def follow(run, monkeypatch, snippet=SNIPPET):
    """The names that the snippet leaves, with `run` in the place of its own."""
    load = ebb.system.system.load
    monkeypatch.setattr(ebb.system.system, "load", lambda _: load(run))
    found = {}
    exec(compile(snippet, "README.md", "exec"), found)
    return found


def check(found, **asked):
    expected = found["system"].sample(16, **asked, seed=0, solver="heun", steps=16)
    assert torch.equal(found["images"], expected)
    assert expected.std() > 0


@pytest.mark.parametrize("kind", KINDS)
def test_the_loop_of_readme_is_what_sample_makes(kind, runs, monkeypatch):
    check(follow(runs(kind), monkeypatch), label=7)


def test_a_model_of_captions_alone_is_asked_by_a_text_in_the_same_loop(data, monkeypatch, tmp_path):
    flat = tmp_path / "flat"
    flat.mkdir()
    for file in data.rglob("*.*"):
        (flat / f"{file.parent.name}-{file.name}").write_bytes(file.read_bytes())
    trained(flat, tmp_path / "run", steps=1)
    words = SNIPPET.replace("label=7", 'text="digit 7"').replace('"label": 7', '"text": "digit 7"')
    check(follow(tmp_path / "run", monkeypatch, words), text="digit 7")


def test_a_start_of_the_wrong_size_is_caught(runs, monkeypatch):
    """The mutant: unit noise, as the paths that end at sigma = 1 allow."""
    with monkeypatch.context() as wrong:
        wrong.setattr(Scheme, "start", lambda self, noise, like: noise(START, like))
        found = follow(runs("edm"), monkeypatch)
    with pytest.raises(AssertionError):
        check(found, label=7)
