"""Where ebb and diffusers 0.42.1 differ: the reason, and an exact denoiser that says who is right.

Where it can be shown, the same change made to ours gives theirs.
"""

import math
from functools import partial

import pytest
import torch

from ebb import testing
from ebb.process.moment import at
from ebb.process.path import Cosine, Linear
from ebb.process.predict import PREDICTIONS
from ebb.sample import adams, dpm_sde, multistep
from ebb.sample.adams import DEIS, IPNDM
from ebb.sample.ddim import DDIM, DDPM
from ebb.sample.dpm_sde import DPMpp3MSDE
from ebb.sample.multistep import DPMpp2M, DPMpp3M
from ebb.sample.unipc import UniPC

from .peers import (
    FLOW,
    FULL,
    MARKS,
    NOT_CLIPPED,
    SDE,
    TABLE,
    VP,
    Read,
    Tiny,
    agree,
    follow,
    make,
    ours,
    perfect,
    ready,
    seeded,
    setting,
    the_point,
)

pytestmark = MARKS

WRONG = {
    "DDIM steps from k to k − 1000 // steps, which on this grid is not the next timestep": (
        50, VP, "noise", "DDIM", {"timestep_spacing": "linspace", "clip_sample": False}, DDIM(),
    ),
    "DDIM does so on the trailing grid too where steps do not divide 1000": (
        300, VP, "noise", "DDIM", NOT_CLIPPED, DDIM(),
    ),
    "with Karras' σ the network is told whole timesteps, rounded": (
        20, VP, "noise", "DPMSolverMultistep", {"use_karras_sigmas": True, **FULL}, DPMpp2M(),
    ),
    "with flow σ the network is told whole timesteps, cut off": (
        15, Linear(), "velocity", "UniPCMultistep", {"prediction_type": "flow_prediction", "flow_shift": 3.0, **FLOW},
        UniPC(2),
    ),
    "iPNDM steps from α = 0 as if x̂0 were 0, whatever the network says": (10, Cosine(), "v", "IPNDM", {}, IPNDM()),
}  # fmt: skip


@pytest.mark.parametrize("reason", WRONG)
def test_wrong_by_the_exact_flow_of_a_point(reason):
    """Ours is exact on the same grid. So is theirs where the reason is the times and the network is told the true ones."""
    torch.manual_seed(7)
    steps, path, prediction, kind, config, solver = WRONG[reason]
    scheduler, exact = ready(make(kind, **config), steps), the_point(path)
    k, sigmas = scheduler.timesteps.double(), getattr(scheduler, "sigmas", None)
    told = {VP: (k + 1) / 1000, Linear(): k / 1000, Cosine(): k.clamp(max=1)}[path]
    if sigmas is None:
        grid = torch.cat([told, torch.zeros(1, dtype=torch.float64)])
    else:
        grid = sigmas if path == Linear() else path.time(sigmas)
    point, eps = exact.means.expand(4, 2), torch.randn(4, 2, dtype=torch.float64)
    flow = [path.mix(point, eps, t.expand(4)) for t in grid]

    def off(points):
        return max(float((a - b).abs().max()) for a, b in zip(points, flow[1:], strict=True))

    assert off(ours(solver, exact, grid, flow[0])) < 1e-9
    assert off(follow(scheduler, perfect(exact, prediction), flow[0], told)) > 1e-3
    if sigmas is not None:
        again = ready(make(kind, **config), steps)
        assert off(follow(again, perfect(exact, prediction), flow[0], grid)) < 1e-5, "told the true times"


def root_mean_square(error):
    return float(error.pow(2).mean().sqrt())


@pytest.mark.parametrize("spacing", ["linspace", "trailing"])
def test_their_ddim_gets_worse_with_more_steps(spacing):
    """For that reason: between 500 and 1000 steps it goes from k to k − 1, wherever the next timestep is. Measured on the
    exact flow of a Gaussian; at 100 steps the mistake is smaller than the method's own error."""
    gauss, x = testing.normal(VP), torch.randn(32, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(7))
    errors = []
    for steps in (100, 600):
        scheduler = ready(make("DDIM", timestep_spacing=spacing, clip_sample=False), steps)
        _, told, grid = setting(scheduler)
        exact = gauss.flow(x, grid[:1].expand(32), grid[-1:].expand(32))
        theirs = follow(scheduler, perfect(gauss, "noise"), x, told)[-1]
        errors.append([root_mean_square(landed - exact) for landed in (theirs, ours(DDIM(), gauss, grid, x)[-1])])
    assert errors[1][0] > 5 * errors[0][0]
    assert errors[1][1] < errors[0][1] / 4


