"""`--objective hybrid`: what is trained is saved, loaded, and sampled by DDPM with the variance that it states."""

import numpy as np
import pytest
import torch

from ebb.cli import main
from ebb.errors import UsageError
from ebb.recipe.recipe import Recipe
from ebb.run.build import names_known
from ebb.run.inherited import inherited
from ebb.system.system import load

OPTIONS = [
    "--network.width",
    "16",
    "--network.depth",
    "1",
    "--steps",
    "2",
    "--sheets",
    "1",
    "--batch",
    "8",
    "--precision",
    "fp32",
    "--sample.steps",
    "2",
]


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A run with learned variance, and one without."""
    root = tmp_path_factory.mktemp("variance")
    images = np.random.default_rng(0).integers(0, 255, (24, 8, 8), dtype=np.uint8)
    np.savez(root / "data.npz", images=images, labels=np.arange(24) % 2)
    for name, objective in (("hybrid", "hybrid(steps=8)"), ("plain", "denoising")):
        main(["train", str(root / "data.npz"), "--run", str(root / name), "--objective", objective, *OPTIONS])
    return root


def test_the_command_line_trains_it_and_samples_with_it(home):
    how = ["--solver", "ddpm(variance='learned')", "--grid", "uniform", "--steps", "4", "--n", "4"]
    main(["sample", str(home / "hybrid"), *how, "--out", str(home / "made.png")])
    assert (home / "made.png").is_file()
    system = load(home / "hybrid")
    assert "answers=2" in system.contract()["network"]
    settings = {"grid": "uniform", "steps": 4}
    made = {v: system.sample(4, solver=f"ddpm(variance={v!r})", **settings) for v in ("small", "large", "learned")}
    assert not torch.equal(made["learned"], made["small"])
    assert not torch.equal(made["learned"], made["large"])
    assert torch.isfinite(system.sample(4, solver="dpmpp_2m", guidance=1.5)).all(), (
        "else it is a denoiser like any other"
    )


def test_in_bf16_it_states_a_variance_too(home, monkeypatch):
    monkeypatch.setattr("ebb.system.system.multiplies_bf16", lambda device: True)
    system, how = load(home / "hybrid"), {"solver": "ddpm(variance='learned')", "grid": "uniform", "steps": 4}
    rough, exact = (system.sample(2, precision=precision, **how) for precision in ("bf16", "fp32"))
    assert 0 < (rough - exact).abs().max() < 0.2


def test_a_run_without_it_says_how_to_have_it(home):
    with pytest.raises(UsageError, match="needs a denoiser that states it") as told:
        load(home / "plain").sample(1, solver="ddpm(variance='learned')")
    assert "--objective hybrid" in told.value.hint
    with pytest.raises(UsageError, match="needs a denoiser that states it"):
        load(home / "hybrid").sample(1, solver="ddpm(variance='learned')", guidance=2.0)
    assert "answers" not in load(home / "plain").contract()["network"]


def test_names_and_numbers_are_refused_with_what_there_is():
    with pytest.raises(UsageError, match="there is no objective called 'hybird'"):
        names_known(Recipe(objective="hybird"))
    with pytest.raises(UsageError, match="steps must be between 2"):
        names_known(Recipe(objective="hybrid(steps=1)"))


def test_a_reflow_has_the_objective_of_its_run(home):
    assert inherited(Recipe(reflow=str(home / "hybrid"))).objective == "hybrid(steps=8)"
    with pytest.raises(UsageError, match="objective is that of"):
        inherited(Recipe(reflow=str(home / "plain"), objective="hybrid"))
