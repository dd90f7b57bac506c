import pytest
import torch

from ebb import testing
from ebb.errors import UsageError
from ebb.guide.cfg import cfg
from ebb.guide.compose import Composed, compose
from ebb.process.exact import Gaussian
from ebb.process.moment import at, combine
from ebb.process.path import PATHS, Cosine, Linear

NULL = {"label": torch.tensor([2])}
ONE, OTHER = {"label": torch.tensor([0])}, {"label": torch.tensor([1])}

MEANS = torch.tensor([[1.0, 0.2], [-0.4, 0.8], [0.1, -0.2]], dtype=torch.float64)
COVARIANCES = torch.tensor(
    [[[0.5, 0.2], [0.2, 0.3]], [[0.4, -0.1], [-0.1, 0.6]], [[1.2, 0.3], [0.3, 1.5]]], dtype=torch.float64
)


class Gaussians:
    """Two conditions and none (2), each with Gaussian data of its own in the plane."""

    def __init__(self, path):
        self.path, self.sizes = path, []

    def __call__(self, x, t, cond):
        self.sizes.append(len(x))
        answers = torch.stack(
            [Gaussian(self.path, mean, cov)(x, t, {}) for mean, cov in zip(MEANS, COVARIANCES, strict=True)]
        )
        return answers[cond["label"], torch.arange(len(x))]


