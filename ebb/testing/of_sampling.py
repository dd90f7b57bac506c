"""Contract suites: run them on a path, prediction, network, denoiser, solver or guide of your own.

Each `check_…` raises AssertionError that says what was expected and what came. They hold parts against answers that are
known in closed form, so a part that passes is right and not only unchanged.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from ebb.guide.cfg import Guide
from ebb.networks.evaluating import evaluating
from ebb.networks.reach import unreached
from ebb.process.denoiser import Cond, Denoiser, answer
from ebb.process.exact import Gaussian, Mixture
from ebb.process.moment import at
from ebb.process.path import Path, spread
from ebb.process.predict import Prediction, determinant, recover
from ebb.sample.noise import Noise
from ebb.sample.trajectory import Solver, trajectory
from ebb.shapes import Float


def close(what: str, got: Tensor, expected: Tensor, tolerance: float) -> None:
    """Raise AssertionError unless the largest difference, relative to the largest expected value, is small."""
    worst = float((got - expected).abs().max() / expected.abs().max().clamp(min=1))
    if not worst <= tolerance:  # also when it is not a number
        raise AssertionError(f"{what}: off by {worst:.3g}, allowed {tolerance:.3g}; got {got}, expected {expected}")


def at_angles(path: Path, shares: Float[Tensor, "n"]) -> Float[Tensor, "n"]:
    """Times at shares 0 … 1 of the path's range of atan ν, the coordinate in which every path is smooth."""
    last = torch.atan(path.nsr(torch.tensor([path.end], dtype=torch.float64)))
    return path.time(torch.tan(last * shares))


def inside(path: Path, count: int = 33) -> Float[Tensor, "n"]:
    """Falling times strictly inside (0, end), evenly spaced in angle."""
    return at_angles(path, torch.linspace(1, 0, count + 2, dtype=torch.float64)[1:-1])


def graded(path: Path, steps: int) -> Float[Tensor, "n"]:
    """A grid from end to 0, quadratically finer towards both ends: angle shares u²/(u² + (1 − u)²) for even u.

    On it the errors at the ends, where multistep formulas in log-SNR have infinite steps and begin at order 1, stay
    below those inside, so an order up to 4 shows. Evenly spaced angles would add a factor log(steps).
    """
    u = torch.linspace(1, 0, steps + 1, dtype=torch.float64)
    times = at_angles(path, u**2 / (u**2 + (1 - u) ** 2))
    times[0], times[-1] = path.end, 0.0
    return times


