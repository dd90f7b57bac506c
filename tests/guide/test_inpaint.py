import math

import pytest
import torch

from ebb import testing
from ebb.errors import UsageError
from ebb.guide.cfg import cfg
from ebb.guide.energy import energy
from ebb.guide.inpaint import Inpainted, inpaint
from ebb.process.exact import Gaussian
from ebb.process.moment import at
from ebb.process.path import PATHS, Cosine, Linear
from ebb.process.times import uniform_grid
from ebb.sample import repaint
from ebb.sample.ddim import DDIM, DDPM
from ebb.sample.heun import Heun
from ebb.sample.noise import Noise
from ebb.sample.repaint import Resample
from ebb.sample.solvers import SOLVERS
from ebb.sample.trajectory import Denoise, trajectory

MASK = torch.tensor([True, False])


def correlated(path):
    return Gaussian(path, torch.zeros(2, dtype=torch.float64), torch.tensor([[1, 0.9], [0.9, 1]], dtype=torch.float64))


def sampled(denoiser, solver, count=2000, steps=24):
    generator = torch.Generator().manual_seed(0)

    def noise(step, like, part=0):
        return torch.randn(like.shape, dtype=like.dtype, generator=generator)

    path = denoiser.path
    x = noise(0, torch.empty(count, 2, dtype=torch.float64)) * at(path, path.end).sigma
    for point in trajectory(denoiser, solver, testing.graded(path, steps), x, {}, noise):
        x = point.x
    return x


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("solver", SOLVERS)
def test_the_known_part_is_exact_for_every_solver(solver, path):
    path, noise = PATHS[path], Noise.of(0, 6)
    known = torch.linspace(-1.4, 1.7, 12, dtype=torch.float64).reshape(6, 2)
    guided = inpaint(known, MASK)(correlated(path))
    x = noise.start((2,)).double() * at(path, path.end).sigma
    for point in trajectory(guided, SOLVERS[solver], uniform_grid(path, 6), x, {}, noise):
        x = point.x
    torch.testing.assert_close(x[:, 0], known[:, 0], rtol=0, atol=1e-12)
    assert (x[:, 1] - known[:, 1]).abs().max() > 0.01


def test_the_mutant_that_fills_the_unknown_part_is_caught(monkeypatch):
    monkeypatch.setattr(Inpainted, "__call__", lambda self, x, t, cond: torch.where(self.mask, x, self.known))
    with pytest.raises(AssertionError):
        test_the_known_part_is_exact_for_every_solver("ddim", "cosine")


def test_on_the_way_the_known_part_is_the_forward_process():
    """α·known + σ·ε, ε standard normal, at every step of a stochastic solver: what the docstring promises."""
    path, known = Cosine(), torch.tensor([1.5, 0.0], dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)

    def noise(step, like, part=0):
        return torch.randn(like.shape, dtype=like.dtype, generator=generator)

    x = noise(0, torch.empty(8000, 2, dtype=torch.float64))
    for point in trajectory(inpaint(known, MASK)(correlated(path)), DDPM(), uniform_grid(path, 6), x, {}, noise):
        now = at(path, point.t)
        assert point.x[:, 0].mean().item() == pytest.approx(now.alpha * 1.5, abs=0.04)
        assert point.x[:, 0].std().item() == pytest.approx(now.sigma, abs=0.03)


def distance(x):
    """Wasserstein-2 between Gaussians with the samples' moments and the exact conditional N(0.9·1.5, 1 − 0.81)."""
    return math.hypot(x[:, 1].mean() - 0.9 * 1.5, x[:, 1].std() - math.sqrt(1 - 0.81))


@pytest.mark.parametrize("solver", [DDPM(), DDIM(), DDIM(1.0)], ids=str)
def test_resampling_brings_the_unknown_part_to_its_conditional(solver):
    guided = inpaint(torch.tensor([1.5, 0.0], dtype=torch.float64), MASK)(correlated(Cosine()))
    once, twice, often = (distance(sampled(guided, Resample(solver, repeats))) for repeats in (1, 3, 10))
    assert once > 0.4
    assert often < twice < once
    assert often < 0.11


@pytest.mark.parametrize("path", ["cosine", "variance_exploding"])
def test_resampling_without_a_guide_keeps_the_distribution(path):
    testing.check_stochastic(Resample(Heun(), 2), PATHS[path], steps=40, count=8000)


def test_one_repeat_is_the_solver():
    denoiser = correlated(Linear())
    ends = []
    for solver in (DDPM(), Resample(DDPM(), 1)):
        noise = Noise.of(0, 3)
        for point in trajectory(denoiser, solver, uniform_grid(Linear(), 5), noise.start((2,)), {}, noise):
            end = point.x
        ends.append(end)
    torch.testing.assert_close(*ends, rtol=0, atol=0)


def test_no_draw_of_a_step_is_used_twice():
    drawn = []

    class Greedy(DDPM):
        """Takes two draws a step."""

        def step(self, denoise, x, t, s, cond, state, draw):
            draw(x, 1)
            return super().step(denoise, x, t, s, cond, state, draw)

    def draw(like, part=0):
        drawn.append(part)
        return torch.zeros_like(like)

    path, x = Linear(), torch.zeros(1, 2, dtype=torch.float64)
    step = Resample(Greedy(), 4).step
    step(Denoise(correlated(path)), x, at(path, 0.8), at(path, 0.6), {}, None, draw)
    assert len(drawn) == len(set(drawn)) == 2 * 4 + 3


