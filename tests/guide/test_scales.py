import itertools
import math

import pytest
import torch

from ebb import testing
from ebb.errors import UsageError
from ebb.guide.apg import Projected
from ebb.guide.autoguide import Autoguided, autoguide
from ebb.guide.cfg import ClassifierFree, PlusPlus, cfg, cfg_plus_plus
from ebb.guide.compose import compose
from ebb.guide.interval import Within, within
from ebb.guide.rescale import Rescaled
from ebb.guide.temperature import temperature
from ebb.guide.threshold import dynamic_threshold
from ebb.process.denoiser import answer
from ebb.process.exact import Gaussian
from ebb.process.moment import Moment, at
from ebb.process.path import EDM, PATHS, Cosine, Linear
from ebb.process.times import uniform_grid
from ebb.sample.ddim import DDIM, Euler
from ebb.sample.noise import Noise
from ebb.sample.solvers import SOLVERS
from ebb.sample.trajectory import trajectory

NULL = {"label": torch.tensor([2])}
LABELS = {"label": torch.tensor([0, 1, 0, 1])}


class Asked:
    """A denoiser that remembers the sizes of the batches, and the times, that it was asked."""

    takes_moments = True

    def __init__(self, denoiser):
        self.denoiser, self.path, self.sizes, self.times = denoiser, denoiser.path, [], []

    def __call__(self, x, t, cond):
        self.sizes.append(len(x))
        self.times.append(t)
        return answer(self.denoiser, x, t, cond)


class Shifted:
    """A worse model: every answer is too low."""

    def __init__(self, path, by=0.2):
        self.path, self.by = path, by

    def __call__(self, x, t, cond):
        return testing.TwoLabels(self.path)(x, t, cond) - self.by


def grid(path):
    return testing.graded(path, 9)


GUIDES = {
    "rescaled": lambda path: lambda scale: cfg(scale, NULL, Rescaled(0.7)),
    "projected": lambda path: lambda scale: cfg(scale, NULL, Projected(0.2, 1.5)),
    "within": lambda path: lambda scale: within(cfg(scale, NULL), 0.3, 2.0),
    "autoguide": lambda path: lambda scale: autoguide(Shifted(path), scale),
    "autoguide on another path": lambda path: lambda scale: autoguide(Shifted(EDM(20.0)), scale),
}


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("name", GUIDES)
def test_scales_keep_the_contract_of_guides(name, path):
    testing.check_guide(GUIDES[name](PATHS[path]), PATHS[path])


@pytest.mark.parametrize("path", PATHS)
def test_guides_without_a_scale_that_is_off_keep_it_too(path):
    path = PATHS[path]
    testing.check_guide(lambda scale: cfg_plus_plus(scale, NULL, grid(path)), path, off=None, on=1.0)
    testing.check_guide(lambda limit: dynamic_threshold(0.8, limit), path, off=math.inf, on=0.5)


