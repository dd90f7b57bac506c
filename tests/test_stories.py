"""The stories of the handbook, command by command as they stand there, with small models on small pictures."""

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
    monkeypatch.setattr("ebb.run.rehearse.SPEND", 0.0)
    monkeypatch.setattr("ebb.run.rehearse.matrix_rate", lambda *_: 1e9)
    monkeypatch.setattr("ebb.evaluate.evaluate.parts", lambda _: [])


SHORT = "Research"
"""The story that is told in the short form too; that of a server has a test of its own."""


@pytest.mark.parametrize("title", [pytest.param(x, marks=[] if x == SHORT else pytest.mark.full) for x in STORIES])
def test_a_story_comes_to_its_end(title, home):
    for line in STORIES[title]:
        assert ebb(*small(shlex.split(line)[1:])) == 0, line


def test_a_story_is_a_handful_of_commands():
    assert list(STORIES) == ["Photos of your own", SHORT]
    assert all(5 <= len(lines) <= 7 for lines in STORIES.values())
