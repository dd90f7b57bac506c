"""A run of one update on small pictures, made once and copied for each test, and a limit to the size of files."""

import io
import shutil

import numpy as np
import pytest
import yaml
from PIL import Image
from rich.console import Console

from ebb.cli.output import shown
from ebb.recipe.recipe import Recipe
from ebb.run.train import train

SMALL = {"network": {"width": 8, "depth": 1}, "batch": 8, "precision": "fp32", "sheets": 1, "sample": {"steps": 1}}


def trained(data, run, **asked):
    """The run folder after training, and what was said."""
    fresh, console = asked.pop("fresh", False), Console(file=io.StringIO(), width=200)
    recipe = Recipe(**SMALL | {"steps": 1} | asked)
    return shown(train(str(data), recipe, run=run, fresh=fresh), console), console.file.getvalue()


def lengthened(run):
    """As if the run had been asked for two updates, and stopped after the first."""
    tree = yaml.safe_load((run / "run.yaml").read_text())
    tree["recipe"]["steps"] = tree["asked"]["steps"] = 2
    (run / "run.yaml").write_text(yaml.safe_dump(tree))
    return run


def contents(folder):
    """Every file below a folder with what is in it."""
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.fixture(scope="session")
def made(tmp_path_factory):
    """A folder with the pictures `data` and the run `run` on them."""
    home, rng = tmp_path_factory.mktemp("made"), np.random.default_rng(0)
    (home / "data").mkdir()
    for i in range(24):
        Image.fromarray(rng.integers(0, 256, (8, 8), dtype=np.uint8)).save(home / "data" / f"{i:02d}.png")
    trained(home / "data", home / "run")
    return home


@pytest.fixture
def data(made):
    return made / "data"


@pytest.fixture
def run(made, tmp_path):
    return shutil.copytree(made / "run", tmp_path / "run")


@pytest.fixture
def no_file_beyond():
    """no_file_beyond(size): the system refuses larger files, as on a full disk, until the test is over."""
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