def x0s(*shape):
    return torch.randn(2, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


# --- rescaled ---------------------------------------------------------------------------------------------------------


def test_phi_one_has_the_contrast_of_the_conditional_answer_and_phi_zero_is_plain():
    low, high = x0s(3, 2, 5)
    plain = torch.lerp(low, high, 4.0)
    full = Rescaled(1.0)(low, high, 4.0)
    torch.testing.assert_close(full.flatten(1).std(1), high.flatten(1).std(1))
    torch.testing.assert_close(Rescaled(0.0)(low, high, 4.0), plain)
    torch.testing.assert_close(Rescaled(0.3)(low, high, 4.0), 0.3 * full + 0.7 * plain)
    torch.testing.assert_close(Rescaled(0.7)(low, high, 1.0), high)


def test_a_sample_without_contrast_is_left_as_it_is():
    low, high = torch.zeros(2, 4), torch.ones(2, 4)
    torch.testing.assert_close(Rescaled(1.0)(low, high, 3.0), 3 * high)


@pytest.mark.parametrize("phi", [-0.1, 1.1])
def test_phi_is_a_share(phi):
    with pytest.raises(UsageError, match="phi is a share"):
        Rescaled(phi)


# --- APG --------------------------------------------------------------------------------------------------------------


def test_projected_is_plain_guidance_with_both_limits_off():
    low, high = x0s(3, 2, 5)
    torch.testing.assert_close(Projected(1.0)(low, high, 4.0), torch.lerp(low, high, 4.0))
    torch.testing.assert_close(Projected(0.3, 1.0)(low, high, 1.0), high)


def test_projected_is_the_papers_formula():
    low, high = x0s(3, 2, 5)
    for eta, radius, scale in itertools.product((0.0, 0.4), (1.0, 100.0), (0.0, 5.0)):
        got = Projected(eta, radius)(low, high, scale)
        for a, b, one in zip(low.flatten(1), high.flatten(1), got.flatten(1), strict=True):
            delta = (b - a) * min(1.0, radius / float((b - a).norm()))
            unit = b / b.norm()
            along = (delta @ unit) * unit
            torch.testing.assert_close(one, b + (scale - 1) * (delta - along + eta * along))


def test_without_the_parallel_part_the_answer_only_turns():
    low, high = x0s(4, 6)
    moved = Projected(0.0)(low, high, 7.0) - high
    torch.testing.assert_close((moved * high).sum(1), torch.zeros(4, dtype=torch.float64), atol=1e-12, rtol=0)
    assert (Projected(0.0, 0.5)(low, high, 3.0) - high).norm(dim=1).max() <= 2 * 0.5 + 1e-12


def test_projected_takes_equal_answers_and_zeros():
    low, high = torch.zeros(2, 3), torch.zeros(2, 3)
    for radius in (1.0, math.inf):
        torch.testing.assert_close(Projected(0.0, radius)(low, high, 3.0), high)
    with pytest.raises(UsageError, match="radius is the largest norm"):
        Projected(0.0, 0.0)


# --- CFG++ ------------------------------------------------------------------------------------------------------------


def written_out(plain, times, x, cond, lam):
    """Algorithm 2 of Chung et al. 2024 with x_t = α·x0 + σ·ε in place of √ᾱ and √(1 − ᾱ)."""
    path = plain.path
    for t, s in itertools.pairwise(times.tolist()):
        now = torch.full((len(x),), t, dtype=torch.float64)
        alpha, sigma = float(path.alpha(now)[0]), float(path.sigma(now)[0])
        null = plain(x, now, {"label": torch.full((len(x),), 2)})
        conditional = plain(x, now, cond)
        eps = (x - alpha * null) / sigma
        there = torch.tensor([s], dtype=torch.float64)
        x = path.alpha(there) * (null + lam * (conditional - null)) + path.sigma(there) * eps
    return x


def sampled(guide, plain, times, x, cond, solver):
    return list(trajectory(guide(plain), solver, times, x, cond, Noise.of(0, len(x))))[-1].x


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("scale", [0.0, 0.6, 1.0])
def test_cfg_plus_plus_with_ddim_is_the_papers_algorithm(path, scale):
    path = PATHS[path]
    plain, times = testing.TwoLabels(path), grid(path)
    x = torch.linspace(-1, 1, 8, dtype=torch.float64).reshape(4, 2) * float(path.sigma(times[:1]))
    expected = written_out(plain, times, x, LABELS, scale)
    for solver in (DDIM(), Euler()):
        got = sampled(cfg_plus_plus(scale, NULL, times), plain, times, x, LABELS, solver)
        torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-9)


def test_cfg_plus_plus_at_one_is_not_off():
    plain, times = testing.TwoLabels(Cosine()), grid(Cosine())
    x = torch.linspace(-1, 1, 8, dtype=torch.float64).reshape(4, 2)
    got, off = (
        sampled(guide, plain, times, x, LABELS, DDIM()) for guide in (cfg_plus_plus(1.0, NULL, times), cfg(1.0, NULL))
    )
    assert (got - off).abs().max() > 0.05


def test_cfg_plus_plus_between_and_below_the_times_takes_the_next_below():
    guided = cfg_plus_plus(0.5, NULL, torch.tensor([1.0, 0.6, 0.2]))(testing.TwoLabels(Linear()))
    ratio = [0.2 / 0.8, 0.6 / 0.4]  # ν at 0.2 and at 0.6
    assert guided.reach(0.5) == pytest.approx(0.5 / (1 - ratio[0] / 1.0))
    assert guided.reach(0.6) == pytest.approx(0.5 / (1 - ratio[0] / ratio[1]))
    assert guided.reach(0.2) == pytest.approx(0.5)  # on to 0


