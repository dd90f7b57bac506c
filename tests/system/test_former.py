"""Systems that earlier versions saved are read as they were: contracts of format 2, in which networks had no ports.

The files were written by ebb at commit d84c124: `all` is asked for labels, texts in concepts, numbers and a picture, and
was trained for two updates; `latent` for states of a frozen encoder and a picture, in latents. `expected.npz` holds what
that version sampled from them, and every seventh weight of `all` after its third update.
"""

from pathlib import Path

import numpy as np
import pytest
import torch

from ebb.data.loader import Batch
from ebb.errors import DamagedError
from ebb.store import checkpoint
from ebb.system.system import System, load
from ebb.train.ema import EMA
from ebb.train.loop import Training, updates
from ebb.train.muon import muon
from ebb.train.objectives.denoising import Denoising

HOME = Path(__file__).parent / "former"
EXPECTED = np.load(HOME / "expected.npz")
MASK = torch.linspace(-1, 1, 64).reshape(1, 8, 8)
ASKED = {
    "label": "a",
    "text": "a red dot, and a blue square",
    "given": {"numbers": {"light": 3, "dark": 4}, "mask": MASK},
}


def same(made, name):
    torch.testing.assert_close(made, torch.from_numpy(EXPECTED[name]), atol=1e-5, rtol=1e-4)


def test_what_was_saved_samples_what_it_sampled():
    system = load(HOME / "all")
    same(system.sample(2, **ASKED, guidance=2.0), "all")
    same(system.sample(2, label=None, text=""), "none")
    same(load(HOME / "latent").sample(2, text="", given={"depth": MASK}), "latent")
    assert list(system.conditioner.ports) == ["label", "numbers", "text", "mask"]


def test_a_run_goes_on_with_its_optimiser():
    """Moments are kept by the place of their parameter, so the order of parameters is the same."""
    where = checkpoint.newest(HOME / "all" / "checkpoints")
    system = System.from_contract(checkpoint.about(where))
    training = Training(system.denoiser, muon(system.denoiser, 1e-2, 0.01), EMA(system.denoiser, 1000))
    training.restore({part: checkpoint.read(where, part) for part in ("model", "ema", "optim", "rng")})
    data = torch.linspace(-1, 1, 256).reshape(4, 1, 8, 8)
    texts = ["a red dot, and a blue square", "", "a blue dot", "a red square"]
    numbers = {"light": [1, 2, 3, 4.0], "dark": 5}
    asked = {"label": [0, 1, "a", "b"], "text": texts, "numbers": numbers, "mask": data}
    cond = system.conditions(system.given(4, asked), 4)
    (_,) = updates(training, Denoising(), lambda step: Batch(data.roll(step, 0), cond), steps=3, rate=lambda _: 1e-2)
    weights = torch.cat([p.detach().flatten() for p in training.model.parameters()])[::7]
    same(weights, "next")
    before = torch.cat([value.flatten() for value in checkpoint.read(where, "model").values()])[::7]
    assert before.shape == weights.shape
    assert not torch.allclose(before, weights, atol=1e-4), "the mutant: nothing was learnt"


def test_what_cannot_be_read_is_refused_with_the_way_out():
    contract = checkpoint.about(checkpoint.newest(HOME / "all" / "checkpoints"))
    with pytest.raises(DamagedError, match=r"format 1 .* reads formats 2 and 3") as refused:
        System.from_contract(contract | {"format": 1})
    assert "env.json" in str(refused.value.hint)
    with pytest.raises(DamagedError, match=r"cannot be read: conditions .* for a network of"):
        System.from_contract(contract | {"labels": [], "text": None, "numbers": None, "beside": None})
