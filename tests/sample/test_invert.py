import math

import pytest
import torch

from ebb import testing
from ebb.errors import UsageError
from ebb.process.moment import Moment, at
from ebb.process.path import PATHS, Cosine
from ebb.process.times import LogSNR
from ebb.sample import trajectory as trajectories
from ebb.sample.adaptive import Adaptive
from ebb.sample.ddim import DDIM, DDPM
from ebb.sample.heun import Heun
from ebb.sample.invert import invert
from ebb.sample.karras import Churn
from ebb.sample.multistep import DPMpp2M
from ebb.sample.noise import Noise
from ebb.sample.trajectory import trajectory

SOLVERS = [DDIM(), Heun(), DPMpp2M()]


def data(path, count=64):
    gauss = testing.normal(path)
    axes = torch.linalg.cholesky(gauss.covariance)
    return gauss, gauss.mean + torch.randn(count, 2, generator=torch.Generator().manual_seed(0)).double() @ axes.T


def errors(solver, path, steps):
    """Of the noise that is found, against the exact flow; and of the data, found back from it. In units of the noise."""
    gauss, x0 = data(path)
    times = testing.graded(path, steps)
    *_, end = invert(gauss, solver, times, x0, {})
    *_, back = trajectory(gauss, solver, times, end.x, {}, Noise.of(0, len(x0)))
    begin, last = (at(path, time).shared(len(x0)) for time in (0.0, path.end))
    exact = gauss.flow(x0, begin, last)
    assert end.t == path.end
    return float((end.x - exact).pow(2).mean().sqrt()) / at(path, path.end).sigma, float(
        (back.x - x0).pow(2).mean().sqrt()
    )


def check_invert(solver, path, counts=(40, 80, 160)):
    coarse, *_, fine = (errors(solver, path, n) for n in counts)
    for what, first, last in zip(("the noise", "the data found back"), coarse, fine, strict=True):
        order = math.log(first / last) / math.log(counts[-1] / counts[0])
        if not (order > solver.order - 0.35 and last < 0.03):
            raise AssertionError(f"{solver} on {path}: {what} is off by {last:.2g}, of order {order:.2f}")


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("solver", SOLVERS, ids=lambda s: type(s).__name__)
def test_inversion_finds_the_noise_of_the_exact_flow(solver, path):
    check_invert(solver, PATHS[path])


@pytest.mark.parametrize("path", PATHS)
def test_the_adaptive_solver_inverts(path):
    assert max(errors(Adaptive(1e-5), PATHS[path], 24)) < 1e-3


def test_a_jump_that_misses_is_caught(monkeypatch):
    right = Moment.jump
    monkeypatch.setattr(Moment, "jump", lambda self, x, x0, s: right(self, x, 0.9 * x0, s))
    with pytest.raises(AssertionError, match="is off by"):
        check_invert(DDIM(), Cosine())


def test_asking_at_the_destination_is_caught(monkeypatch):
    right = trajectories.answer
    late = lambda denoiser, x, t, cond: right(denoiser, x, at(Cosine(), min(1.0, 1.1 * t.time)), cond)  # noqa: E731
    monkeypatch.setattr(trajectories, "answer", late)
    for solver in SOLVERS:
        with pytest.raises(AssertionError, match="is off by"):
            check_invert(solver, Cosine())


@pytest.mark.parametrize("solver", [DDPM(), DDIM(0.5), Churn(0.1, 0, 1e9)], ids=str)
def test_a_stochastic_solver_is_refused(solver):
    gauss, x0 = data(Cosine())
    with pytest.raises(UsageError, match="from noise to data only"):
        list(invert(gauss, solver, LogSNR()(Cosine(), 8), x0, {}))


@pytest.mark.parametrize("times", [[0.1, 0.5, 1.0], [1.0, 0.0]])
def test_a_grid_that_cannot_be_gone_up_is_refused(times):
    gauss, x0 = data(Cosine())
    with pytest.raises(UsageError, match="takes the falling grid of sampling"):
        invert(gauss, DDIM(), torch.tensor(times).double(), x0, {})
