"""A solver read as matrices follows the same trajectory, alone and compiled with its network."""

import subprocess
import sys
from dataclasses import dataclass, replace
from typing import ClassVar

import pytest
import torch

import ebb
from ebb.process.flow_map import WAY
from ebb.process.moment import at
from ebb.sample.fused import Kind, fused, read
from ebb.sample.jump import Jump
from ebb.sample.trajectory import Stepped

PATHS = {name: path() if isinstance(path, type) else path for name, path in ebb.PATHS.items()}
LINEAR = [name for name in ebb.SOLVERS if name != "adaptive"]


def mixture(path):
    means = torch.randn(3, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return ebb.Mixture(path, means, torch.tensor([0.3, 0.5, 0.4]), torch.tensor([0.2, 0.3, 0.5]))


def uncompiled(whole):
    return replace(whole, compiled=whole.kinds[whole.commonest])


def farthest(denoiser, solver, whole, times):
    """The largest distance between the two ways along one trajectory, relative to x."""
    noise = ebb.Noise.of(3, 4)
    x = noise.start((5,)).double() * float(denoiser.path.sigma(times[:1]))
    pairs = list(zip(ebb.trajectory(denoiser, solver, times, x, {}, noise), whole(x, {}, noise), strict=True))
    assert all(one.t == other.t for one, other in pairs)
    return max(
        float((mine - theirs).abs().max() / theirs.abs().max())
        for one, other in pairs
        for mine, theirs in ((other.x, one.x), (other.x0, one.x0))
    )


@pytest.mark.parametrize("path", ebb.PATHS)
@pytest.mark.parametrize("name", LINEAR)
def test_every_linear_solver_is_its_matrices(name, path):
    denoiser, solver = mixture(PATHS[path]), ebb.SOLVERS[name]
    times = ebb.GRIDS["uniform"](denoiser.path, 7)
    assert farthest(denoiser, solver, uncompiled(fused(denoiser, solver, times)), times) < 1e-5


def test_a_wrong_number_shows():
    """The mutant: every factor in turn, off by a hundredth, moves the trajectory."""
    denoiser, solver = mixture(ebb.Linear()), ebb.DPMpp2M()
    times = ebb.GRIDS["uniform"](denoiser.path, 5)
    whole = fused(denoiser, solver, times)
    kind = whole.kinds[whole.commonest]
    for place in kind.left[0].places:
        numbers = {at: table.clone() for at, table in kind.numbers.items()}
        for table in numbers.values():
            table[len(kind.asked), place] += 0.01
        wrong = replace(kind, numbers=numbers)
        mutant = replace(whole, kinds={whole.commonest: wrong}, compiled=wrong)
        assert farthest(denoiser, solver, mutant, times) > 1e-4


def test_the_matrix_of_2m_is_its_formula():
    path, times = ebb.Cosine(), torch.tensor([0.8, 0.5, 0.3], dtype=torch.float64)
    first, second = read(ebb.DPMpp2M(), path, times)
    t, s, before = at(path, 0.5), at(path, 0.3), at(path, 0.8)
    ratio = s.sigma / t.sigma
    beyond = (s.lam - t.lam) / (2 * (t.lam - before.lam))
    aim = s.alpha - ratio * t.alpha
    torch.testing.assert_close(
        second.left[0], torch.tensor([ratio, -aim * beyond, aim * (1 + beyond)], dtype=torch.float64)
    )
    assert second.times == (0.5,)
    assert first.memory == 0
    assert second.memory == 1


@dataclass(frozen=True)
class Farther:
    """A denoiser that answers with how far it is asked to go."""

    path: ebb.Path

    def __call__(self, x, t, cond):
        return x / 2 + cond[WAY].to(x)[:, None]


@pytest.mark.parametrize("renewed", [0.0, 0.5, 1.0])
def test_jumps_are_asked_how_far_they_go(renewed):
    """With the mutant that says nothing of it."""
    denoiser, solver = Farther(ebb.Linear()), Jump(renewed)
    times = ebb.GRIDS["noise_share"](denoiser.path, 3)
    whole = uncompiled(fused(denoiser, solver, times))
    assert farthest(denoiser, solver, whole, times) < 1e-5
    silent = replace(whole, steps=[replace(step, besides=({WAY: 0.0},)) for step in whole.steps])
    assert farthest(denoiser, solver, silent, times) > 1e-2


@dataclass(frozen=True)
class Clipped:
    """A solver that is not linear."""

    order: ClassVar[int] = 1

    def start(self, path):
        return None

    def step(self, denoise, x, t, s, cond, state, draw):
        x0 = denoise(x, t, cond)
        return Stepped(t.jump(x, x0.clamp(-1, 0.05), s), x0, None)


@pytest.mark.parametrize("solver", [ebb.SOLVERS["adaptive"], Clipped()], ids=["adaptive", "clipped"])
def test_what_is_not_linear_is_refused(solver):
    with pytest.raises(ebb.UsageError, match="not linear"):
        read(solver, ebb.Linear(), ebb.GRIDS["uniform"](ebb.Linear(), 4))


def test_what_is_one_tensor_is_not_copied():
    """x̂0 and the memory of 2M are answers, whatever the step: no arithmetic, so a held answer stays exact."""
    steps = read(ebb.DPMpp2M(), ebb.Linear(), ebb.GRIDS["uniform"](ebb.Linear(), 4))
    kind = Kind.of(dict(enumerate(steps)))
    assert [row.plain for row in kind.asked + kind.left] == [True, False, True, True]
    last = steps[-1].left[0]
    assert last.tolist() == [0, 0, 1], "the sample is the last answer, untouched"


COMPILED = """
import torch, ebb
from ebb.sample.jump import Jump
torch.manual_seed(0)
network = ebb.MLP(4, width=16, depth=1, ports={"way": "share"}).requires_grad_(False)
for parameter in network.parameters():
    torch.nn.init.normal_(parameter, std=0.3)
denoiser = ebb.cfg(1.0, {})(ebb.NetworkDenoiser(network, ebb.Linear(), ebb.velocity, sigma_data=0.5))
times, noise = ebb.GRIDS["uniform"](ebb.Linear(), 4), ebb.Noise.of(0, 3)
x = noise.start((4,))
for solver in (ebb.DPMpp2M(), ebb.DDPM(), Jump()):
    whole = ebb.fused(denoiser, solver, times)
    for one, other in zip(ebb.trajectory(denoiser, solver, times, x, {}, noise), whole(x, {}, noise), strict=True):
        torch.testing.assert_close(one.x, other.x, rtol=1e-5, atol=1e-5)
print("equal", torch._dynamo.utils.counters["stats"]["unique_graphs"])
"""


@pytest.mark.full
def test_compiled_it_is_the_same_and_compiles_once_a_solver():
    """In a process of its own: what checks shapes under test is not for a compiler."""
    done = subprocess.run([sys.executable, "-c", COMPILED], capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["equal", "3"], done.stderr[-2000:]