def check_path(path: Path) -> None:
    """The ends, the monotone ratio, its inverse, the rates, and what follows from them: mix, noise, jump, score."""
    try:
        hash(path)
    except TypeError as error:
        raise AssertionError("a path is a frozen dataclass, so that its coefficients can be remembered") from error
    t, ends = inside(path), torch.tensor([0.0, path.end], dtype=torch.float64)
    close("alpha(0)", path.alpha(ends)[:1], torch.ones(1), 0)
    close("sigma(0)", path.sigma(ends)[:1], torch.zeros(1), 0)
    nsr = path.nsr(t)
    if not bool((nsr[1:] < nsr[:-1]).all()):
        raise AssertionError("the noise-to-signal ratio must rise with time")
    close("time(nsr(t)) = t", path.time(nsr) / path.end, t / path.end, 1e-9)
    everything = torch.tensor([0.0, float("inf")], dtype=torch.float64)
    close("time at ratios 0 and infinity", path.time(everything) / path.end, ends / path.end, 1e-9)
    h = 1e-6 * t.clamp(max=path.end - t)
    for name, of, rate in zip(("alpha", "sigma"), (path.alpha, path.sigma), path.rates(t), strict=True):
        slope = (of(t + h) - of(t - h)) / (2 * h)
        close(f"the rate of {name}, against differences", rate / (1 + slope.abs()), slope / (1 + slope.abs()), 1e-5)
    x0, eps = torch.randn(2, len(t), 2, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    x, s = path.mix(x0, eps, t), t / 2
    close("noise undoes mix", path.noise(x, x0, t), eps, 1e-6)
    close("jump moves along the line of one x0 and one noise", path.jump(x, x0, t, s), path.mix(x0, eps, s), 1e-9)
    last = torch.full_like(t, path.end)
    close(
        "jump from the noise end to the data",
        path.jump(path.mix(x0, eps, last), x0, last, torch.zeros_like(t)),
        x0,
        1e-9,
    )
    alpha_rate, sigma_rate = (rate[:, None, None] for rate in path.rates(t))
    close("velocity", path.velocity(x, x0, t), alpha_rate * x0 + sigma_rate * eps, 1e-5)


def check_prediction(prediction: Prediction, path: Path) -> None:
    """`recover` gives x0 back from F = a·x0 + b·ε wherever F tells it, for x of any shape."""
    t = inside(path)
    x0, eps = torch.randn(2, len(t), 2, 3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    a, b = prediction(path, t)
    if bool((determinant(path, t, a, b) == 0).any()):
        raise AssertionError("this target does not tell x0 strictly inside the path")
    F = spread(a, x0) * x0 + spread(b, eps) * eps
    close("recover", recover(path, prediction, path.mix(x0, eps, t), F, t), x0, 1e-8)


def check_network(
    network: torch.nn.Module, shapes: Sequence[tuple[int, ...]], cond: Callable[[int], Mapping[str, Tensor]]
) -> None:
    """Output of the input's shape, samples that do not see each other, no BatchNorm, and a time that matters and, as
    each condition, reaches every block of a kind of which it reaches any (`ebb.networks.reach.unreached`).

    `shapes` are sample shapes [c, *size]; `cond(n)` the conditions of a batch of n. Weights are randomised first, since
    networks begin as the zero function.
    """
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    for module in network.modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            raise AssertionError(f"{module} mixes the samples of a batch")
    for shape in shapes:
        x, time = torch.randn(3, *shape), torch.tensor([0.1, 0.5, 0.9])
        with torch.no_grad():
            together = network(x, time, cond(3))
            alone = network(x[1:2], time[1:2], {k: v[1:2] for k, v in cond(3).items()})
            later = network(x, time / 2, cond(3))
        if together.shape != x.shape:
            raise AssertionError(f"expected output of shape {list(x.shape)}, got {list(together.shape)}")
        close("a sample alone and in a batch", together[1:2], alone, 1e-4)
        if torch.allclose(together, later, atol=1e-6):
            raise AssertionError("the output does not depend on time: is the clock wired?")
        reaches_every_block(network, x, time, cond(3))


def reaches_every_block(network: torch.nn.Module, x: Tensor, time: Tensor, cond: Mapping[str, Tensor]) -> None:
    """Raise AssertionError, with their names, for blocks that the time or a condition does not reach."""
    others = {name: {**cond, name: rows.roll(1, 0)} for name, rows in cond.items()}
    for what, told, given in (("time", time / 2, cond), *((name, time, each) for name, each in others.items())):
        with evaluating(network), torch.no_grad():
            asked, elsewhere = partial(network, x, time, cond), partial(network, x.roll(1, 0), time, cond)
            found = unreached(network, asked, partial(network, x, told, given), elsewhere)
        if found:
            raise AssertionError(f"{what} does not reach {', '.join(found)}, but other blocks of their kind")


def normal(path: Path) -> Gaussian:
    """Correlated Gaussian data in the plane, off centre."""
    mean = torch.tensor([0.6, -0.3], dtype=torch.float64)
    return Gaussian(path, mean, torch.tensor([[0.5, 0.3], [0.3, 0.4]], dtype=torch.float64))


def two_humps(path: Path) -> Mixture:
    """Two unequal humps on the line, whose flow is known by matching quantiles."""
    means, stds = torch.tensor([[-1.0], [0.8]], dtype=torch.float64), torch.tensor([0.4, 0.6], dtype=torch.float64)
    return Mixture(path, means, stds, torch.tensor([0.3, 0.7], dtype=torch.float64))


def quantile_flow(mixture: Mixture, x: Float[Tensor, "b 1"], t: Tensor, s: Tensor) -> Float[Tensor, "b 1"]:
    """The probability flow on the line, exactly: it keeps every point's quantile, solved by bisection."""

    def shares(when: Tensor) -> Callable[[Tensor], Tensor]:
        """The distribution function at a time."""
        alpha, sigma = mixture.path.alpha(when)[:, None], mixture.path.sigma(when)[:, None]
        means, std = alpha * mixture.means[:, 0], torch.hypot(alpha * mixture.stds, sigma)
        return lambda x: (mixture.weights * torch.special.ndtr((x - means) / std)).sum(1, keepdim=True)

    quantile, share_below = shares(t)(x), shares(s)
    low, high = torch.full_like(x, -10.0), torch.full_like(x, 10.0)
    for _ in range(60):
        middle = (low + high) / 2
        below = share_below(middle) < quantile
        low, high = torch.where(below, middle, low), torch.where(below, high, middle)
    return (low + high) / 2


@dataclass(frozen=True)
class ConvergenceOrder:
    """A measured order of convergence, and the errors (root mean square) at each number of steps."""

    slope: float
    errors: dict[int, float]


def measured_order(
    solver: Solver, denoiser: Denoiser, x: Tensor, exact: Tensor, counts: Sequence[int] = (64, 128, 256)
) -> ConvergenceOrder:
    """The slope of log error against log step size, from the path's noise end to σ = 0, on the `graded` grid."""
    errors = {}
    for count in counts:
        noise = Noise.of(0, len(x))
        for point in trajectory(denoiser, solver, graded(denoiser.path, count), x, {}, noise):
            landed = point.x
        errors[count] = float((landed - exact).pow(2).mean().sqrt())
    steps = torch.tensor(list(errors), dtype=torch.float64).log()
    logs = torch.tensor(list(errors.values()), dtype=torch.float64).log()
    centred = steps - steps.mean()
    return ConvergenceOrder(-float((centred * logs).sum() / (centred**2).sum()), errors)


def check_solver(solver: Solver, path: Path, tolerance: float = 0.3) -> None:
    """The deterministic `solver` converges with its stated order to the exact flow of a Gaussian and of a mixture."""
    generator = torch.Generator().manual_seed(0)
    end, start = torch.full((64,), path.end, dtype=torch.float64), torch.zeros(64, dtype=torch.float64)
    scale = path.sigma(end)[:, None]
    gauss, humps = normal(path), two_humps(path)
    x2 = scale * torch.randn(64, 2, dtype=torch.float64, generator=generator)
    x1 = scale * torch.randn(64, 1, dtype=torch.float64, generator=generator)
    flows = (
        ("Gaussian", gauss, x2, gauss.flow(x2, end, start)),
        ("mixture", humps, x1, quantile_flow(humps, x1, end, start)),
    )
    for name, denoiser, x, exact in flows:
        order = measured_order(solver, denoiser, x, exact)
        if not abs(order.slope - solver.order) <= tolerance:
            raise AssertionError(
                f"{solver} on {path}, {name} data: stated order {solver.order}, measured {order.slope:.2f};"
                f" {order.errors}"
            )


def check_stochastic(solver: Solver, path: Path, steps: int = 200, count: int = 20_000) -> None:
    """The samples of a stochastic `solver` have the mean and covariance of the Gaussian data they came from.

    Most solvers make of it an affine function of all noise they draw, whose moments are exact (`columns`); those of
    others are judged on `count` samples.
    """
    gauss, times = normal(path), graded(path, steps)
    found = columns(solver, gauss, gauss.mean, times) or sampled(solver, gauss, gauss.mean, times, count)
    close("mean of the samples", found[0], gauss.mean, 0.03)
    close("covariance of the samples", found[1], gauss.covariance, 0.03)


def last(solver: Solver, denoiser: Denoiser, times: Tensor, noise: Callable[..., Tensor], mean: Tensor) -> Tensor:
    """The samples that begin as α·mean + σ·noise(-1, mean), mean [b, n]."""
    x = denoiser.path.mix(mean, noise(-1, mean), times[:1].expand(len(mean)))
    for point in trajectory(denoiser, solver, times, x, {}, noise):
        x = point.x
    return x


def sampled(
    solver: Solver, denoiser: Denoiser, mean: Float[Tensor, "n"], times: Float[Tensor, "t"], count: int
) -> tuple[Tensor, Tensor]:
    """Mean [n] and covariance [n, n] of `count` samples."""
    generator = torch.Generator().manual_seed(0)

    def noise(_: int, like: Tensor, part: int = 0) -> Tensor:
        return torch.randn(like.shape, dtype=like.dtype, generator=generator)

    x = last(solver, denoiser, times, noise, mean.expand(count, -1))
    return x.mean(0), torch.cov(x.T)


def columns(
    solver: Solver, denoiser: Denoiser, mean: Float[Tensor, "n"], times: Float[Tensor, "t"]
) -> tuple[Tensor, Tensor] | None:
    """Mean [n] and covariance [n, n] of the samples without sampling error; None if they are not affine in the noise.

    In one batch, row 0 gets no noise, each of the next one unit of one draw, the last a random amount of every draw,
    which the others must foretell.
    """
    draws: dict[tuple[int, int], int] = {}

    def counted(step: int, like: Tensor, part: int = 0) -> Tensor:
        draws.setdefault((step, part), len(draws))
        return torch.zeros_like(like)

    last(solver, denoiser, times, counted, mean[None])
    n, k = len(mean), len(draws)
    amounts = torch.randn(k * n, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    rows = torch.cat([torch.zeros(1, k * n), torch.eye(k * n), amounts[None]]).double().reshape(-1, k, n)
    x = last(solver, denoiser, times, lambda step, like, part=0: rows[:, draws[step, part]], mean.expand(len(rows), -1))
    effects = x[1:-1] - x[0]
    affine = torch.allclose(x[-1], x[0] + amounts @ effects, rtol=1e-6, atol=1e-6)
    return (x[0], effects.T @ effects) if affine else None


@dataclass(frozen=True)
class TwoLabels:
    """An exact denoiser of two labels (0: the first hump, 1: the second, 2: no label), to hold guides against.

    Each number of a sample [*d] is a draw of its own.
    """

    path: Path

    def __call__(self, x: Tensor, t: Tensor, cond: Cond) -> Tensor:
        """The posterior mean given each sample's label."""
        both, shape, size = two_humps(self.path), x.shape, x[0].numel()
        x, t, label = x.reshape(-1, 1), t.repeat_interleave(size), cond["label"].repeat_interleave(size)
        answers = [
            Mixture(self.path, both.means[k : k + 1], both.stds[k : k + 1], torch.ones(1, dtype=torch.float64))(
                x, t, {}
            )
            for k in range(2)
        ]
        table: Tensor = torch.stack([*answers, both(x, t, {})])
        return table[label, torch.arange(len(x))].reshape(shape)


def check_guide(
    guide: Callable[[float], Guide],
    path: Path,
    off: float | None = 1.0,
    on: float = 3.0,
    labels: Sequence[int] = (0, 1),
) -> None:
    """`guide(off)` is the identity (None: no scale is), `guide(on)` is not; what a guide may do to its denoiser.

    It keeps the path, the shape and the precision, writes into no argument, answers each sample as if it were alone,
    the same twice, and a time that the batch shares as it would any other. `labels`, in turn, are the conditions asked.
    """
    plain, t = TwoLabels(path), inside(path, 6)
    eps = torch.randn(len(t), 2, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    x, cond = spread(path.norm(t), eps) * eps, {"label": torch.tensor([labels[i % len(labels)] for i in range(len(t))])}
    if off is not None:
        close(f"scale {off:g} is off", guide(off)(plain)(x, t, cond), plain(x, t, cond), 1e-12)
    guided = guide(on)(plain)
    if guided.path != path:
        raise AssertionError("a guided denoiser has the path of the denoiser it wraps")
    before = x.clone(), t.clone(), cond["label"].clone()
    first = guided(x, t, cond)
    if torch.equal(first, plain(x, t, cond)):
        raise AssertionError(f"scale {on:g} changes nothing")
    for name, now, then in zip(("x", "t", "the condition"), (x, t, cond["label"]), before, strict=True):
        close(f"{name} is not written to", now, then, 0)
    close("the same question asked twice", guided(x, t, cond), first, 0)
    for i in range(len(t)):
        alone = guided(x[i : i + 1], t[i : i + 1], {"label": cond["label"][i : i + 1]})
        close("a sample alone and in a batch", alone, first[i : i + 1], 1e-9)
    for time in t.tolist():
        moment = at(path, time)
        shared, apart = answer(guided, x, moment, cond), guided(x, moment.shared(len(x)), cond)
        close("a time that the batch shares", shared, apart, 1e-9)
    single = guided(x.float(), t, cond)
    if single.shape != x.shape or single.dtype != torch.float32:
        raise AssertionError(f"expected {list(x.shape)} in torch.float32, got {list(single.shape)} in {single.dtype}")


def same_by_batch(sample: Callable[[Sequence[int]], Tensor], count: int, tolerance: float) -> None:
    """`sample(indices)` gives each image the same, alone, in threes and all at once."""
    whole = sample(range(count))
    for size in (1, 3):
        parts = [sample(range(first, min(first + size, count))) for first in range(0, count, size)]
        close(f"images in batches of {size}", torch.cat(parts), whole, tolerance)
