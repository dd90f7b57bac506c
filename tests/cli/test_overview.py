"""What is asked first, `ebb --help`, `ebb --version` and a misspelt verb, is answered at once and looks like the rest."""

import subprocess
import sys
from typing import Annotated, Union

import pytest
import tyro

from ebb.cli.options import class_of
from ebb.cli.overview import DESCRIPTION, VERBS, Look, overview

from ..command import ebb

ASK = "import sys; from ebb.cli import main\ntry: main()\nfinally: sys.stderr.write(' '.join(['', *sys.modules]))"
SLOW = {"pydantic", "tyro", "rich", "torch", "numpy", "yaml", "safetensors"}


def asked(*words, **options):
    """The process that answers these words; stderr ends with the modules that it imported."""
    return subprocess.run([sys.executable, "-c", ASK, *words], capture_output=True, text=True, check=False, **options)


@pytest.mark.parametrize(
    ("words", "slow"),
    [
        (("--help",), SLOW),
        (("--version",), SLOW),
        (("smaple",), SLOW),
        (("edit", "--help"), {"pydantic", "torch", "numpy"}),
        (("train", "--help"), {"torch", "numpy"}),
    ],
)
def test_an_answer_imports_nothing_that_takes_time(words, slow):
    modules = asked(*words).stderr.split()
    assert "ebb.cli" in modules
    assert slow & {*modules} == set()


@pytest.mark.parametrize("columns", [60, 80, 100, 200])
def test_the_overview_looks_as_tyro_would_draw_it(columns, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setattr("tyro._fmtlib._FORCE_UTF8_BOXES", True)
    verbs = Union[*[Annotated[class_of(verb), tyro.conf.subcommand(verb)] for verb in VERBS]]
    with pytest.raises(SystemExit):
        tyro.cli(verbs, args=["--help"], prog="ebb", description=DESCRIPTION)
    expected = capsys.readouterr().out.rstrip("\n").splitlines()
    usage, *lines = overview(Look(columns, frames=True, styles=False)).splitlines()
    assert [usage.replace("[--version] ", ""), *(line for line in lines if "--version" not in line)] == expected


def test_the_overview_has_styles_where_there_are_some():
    plain, styled = (overview(Look(80, frames=True, styles=styles)) for styles in (False, True))
    assert "\033[" not in plain
    assert "\033[2mSample new examples" in styled
    assert len(plain.splitlines()) == len(styled.splitlines())


def test_the_overview_is_shown_where_there_are_no_frames_and_where_nothing_is_shown():
    drawn = asked("--help", env={"PYTHONIOENCODING": "ascii", "COLUMNS": "80"}).stdout
    assert drawn.isascii()
    assert "\n   * sample    Sample new examples from a run.\n" in drawn.replace("    * ", "   * ")
    closed = subprocess.run(
        f"{sys.executable} -c 'from ebb.cli import main; main()' --help >&-",
        shell=True,
        capture_output=True,
        check=False,
    )
    assert (closed.returncode, closed.stderr) == (0, b"")


@pytest.mark.parametrize(
    ("words", "answer"),
    [
        (("smaple",), "ebb has no verb smaple\n  → did you mean 'sample'? known: train"),
        (("edit", "strenth"), "ebb edit has no verb strenth\n  → did you mean 'strength'? known:"),
        (("--seed", "3", "train"), "ebb has no option --seed"),
    ],
)
def test_a_word_that_is_no_verb_is_answered_with_the_one_that_is_meant(words, answer, capsys):
    assert ebb(*words) == 2
    assert answer in capsys.readouterr().err


def test_data_in_the_place_of_a_verb_is_trained_on_with_the_command_that_is_shown(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my photos").mkdir()
    assert ebb("my photos") == 2
    assert "ebb train 'my photos'" in capsys.readouterr().err


def test_the_version_is_that_of_the_package(capsys):
    assert ebb("--version") == 0
    assert capsys.readouterr().out.startswith("ebb 0.")
