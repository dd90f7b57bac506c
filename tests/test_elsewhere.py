"""What a server trains is sampled elsewhere: the page line by line in its order, at toy size."""

import contextlib
import io
import json
import re
import shlex
import shutil
from pathlib import Path

from .command import ebb

DOCS = Path(__file__).parents[1] / "docs"
TOY = {
    r"--budget \w+": "--steps 3 --batch 8 --sheets 1 --network.width 8 --network.depth 1 --precision fp32 --sample.steps 2",
    r"--extend \w+": "--extend 2",
    r"--n \d+": "--n 12",
}


def blocks(page):
    """The blocks of code of a page, each with its language."""
    return re.findall(r"```(sh|python)\n(.*?)```", (DOCS / page).read_text(), re.DOTALL)


def run(line):
    """A command, with what it prints in a file where it says so; its exit code."""
    for much, little in TOY.items():
        line = re.sub(much, little, line)
    command, _, file = line.partition(" > ")
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        code = ebb(*shlex.split(command)[1:])
    if file:
        Path(file.strip()).write_text(printed.getvalue())
    return code


def test_a_server_trains_and_another_machine_samples(tmp_path, monkeypatch):
    monkeypatch.setattr("ebb.evaluate.two_sample.WORK", 20)
    monkeypatch.setattr("ebb.evaluate.evaluate.parts", lambda subject: ())
    server, elsewhere = tmp_path / "server", tmp_path / "elsewhere"
    server.mkdir()
    elsewhere.mkdir()
    monkeypatch.chdir(server)
    here, there, python, back = blocks("server.md")
    for line in lines(here):
        assert run(line) == 0, line
    assert json.loads(Path("train.jsonl").read_text().splitlines()[-1])["event"] == "Done"
    assert json.loads(Path("figures.json").read_text())["n_samples"] == 12
    shutil.copy("digits.safetensors", elsewhere)
    shutil.move(server / "runs", tmp_path / "hidden")
    monkeypatch.chdir(elsewhere)
    for line in lines(there):
        assert run(line) == 0, line
    assert "CC0-1.0" in Path("digits/card.md").read_text()
    found = {}
    exec(compile(python[1].replace("100", "4"), "server.md", "exec"), found)
    assert found["images"].shape == (4, 1, 8, 8)
    shutil.move(tmp_path / "hidden", server / "runs")
    monkeypatch.chdir(server)
    (line,) = lines(back)
    assert run(line) == 0
    assert "Done" in Path("more.jsonl").read_text().splitlines()[-1]


def lines(block):
    """The commands of a block."""
    return [line.split("#")[0].strip() for line in block[1].splitlines() if line.startswith("ebb ")]