@pytest.mark.parametrize(
    ("scale", "times", "match"), [(7.5, [1.0, 0.0], "a share from 0 to 1"), (0.5, [0.0, 1.0], "falling times")]
)
def test_cfg_plus_plus_names_what_is_wrong(scale, times, match):
    with pytest.raises(UsageError, match=match):
        cfg_plus_plus(scale, NULL, torch.tensor(times))


# --- interval ---------------------------------------------------------------------------------------------------------


def test_outside_of_the_interval_the_denoiser_is_called_once_as_it_is():
    path = Linear()
    plain = Asked(testing.TwoLabels(path))
    guided = within(cfg(4.0, NULL), 0.5, 2.0)(plain)
    x = torch.linspace(-1, 1, 8, dtype=torch.float64).reshape(4, 2)
    for nsr, size in ((0.5, 4), (0.51, 8), (2.0, 8), (2.01, 4), (math.inf, 4)):
        plain.sizes.clear()
        time = float(path.time(torch.tensor([nsr], dtype=torch.float64)))
        got = guided(x, at(path, time), LABELS)
        assert plain.sizes == [size], nsr
        own = cfg(4.0, NULL)(plain.denoiser) if size == 8 else plain.denoiser
        torch.testing.assert_close(got, own(x, torch.full((4,), time).double(), LABELS))


def test_samples_on_both_sides_of_the_interval_each_get_their_own():
    plain, t = testing.TwoLabels(Linear()), torch.tensor([0.1, 0.5, 0.9, 0.6], dtype=torch.float64)
    x = torch.linspace(-1, 1, 8, dtype=torch.float64).reshape(4, 2)
    got = within(cfg(4.0, NULL), 0.5, 2.0)(plain)(x, t, LABELS)
    guided, off = cfg(4.0, NULL)(plain)(x, t, LABELS), plain(x, t, LABELS)
    torch.testing.assert_close(got, torch.stack([off[0], guided[1], off[2], guided[3]]))
    for one_side in (t[[1, 3]], t[[0, 2]]):
        asked = Asked(plain)
        within(cfg(4.0, NULL), 0.5, 2.0)(asked)(x[:2], one_side, {"label": torch.tensor([0, 1])})
        assert asked.sizes == ([4] if one_side[0] == 0.5 else [2])


@pytest.mark.parametrize("bounds", [(-1.0, 2.0), (2.0, 2.0), (3.0, 2.0)])
def test_an_interval_has_two_ends(bounds):
    with pytest.raises(UsageError, match="0 ≤ low < high"):
        within(cfg(2.0, NULL), *bounds)


# --- autoguidance -----------------------------------------------------------------------------------------------------


def test_autoguidance_undoes_the_error_that_two_models_share():
    """A model that errs by e guided by one that errs by 2e is exact at scale 2."""
    path, t = Cosine(), testing.inside(Cosine(), 4)
    x = torch.linspace(-1, 1, 8, dtype=torch.float64).reshape(4, 2)
    got = autoguide(Shifted(path, 0.4), 2.0)(Shifted(path, 0.2))(x, t, LABELS)
    torch.testing.assert_close(got, testing.TwoLabels(path)(x, t, LABELS))


def test_the_weak_model_may_live_on_another_path():
    t = testing.inside(Cosine(), 4)
    x = torch.linspace(-1, 1, 8, dtype=torch.float64).reshape(4, 2)
    here, there = (
        autoguide(Shifted(path), 3.0)(testing.TwoLabels(Cosine()))(x, t, LABELS) for path in (Cosine(), EDM())
    )
    torch.testing.assert_close(here, there)


def test_autoguidance_of_gaussians_is_the_power_of_their_ratio():
    """p_strong^w/p_weak^{w−1} at one noise level, from its precision and mean."""
    path, t = Linear(), torch.tensor([0.4], dtype=torch.float64)
    strong = testing.normal(path)
    weak = Gaussian(path, strong.mean * 0.5, strong.covariance * 2)
    x, w = torch.tensor([[0.3, -0.7]], dtype=torch.float64), 1.7
    alpha, sigma = 0.6, 0.4
    precisions = [torch.linalg.inv(alpha**2 * g.covariance + sigma**2 * torch.eye(2)) for g in (strong, weak)]
    score = -w * precisions[0] @ (x[0] - alpha * strong.mean) + (w - 1) * precisions[1] @ (x[0] - alpha * weak.mean)
    got = autoguide(weak, w)(strong)(x, t, {})
    torch.testing.assert_close(got[0], (x[0] + sigma**2 * score) / alpha)