def places(path, count=6):
    t = testing.inside(path, count)
    x = torch.randn(count, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    return x * path.norm(t)[:, None], t


def product(path, x, t, scales):
    """(x + σ²·∇ log q)/α for the Gaussian q ∝ p_t·Π (p_t(· | i)/p_t)^{w_i}, from its precision matrix and mean."""
    answers = []
    for place, time in zip(x, t, strict=True):
        alpha, sigma = float(path.alpha(time[None])), float(path.sigma(time[None]))
        precisions = torch.linalg.inv(alpha**2 * COVARIANCES + sigma**2 * torch.eye(2, dtype=torch.float64))
        weights = torch.tensor([*scales, 1 - sum(scales)], dtype=torch.float64)
        precision = (weights[:, None, None] * precisions).sum(0)
        pulls = torch.einsum("k,kij,kj->i", weights, precisions, alpha * MEANS)
        mean = torch.linalg.solve(precision, pulls)
        answers.append((place - sigma**2 * precision @ (place - mean)) / alpha)
    return torch.stack(answers)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("scales", [(1.0, 1.0), (0.5, 0.5), (2.0, 0.7), (1.0, -0.4)])
def test_composition_is_the_exact_product_of_gaussians_at_every_noise_level(path, scales):
    """Conjunctions, and in the last case a negation."""
    path = PATHS[path]
    x, t = places(path)
    guided = compose([(scales[0], ONE), (scales[1], OTHER)], NULL)(Gaussians(path))
    torch.testing.assert_close(guided(x, t, {}), product(path, x, t, scales), rtol=1e-9, atol=1e-9)


def test_a_negation_undoes_a_conjunction():
    x, t = places(Cosine())
    plain = Gaussians(Cosine())
    got = compose([(1.0, ONE), (0.8, OTHER), (-0.8, OTHER)], NULL)(plain)(x, t, {})
    torch.testing.assert_close(got, plain(x, t, {"label": torch.zeros(6).long()}))


def test_negation_moves_away_from_the_condition():
    path, plain = Linear(), testing.TwoLabels(Linear())
    x, t = torch.zeros(1, 1, dtype=torch.float64), torch.tensor([0.5], dtype=torch.float64)
    null = plain(x, t, {"label": torch.tensor([2])})
    assert compose([(-1.0, ONE)], NULL)(plain)(x, t, {}) > null  # the first hump lies below
    assert compose([(-1.0, OTHER)], NULL)(plain)(x, t, {}) < null
    assert path.end == 1


@pytest.mark.parametrize("path", PATHS)
def test_one_term_keeps_the_contract_of_guides(path):
    testing.check_guide(lambda scale: compose([(scale, OTHER)], NULL), PATHS[path], labels=(1,))
    testing.check_guide(lambda scale: compose([(1.0, ONE), (scale - 1, OTHER)], NULL), PATHS[path], labels=(0,), on=1.7)


@pytest.mark.parametrize("scale", [0.0, 1.0, 3.0])
def test_one_term_is_classifier_free_guidance(scale):
    plain, (x, t) = Gaussians(Cosine()), places(Cosine())
    expected = cfg(scale, NULL)(plain)(x, t, {"label": torch.ones(6).long()})
    torch.testing.assert_close(compose([(scale, OTHER)], NULL)(plain)(x, t, {}), expected)


@pytest.mark.parametrize(
    ("terms", "size"),
    [
        ([(1.5, ONE), (0.5, OTHER)], 18),
        ([(0.3, ONE), (0.7, OTHER)], 12),
        ([(0.1, ONE), (0.2, ONE), (0.7, OTHER)], 18),
        ([(1.0, ONE)], 6),
        ([], 6),
        ([(0.0, ONE), (2.0, OTHER)], 12),
    ],
)
def test_one_call_asks_for_what_counts_and_nothing_else(terms, size):
    plain, (x, t) = Gaussians(Cosine()), places(Cosine())
    compose(terms, NULL)(plain)(x, t, {})
    assert plain.sizes == [size]


class TwoKinds:
    """x0 = shape + 10·hue + 100·size, each the number it is told."""

    path = Linear()

    def __call__(self, x, t, cond):
        return (cond["shape"] + 10 * cond["hue"] + 100 * cond["size"]).expand_as(x)


def test_a_term_may_name_one_of_several_conditions_and_the_rest_is_as_given():
    null = {"shape": torch.zeros(1, 1), "hue": torch.zeros(1, 1)}
    terms = [(1.0, {"shape": torch.ones(1, 1)}), (2.0, {"hue": torch.tensor([[1.0], [2.0]])})]
    given = {"shape": torch.full((2, 1), 7.0), "size": torch.tensor([[3.0], [4.0]])}
    t = at(Linear(), 0.5).shared(2)
    got = compose(terms, null)(TwoKinds())(torch.zeros(2, 1), t, given)
    torch.testing.assert_close(got, torch.tensor([[1.0 + 20 + 300], [1.0 + 40 + 400]]))


def test_what_does_not_fit_is_named():
    with pytest.raises(UsageError, match="no null for the condition 'lable'"):
        compose([(1.0, {"lable": torch.tensor([0])})], NULL)
    x, t = places(Cosine())
    with pytest.raises(UsageError, match="'label' has 2 rows for a batch of 6"):
        compose([(2.0, {"label": torch.tensor([0, 1])})], NULL)(Gaussians(Cosine()))(x, t, {})


def exchanged(self, x, t, cond):
    """Weights in the wrong order."""
    weights, conds = zip(*self.terms, strict=True)
    answers = [self.denoiser(x, t, {"label": c["label"].expand(len(x))}) for c in conds]
    return combine(*zip(reversed(weights), answers, strict=True))


def without_base(self, x, t, cond):
    """The null answer counted once too often, as if the scores of the conditions were simply added."""
    null, *terms = self.terms
    answers = [self.denoiser(x, t, {"label": c["label"].expand(len(x))}) for _, c in (null, *terms)]
    return combine((1.0, answers[0]), *((w, a) for (w, _), a in zip(terms, answers[1:], strict=True)))


@pytest.mark.parametrize("mutant", [exchanged, without_base])
def test_mutants_are_caught(mutant, monkeypatch):
    monkeypatch.setattr(Composed, "__call__", mutant)
    with pytest.raises(AssertionError):
        test_composition_is_the_exact_product_of_gaussians_at_every_noise_level("cosine", (2.0, 0.7))
