"""ebb's solvers against diffusers: one tiny random network sampled by both, and the same x after every step.

The grid is the scheduler's own. In "double" its table of ᾱ and its coefficients are put into float64, so that only the
formula is compared; in "single" it is as it comes, and the network is a `NetworkDenoiser`. Where the two do something
different: test_where_diffusers_differs.py.
"""

import math
from functools import partial

import pytest
import torch

from ebb import testing
from ebb.process.denoiser import NetworkDenoiser, quarter_log_nsr
from ebb.process.learned import LearnedVariance
from ebb.process.moment import at
from ebb.process.path import EDM, Cosine
from ebb.process.predict import PREDICTIONS, Preconditioned
from ebb.process.times import Karras
from ebb.sample.adams import IPNDM
from ebb.sample.ddim import DDIM, DDPM, Euler
from ebb.sample.multistep import DPMpp2M
from ebb.sample.singlestep import DPMpp2S

from .mutants import Mutant
from .peers import (
    CASES,
    FLOWS,
    MARKS,
    SAMPLED,
    TOLERANCE,
    VP,
    Read,
    Tiny,
    agree,
    follow,
    make,
    ours,
    ready,
    seeded,
    setting,
)

pytestmark = MARKS


@pytest.mark.parametrize("precision", TOLERANCE)
@pytest.mark.parametrize(("name", "prediction"), SAMPLED)
def test_the_same_trajectory(name, prediction, precision):
    agree(name, prediction, precision)


def early(step, denoise, x, t, s, cond, state, draw):
    """Lands a thousandth too low."""
    return step(denoise, x, t, at(denoise.path, s.time * 0.999), cond, state, draw)


def reflected(step, denoise, x, t, s, cond, state, draw):
    """All that the method adds to a plain jump has the wrong sign."""
    stepped = step(denoise, x, t, s, cond, state, draw)
    return stepped._replace(x=2 * t.jump(x, stepped.x0, s) - stepped.x)


def opposite(step, denoise, x, t, s, cond, state, draw):
    """The noise has the wrong sign."""
    return step(denoise, x, t, s, cond, state, lambda like, part=0: -draw(like, part))


SAME = list(dict(SAMPLED))
NOISY = [name for name in SAME if any(word in name for word in ("eta", "ddpm", "sde", "ancestral"))]
MUTANTS = [
    *((name, early) for name in SAME),
    *((name, reflected) for name in SAME if CASES[name][2] not in (Euler(), DDIM())),
    *((name, opposite) for name in NOISY),
]


@pytest.mark.parametrize(("name", "change"), MUTANTS, ids=lambda part: getattr(part, "__name__", part))
def test_mutants_do_not_agree(name, change):
    with pytest.raises(AssertionError, match="off by"):
        agree(name, "flow_prediction" if name in FLOWS else "v_prediction", "single", lambda it: Mutant(it, change))


def edm(kind, solver):
    """σ_data = ½, c_noise = ¼ log σ and Karras' grid of both; the network's own precision is float32."""
    scheduler, network = ready(make(kind)), Tiny(torch.float32)
    x = 80 * torch.randn(4, 2, generator=torch.Generator().manual_seed(7))
    denoiser = NetworkDenoiser(network, EDM(), Preconditioned(0.5), quarter_log_nsr, 0.5)
    grid = Karras()(EDM(), 10)
    torch.testing.assert_close(grid, scheduler.sigmas, rtol=1e-5, atol=0)
    theirs = follow(scheduler, lambda x, told: network(x.float(), told, {}), x, scheduler.timesteps)
    for a, b in zip(ours(solver, denoiser, grid, x), theirs, strict=True):
        testing.close(kind, a, b.float(), 1e-4)


def ipndm(steps, solver):
    """On the cosine path with v; from below α = 0, where diffusers does something else, and before the step to σ = 0,
    which ends on x̂0 here."""
    grid = torch.cat([torch.linspace(0.97, 0.05, steps), torch.zeros(1)]).double()
    scheduler = ready(make("IPNDM", trained_betas=torch.sin(math.pi / 2 * grid).tolist()), steps)
    network = Tiny()
    x = torch.randn(4, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(7))
    theirs = follow(scheduler, lambda x, told: network(x, told.double(), {}), x, scheduler.timesteps)
    mine = ours(solver, Read(network, Cosine(), PREDICTIONS["v"]), grid, x)
    for a, b in zip(mine[:-1], theirs[:-1], strict=True):
        testing.close("iPNDM", a, b, 1e-5)


def singlestep(solver):
    """A step of ours is two calls of theirs; with σ falling by equal factors the second is halfway in λ. The last two of
    theirs are jumps, and it would tell the network whole timesteps: it is told the true times here."""
    scheduler, network = ready(make("DPMSolverSinglestep", use_exponential_sigmas=True), 12), Tiny()
    times = VP.time(scheduler.sigmas)
    x = torch.randn(4, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(7))
    theirs = follow(scheduler, lambda x, told: network(x, told, {}), x, times)
    mine = ours(solver, Read(network, VP, PREDICTIONS["noise"]), times[:-2:2], x)
    for a, b in zip(mine, theirs[1:-2:2], strict=True):
        testing.close("2S", a, b, 1e-5)


def learned_variance(solver):
    """The network's second half, from −1 to 1, moves the log-variance from that of "small" to that of "large"."""

    class Both(Tiny):
        def forward(self, x, told, cond):
            return torch.cat([super().forward(x, told, cond), torch.tanh(self.mlp(x, told, cond))], 1)

    network = Both(torch.float32)
    scheduler = ready(make("DDPM", variance_type="learned_range", clip_sample=False), precision="single")
    _, told, grid = setting(scheduler)
    x = torch.randn(4, 2, generator=torch.Generator().manual_seed(7))
    denoiser = LearnedVariance(NetworkDenoiser(network, VP, PREDICTIONS["noise"]))
    with torch.no_grad():
        theirs = follow(scheduler, lambda x, told: network(x, told.float(), {}), x, told, seeded)
    for a, b in zip(ours(solver, denoiser, grid, x), theirs, strict=True):
        testing.close("learned variance", a, b, 1e-4)


OTHERS = [
    (partial(edm, "EDMEuler"), Euler(), early),
    (partial(edm, "EDMDPMSolverMultistep"), DPMpp2M(), reflected),
    (partial(ipndm, 3), IPNDM(), reflected),
    (partial(ipndm, 10), IPNDM(), early),
    (singlestep, DPMpp2S(), reflected),
    (learned_variance, DDPM("learned"), opposite),
]


@pytest.mark.parametrize(("compare", "solver", "mistake"), OTHERS, ids=lambda part: getattr(part, "__name__", ""))
def test_the_same_trajectory_and_not_that_of_a_mutant(compare, solver, mistake):
    compare(solver)
    with pytest.raises(AssertionError, match="off by"):
        compare(Mutant(solver, mistake))
