import dataclasses

import pytest
import torch

from ebb import testing
from ebb.errors import UsageError
from ebb.process.exact import finite
from ebb.process.moment import Moment, at
from ebb.process.path import PATHS, Cosine, DDPMLinear, Linear, Path
from ebb.process.times import Trailing, uniform_grid
from ebb.sample.ddim import DDIM, DDPM, Euler
from ebb.sample.heun import Heun
from ebb.sample.multistep import DPMpp2M
from ebb.sample.noise import Noise
from ebb.sample.solvers import SOLVERS
from ebb.sample.trajectory import Denoise, Stepped, trajectory

from .mutants import Mutant, quiet


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("solver", [DDIM(), Euler(), Heun(), DPMpp2M()], ids=lambda s: type(s).__name__)
def test_order_of_convergence_on_exact_flows(solver, path):
    testing.check_solver(solver, PATHS[path])


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("solver", [DDIM(1.0), DDIM(0.5), DDPM(), DDPM("large")], ids=str)
def test_stochastic_solvers_sample_the_data(solver, path):
    testing.check_stochastic(solver, PATHS[path], count=12_000)


def late(step, denoise, x, t, s, cond, state, draw):
    """Off by one: the denoiser is asked at the destination's time."""

    class Late:
        path = denoise.path

        def __call__(self, x, when, cond):
            return denoise(x, t if s.sigma == 0 else s, cond)

    return step(Denoise(Late()), x, t, s, cond, state, draw)


def backwards(step, denoise, x, t, s, cond, state, draw):
    """The remembered answer enters with the wrong sign."""
    x, x0, (kept, when) = step(denoise, x, t, s, cond, state, draw)
    return Stepped(x, x0, (2 * x0 - kept if state is None else 2 * x0 - state[0], when))


def forgetful(step, denoise, x, t, s, cond, state, draw):
    """The state never arrives, so a second-order method is of first order."""
    return step(denoise, x, t, s, cond, None, draw)


@pytest.mark.parametrize(
    ("solver", "change"),
    [(Heun(), late), (DPMpp2M(), backwards), (DPMpp2M(), forgetful), (DPMpp2M(), late)],
    ids=["heun late", "2m backwards", "2m forgetful", "2m late"],
)
def test_deterministic_mutants_are_caught(solver, change):
    with pytest.raises(AssertionError, match="stated order"):
        testing.check_solver(Mutant(solver, change), Cosine())


@pytest.mark.parametrize("solver", [DDIM(), Euler()], ids=lambda s: type(s).__name__)
def test_a_jump_with_a_flipped_sign_is_caught(solver, monkeypatch):
    right = Moment.jump
    monkeypatch.setattr(Moment, "jump", lambda self, x, x0, s: right(self, x, -x0, s))
    with pytest.raises(AssertionError, match="stated order"):
        testing.check_solver(solver, Cosine())


def test_heun_averaging_the_wrong_noise_is_caught(monkeypatch):
    right = Moment.noise
    monkeypatch.setattr(Moment, "noise", lambda self, x, x0: 0.99 * right(self, x, x0))
    with pytest.raises(AssertionError, match="stated order"):
        testing.check_solver(Heun(), Cosine())


@pytest.mark.parametrize("solver", [DDIM(1.0), DDPM()], ids=["ddim", "ddpm"])
def test_stochastic_mutants_are_caught(solver):
    with pytest.raises(AssertionError, match="of the samples"):
        testing.check_stochastic(Mutant(solver, quiet), Cosine(), count=12_000)


def points(solver, path, steps=8, seed=0, n=4):
    exact = finite(path, torch.linspace(-1, 1, 12).reshape(4, 3))
    noise = Noise.of(seed, n)
    x = noise.start((3,)) * float(path.sigma(torch.tensor([path.end])))
    return list(trajectory(exact, solver, uniform_grid(path, steps), x, {}, noise))


def test_ddim_with_eta_one_is_ddpm():
    for a, b in zip(points(DDIM(1.0), Cosine()), points(DDPM("small"), Cosine()), strict=True):
        torch.testing.assert_close(a.x, b.x)