# --- thresholding -----------------------------------------------------------------------------------------------------


class Says:
    path = Linear()

    def __init__(self, x0):
        self.x0 = x0

    def __call__(self, x, t, cond):
        return self.x0


def test_dynamic_threshold_divides_each_sample_by_its_own_quantile():
    x0 = torch.tensor([[0.1, -0.5, 0.9, 0.2], [1.0, -2.0, 4.0, 0.5]])
    t = torch.tensor([0.5, 0.5], dtype=torch.float64)
    got = dynamic_threshold(0.75)(Says(x0))(x0, t, {})
    torch.testing.assert_close(got, torch.tensor([[0.1, -0.5, 0.9, 0.2], [0.5, -1.0, 1.0, 0.25]]))
    torch.testing.assert_close(dynamic_threshold(1.0, 2.0)(Says(x0))(x0, t, {}), torch.stack([x0[0], x0[1] / 2]))


@pytest.mark.parametrize("wrong", [(0.0, 1.0), (1.5, 1.0), (0.9, 0.0)])
def test_dynamic_threshold_names_what_is_wrong(wrong):
    with pytest.raises(UsageError, match="a share in"):
        dynamic_threshold(*wrong)


# --- together ---------------------------------------------------------------------------------------------------------


def combinations(times):
    joined = compose([(1.5, {"label": torch.tensor([0])}), (-0.5, {"label": torch.tensor([1])})], NULL)
    return {
        "threshold(cfg)": lambda d: dynamic_threshold()(cfg(5.0, NULL)(d)),
        "within(cfg)": within(cfg(5.0, NULL), 0.2, 5.0),
        "within(threshold(rescaled))": within(
            lambda d: dynamic_threshold(0.9)(cfg(5.0, NULL, Rescaled())(d)), 0.2, 5.0
        ),
        "cfg(threshold)": lambda d: cfg(5.0, NULL)(dynamic_threshold()(d)),
        "autoguide(cfg)": lambda d: autoguide(Shifted(d.path), 2.0)(cfg(3.0, NULL)(d)),
        "projected autoguide(temperature)": lambda d: autoguide(Shifted(d.path), 2.0, Projected())(temperature(0.8)(d)),
        "temperature(compose)": lambda d: temperature(0.8)(joined(d)),
        "compose(cfg)": lambda d: joined(cfg(2.0, NULL)(d)),
        "threshold(cfg++)": lambda d: dynamic_threshold()(cfg_plus_plus(0.6, NULL, times)(d)),
        "within(cfg++(temperature))": within(lambda d: cfg_plus_plus(0.6, NULL, times)(temperature(0.9)(d)), 0.2, 5.0),
    }


@pytest.mark.parametrize("name", combinations(uniform_grid(Linear(), 4)))
def test_guides_compose_in_any_order_and_serve_every_solver(name):
    path, times = Linear(), uniform_grid(Linear(), 4)
    guided = combinations(times)[name](testing.TwoLabels(path))
    noise = Noise.of(0, 4)
    assert guided.path == path
    for solver in SOLVERS.values():
        if getattr(solver, "variance", "small") == "learned":
            continue
        for point in trajectory(guided, solver, times, noise.start((2, 3)).double(), LABELS, noise):
            assert torch.isfinite(point.x).all(), solver


@pytest.mark.parametrize("name", combinations(uniform_grid(Linear(), 4)))
def test_a_shared_time_reaches_the_network_as_a_moment(name):
    path, times = Linear(), uniform_grid(Linear(), 4)
    asked = Asked(testing.TwoLabels(path))
    combinations(times)[name](asked)(torch.ones(4, 2, dtype=torch.float64), at(path, 0.75), LABELS)
    assert asked.times
    assert all(isinstance(t, Moment) for t in asked.times)


def test_guidance_within_all_noise_is_guidance():
    plain, t = testing.TwoLabels(Linear()), testing.inside(Linear(), 4)
    x = torch.linspace(-1, 1, 8, dtype=torch.float64).reshape(4, 2)
    got = within(cfg(3.0, NULL))(plain)(x, t, LABELS)
    torch.testing.assert_close(got, cfg(3.0, NULL)(plain)(x, t, LABELS))


# --- mutants ----------------------------------------------------------------------------------------------------------


