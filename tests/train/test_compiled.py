"""A compiled network is trained as the same network is."""

import subprocess
import sys

COMPILED = """
import copy, torch, ebb
from ebb.data.loader import Batch
from ebb.errors import ResourceError
from ebb.networks.unet import UNet
from ebb.train.ema import EMA
from ebb.train.loop import Training, updates
from ebb.train.muon import Muon
from ebb.train.objectives.compiled import Compiled, compiled
from ebb.train.objectives.denoising import Denoising

torch.manual_seed(0)
fresh = ebb.NetworkDenoiser(UNet(1, width=32, multipliers=(1,), depth=1, patch=2), ebb.Linear(), ebb.velocity)
pictures = torch.rand(8, 1, 8, 8) * 2 - 1

def begun(denoiser):
    return Training(denoiser, Muon(denoiser, 0.01), EMA(denoiser))

def losses(engine, denoiser, training=None, steps=4):
    training = training or begun(denoiser)
    made = updates(training, engine(denoiser), lambda step: Batch(pictures, {}), steps=steps)
    found = torch.stack([step.loss for step in made])
    assert training.state()["model"].keys() == fresh.state_dict().keys()
    return found

def eager(denoiser):
    return Denoising()

def fused(denoiser):
    return Compiled(Denoising(), compiled(denoiser))

def mutant(denoiser):  # has weights of its own
    return Compiled(Denoising(), compiled(copy.deepcopy(denoiser)))

def broken(denoiser):
    def backend(*_):
        raise OSError("no compiler")
    torch.compiler.reset()
    other = copy.copy(compiled(denoiser))
    other.network = torch.compile(denoiser.network, backend=backend)
    return Compiled(Denoising(), other)

usual, ours, wrong = (losses(engine, copy.deepcopy(fresh)) for engine in (eager, fused, mutant))
torch.testing.assert_close(ours, usual, rtol=1e-4, atol=1e-4)
assert not torch.allclose(wrong, usual, rtol=1e-2, atol=1e-2), (wrong, usual)
first, second = (begun(copy.deepcopy(fresh)) for _ in range(2))
losses(fused, first.model, first, steps=2)
second.restore(first.state())
assert torch.equal(losses(fused, second.model, second), ours[2:]), "interrupted, it goes on bit for bit"
try:
    losses(broken, fresh)
except ResourceError as error:
    print(error)
"""


def test_it_learns_as_the_same_network_does_and_says_where_it_cannot_be_compiled():
    """In a process of its own: what checks shapes under test is not for a compiler."""
    done = subprocess.run([sys.executable, "-c", COMPILED], capture_output=True, text=True, check=False)
    assert "cannot be compiled here" in done.stdout, done.stderr[-2000:]
    assert "no compiler" in done.stdout
    assert done.stdout.rstrip().endswith("train with --engine eager")
