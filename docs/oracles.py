"""Every guide against an answer in closed form: the rows of the table in guide.md, measured by tables.py.

All are asked at eight times inside each path (ν up to 6), in float64, on data of about unit size.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

import ebb
from ebb import testing
from ebb.guide import cfg, classifier_guidance, energy, inpaint, temperature
from ebb.guide.constrain import Ball, Box, HalfSpace, Intersection
from ebb.guide.operators import mask, sensing
from ebb.process.moment import at

NULL = {"label": torch.tensor([2])}


@dataclass(frozen=True)
class Row:
    """A guide: how it is called, where its formula is written, what is off, and its difference to the exact answer."""

    call: str
    formula: Any
    off: str
    difference: Callable[[ebb.Path], float]


GUIDES: list[Row] = []


def row(call: str, formula: Any, off: str) -> Callable[[Callable[[ebb.Path], float]], Callable[[ebb.Path], float]]:
    """Enter the measurement that follows into the table; its docstring says what the guide is held against."""

    def enter(difference: Callable[[ebb.Path], float]) -> Callable[[ebb.Path], float]:
        GUIDES.append(Row(call, formula, off, difference))
        return difference

    return enter


MEANS = torch.tensor([[1.0, 0.2], [-0.4, 0.8], [0.1, -0.2]], dtype=torch.float64)
COVARIANCES = torch.tensor(
    [[[0.5, 0.2], [0.2, 0.3]], [[0.4, -0.1], [-0.1, 0.6]], [[1.2, 0.3], [0.3, 1.5]]], dtype=torch.float64
)


@dataclass(frozen=True)
class Labelled:
    """Gaussian data in the plane, another one for each of two labels and for none (2)."""

    path: ebb.Path

    def __getitem__(self, label: int) -> ebb.Gaussian:
        """The denoiser of one label."""
        return ebb.Gaussian(self.path, MEANS[label], COVARIANCES[label])

    def __call__(self, x: Tensor, t: Tensor, cond: Any) -> Tensor:
        """The answer for each sample's label."""
        return torch.stack([self[k](x, t, {}) for k in range(3)])[cond["label"], torch.arange(len(x))]


def places(path: ebb.Path, count: int = 8) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """Noisy points in the plane, times inside the path, and a label for each."""
    t, generator = testing.inside(path, count), torch.Generator().manual_seed(0)
    x = torch.randn(count, 2, dtype=torch.float64, generator=generator) * path.norm(t)[:, None]
    return x, t, {"label": torch.zeros(count, dtype=torch.long)}


def apart(got: Tensor, exact: Tensor) -> float:
    """The largest difference."""
    return float((got - exact).abs().max())


def product(x: Tensor, t: Tensor, *terms: tuple[float, ebb.Gaussian]) -> Tensor:
    """(x + σ²·∇ log Π p_i(x_t)^{w_i})/α, from the precision matrices."""
    path = terms[0][1].path
    alpha, sigma = path.alpha(t)[:, None, None], path.sigma(t)[:, None, None]
    score = torch.zeros_like(x)
    for weight, gauss in terms:
        variance = alpha**2 * gauss.covariance + sigma**2 * torch.eye(len(gauss.mean))
        score -= weight * torch.linalg.solve(variance, x - alpha[..., 0] * gauss.mean)
    return (x + sigma[..., 0] ** 2 * score) / alpha[..., 0]


@row("cfg(scale, null)", cfg.ClassifierFree, "scale 1")
def condition(path: ebb.Path) -> float:
    """p(x_t \\| y)^w·p(x_t)^{1 − w} of Gaussians"""
    x, t, cond = places(path)
    data = Labelled(path)
    return apart(ebb.cfg(3.0, NULL)(data)(x, t, cond), product(x, t, (3.0, data[0]), (-2.0, data[2])))


@row("cfg(scale, null, Rescaled(phi))", ebb.Rescaled, "scale 1")
def rescaled(path: ebb.Path) -> float:
    """at phi 1 the conditional answer's standard deviation"""
    x, t, cond = places(path)
    data = Labelled(path)
    guided = ebb.cfg(3.0, NULL, ebb.Rescaled(1.0))(data)(x, t, cond)
    return apart(guided.std(1), data[0](x, t, {}).std(1))


@row("cfg(scale, null, Projected(eta, radius))", ebb.Projected, "scale 1")
def projected(path: ebb.Path) -> float:
    """the paper's algorithm, a sample at a time"""
    x, t, cond = places(path)
    data, worst = Labelled(path), 0.0
    guided = ebb.cfg(3.0, NULL, ebb.Projected(0.2, 0.5))(data)(x, t, cond)
    for low, high, got in zip(data[2](x, t, {}), data[0](x, t, {}), guided, strict=True):
        delta = (high - low) * min(1.0, 0.5 / float((high - low).norm()))
        along = (delta @ high) / (high @ high) * high
        worst = max(worst, apart(got, high + 2.0 * (delta - along + 0.2 * along)))
    return worst