def over_the_batch(self, low, high, scale):
    far = torch.lerp(low, high, scale)
    return far * (1 + self.phi * (high.std() / far.std() - 1))


def along_the_whole_batch(self, low, high, scale):
    apart = high - low
    return high + (scale - 1) * (apart - (1 - self.eta) * (apart * high).sum() / (high**2).sum() * high)


def off_is_zero(self, x, t, cond):
    return torch.lerp(self.denoiser(x, t, cond), self.weak(x, t, cond), -self.scale)


def forgets_the_samples_outside(self, x, t, cond):
    return (self.guided if bool((self.path.nsr(t) > self.low).any()) else self.denoiser)(x, t, cond)


@pytest.mark.parametrize(
    ("home", "method", "mutant", "name", "match"),
    [
        (Rescaled, "__call__", over_the_batch, "rescaled", "alone and in a batch"),
        (Projected, "__call__", along_the_whole_batch, "projected", "alone and in a batch"),
        (Within, "__call__", forgets_the_samples_outside, "within", "alone and in a batch"),
    ],
)
def test_mutants_that_mix_samples_are_caught(home, method, mutant, name, match, monkeypatch):
    monkeypatch.setattr(home, method, mutant)
    with pytest.raises(AssertionError, match=match):
        testing.check_guide(GUIDES[name](Cosine()), Cosine())


class Broken:
    """A guide with one mistake."""

    takes_moments = True

    def __init__(self, denoiser, mistake):
        self.denoiser, self.mistake = denoiser, mistake
        self.path = Linear() if mistake == "path" else denoiser.path
        self.asked = 0

    def __call__(self, x, t, cond):
        self.asked += 1
        x0 = answer(self.denoiser, x, t, cond) + 1
        if self.mistake == "writes":
            x.mul_(0.5)
        elif self.mistake == "remembers":
            x0 = x0 + self.asked
        elif self.mistake == "precision":
            x0 = x0.double()
        elif self.mistake == "shared" and isinstance(t, Moment):
            x0 = x0 + 1
        return x0


@pytest.mark.parametrize(
    ("mistake", "match"),
    [
        ("path", "has the path"),
        ("writes", "x is not written to"),
        ("remembers", "asked twice"),
        ("precision", "in torch.float32"),
        ("shared", "a time that the batch shares"),
        ("none", "is off"),
    ],
)
def test_what_a_guide_may_not_do_is_caught(mistake, match):
    off = 1.0 if mistake == "none" else None
    with pytest.raises(AssertionError, match=match):
        testing.check_guide(lambda scale: lambda d: Broken(d, mistake), Cosine(), off=off)


def test_an_autoguide_that_is_off_at_zero_is_caught(monkeypatch):
    monkeypatch.setattr(Autoguided, "__call__", off_is_zero)
    with pytest.raises(AssertionError):
        test_autoguidance_undoes_the_error_that_two_models_share()


def after_next(self, time):
    return ([s for s in self.times if s < time][1:] or [0.0])[0]


@pytest.mark.parametrize(
    "mutant",
    [
        lambda self, time: self.scale,
        lambda self, time: self.scale / (1 - at(self.path, after_next(self, time)).nsr / at(self.path, time).nsr),
    ],
    ids=["plain guidance", "a wrong next time"],
)
def test_cfg_plus_plus_mutants_are_caught(mutant, monkeypatch):
    monkeypatch.setattr(PlusPlus, "reach", mutant)
    with pytest.raises(AssertionError):
        test_cfg_plus_plus_with_ddim_is_the_papers_algorithm("cosine", 0.6)


def test_a_projection_onto_the_wrong_answer_is_caught(monkeypatch):
    right = Projected.__call__
    monkeypatch.setattr(Projected, "__call__", lambda self, low, high, scale: right(self, high, low, 2 - scale))
    with pytest.raises(AssertionError):
        test_projected_is_the_papers_formula()


def test_classifier_free_guidance_takes_a_stretch():
    plain, t = testing.TwoLabels(Cosine()), testing.inside(Cosine(), 4)
    x = torch.linspace(-1, 1, 8, dtype=torch.float64).reshape(4, 2)
    null = plain(x, t, {"label": torch.full((4,), 2)})
    got = ClassifierFree(plain, 3.0, NULL, Rescaled(0.5))(x, t, LABELS)
    torch.testing.assert_close(got, Rescaled(0.5)(null, plain(x, t, LABELS), 3.0))
