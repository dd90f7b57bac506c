"""Shapes and types at public boundaries are enforced while testing; data and threads are the same for every test."""

import functools
import io
import os
from collections import defaultdict
from hashlib import sha256
from itertools import repeat
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from beartype import BeartypeConf, beartype
from hypothesis import settings
from jaxtyping import config, install_import_hook
from PIL import Image

# torch and ebb are imported where they are needed: the process that only hands out tests to others needs neither

CHECKS = {"short": 160, "full": 4000}
"""Checks of a test, and as many of its fixtures; a call takes two. One costs a tenth of a millisecond, more than most of
what it checks (a solver of 20 steps takes seven times as long with them), and dozens of small steps are alike."""

form, made = "short", 0


def checked(function):
    """`function` with its arguments checked, which counts."""
    strict = None  # made when it is called: of most functions it never is

    @functools.wraps(function)
    def counted(*args, **kwargs):
        nonlocal strict
        global made
        made += 1
        if made >= CHECKS[form]:
            config.update("jaxtyping_disable", True)
        strict = strict or beartype(conf=BeartypeConf(is_pep484_tower=True))(function)
        return strict(*args, **kwargs)

    return counted


def pytest_runtest_setup():
    """Fixtures have their checks before them, whatever the last test has used up."""
    global made
    made = 0
    config.update("jaxtyping_disable", False)


def pytest_runtest_call():
    """And so has the test."""
    pytest_runtest_setup()


def pytest_addoption(parser):
    parser.addoption(
        "--full", action="store_true", help="long forms too: tests marked `full`, properties with more examples"
    )


def pytest_configure(config):
    global form
    form = "full" if config.getoption("--full") else "short"
    settings.load_profile(form)


WHOLE = 12
"""A test of at most so many cases is whole in the short form too; of more, each value occurs at least once."""


def thinned(items):
    """The cases of products that the short form leaves out: of 6 paths times 20 solvers it has each solver on a path,
    and each path with some solvers. Their names decide which, so that it is the same everywhere."""
    tests = defaultdict(list)
    for item in items:
        tests[item.nodeid.partition("[")[0]].append(item)
    for cases in tests.values():
        occurring = set()
        if len(cases) > WHOLE:
            for case in sorted(cases, key=lambda case: sha256(case.nodeid.encode()).digest()):
                values = {(name, id(value)) for name, value in case.callspec.params.items()}  # the list's own objects
                if values <= occurring:
                    yield case
                occurring |= values


@pytest.hookimpl(tryfirst=True)  # before marks are read
def pytest_collection_modifyitems(config, items):
    """Without --full the long forms are left out; each has a shorter one beside it that asks the same. A case that is
    named, as in test_order.py::test_it[euler-linear], is never left out."""
    if not any("[" in word for word in config.args):
        for item in thinned([item for item in items if not item.get_closest_marker("full")]):
            item.add_marker(pytest.mark.full)
    if not config.getoption("--full"):
        long = [item for item in items if item.get_closest_marker("full")]
        config.hook.pytest_deselected(items=long)
        items[:] = [item for item in items if not item.get_closest_marker("full")]


install_import_hook("ebb", f"sys.modules[{__name__!r}].checked")

settings.register_profile("short", deadline=None, max_examples=10, derandomize=True)
settings.register_profile("full", deadline=None, max_examples=60, derandomize=True)
SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session", autouse=True)
def less_work():
    """What is no claim is little: judges learn for a moment and settings have intervals of few resamples, unless a test says
    otherwise; an evaluation times three requests of one sample, not a hundred, and looks at each noise level on eight
    images; and files need not outlast the machine."""
    import torch

    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "2")))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("os.fsync", lambda handle: None)
        patch.setattr("ebb.evaluate.judges.SECONDS", 0.004)
        patch.setattr("ebb.evaluate.sweep.RESAMPLES", 8)
        patch.setattr("ebb.evaluate.references.RESAMPLES", 8)
        patch.setattr("ebb.understand.cost.ALONE", 3)
        patch.setattr("ebb.evaluate.analyses.PROBED", 8)
        patch.setattr("ebb.understand.adapter_effect.PROBED", 8)
        yield


@pytest.fixture
def unchecked():
    """unchecked(): from here on the test meets what a user meets, who has no jaxtyping."""
    return functools.partial(config.update, "jaxtyping_disable", True)


@pytest.fixture
def generator():
    import torch

    return torch.Generator().manual_seed(0)


@pytest.fixture
def shared():
    """The folder of real data; tests that need it are skipped where it is absent."""
    if not SHARED.is_dir():
        pytest.skip("no shared data here")
    return SHARED


@pytest.fixture
def paced(monkeypatch):
    """paced(speed): planning finds so many images per second, or speed[precision], and makes no update for it."""

    from ebb.run.plan import examples_of

    def paced(speed):
        def timed(recipe, *_):
            return repeat(examples_of(recipe) / (speed[recipe.precision] if isinstance(speed, dict) else speed))

        monkeypatch.setattr("ebb.run.plan.timed", timed)
        monkeypatch.setattr("ebb.run.plan.multiplies_bf16", lambda device: True)
        monkeypatch.setattr("ebb.run.plan.rounded", lambda *_: "")

    return paced


@pytest.fixture(scope="session")
def drawn():
    """The files of `pictures`: {name: bytes}."""
    rng, files = np.random.default_rng(0), {}
    for name in ("above", "below"):
        for i in range(24):
            pixels, file = rng.integers(0, 60, (8, 8), dtype=np.uint8), io.BytesIO()
            pixels[slice(0, 4) if name == "above" else slice(4, 8)] += 180
            Image.fromarray(pixels).save(file, "PNG")
            files[f"{name}/{i:02d}.png"] = file.getvalue()
    return files


@pytest.fixture
def pictures(drawn, tmp_path):
    """A folder with two classes of 8×8 grey pictures: bright above, and bright below."""
    for name, content in drawn.items():
        file = tmp_path / "data" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
    return tmp_path / "data"


class Digits(NamedTuple):
    pixels: np.ndarray
    labels: np.ndarray


@pytest.fixture(scope="session")
def digits():
    """scikit-learn's 1,797 digits: uint8 [n, 1, 8, 8] and their labels."""
    from sklearn.datasets import load_digits

    found = load_digits()
    return Digits((found.images * 15.9375).astype(np.uint8)[:, None], found.target.astype(np.int64))


@pytest.fixture(scope="session")
def trained(digits):
    """A classifier of the digits, and its accuracy."""
    from ebb.judge.features import train_classifier

    return train_classifier(*digits, 10, seconds=2.5)
