"""The stories of the handbook, command by command as they stand there, with small models on small pictures."""

import json
import re
import shlex
import shutil
from pathlib import Path

import pytest

from .command import ebb

PAGE = (Path(__file__).parents[1] / "docs" / "stories.md").read_text(encoding="utf8")

STORIES = {
    title: [line.split("#")[0].strip() for line in block.splitlines()]
    for title, block in re.findall(r"## ([^\n]*)\n.*?```sh\n(.*?)```", PAGE, re.DOTALL)
}

SMALL = {
    "train": "--steps 2 --batch 16 --precision fp32 --sheets 1 --network.width 8 --network.depth 1 --sample.steps 2",
    "evaluate": "--n 20",
    "sweep": "--n 16 --no-keep --no-search --solvers ddim --steps 2",
}
"""What stands in the place of a budget and of a number of samples."""


def small(words):
    """A command with what makes it long replaced."""
    large = {
        at + k
        for at, word in enumerate(words)
        if word == "--budget" or (word == "--n" and words[0] in SMALL)
        for k in (0, 1)
    }
    return [word for at, word in enumerate(words) if at not in large] + SMALL.get(words[0], "").split()


@pytest.fixture
def home(pictures, monkeypatch):
    """A folder with photos/ and mnist/, in which little is enough."""
    for name in ("photos", "mnist"):
        shutil.copytree(pictures, pictures.parent / "home" / name)
    monkeypatch.chdir(pictures.parent / "home")
    monkeypatch.setattr("ebb.evaluate.judges.SECONDS", 0.02)
    monkeypatch.setattr("ebb.run.rehearse.SPEND", 0.0)
    monkeypatch.setattr("ebb.run.rehearse.matrix_rate", lambda *_: 1e9)
    monkeypatch.setattr("ebb.evaluate.evaluate.parts", lambda _: [])
    monkeypatch.setattr("ebb.doctor.diagnose.RUN_CHECKS", [])
    monkeypatch.setattr("ebb.doctor.diagnose.MODEL_CHECKS", [])


SHORT = "A server without a screen"
"""The story that is told in the short form too."""


@pytest.mark.parametrize("title", [pytest.param(x, marks=[] if x == SHORT else pytest.mark.full) for x in STORIES])
def test_a_story_comes_to_its_end(title, home, capsys):
    for line in STORIES[title]:
        command, _, file = line.partition(" > ")
        assert ebb(*small(shlex.split(command)[1:])) in (0, 7), line
        out = capsys.readouterr().out
        if file:
            Path(file).write_text(out)
        if file.endswith(("json", "jsonl")):
            assert all(isinstance(json.loads(line), dict) for line in out.splitlines()), file


def test_there_are_three_stories_of_a_handful_of_commands():
    assert list(STORIES) == ["Photos of your own", "Research", SHORT]
    assert all(5 <= len(lines) <= 7 for lines in STORIES.values())