@pytest.mark.parametrize(("variance", "wrong"), [("small", False), ("large", True)])
def test_their_ddpm_adds_noise_to_the_sample(variance, wrong):
    """The last step adds none at timestep 0 only, where the trailing grid does not end; "fixed_small" has none to add.
    From data at one point the sample is that point."""
    scheduler, exact = ready(make("DDPM", variance_type="fixed_" + variance, **NOT_CLIPPED)), the_point(VP)
    x = torch.randn(64, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(7))
    _, told, grid = setting(scheduler)
    theirs = follow(scheduler, perfect(exact, "noise"), x, told, seeded)[-1]
    extra = math.sqrt(1 - TABLE[scheduler.timesteps[-1]]) if wrong else 0
    assert root_mean_square(theirs - exact.means) == pytest.approx(extra, rel=0.2, abs=1e-9)
    testing.close("the sample", ours(DDPM(variance), exact, grid, x)[-1], exact.means.expand(64, 2), 1e-9)


def published(less):
    """The factor of the second difference as diffusers has it: I₂/2 − less instead of I₂ = ∫ k·e^{−k(1−u)}·u² du over the
    step, u from 0 to 1, k = power·h."""
    exact = adams.averages

    def weights(power, path, variable, t, s, nodes):
        if len(nodes) < 3:
            return exact(power, path, variable, t, s, nodes)
        h = s.lam - t.lam
        whole = -math.expm1(-power * h)
        second = 1 - 2 * (1 - whole / (power * h)) / (power * h)
        u, v = ((node.lam - t.lam) / h for node in nodes[1:])
        difference = 1 / (u * v), 1 / (u * (u - v)), 1 / (v * (v - u))
        change = (-second / 2 - less) / whole
        right = exact(power, path, variable, t, s, nodes)
        return tuple(w + change * c for w, c in zip(right, difference, strict=True))

    return weights


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
@pytest.mark.parametrize(("name", "module", "less"), [("3m", multistep, 0), ("3m sde", dpm_sde, 1)])
def test_third_order_differs_by_one_factor(name, module, less, prediction, monkeypatch):
    """It has I₂/2 where the integral of the parabola has I₂, and in the SDE form I₂/2 − 1, a sign. (Its second step is
    the exact one of order 2 for solver_type "heun" only.) With these factors ours is theirs."""
    with pytest.raises(AssertionError, match="off by"):
        agree(name, prediction, "single")
    monkeypatch.setattr(module, "averages", published(less))
    agree(name, prediction)


def on(scheduler, grid):
    """A scheduler that goes along any times of `VP`."""
    scheduler.set_timesteps(len(grid) - 1)
    scheduler.sigmas, scheduler.timesteps = VP.nsr(grid), torch.arange(len(grid) - 1)
    return scheduler


def test_their_third_order_is_of_second_order():
    """Measured on the exact flow. With few steps either factor may give the smaller error."""
    gauss, x = testing.normal(VP), torch.randn(32, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(7))
    exact = gauss.flow(x, torch.ones(32, dtype=torch.float64), torch.zeros(32, dtype=torch.float64))
    theirs, mine = [], []
    for steps in (200, 400):
        grid = testing.graded(VP, steps)
        scheduler = on(make("DPMSolverMultistep", solver_order=3, solver_type="heun", **FULL), grid)
        theirs.append(root_mean_square(follow(scheduler, perfect(gauss, "noise"), x, grid)[-1] - exact))
        mine.append(root_mean_square(ours(DPMpp3M(), gauss, grid, x)[-1] - exact))
    assert 1 < math.log2(theirs[0] / theirs[1]) < 2.3
    assert 2.7 < math.log2(mine[0] / mine[1]) < 3.3
    assert mine[1] < theirs[1] / 3


def spread_of(run, steps):
    """The covariance of what a sampler that is affine in its noise makes of one x: run(x, noise [steps, b, 2])."""
    units = torch.eye(2 * steps, dtype=torch.float64).unflatten(1, (steps, 2)).movedim(1, 0)
    units = torch.cat([torch.zeros(steps, 1, 2), units], 1)
    landed = run(torch.tensor([[0.7, -0.4]], dtype=torch.float64).expand(len(units[0]), 2), units)
    effects = landed[1:] - landed[0]
    return effects.T @ effects


