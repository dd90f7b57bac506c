"""Text on any terminal: nothing that is printed can end a command, and what is suggested can be typed."""

import io
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from rich.table import Table

from ebb.cli.output import echo, screen
from ebb.doctor.commands import removing
from ebb.terminal import command

MAIN = "from ebb.cli import main; main()"


def printed(encoding, show, terminal=False):
    """What `show(console)` leaves on a stream of that encoding."""
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding, newline="")
    show(screen(Console(file=stream, width=80, force_terminal=terminal)))
    stream.flush()
    return stream.buffer.getvalue().decode(encoding)


@given(st.text(), st.sampled_from(["ascii", "cp1252", "latin-1", "cp437", "utf-8", "shift_jis"]))
def test_any_text_is_printed_in_any_encoding(text, encoding):
    printed(encoding, lambda console: echo(console, text + "\udcff"))


@pytest.mark.parametrize(
    ("encoding", "expected"),
    [
        ("utf-8", "0.1 ± 0.2 × 3 → 写真.png \\xff é\n"),
        ("cp1252", "0.1 ± 0.2 × 3 -> \\u5199\\u771f.png \\xff é\n"),
        ("ascii", "0.1 +- 0.2 x 3 -> \\u5199\\u771f.png \\xff e\n"),
    ],
)
def test_what_a_terminal_lacks_stands_in_plain_characters_and_the_rest_stays(encoding, expected):
    assert printed(encoding, lambda console: echo(console, "0.1 ± 0.2 × 3 → 写真.png \udcff é")) == expected


def test_tables_and_spinners_are_drawn_without_their_signs():
    def show(console):
        table = Table(title="Fréchet ± 2σ")
        table.add_row("α", "😀.png")
        with console.status("reading…"):
            console.print(table)

    text = printed("ascii", show, terminal=True)
    assert "Frechet +- 2" in text
    assert "\\U0001f600.png" in text


def run(arguments, shell_tail="", **environment):
    line = shlex.join([sys.executable, "-c", MAIN, *map(str, arguments)]) + shell_tail
    return subprocess.run(line, shell=True, capture_output=True, check=False, env=os.environ | environment)


@pytest.fixture
def recipes(tmp_path):
    """Two recipes in a folder with a Japanese name."""
    folder = tmp_path / "写真"
    folder.mkdir()
    for name, seed in (("a", 0), ("b", 1)):
        (folder / f"{name}.yaml").write_text(f"seed: {seed}\n")
    return folder / "a.yaml", folder / "b.yaml"


def test_a_command_prints_on_a_pipe_of_another_encoding(recipes):
    done = run(["config", "diff", *recipes], PYTHONIOENCODING="cp1252")
    assert (done.returncode, done.stdout) == (0, b"seed: 0 -> 1\n"), done.stderr
    missing = run(["config", "show", recipes[0].with_name("none.yaml")], PYTHONIOENCODING="ascii")
    assert missing.returncode == 2
    assert b"\\u5199\\u771f/none.yaml" in missing.stderr


def test_a_closed_output_and_a_reader_that_is_gone_end_nothing(recipes):
    closed = run(["config", "diff", *recipes], " >&-")
    assert (closed.returncode, closed.stderr) == (0, b"")
    gone = run(["--help"], " | true")
    assert gone.stderr == b""


@given(st.text(st.characters(blacklist_categories=["Cs"], blacklist_characters="\0")))
def test_a_suggested_command_is_read_by_a_shell_as_it_was_meant(path):
    assert shlex.split(command("sample", path, "--n", 16)) == ["ebb", "sample", path, "--n", "16"]


def test_a_place_that_begins_with_a_dash_is_no_option():
    assert command("sample", Path("-run"), "--n", 16) == "ebb sample ./-run --n 16"
    assert command("sample", Path("runs/-run")) == "ebb sample runs/-run"
    assert removing(Path("-step")) == "rm -r ./-step"


def test_what_training_recommends_can_be_typed(pictures, tmp_path, capsys, monkeypatch):
    """Copied from the screen into a shell, in a folder whose name has blanks."""
    from ebb.cli.train import advice

    from .command import ebb

    monkeypatch.chdir(tmp_path)
    small = (
        "--network.width",
        8,
        "--steps",
        1,
        "--sheets",
        1,
        "--batch",
        8,
        "--precision",
        "fp32",
        "--sample.steps",
        2,
    )
    assert ebb("train", pictures, "--run", "my run", *small) == 0
    said = capsys.readouterr().out
    assert "ebb sample 'my run' --n 16 --out samples.png" in said
    assert "ebb evaluate 'my run' --n 24" in said, "as many as half of the 48 pictures"
    data = tmp_path / "my run" / "data.json"
    data.write_text('{"count": 3}')
    assert "ebb doctor" in advice(tmp_path / "my run")
