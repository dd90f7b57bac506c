import pytest
import torch

from ebb.errors import UsageError
from ebb.process.exact import Mixture, finite
from ebb.process.path import Cosine, Linear
from ebb.process.times import GRIDS, Given, uniform_grid
from ebb.recipe.names import parse, spell
from ebb.sample.ddim import DDIM, DDPM
from ebb.sample.multistep import DPMpp2M
from ebb.sample.noise import Noise
from ebb.sample.trajectory import trajectory
from ebb.sample.tune import shortest, tune


def humps(path):
    """Three humps in 16 dimensions, of different widths."""
    means = torch.randn(3, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    return Mixture(path, means, torch.tensor([0.1, 0.5, 0.3]), torch.tensor([0.3, 0.5, 0.2]))


def noise_of(path, count, seed=0, size=16):
    return Noise.of(seed, count).start((size,)).double() * float(path.sigma(torch.tensor([path.end])))


def landed(denoiser, solver, times, x):
    *_, last = trajectory(denoiser, solver, times, x, {}, Noise.of(0, len(x)))
    return last.x


@pytest.mark.parametrize("path", [Linear(), Cosine()], ids=str)
@pytest.mark.parametrize(
    ("solver", "steps"),
    [(DPMpp2M(), 5), pytest.param(DPMpp2M(), 8, marks=pytest.mark.full), (DDIM(), 6)],
    ids=str,
)
def test_a_searched_grid_lands_nearer_also_from_noise_it_has_not_seen(path, solver, steps):
    denoiser, start = humps(path), GRIDS["log_snr"](path, steps)
    found = tune(denoiser, solver, start, noise_of(path, 64), {})
    assert found.after < 0.9 * found.before
    assert found.times[0] == start[0]
    assert found.times[-1] == 0
    assert bool((found.times[1:] < found.times[:-1]).all())
    x = noise_of(path, 256, seed=1000)
    exact = landed(denoiser, DPMpp2M(), GRIDS["log_snr"](path, 300), x)
    missed = [float((landed(denoiser, solver, g, x) - exact).norm(dim=1).mean()) for g in (start, found.times)]
    assert missed[1] < 0.9 * missed[0]


def test_the_search_is_a_function_of_its_arguments():
    one, two = (tune(humps(Linear()), DDIM(), uniform_grid(Linear(), 4), noise_of(Linear(), 16), {}) for _ in range(2))
    assert torch.equal(one.times, two.times)


def test_dynamic_programming_finds_the_only_good_path():
    """On data at one point every jump is exact and costs nothing: any grid is a shortest one, with both ends."""
    path, times = Linear(), torch.linspace(1, 0, 9, dtype=torch.float64)
    denoiser, x = finite(path, torch.tensor([[0.3, -0.2]])), noise_of(Linear(), 4, size=2)
    along, answers = [x], []
    for point in trajectory(denoiser, DDIM(), times, x, {}, Noise.of(0, 4)):
        along.append(point.x)
        answers.append(point.x0)
    chosen = shortest(path, times.tolist(), along, answers, 3)
    assert (len(chosen), chosen[0], chosen[-1]) == (4, 1.0, 0.0)
    answers[2] = answers[2] + 5  # a jump from times[2] now misses: no path may leave from there
    assert times[2].item() not in shortest(path, times.tolist(), along, answers, 3)


def test_a_solver_that_draws_noise_is_refused():
    with pytest.raises(UsageError, match="searched for a deterministic solver"):
        tune(humps(Linear()), DDPM(), uniform_grid(Linear(), 4), noise_of(Linear(), 4), {})


def test_a_given_grid_is_text_and_back():
    grid = Given((1.0, 0.6, 0.25, 0.0))
    assert parse(spell(grid, GRIDS), GRIDS, "grid") == grid
    assert grid(Cosine(), 3).tolist() == [1.0, 0.6, 0.25, 0.0]
    with pytest.raises(UsageError, match="made for 3 steps, got 8"):
        grid(Cosine(), 8)


@pytest.mark.parametrize("times", [(1.0,), (0.5, 1.0), (1.0, 0.5, 0.5, 0.0), (1.0, -0.1)])
def test_given_times_that_do_not_fall_are_refused(times):
    with pytest.raises(UsageError, match="times fall strictly"):
        Given(times)