def test_their_third_order_sde_is_of_first_order():
    """And worse than their second order. The exact answer is the posterior of Gaussian data given x_t, from t = 0.6, with
    the covariance Σ − α²Σ(α²Σ + σ²I)⁻¹Σ."""
    gauss, errors = testing.normal(VP), []
    for steps in (100, 200):
        grid = testing.graded(VP, steps)
        grid = grid[grid < 0.6]
        t, S = at(VP, float(grid[0])), gauss.covariance
        noisy = t.alpha**2 * S + t.sigma**2 * torch.eye(2, dtype=torch.float64)
        exact = S - t.alpha**2 * S @ torch.linalg.solve(noisy, S)

        def theirs(x, noise, order, grid=grid):
            scheduler = on(make("DPMSolverMultistep", solver_order=order, solver_type="heun", **SDE), grid)
            extra = lambda step, x: {"variance_noise": noise[step]}  # noqa: E731
            return follow(scheduler, perfect(gauss, "noise"), x, grid, extra)[-1]

        def mine(x, noise, grid=grid):
            return ours(DPMpp3MSDE(), gauss, grid, x, lambda step, like, part=0: noise[step])[-1]

        runs = partial(theirs, order=3), partial(theirs, order=2), mine
        errors.append([float((spread_of(run, len(grid) - 1) - exact).abs().max()) for run in runs])
    (third, second, _), (third_later, second_later, mine_later) = errors
    assert math.log2(third / third_later) < 1.5 < 1.8 < math.log2(second / second_later)
    assert third_later > 5 * second_later > 25 * mine_later


def test_their_unipc_3_ends_with_lower_orders():
    """Order 2 and then 1 on the way to σ = 0, whatever the number of steps; ours keeps its order up to the last step. The
    exact flow prefers neither on all grids. (p = 2 is the same: "unipc 2".)"""
    scheduler, network = ready(make("UniPCMultistep", solver_order=3)), Tiny()
    path, told, grid = setting(scheduler)
    x = torch.randn(4, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(7))
    theirs = follow(scheduler, lambda x, told: network(x, told, {}), x, told)
    mine = ours(UniPC(3), Read(network, path, PREDICTIONS["noise"]), grid, x)
    off = [float((a - b).abs().max()) for a, b in zip(mine, theirs, strict=True)]
    assert max(off[:-2]) < 1e-5
    assert min(off[-2:]) > 1e-3


@pytest.mark.parametrize("config", [{"solver_type": "bh1"}, FULL])
def test_their_unipc_is_not_finite_at_zero(config):
    """B₁(h) = h is infinite on the step to σ = 0 (ours is B₂), and so is λ where the last step keeps its order."""
    scheduler = ready(make("UniPCMultistep", **config))
    _, told, _ = setting(scheduler)
    exact, x = the_point(VP), torch.ones(1, 2, dtype=torch.float64)
    assert not follow(scheduler, perfect(exact, "noise"), x, told)[-1].isfinite().any()


@pytest.mark.parametrize("karras", [False, True])
def test_their_deis_stops_above_the_data(karras):
    """At the table's first σ. With Karras' σ, which end there, its last call of the network changes nothing. Below 15
    steps the last two are of lower order by default; the exact flow says that is worse here, at 14."""
    gauss, x = testing.normal(VP), torch.randn(32, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(7))
    errors = {}
    for full in (True, False):
        scheduler = make("DEISMultistep", solver_order=3, use_karras_sigmas=karras, lower_order_final=not full)
        told = VP.time(ready(scheduler, 14).sigmas)
        assert float(told[-1]) == pytest.approx(1 / 1000, rel=1e-4)
        points = follow(scheduler, perfect(gauss, "noise"), x, told)
        assert torch.equal(points[-1], points[-2]) is karras
        errors[full] = root_mean_square(points[-1] - gauss.flow(x, told[:1].expand(32), told[-1:].expand(32)))
        if full:
            mine = ours(DEIS(3, "lam"), gauss, told.unique_consecutive(), x)
            testing.close("DEIS in full", mine[-1], points[-1], 1e-5)
    assert errors[True] < errors[False]


def test_their_table_is_in_single_precision():
    """1 − ᾱ after one step is β_start = 1e-4; as 1 minus a float32 it is off by 2e-4 of itself."""
    theirs = 1 - make("DDIM").alphas_cumprod[0].double()
    assert abs(float(theirs) / 1e-4 - 1) > 1e-4
    assert at(VP, 1 / 1000).sigma ** 2 == pytest.approx(1e-4, rel=1e-10)


@pytest.mark.parametrize(("spacing", "spread"), [("leading", 1.0), ("linspace", 0.0), ("trailing", 0.0)])
def test_their_euler_starts_from_two_scales(spacing, spread):
    """x = √(σ² + 1)·z, right for data of unit variance, on the leading grid, and σ·z on the others, 2e-5 less than that.
    Ours starts from the x that it is given, as do all comparisons here."""
    scheduler = ready(make("EulerDiscrete", timestep_spacing=spacing))
    assert float(scheduler.init_noise_sigma) == pytest.approx(math.hypot(scheduler.sigmas[0], spread), rel=1e-6)