@row("cfg_plus_plus(scale, null, times)", cfg.PlusPlus, "none")
def plus_plus(path: ebb.Path) -> float:
    """the paper's algorithm 2, whole trajectories with `ddim`"""
    data, times, worst = Labelled(path), testing.graded(path, 9), 0.0
    x, _, cond = places(path)
    x = ours = x * at(path, path.end).sigma
    guided = ebb.cfg_plus_plus(0.6, NULL, times)(data)
    points = ebb.trajectory(guided, ebb.DDIM(), times, ours, cond, ebb.Noise.of(0, len(x)))
    for point, t, s in zip(points, times[:-1], times[1:], strict=True):
        now, next_ = at(path, float(t)), at(path, float(s))
        high, low = data[0](x, now.shared(len(x)), {}), data[2](x, now.shared(len(x)), {})
        x = next_.alpha * (low + 0.6 * (high - low)) + next_.sigma * (x - now.alpha * low) / now.sigma
        worst = max(worst, apart(point.x, x))
    return worst


@row("within(guide, low, high)", ebb.within, "guide off")
def inside(path: ebb.Path) -> float:
    """the guided answer inside, the plain one outside"""
    x, t, cond = places(path)
    data, nsr = Labelled(path), path.nsr(t)[:, None]
    plain, guided = data[0](x, t, {}), product(x, t, (3.0, data[0]), (-2.0, data[2]))
    got = ebb.within(ebb.cfg(3.0, NULL), 0.3, 2.0)(data)(x, t, cond)
    return apart(got, torch.where((nsr > 0.3) & (nsr <= 2.0), guided, plain))


@row("autoguide(weak, scale)", ebb.autoguide, "scale 1")
def by_a_weaker_model(path: ebb.Path) -> float:
    """strong^w·weak^{1 − w} of Gaussians, the weak one on another path"""
    x, t, _ = places(path)
    strong, weak = Labelled(path)[0], Labelled(path)[2]
    got = ebb.autoguide(Labelled(ebb.VarianceExploding())[2], 1.7)(strong)(x, t, {})
    return apart(got, product(x, t, (1.7, strong), (-0.7, weak)))


@row("compose([(scale, cond), …], null)", ebb.compose, "no terms")
def several_conditions(path: ebb.Path) -> float:
    """products of Gaussians, joined and negated"""
    x, t, _ = places(path)
    data, one, other = Labelled(path), {"label": torch.tensor([0])}, {"label": torch.tensor([1])}
    worst = 0.0
    for v, w in ((1.0, 1.0), (2.0, 0.7), (1.0, -0.4)):
        got = ebb.compose([(v, one), (w, other)], NULL)(data)(x, t, {})
        worst = max(worst, apart(got, product(x, t, (v, data[0]), (w, data[1]), (1 - v - w, data[2]))))
    return worst


@row("regions([(scale, mask, cond), …], null)", ebb.regions, "masks 0")
def each_in_its_place(path: ebb.Path) -> float:
    """products of Gaussians where both pull, one's own where it pulls alone"""
    x, t, _ = places(path)
    data, one, other = Labelled(path), {"label": torch.tensor([0])}, {"label": torch.tensor([1])}
    left, whole = torch.tensor([1.0, 0.0]), torch.ones(2)
    got = ebb.regions([(1.0, left, one), (0.7, whole, other)], NULL)(data)(x, t, {})
    both = product(x, t, (1.0, data[0]), (0.7, data[1]), (-0.7, data[2]))
    alone = product(x, t, (0.7, data[1]), (0.3, data[2]))
    return apart(got, torch.stack([both[:, 0], alone[:, 1]], 1))


@row("temperature(tau)", temperature.Tempered, "tau 1")
def tempered(path: ebb.Path) -> float:
    """N(m, Σ) becomes N(m, τΣ)"""
    x, t, _ = places(path)
    data = Labelled(path)[0]
    exact = ebb.Gaussian(path, data.mean, 0.5 * data.covariance)
    return apart(ebb.temperature(0.5)(data)(x, t, {}), exact(x, t, {}))


