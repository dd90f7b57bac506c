"""An option that a verb does not have is answered in a few words, with the one of that verb that is meant."""

import pytest

from ebb.cli.options import MEANT, every, options

from ..command import ebb
from ..test_house import VERBS

SAID = [
    ("edit interpolate", "--text", "did you mean --labels, for labels and prompts?"),
    ("edit interpolate", "--seed", "did you mean --seeds"),
    ("train", "--log", "did you mean --json, for what a program reads?"),
    ("train", "--grids", "did you mean --sheets, for sheets of samples?"),
    ("train", "--label-dropout", "did you mean --condition-dropout"),
    ("edit interpolate", "--lables", "did you mean --labels?"),
    ("edit inpaint", "--maks", "did you mean --mask?"),
    ("edit inpaint", "--prompt", "did you mean --text"),
    ("sample", "-n", "did you mean --n?"),
    ("sample", "--prompt=a cat", "did you mean --text"),
    ("sample", "--cfg_scale", "did you mean --guidance"),
    ("sample", "--strength", "it is one of ebb edit strength, ebb edit vary"),
    ("train", "--width", "did you mean --network.width or --autoencoding.width?"),
    ("train", "--epochs", "did you mean --steps"),
    ("evaluate", "--stesp", "did you mean --steps?"),
    ("sweep", "--n-steps", "did you mean --steps?"),
    ("doctor", "--n", "it is one of ebb sample"),
    ("config show", "--seed", "it is one of ebb train"),
]


@pytest.mark.parametrize(("verb", "option", "answer"), SAID)
def test_an_option_that_is_not_there_is_answered_with_the_one_that_is_meant(verb, option, answer, capsys):
    assert ebb(*verb.split(), "somewhere", option, 4) == 2
    said = capsys.readouterr().err
    assert answer in said
    assert f"ebb {verb} has no option {option.partition('=')[0]}" in said
    assert len(said.splitlines()) == 2


def test_the_options_of_every_verb_are_those_of_its_help():
    found = {name: set(options(kind)) for name, kind in every()}
    assert set(found) == set(VERBS)
    for name, expected in VERBS.items():
        positive = {option for option in found[name] if not option.rpartition(".")[2].startswith("no-")}
        assert {option.replace("-", "_") for option in positive} == expected


def test_every_option_that_may_be_meant_is_one_of_some_verb():
    known = {option for _, kind in every() for option in options(kind)}
    assert {option for option, _, _ in MEANT} <= known


def test_a_place_that_begins_with_a_dash_is_told_from_an_option(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "-photos").mkdir()
    assert ebb("train", "-photos") == 2
    assert "write the place as ./-photos" in capsys.readouterr().err
    assert ebb("train", "-other") == 2
    assert "ebb train has no option -other" in capsys.readouterr().err


@pytest.mark.parametrize("words", [("--help",), ("sample", "--help"), ("edit", "vary", "-h")])
def test_help_is_not_in_the_way(words, capsys):
    assert ebb(*words) == 0
    assert "usage" in capsys.readouterr().out
