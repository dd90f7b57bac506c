"""Numbers outside their limits, on the command line and in Python: one message with the option and the limits."""

import numpy as np
import pytest
import torch
from PIL import Image

from ebb.errors import UsageError
from ebb.events import finished
from ebb.recipe.limits import EVERY, real, spelled, whole
from ebb.recipe.recipe import Recipe
from ebb.run.train import train
from ebb.sample.noise import Noise

from ..command import ebb


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of one update on 24 grey pictures of 8×8."""
    folder, rng = tmp_path_factory.mktemp("limits"), np.random.default_rng(0)
    (folder / "data").mkdir()
    for i in range(24):
        Image.fromarray(rng.integers(0, 255, (8, 8), dtype=np.uint8)).save(folder / "data" / f"{i}.png")
    recipe = Recipe(network={"width": 8, "depth": 1}, batch=8, precision="fp32", steps=1, sheets=1, sample={"steps": 1})
    finished(train(folder / "data", recipe, run=str(folder / "run")))
    return folder / "run"


def picture(run, verb):
    """One to edit: a smaller one to enlarge."""
    file = run.parent / ("small.png" if verb == "edit upscale" else "data/0.png")
    if not file.is_file():
        Image.new("L", (4, 4), 99).save(file)
    return file


VERBS = {
    "sample": ("sample",),
    "evaluate": ("evaluate",),
    "sweep": ("sweep",),
    "edit strength": ("edit", "strength"),
    "edit vary": ("edit", "vary"),
    "edit inpaint": ("edit", "inpaint"),
    "edit outpaint": ("edit", "outpaint"),
    "edit upscale": ("edit", "upscale"),
    "edit deblur": ("edit", "deblur"),
}
OPTIONS = [
    ("--seed", -1, "seed must be between 0 and 2^62, got -1"),
    ("--seed", 2**64, "seed must be between 0 and 2^62"),
    ("--n", 0, "n must be between"),
    ("--n", -3, "n must be between"),
]
SAMPLING = [
    ("--steps", 0, "solver steps must be between 1 and 100,000, got 0"),
    ("--guidance", "nan", "guidance must be between -100 and 100, got nan"),
    ("--guidance", "inf", "guidance must be between -100 and 100, got inf"),
]


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_names_the_option_the_limits_and_what_came(verb, run, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.chdir(tmp_path)
    words = VERBS[verb]
    given = [picture(run, verb)] if words[0] == "edit" else []
    given += ["--mask", *given] if verb == "edit inpaint" else []
    for option, value, message in OPTIONS + SAMPLING:
        assert ebb(*words, run, *given, option, value) == 2, (verb, option, value)
        said = "".join(capsys.readouterr())
        assert message in said, (option, value, said)
        assert "Traceback" not in said


@pytest.mark.parametrize("value", [0, -1, 10**20])
def test_what_is_filled_has_limits_of_its_own(run, tmp_path, capsys, monkeypatch, value):
    monkeypatch.chdir(tmp_path)
    file = picture(run, "edit inpaint")
    for words, option in (
        (("inpaint", run, file, "--mask", file), "repeats"),
        (("outpaint", run, file), "repeats"),
        (("outpaint", run, file), "border"),
    ):
        assert ebb("edit", *words, f"--{option}={value}") == 2, (words, option)
        assert f"{option} must be between 1 and " in "".join(capsys.readouterr())


def test_training_is_held_to_the_same_limits(run, capsys):
    for option, value, message in (
        ("--seed", -1, "seed must be between 0 and 2^62, got -1"),
        ("--seed", 2**64, "seed must be between 0 and 2^62"),
        ("--batch", 0, "batch must be between 1 and"),
        ("--budget", "-5m", "budget"),
        ("--sample.guidance", "nan", "sample.guidance must be between -100 and 100, got nan"),
        ("--sample.steps", 0, "sample.steps must be between 1 and"),
    ):
        assert ebb("train", run.parent / "data", f"{option}={value}") == 2, option
        assert message in "".join(capsys.readouterr()), option


@pytest.mark.parametrize("three", [3, np.int64(3), np.uint8(3), np.array(3), torch.tensor(3)])
def test_a_whole_number_may_be_one_of_numpy_or_torch(three):
    assert whole("n", three) == 3
    assert type(whole("n", three)) is int
    assert real("scale", three) == 3.0
    assert torch.equal(Noise.of(three, three).start((2,)), Noise.of(3, 3).start((2,)))


@pytest.mark.parametrize("value", [2.5, "3", None, [3], torch.tensor([1, 2]), np.float64(3)])
def test_what_is_no_whole_number_is_refused(value):
    with pytest.raises(UsageError, match="n must be a whole number, got"):
        whole("n", value)


def test_every_limit_is_held_on_both_sides():
    for name, (low, high) in EVERY.items():
        number = whole if isinstance(high, int) and high > 2**53 else real  # no float is 2^64 - 1
        assert (number(name, low), number(name, high)) == (low, high)
        for value in (low - max(1, abs(low)), high * 2 + 1, float("nan"), float("inf")):
            with pytest.raises(UsageError, match=name):
                number(name, value)


def test_limits_are_spelled_as_one_would_write_them():
    assert [spelled(x) for x in (100_000, 1e-9, 2**62, 0, -100, 0.99)] == [
        "100,000",
        "1e-09",
        "2^62",
        "0",
        "-100",
        "0.99",
    ]


def test_one_bad_seed_among_many_is_the_one_that_is_named():
    with pytest.raises(UsageError, match=r"2\^64 − 1, got -1$"):
        Noise((*range(100), -1))