@row("dynamic_threshold(share, limit)", ebb.dynamic_threshold, "limit ∞")
def thresholded(path: ebb.Path) -> float:
    """clamped by sorting, a sample at a time"""
    x, t, cond = places(path)
    x0, worst = Labelled(path)(x, t, cond), 0.0
    for answer, got in zip(x0, ebb.dynamic_threshold(0.5, 0.1)(Labelled(path))(x, t, cond), strict=True):
        q = max(0.1, sorted(answer.abs().tolist())[0])  # of two sizes, the ⌈0.5·2⌉-th
        worst = max(worst, apart(got, answer.clamp(-q, q) * 0.1 / q))
    return worst


@dataclass(frozen=True)
class Bayes:
    """p(hump | x_t) of a mixture."""

    mixture: ebb.Mixture

    @property
    def path(self) -> ebb.Path:
        """The mixture's."""
        return self.mixture.path

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        """Logits."""
        return self.mixture.joint(x, t)[0]


@row("classifier(model, scale)", classifier_guidance.ClassifierGuided, "scale 0; 1 is Bayes' rule")
def by_a_classifier(path: ebb.Path) -> float:
    """Bayes on a mixture: the conditional denoiser"""
    x, t, cond = places(path)
    humps = testing.two_humps(path)
    got = ebb.classifier(Bayes(humps))(humps)(x[:, :1], t, cond)
    return apart(got, ebb.Gaussian(path, humps.means[0], humps.stds[:1, None] ** 2)(x[:, :1], t, {}))


@row("energy(function, scale)", energy.EnergyOfClean, "scale 0")
def downhill(path: ebb.Path) -> float:
    """a linear energy moves a Gaussian's mean by −Σ·slope"""
    x, t, _ = places(path)
    data, slope = Labelled(path)[0], torch.tensor([0.7, -0.4], dtype=torch.float64)
    exact = ebb.Gaussian(path, data.mean - data.covariance @ slope, data.covariance)
    return apart(ebb.energy(lambda x0: x0 @ slope)(data)(x, t, {}), exact(x, t, {}))


@row('energy(function, scale, on="x")', energy.EnergyOfNoisy, "scale 0")
def downhill_of_noisy(path: ebb.Path) -> float:
    """−log p(y \\| x_t) of a Gaussian measured in full"""
    x, t, _ = places(path)
    data, y, eye = Labelled(path)[0], torch.tensor([0.2, 0.5], dtype=torch.float64), torch.eye(2, dtype=torch.float64)

    def unlikely(x: Tensor, t: Tensor) -> Tensor:
        return -torch.distributions.MultivariateNormal(data(x, t, {}), left_over(data, t) + 0.09 * eye).log_prob(y)

    exact = conditional(data, eye, y, 0.3)
    return apart(ebb.energy(unlikely, on="x")(data)(x, t, {}), exact(x, t, {}))


def left_over(data: ebb.Gaussian, t: Tensor) -> Tensor:
    """Cov[x0 | x_t] = Σ − Σ(Σ + ν²I)⁻¹Σ, [b, n, n]."""
    cov, nsr = data.covariance, data.path.nsr(t)[:, None, None]
    return cov - cov @ torch.linalg.solve(cov + nsr**2 * torch.eye(len(cov)), cov)


def conditional(data: ebb.Gaussian, A: Tensor, y: Tensor, noise: float) -> ebb.Gaussian:
    """p(x0 | y = A·x0 + noise)."""
    gain = torch.linalg.solve(A @ data.covariance @ A.T + noise**2 * torch.eye(len(A)).double(), A @ data.covariance).T
    return ebb.Gaussian(data.path, data.mean + gain @ (y - A @ data.mean), data.covariance - gain @ A @ data.covariance)


@row("inpaint(known, mask)", inpaint.Inpainted, "mask 0")
def filled_in(path: ebb.Path) -> float:
    """the known part of the samples of every solver"""
    known, worst = torch.tensor([0.3, 0.0], dtype=torch.float64), 0.0
    guided = ebb.inpaint(known, torch.tensor([True, False]))(Labelled(path)[0])
    for solver in ebb.SOLVERS.values():
        x, noise = places(path)[0] * at(path, path.end).sigma, ebb.Noise.of(0, 8)
        *_, last = ebb.trajectory(guided, solver, ebb.GRIDS["uniform"](path, 6), x, {}, noise)
        worst = max(worst, apart(last.x[:, 0], known[:1]))
    return worst


SENSED, MEASURED = torch.tensor([[1.0, -0.5]], dtype=torch.float64), torch.tensor([0.4], dtype=torch.float64)


@row("mmps(y, operator, noise)", ebb.mmps, "none")
def moment_matched(path: ebb.Path) -> float:
    """the conditional Gaussian"""
    x, t, _ = places(path)
    data = Labelled(path)[0]
    got = ebb.mmps(MEASURED, sensing(SENSED), 0.3)(data)(x, t, {})
    return apart(got, conditional(data, SENSED, MEASURED, 0.3)(x, t, {}))