@pytest.mark.parametrize("mistake", ["quiet", "unscaled", "kept"])
def test_noise_put_back_wrongly_is_caught(mistake, monkeypatch):
    right = repaint.combine

    def wrong(signal, noise):
        if mistake == "quiet":
            noise = (noise[0] / 2, noise[1])
        elif mistake == "unscaled":
            signal = (1.0, signal[1])
        else:
            noise = (0.0, noise[1])
        return right(signal, noise)

    monkeypatch.setattr(repaint, "combine", wrong)
    with pytest.raises(AssertionError, match="of the samples"):
        testing.check_stochastic(Resample(Heun(), 2), Cosine(), steps=40, count=8000)


def test_image_i_is_the_same_in_any_batch():
    def sample(indices):
        noise = Noise(tuple(100 + i for i in indices))
        guided = inpaint(torch.tensor([0.5, 0.0]), MASK)(correlated(Linear()))
        for point in trajectory(guided, Resample(DDPM(), 3), uniform_grid(Linear(), 5), noise.start((2,)), {}, noise):
            x = point.x
        return x

    testing.same_by_batch(sample, 8, 1e-6)


def test_resampling_towards_the_noise_or_zero_times_is_refused():
    x = torch.zeros(1, 2, dtype=torch.float64)
    with pytest.raises(UsageError, match="from noise to data only"):
        next(trajectory(correlated(Linear()), Resample(DDIM()), torch.tensor([0.2, 0.4]), x, {}, Noise.of(0, 1)))
    with pytest.raises(UsageError, match="repeats must be between"):
        Resample(DDIM(), 0)


def test_it_composes_with_cfg_inside_and_outside():
    path = Linear()
    plain, null = testing.TwoLabels(path), {"label": torch.tensor([2])}
    known, mask = torch.tensor([[0.1], [0.2], [0.3]]).double(), torch.tensor([[1], [0], [1]])
    t, x = testing.inside(path, 3), torch.zeros(3, 1, dtype=torch.float64)
    cond = {"label": torch.tensor([0, 1, 1])}
    around = inpaint(known, mask)(cfg(3.0, null)(plain))(x, t, cond)
    within = cfg(3.0, null)(inpaint(known, mask)(plain))(x, t, cond)
    torch.testing.assert_close(around, within)
    assert around[:, 0].tolist() == pytest.approx([0.1, cfg(3.0, null)(plain)(x, t, cond)[1, 0].item(), 0.3])


def test_an_energy_around_it_leaves_the_known_part_alone():
    path, x = Linear(), torch.randn(4, 2, dtype=torch.float64)
    known = torch.tensor([0.5, 0.0], dtype=torch.float64)
    pulled = energy(lambda x0: -5 * x0.sum(1))(inpaint(known, MASK)(correlated(path)))
    x0 = inpaint(known, MASK)(pulled)(x, at(path, 0.5).shared(4), {})
    assert (x0[:, 0] == 0.5).all()
    assert (x0[:, 1] > correlated(path)(x, at(path, 0.5).shared(4), {})[:, 1]).all()


@pytest.mark.parametrize(
    ("known", "mask", "message"),
    [
        (torch.zeros(3), MASK, r"known data of shape \[3\] does not fit samples of shape \[4, 2\]"),
        (torch.zeros(2), torch.ones(3, 2), r"a mask of shape \[3, 2\]"),
        (torch.zeros(1, 1, 2), MASK, "known data"),
    ],
)
def test_shapes_that_do_not_fit_are_named(known, mask, message):
    guided = inpaint(known, mask)(correlated(Linear()))
    with pytest.raises(UsageError, match=message):
        guided(torch.zeros(4, 2), at(Linear(), 0.5).shared(4), {})


class Elephant:
    """A solver that begins with what it remembers."""

    def __init__(self, solver):
        self.solver, self.order, self.memory = solver, solver.order, None

    def start(self, path):
        return self.memory

    def step(self, *given):
        stepped = self.solver.step(*given)
        self.memory = stepped.state
        return stepped


@pytest.mark.parametrize(
    "name",
    ["unipc", pytest.param("dpmpp_3m", marks=pytest.mark.full), pytest.param("dpmpp_2m_sde", marks=pytest.mark.full)],
)
def test_a_memory_that_survives_is_caught(name, monkeypatch):
    monkeypatch.setattr(Resample, "start", lambda self, path: self.solver.solver.start(path))
    with pytest.raises((AssertionError, ZeroDivisionError)):
        testing.check_stochastic(Resample(Elephant(SOLVERS[name]), 3), Cosine(), steps=150)


@pytest.mark.parametrize(
    "name",
    ["unipc", pytest.param("dpmpp_3m", marks=pytest.mark.full), pytest.param("dpmpp_2m_sde", marks=pytest.mark.full)],
)
def test_what_a_solver_remembers_does_not_survive_the_noise_put_back(name):
    """Memory of the sample before re-noising makes multistep solvers grow without bound."""
    testing.check_stochastic(Resample(SOLVERS[name], 3), Cosine(), steps=150)
