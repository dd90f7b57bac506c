import pytest
import torch

from ebb import testing
from ebb.errors import UsageError
from ebb.guide import inverse as home
from ebb.guide.cfg import cfg
from ebb.guide.energy import NSR_MAX, capped, energy
from ebb.guide.inpaint import inpaint
from ebb.guide.inverse import dps, mmps, pigdm, solved
from ebb.guide.operators import Curved, Operator, blur, downsample, mask, sensing
from ebb.process.exact import Gaussian, finite
from ebb.process.moment import at
from ebb.process.path import PATHS, Cosine, Linear
from ebb.sample.ddim import DDIM
from ebb.sample.noise import Noise
from ebb.sample.solvers import SOLVERS
from ebb.sample.trajectory import trajectory

N = 6
MATRIX = torch.randn(4, N, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
KERNEL = torch.tensor([0.2, 0.7, -0.4], dtype=torch.float64)  # not symmetric: its adjoint is another map

OPERATORS = {
    "mask": mask(torch.tensor([1, 0, 0, 1, 1, 0])),
    "blur": Operator(lambda x: blur(KERNEL)(x[:, None])[:, 0]),
    "downsample": downsample(3, dims=1),
    "sensing": sensing(MATRIX),
    "curved, of a function that is not": Curved(lambda x: x @ MATRIX.T),
    "one after the other": Operator(lambda x: downsample(2, dims=1)(blur(KERNEL)(x[:, None])[:, 0])),
}

ARRAYS = {
    "mask": (mask(torch.arange(30).reshape(2, 3, 5) % 3 == 0), (2, 3, 5)),
    "blur 1d": (blur(KERNEL), (2, 7)),
    "blur 2d": (blur(torch.randn(3, 5, dtype=torch.float64)), (2, 6, 7)),
    "blur 3d": (blur(torch.randn(3, 1, 3, dtype=torch.float64)), (1, 4, 3, 5)),
    "downsample": (downsample(2), (3, 4, 6)),
    "sensing": (sensing(torch.randn(3, 12, dtype=torch.float64)), (3, 4)),
}


@pytest.mark.parametrize("name", ARRAYS)
def test_the_adjoint_is_the_adjoint_and_maps_are_linear(name, generator):
    """⟨A·x, y⟩ = ⟨x, Aᵀ·y⟩ for each sample."""
    operator, shape = ARRAYS[name]
    x, other = torch.randn(2, 3, *shape, generator=generator, dtype=torch.float64)
    measured = operator(x)
    y = torch.randn(measured.shape, generator=generator, dtype=torch.float64)
    with torch.no_grad():
        back = operator.adjoint(y, x)
    assert back.shape == x.shape
    torch.testing.assert_close((measured * y).flatten(1).sum(1), (x * back).flatten(1).sum(1))
    torch.testing.assert_close(operator(2 * x - other), 2 * measured - operator(other))


def test_operators_are_what_they_say():
    x = torch.arange(16.0).reshape(1, 1, 4, 4)
    assert downsample(2)(x).flatten().tolist() == [2.5, 4.5, 10.5, 12.5]
    assert mask(torch.eye(4)[None])(x).tolist() == [[0, 5, 10, 15]]
    assert sensing(torch.ones(1, 16))(x).tolist() == [[120]]
    corner = torch.zeros(3, 3)
    corner[0, 0] = 1.0  # takes the neighbour before, on both axes
    assert blur(corner)(x)[0, 0, 1].tolist() == [0, 0, 1, 2]
    assert blur(corner)(x)[0, 0, 0].tolist() == [0, 0, 0, 0]


@pytest.mark.parametrize(
    ("operator", "message"),
    [
        (lambda: blur(torch.ones(2)), "odd size"),
        (lambda: downsample(3)(torch.zeros(1, 1, 4, 6)), "by 3 along 2 axes"),
        (lambda: sensing(torch.ones(2, 5))(torch.zeros(1, 4)), r"matrix \[2, 5\]"),
        (lambda: mask(torch.ones(4))(torch.zeros(1, 5)), "mask is for samples"),
    ],
)
def test_operators_that_do_not_fit_are_named(operator, message):
    with pytest.raises(UsageError, match=message):
        operator()


def data(path, isotropic=0.0):
    """Gaussian data: correlated, or with one standard deviation for all."""
    generator = torch.Generator().manual_seed(2)
    mean = torch.randn(N, generator=generator, dtype=torch.float64)
    root = torch.randn(N, N, generator=generator, dtype=torch.float64) / 2
    cov = isotropic**2 * torch.eye(N, dtype=torch.float64) if isotropic else root @ root.T
    return Gaussian(path, mean, cov)


def conditional(prior, operator, y, noise):
    """p(x0 | y) in closed form: again a Gaussian."""
    A = operator(torch.eye(N, dtype=torch.float64)).T
    inner = A @ prior.covariance @ A.T + noise**2 * torch.eye(len(A), dtype=torch.float64)
    gain = torch.linalg.solve(inner, A @ prior.covariance).T
    return Gaussian(
        prior.path, prior.mean + gain @ (y - A @ prior.mean), prior.covariance - gain @ A @ prior.covariance
    )


def places(path):
    t = torch.cat([testing.inside(path, 7), torch.tensor([path.end], dtype=torch.float64)])
    x = torch.randn(8, N, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    return x * path.norm(t)[:, None], t


def off(guide, path, name="sensing", noise=0.3, isotropic=0.0):
    """How far the guided denoiser is from E[x0 | x_t, y], at each time."""
    prior, operator = data(path, isotropic), OPERATORS[name]
    y = operator(torch.randn(1, N, generator=torch.Generator().manual_seed(4), dtype=torch.float64))[0]
    x, t = places(path)
    with torch.no_grad():
        guided = guide(y, operator, noise)(prior)(x, t, {})
    return (guided - conditional(prior, operator, y, noise)(x, t, {})).abs().amax(1)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("name", OPERATORS)
@pytest.mark.parametrize("noise", [0.05, 1.0])
def test_mmps_is_the_exact_posterior_mean_of_gaussian_data(path, name, noise):
    error, path = off(lambda *a: mmps(*a, iterations=2 * N), PATHS[path], name, noise), PATHS[path]
    assert error[:-1].max() < 1e-6
    assert error[-1] < (1e-6 if at(path, path.end).nsr <= NSR_MAX else 4 / NSR_MAX)


def test_a_curved_measurement_is_its_derivative_where_it_is_looked_at(generator):
    curved = Curved(lambda x: (x @ MATRIX.T).sinh())
    x, u = (torch.randn(3, N, generator=generator, dtype=torch.float64) for _ in range(2))
    measured, push, pull = curved.at(x)
    torch.testing.assert_close(measured, curved(x))
    step = 1e-6
    torch.testing.assert_close(
        push(u), (curved(x + step * u) - curved(x - step * u)) / (2 * step), rtol=1e-6, atol=1e-6
    )
    v = torch.randn(3, 4, generator=generator, dtype=torch.float64)
    torch.testing.assert_close((push(u) * v).sum(1), (u * pull(v)).sum(1))


def test_samples_agree_with_a_curved_measurement():
    """To its noise, though not one step is linear; without looking again at each x̂0 they do not."""
    curved, noise = Curved(lambda x: x[:, :3] + 0.5 * x[:, :3] ** 3), 0.02
    y = curved(torch.randn(1, N, generator=torch.Generator().manual_seed(4), dtype=torch.float64))[0]
    prior = Gaussian(Linear(), torch.zeros(N, dtype=torch.float64), torch.eye(N, dtype=torch.float64))
    random = Noise.of(0, 16)
    start = random.start((N,)).double()
    times = torch.linspace(1, 0, 33, dtype=torch.float64)

    def missed(operator):
        guided = mmps(y, operator, noise, iterations=2 * N)(prior)
        *_, last = trajectory(guided, DDIM(), times, start, {}, random)
        return float((curved(last.x) - y).square().mean().sqrt())

    assert missed(curved) < 2 * noise
    flat = Operator(lambda x: x[:, :3])  # its derivative at 0
    assert missed(flat) > 10 * noise


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("name", OPERATORS)
def test_pigdm_is_exact_for_isotropic_data_of_its_standard_deviation(path, name):
    path = PATHS[path]
    assert off(lambda *a: pigdm(*a, data_std=0.7), path, name, isotropic=0.7)[:-1].max() < 1e-6
    assert off(lambda *a: pigdm(*a, data_std=1.4), path, name, isotropic=0.7)[:-1].max() > 1e-3
    if name == "mask":
        assert off(lambda *a: pigdm(*a, data_std=0.7, iterations=1), path, name, isotropic=0.7)[:-1].max() < 1e-9


EXACT = {
    "mmps": lambda: off(lambda *a: mmps(*a, iterations=2 * N), Cosine()),
    "pigdm": lambda: off(lambda *a: pigdm(*a, data_std=0.7), Cosine(), isotropic=0.7),
}


@pytest.mark.parametrize("guide", EXACT)
@pytest.mark.parametrize("mistake", ["sign", "factor", "covariance", "transposed", "jacobian"])
def test_mutants_are_caught(guide, mistake, monkeypatch):
    tilted, back, adjoint = home.tilted, home.linearised, Operator.adjoint
    if mistake == "sign":
        monkeypatch.setattr(home, "tilted", lambda path, x0, g, t: tilted(path, x0, -g, t))
    elif mistake == "factor":
        monkeypatch.setattr(home, "tilted", lambda path, x0, g, t: x0 + g)
    elif mistake == "covariance":
        monkeypatch.setattr(home, "weighted", lambda path, t, x, of: 1.0)
    elif mistake == "transposed":
        monkeypatch.setattr(Operator, "adjoint", lambda self, y, like: adjoint(self, y.flip(1), like))
    else:
        monkeypatch.setattr(home, "linearised", lambda *a: (back(*a)[0], lambda u: u))
    assert EXACT[guide]()[:-1].max() > 0.03


def test_a_square_operator_that_is_not_transposed_is_caught(monkeypatch):
    monkeypatch.setattr(Operator, "adjoint", lambda self, y, like: self(y))
    assert off(lambda *a: mmps(*a, iterations=2 * N), Cosine(), "blur")[:-1].max() > 0.01


def test_few_iterations_are_a_part_of_the_way():
    errors = [off(lambda *a, n=n: mmps(*a, iterations=n), Cosine())[:-1].max() for n in (1, 2, 4)]
    assert errors[0] > errors[1] > errors[2]
    assert errors[2] < 0.02


@pytest.mark.parametrize("time", [0.4, 1.0])
def test_a_shared_time_gives_what_separate_times_give(time):
    path, x = Cosine(), torch.randn(3, N, dtype=torch.float64)
    for guide in (mmps, pigdm):
        guided = guide(torch.zeros(4, dtype=torch.float64), sensing(MATRIX), 0.1)(data(path))
        separate = guided(x, torch.full((3,), time, dtype=torch.float64), {})
        torch.testing.assert_close(guided(x, at(path, time), {}), separate)


def test_conjugate_gradients_solve_each_sample_and_survive_what_is_not_positive(generator):
    root = torch.randn(3, 5, 5, generator=generator, dtype=torch.float64)
    matrix = root @ root.mT + torch.eye(5)
    target = torch.randn(3, 5, generator=generator, dtype=torch.float64)
    found = solved(lambda v: (matrix @ v[..., None])[..., 0], target, 12)
    torch.testing.assert_close(found, torch.linalg.solve(matrix, target))
    assert (solved(lambda v: -v, target, 5) == 0).all()
    assert (solved(lambda v: v, torch.zeros(3, 5), 5) == 0).all()


def ends(denoiser, solver, steps=30, count=64):
    noise, path = Noise.of(0, count), denoiser.path
    x = noise.start((N,)).double() * at(path, path.end).sigma
    for point in trajectory(denoiser, solver, testing.graded(path, steps), x, {}, noise):
        x = point.x
    return x


def test_samples_are_those_of_the_conditional_distribution():
    path, y = Cosine(), torch.tensor([0.5, -1.0, 0.3, 0.8], dtype=torch.float64)
    guided = mmps(y, sensing(MATRIX), 0.2, iterations=2 * N)(data(path))
    exact = conditional(data(path), sensing(MATRIX), y, 0.2)
    torch.testing.assert_close(ends(guided, DDIM()), ends(exact, DDIM()), rtol=0, atol=5e-3)


def residual(x, y, operator):
    return torch.linalg.vector_norm(operator(x) - y, dim=1).mean().item()


@pytest.mark.parametrize("path", ["cosine", "linear", "edm"])
def test_dps_pulls_towards_the_measurement_the_more_the_larger_its_scale(path):
    operator, y = OPERATORS["mask"], torch.tensor([0.5, -1.0, 0.3], dtype=torch.float64)
    left = [
        residual(ends(dps(y, operator, scale)(data(PATHS[path])), DDIM(), steps=100), y, operator)
        for scale in (0.0, 1.0, 4.0)
    ]
    assert left[1] < 0.75 * left[0]
    assert left[2] < 0.2 * left[0]


def test_dps_with_its_sign_flipped_is_caught():
    operator, y = OPERATORS["mask"], torch.tensor([0.5, -1.0, 0.3], dtype=torch.float64)
    plain = residual(ends(data(Cosine()), DDIM()), y, operator)
    assert residual(ends(dps(y, operator, -1.0)(data(Cosine())), DDIM()), y, operator) > 1.2 * plain


def test_dps_is_the_score_minus_the_gradient_of_the_squared_residual_over_the_residual():
    """In closed form for Gaussian data: x̂0 + scale·2·Cov·Aᵀe/‖e‖."""
    path = Cosine()
    prior, (x, t) = data(path), places(path)
    x, t = x[:-1], t[:-1]
    y = torch.tensor([0.5, -1.0, 0.3, 0.8], dtype=torch.float64)
    x0 = prior(x, t, {})
    e = y - x0 @ MATRIX.T
    nsr2 = (path.nsr(t) ** 2)[:, None, None] * torch.eye(N)
    posterior = prior.covariance - prior.covariance @ torch.linalg.solve(prior.covariance + nsr2, prior.covariance)
    pull = (posterior @ (e @ MATRIX)[..., None])[..., 0] / torch.linalg.vector_norm(e, dim=1, keepdim=True)
    torch.testing.assert_close(dps(y, sensing(MATRIX), 0.8)(prior)(x, t, {}), x0 + 1.6 * pull)


def test_dps_at_a_residual_of_zero_is_a_number():
    prior = Gaussian(Cosine(), torch.zeros(2, dtype=torch.float64), torch.eye(2, dtype=torch.float64))
    t = torch.tensor([0.5], dtype=torch.float64)
    guided = dps(torch.zeros(2, dtype=torch.float64), lambda x: x)(prior)
    assert guided(torch.zeros(1, 2, dtype=torch.float64), t, {}).tolist() == [[0.0, 0.0]]


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("guide", [mmps, pigdm])
def test_every_solver_agrees_with_the_measurement(solver, guide):
    y = torch.tensor([[0.5, -1.0, 0.3]], dtype=torch.float64)
    guided, plain = (
        residual(ends(denoiser, SOLVERS[solver], steps=8, count=8), y, OPERATORS["mask"])
        for denoiser in (guide(y, OPERATORS["mask"], 0.01)(data(Cosine())), data(Cosine()))
    )
    assert guided < 0.15 * plain


def test_a_measurement_for_each_sample_is_repeated_as_cfg_repeats_the_batch():
    path, null = Linear(), {"label": torch.tensor([2])}
    plain, t = testing.TwoLabels(path), testing.inside(path, 3)
    x, cond = torch.linspace(-1, 1, 3, dtype=torch.float64)[:, None], {"label": torch.tensor([0, 1, 0])}
    y = torch.tensor([[0.1], [0.5], [-0.4]], dtype=torch.float64)
    guide = mmps(y, sensing(torch.eye(1)), 0.5, iterations=1)
    within = cfg(2.0, null)(guide(plain))(x, t, cond)
    alone = [
        cfg(2.0, null)(mmps(y[i], sensing(torch.eye(1)), 0.5, iterations=1)(plain))(
            x[i : i + 1], t[i : i + 1], {"label": cond["label"][i : i + 1]}
        )
        for i in range(3)
    ]
    torch.testing.assert_close(within, torch.cat(alone))
    assert torch.isfinite(guide(cfg(2.0, null)(plain))(x, t, cond)).all()


def test_two_measurements_one_guide_around_the_other_are_both():
    """The outer guide differentiates the inner one, solver and all: on Gaussian data that is exact as well."""
    path = Cosine()
    prior, (x, t) = data(path), places(path)
    x, t = x[:-1], t[:-1]
    A, B, y, z = MATRIX[:2], MATRIX[2:], torch.tensor([0.5, -1.0]).double(), torch.tensor([0.3, 0.8]).double()
    nested = mmps(y, sensing(A), 0.3, 4)(mmps(z, sensing(B), 0.3, 4)(prior))
    exact = conditional(prior, sensing(MATRIX), torch.cat([y, z]), 0.3)
    torch.testing.assert_close(nested(x, t, {}), exact(x, t, {}), rtol=0, atol=1e-5)
    around = energy(lambda x0: x0.sum(1))(pigdm(y, sensing(A), 0.3)(prior))
    assert torch.isfinite(around(x, t, {})).all()


def test_where_inpaint_only_hopes_mmps_knows():
    """Half of a data set's two points is known: mmps chooses the point that has it, at a noise where both are likely."""
    points = torch.tensor([[1.0, 1.0], [-1.0, -1.0]], dtype=torch.float64)
    x, seen = torch.zeros(1, 2, dtype=torch.float64), torch.tensor([True, False])
    exact, t = finite(Linear(), points), at(Linear(), 0.6).shared(1)
    replaced = inpaint(points[0], seen)(exact)(x, t, {})
    known = mmps(points[0, :1], mask(seen), 0.0, 1)(exact)(x, t, {})
    torch.testing.assert_close(replaced, torch.tensor([[1.0, 0.0]], dtype=torch.float64))
    torch.testing.assert_close(known, points[:1])


def test_settings_and_shapes_that_cannot_be_are_refused():
    y, operator = torch.zeros(4, dtype=torch.float64), sensing(MATRIX)
    for wrong in (lambda: mmps(y, operator, -1.0), lambda: pigdm(y, operator, 0.0, iterations=0)):
        with pytest.raises(UsageError, match="expected noise ≥ 0 and iterations ≥ 1"):
            wrong()
    with pytest.raises(UsageError, match="data_std > 0"):
        pigdm(y, operator, 0.1, data_std=0.0)
    x, t = capped(Cosine(), *places(Cosine()))
    for guide in (mmps(y[:3], operator, 0.1), dps(y[:3], operator)):
        with pytest.raises(UsageError, match=r"a measurement of shape \[3\] does not fit samples of shape \[8, 4\]"):
            guide(data(Cosine()))(x, t, {})