@row("pigdm(y, operator, noise, data_std)", ebb.pigdm, "none")
def pseudo_inverted(path: ebb.Path) -> float:
    """the conditional Gaussian, data N(m, data_std²·I)"""
    x, t, _ = places(path)
    data = ebb.Gaussian(path, MEANS[0], 0.49 * torch.eye(2, dtype=torch.float64))
    got = ebb.pigdm(MEASURED, sensing(SENSED), 0.3, 0.7)(data)(x, t, {})
    return apart(got, conditional(data, SENSED, MEASURED, 0.3)(x, t, {}))


@row("dps(y, operator, scale)", ebb.dps, "scale 0")
def posterior_sampled(path: ebb.Path) -> float:
    """its own formula on a Gaussian, x̂0 + 2·scale·Cov[x0 \\| x_t]·Aᵀe/‖e‖"""
    x, t, _ = places(path)
    data = Labelled(path)[0]
    e = MEASURED - data(x, t, {}) @ SENSED.T
    pull = (left_over(data, t) @ (e @ SENSED)[..., None])[..., 0] / e.norm(dim=1, keepdim=True)
    got = ebb.dps(MEASURED, sensing(SENSED), 0.8)(data)(x, t, {})
    return apart(got, data(x, t, {}) + 1.6 * pull)


@row("constrain(project)", ebb.constrain, "a set that holds x̂0")
def into_a_set(path: ebb.Path) -> float:
    """nearest points: ⟨x̂0 − P, z − P⟩ ≤ 0 for all z of box, ball, half-space and their intersection"""
    x, t, cond = places(path)
    data = Labelled(path)
    sets = Box(-0.2, 0.4), Ball(0.1, 0.5), HalfSpace(torch.tensor([1.0, -2.0]), 0.1)
    worst, scattered = 0.0, 2 * torch.randn(200, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for project in (*sets, Intersection(sets)):
        x0, nearest, others = data(x, t, cond), ebb.constrain(project)(data)(x, t, cond), project(scattered)
        angles = (x0 - nearest) @ others.T - ((x0 - nearest) * nearest).sum(1, keepdim=True)
        worst = max(worst, float(angles.max()))
    return worst


# --- what is not exact ------------------------------------------------------------------------------------------------


def inpainted(solver: ebb.Solver, guide: ebb.Guide, steps: int = 60) -> tuple[float, float]:
    """Mean and standard deviation of x₂ in samples of N(0, [[1, 0.9], [0.9, 1]]) whose x₁ is guided to 1.5.

    They are exact where the samples are affine in the noise, else those of 4,000 samples.
    """
    path = ebb.Cosine()
    data = ebb.Gaussian(path, torch.zeros(2).double(), torch.tensor([[1, 0.9], [0.9, 1]], dtype=torch.float64))
    times, guided = testing.graded(path, steps), guide(data)
    found = testing.columns(solver, guided, data.mean, times) or testing.sampled(solver, guided, data.mean, times, 4000)
    return float(found[0][1]), float(found[1][1, 1].sqrt())


def heuristics() -> Iterable[Sequence[str]]:
    """Ways to fill in the unknown half of a Gaussian, against the conditional N(0.9·1.5, 1 − 0.9²)."""
    known, first = torch.tensor([1.5, 0.0], dtype=torch.float64), torch.tensor([True, False])
    y, operator, solver = known[:1], mask(first), ebb.DPMpp2SSDE()
    yield "x₁ = 1.5 is known", "mean of x₂", "its standard deviation"
    yield "exact", f"{0.9 * 1.5:.3f}", f"{(1 - 0.9**2) ** 0.5:.3f}"
    ways: dict[str, tuple[ebb.Solver, ebb.Guide]] = {
        "`inpaint`": (solver, ebb.inpaint(known, first)),
        "`inpaint`, `Resample(…, 5)`": (ebb.Resample(solver, 5), ebb.inpaint(known, first)),
        "`inpaint`, `Resample(…, 20)`": (ebb.Resample(solver, 20), ebb.inpaint(known, first)),
        "`dps`, scale 1": (solver, ebb.dps(y, operator, 1.0)),
        "`dps`, scale 4": (solver, ebb.dps(y, operator, 4.0)),
        "`mmps`, noise 0.01": (solver, ebb.mmps(y, operator, 0.01)),
        "`pigdm`, noise 0.01": (solver, ebb.pigdm(y, operator, 0.01)),
    }
    for name, (method, guide) in ways.items():
        yield name, *(f"{value:.3f}" for value in inpainted(method, guide))
