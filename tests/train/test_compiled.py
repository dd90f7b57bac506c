"""A compiled network is trained as the same network is."""

import subprocess
import sys

import pytest

COMPILED = """
import copy, torch, ebb
from functorch.compile import make_boxed_func
from torch._dynamo.backends.common import aot_autograd
from torch._dynamo.exc import TorchDynamoException
from ebb.data.loader import Batch
from ebb.errors import ResourceError
from ebb.networks.dit import DiT
from ebb.networks.unet import UNet
from ebb.train.ema import EMA
from ebb.train.loop import Descent, Training, updates
from ebb.train.muon import muon
from ebb.train.objectives.compiled import Compiled, compiled, compiling
from ebb.train.objectives.denoising import Denoising

torch.manual_seed(0)
fresh = ebb.NetworkDenoiser(UNet(1, width=32, multipliers=(1,), depth=1, patch=2), ebb.Linear(), ebb.velocity)
heard = ebb.NetworkDenoiser(DiT(1, width=32, depth=1, patch=4, ports={"label": "classes(count=2)"}), ebb.Linear(), ebb.velocity)
batch = Batch(torch.rand(8, 1, 8, 8) * 2 - 1, {"label": torch.arange(8) % 2})

def begun(denoiser):
    return Training(denoiser, muon(denoiser, 0.01), EMA(denoiser))

def losses(engine, denoiser, training=None, steps=4, how=Descent()):
    training = training or begun(denoiser)
    of = batch if isinstance(denoiser.network, DiT) else Batch(batch.x0, {})
    made = compiling(updates(training, engine(denoiser), lambda step: of, how, steps=steps))
    found = torch.stack([step.loss for step in made])
    assert not any("_orig_mod" in name for name in training.state()["model"])
    return found

def eager(denoiser):
    return Denoising()

def fused(denoiser):
    return Compiled(Denoising(), compiled(denoiser))

def mutant(denoiser):  # has weights of its own
    return Compiled(Denoising(), compiled(copy.deepcopy(denoiser)))

usual, ours, wrong = (losses(engine, copy.deepcopy(fresh)) for engine in (eager, fused, mutant))
torch.testing.assert_close(ours, usual, rtol=1e-4, atol=1e-4)
assert not torch.allclose(wrong, usual, rtol=1e-2, atol=1e-2), (wrong, usual)
first, second = (begun(copy.deepcopy(fresh)) for _ in range(2))
losses(fused, first.model, first, steps=2)
second.restore(first.state())
assert torch.equal(losses(fused, second.model, second), ours[2:]), "interrupted, it goes on bit for bit"
how = Descent(accumulate=2, autocast=torch.bfloat16)
usual, ours = (losses(engine, copy.deepcopy(heard), how=how) for engine in (eager, fused))
torch.testing.assert_close(ours, usual, rtol=1e-2, atol=1e-2)

def kernel(graph, _):
    return make_boxed_func(graph.forward)

def none(*_):
    raise TorchDynamoException("no compiler")

for forward, backward in ((none, none), (kernel, none)):
    def broken(denoiser):
        torch.compiler.reset()
        other, backend = compiled(denoiser), aot_autograd(fw_compiler=forward, bw_compiler=backward)
        other.network = torch.compile(denoiser.network, backend=backend)
        return Compiled(Denoising(), other)
    try:
        losses(broken, copy.deepcopy(fresh))
    except ResourceError as error:
        print(error)
"""


@pytest.mark.full
def test_it_learns_as_the_same_network_does_and_says_where_it_cannot_be_compiled():
    """In a process of its own: what checks shapes under test is not for a compiler."""
    done = subprocess.run([sys.executable, "-c", COMPILED], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.count("cannot be compiled here") == 2, "in the forward pass, and in the backward one"
    assert done.stdout.count("no compiler") == 2
    assert done.stdout.count("train with --engine eager") == 2