def test_ddpm_is_the_textbook_update():
    """x_{n−1} = (x_n − β/√(1 − ᾱ)·ε)/√(1 − β) + √β̃·z (Ho et al. 2020, algorithm 2) on the table of betas."""
    betas = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
    bar = torch.cumprod(1 - betas, 0)
    n, eps, z = 600, torch.randn(1, 3, dtype=torch.float64), torch.randn(1, 3, dtype=torch.float64)
    x0 = torch.randn(1, 3, dtype=torch.float64)
    x = bar[n - 1].sqrt() * x0 + (1 - bar[n - 1]).sqrt() * eps
    beta, tilde = betas[n - 1], (1 - bar[n - 2]) / (1 - bar[n - 1]) * betas[n - 1]
    mean = (x - beta / (1 - bar[n - 1]).sqrt() * eps) / (1 - beta).sqrt()
    path = DDPMLinear()
    t, s = (at(path, k / 1000) for k in (n, n - 1))

    class Knows:
        def __call__(self, x, t, cond):
            return x0

    Knows.path = path
    for variance, spread in (("small", tilde), ("large", beta)):
        step = DDPM(variance).step(Denoise(Knows()), x, t, s, {}, None, lambda like: z)
        torch.testing.assert_close(step.x, mean + spread.sqrt() * z, rtol=1e-9, atol=1e-9)


def test_points_carry_time_and_prediction():
    path = points(Heun(), Linear(), steps=4)
    assert [p.t for p in path] == [0.75, 0.5, 0.25, 0.0]
    torch.testing.assert_close(path[-1].x, path[-1].x0)


@pytest.mark.parametrize("times", [[0.0, 1.0], [1.0, 0.5, 0.5], [2.0, 0.0], [1.0], []])
def test_a_grid_that_does_not_fall_is_refused(times):
    exact = finite(Linear(), torch.zeros(1, 2))
    with pytest.raises(UsageError, match="a time grid falls strictly"):
        next(trajectory(exact, DDIM(), torch.tensor(times), torch.zeros(1, 2), {}, Noise.of(0, 1)))


def test_solvers_are_frozen_and_share_nothing():
    solver = DPMpp2M()
    with pytest.raises(dataclasses.FrozenInstanceError):
        solver.order = 3
    once, again = points(solver, Linear()), points(solver, Linear())
    torch.testing.assert_close(once[-1].x, again[-1].x, rtol=0, atol=0)


@pytest.mark.parametrize("solver", [DDPM(), DDIM(0.7), Heun(), DPMpp2M()], ids=lambda s: type(s).__name__)
def test_image_i_is_the_same_in_any_batch(solver):
    def sample(indices):
        exact = finite(Linear(), torch.linspace(-1, 1, 12).reshape(4, 3))
        noise = Noise(tuple(100 + i for i in indices))
        return list(trajectory(exact, solver, Trailing()(Linear(), 6), noise.start((3,)), {}, noise))[-1].x

    testing.same_by_batch(sample, 8, 1e-6)


def test_noise_tied_to_the_batch_is_caught():
    def sample(indices):
        return torch.randn(len(indices), 3, generator=torch.Generator().manual_seed(0))

    with pytest.raises(AssertionError, match="in batches of 1"):
        testing.same_by_batch(sample, 8, 1e-6)


def test_noise_is_gaussian_and_new_at_each_step():
    noise, like = Noise.of(5, 100), torch.empty(100, 200)
    first, second = noise(0, like), noise(1, like)
    assert first.mean().item() == pytest.approx(0, abs=0.03)
    assert first.std().item() == pytest.approx(1, abs=0.02)
    assert (first * second).mean().abs().item() < 0.03
    assert not torch.equal(first[0], first[1])
    with pytest.raises(UsageError, match="belongs to 100 samples, asked for 3"):
        noise(0, torch.empty(3, 2))


def test_the_draws_of_one_step_are_independent_and_can_be_repeated():
    noise, like = Noise.of(3, 100), torch.empty(100, 200)
    first, second = noise(4, like, 0), noise(4, like, 1)
    assert torch.equal(first, noise(4, like))
    assert torch.equal(second, noise(4, like, 1))
    assert abs(float((first * second).mean())) < 0.03


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
@pytest.mark.parametrize("name", SOLVERS)
def test_x_may_be_of_another_precision_than_the_answers(name, dtype):
    class Single:
        path = Linear()

        def __call__(self, x, t, cond):
            return 0.5 * x.float()

    x = torch.linspace(-1, 1, 8).reshape(4, 2).to(dtype)
    *_, last = trajectory(Single(), SOLVERS[name], uniform_grid(Linear(), 4), x, {}, Noise.of(0, 4))
    assert bool(torch.isfinite(last.x).all())


def test_a_path_that_cannot_be_remembered_is_named():
    @dataclasses.dataclass
    class Loose(Path):
        end = 1.0
        alpha, sigma, time = Linear.alpha, Linear.sigma, Linear.time

    with pytest.raises(AssertionError, match="a path is a frozen dataclass"):
        testing.check_path(Loose())
