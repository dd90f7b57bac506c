import pytest
import torch

from ebb import testing
from ebb.errors import UsageError
from ebb.guide import classifier_guidance as home
from ebb.guide.cfg import cfg
from ebb.guide.classifier_guidance import NetworkClassifier, NoisyClassifier, classifier
from ebb.guide.energy import NSR_MAX, energy
from ebb.networks.classifier import Classifier, PointClassifier
from ebb.process.denoiser import NetworkDenoiser, quarter_log_nsr, retime
from ebb.process.moment import at
from ebb.process.path import EDM, PATHS, Cosine, Linear, spread
from ebb.process.predict import noise
from ebb.process.times import uniform_grid
from ebb.sample.noise import Noise
from ebb.sample.solvers import SOLVERS
from ebb.sample.trajectory import trajectory

BOTH = {"label": torch.tensor([0, 1]).repeat_interleave(9)}


class Exact:
    """p(hump | x_t) in closed form."""

    def __init__(self, path):
        self.path = path

    def __call__(self, x, t):
        return testing.two_humps(self.path).joint(x, t)[0]


def places(path):
    """Places and times for each label: inside the path, and its end."""
    t = torch.cat([testing.inside(path, 8), torch.tensor([path.end], dtype=torch.float64)])
    x = torch.linspace(-2, 2, 9, dtype=torch.float64)[:, None] * path.norm(t)[:, None]
    return x.repeat(2, 1), t.repeat(2)


def off_bayes(path, scale=1.0):
    """How far the guided unconditional denoiser is from the conditional one, at each time [9]."""
    x, t = places(path)
    labelled, plain = testing.TwoLabels(path), testing.two_humps(path)
    guided = classifier(Exact(path), scale)(plain)(x, t, BOTH)
    return (guided - labelled(x, t, BOTH)).abs().reshape(2, 9).amax(0)


@pytest.mark.parametrize("path", PATHS)
def test_scale_one_is_bayes_rule(path):
    off, path = off_bayes(PATHS[path]), PATHS[path]
    assert off[:-1].max() < 1e-9
    assert off[-1] < (1e-9 if at(path, path.end).nsr <= NSR_MAX else 2 / NSR_MAX)


def mistaken(right, mistake):
    return {
        "sign": lambda path, x0, g, t, scale: right(path, x0, g, t, -scale),
        "factor": lambda path, x0, g, t, scale: x0 + scale * g,
        "alpha": lambda path, x0, g, t, scale: x0 + scale * spread(path.sigma(t) ** 2, x0) * g,
        "sigma": lambda path, x0, g, t, scale: x0 + scale * spread(path.sigma(t) / path.alpha(t), x0) * g,
    }[mistake]


@pytest.mark.parametrize("mistake", ["sign", "factor", "alpha", "sigma"])
def test_mutants_are_caught(mistake, monkeypatch):
    monkeypatch.setattr(home, "tilted", mistaken(home.tilted, mistake))
    assert off_bayes(Cosine())[:-1].max() > 0.05


def test_the_scale_of_another_convention_is_caught():
    assert off_bayes(Cosine(), scale=0.0)[:-1].max() > 0.05
    assert off_bayes(Cosine(), scale=2.0)[:-1].max() > 0.05


def test_a_shared_time_at_alpha_zero_gives_the_limit_without_a_graph():
    path = Linear()
    x, plain = torch.linspace(-2, 2, 18, dtype=torch.float64)[:, None], testing.two_humps(path)
    for time in (0.6, 1.0):
        with torch.no_grad():
            x0 = classifier(Exact(path))(plain)(x, at(path, time).shared(18), BOTH)
        assert not x0.requires_grad
        exact = testing.TwoLabels(path)(x, torch.full((18,), time, dtype=torch.float64), BOTH)
        torch.testing.assert_close(x0, exact, rtol=0, atol=2 / NSR_MAX if time == 1 else 1e-9)


def test_a_denoiser_that_is_deaf_at_alpha_zero_is_not_asked_there():
    class Net(torch.nn.Module):
        def forward(self, x, told, cond):
            return x

    x = torch.randn(2, 1)
    guided = classifier(Exact(Linear()))(NetworkDenoiser(Net(), Linear(), noise))
    assert torch.isfinite(guided(x, at(Linear(), 1.0), {"label": torch.tensor([0, 1])})).all()


def test_it_is_an_energy():
    path = Cosine()
    x, t = places(path)
    by_hand = energy(lambda x, t: -Exact(path)(x, t).log_softmax(1)[torch.arange(18), BOTH["label"]], 1.7, on="x")
    plain = testing.two_humps(path)
    torch.testing.assert_close(classifier(Exact(path), 1.7)(plain)(x, t, BOTH), by_hand(plain)(x, t, {}))


def test_with_a_null_label_cfg_around_it_multiplies_its_scale():
    path = Cosine()
    x, t = places(path)
    plain, null = testing.two_humps(path), {"label": torch.tensor([2])}
    around = cfg(3.0, null)(classifier(Exact(path))(plain))
    torch.testing.assert_close(around(x, t, BOTH), classifier(Exact(path), 3.0)(plain)(x, t, BOTH))


def test_a_conditional_denoiser_keeps_its_label_under_another_name():
    path = Cosine()
    x, t = places(path)
    cond = {"label": BOTH["label"], "class": torch.full((18,), 2)}
    guided = classifier(Exact(path), condition="class")(cfg(2.0, {"label": torch.tensor([2])})(testing.TwoLabels(path)))
    inner = cfg(2.0, {"label": torch.tensor([2])})(testing.TwoLabels(path))(x, t, BOTH)
    torch.testing.assert_close(guided(x, t, cond)[:8], inner[:8])


@pytest.mark.parametrize("solver", SOLVERS)
def test_every_solver_lands_in_the_class(solver):
    path, noises = Cosine(), Noise.of(0, 64)
    cond = {"label": torch.arange(64) % 2}
    guided = classifier(Exact(path), 4.0)(testing.two_humps(path))
    for point in trajectory(guided, SOLVERS[solver], uniform_grid(path, 12), noises.start((1,)).double(), cond, noises):
        x = point.x
    said = testing.two_humps(path).responsibilities(x, torch.full((64,), 1e-3, dtype=torch.float64)).argmax(1)
    assert (said == cond["label"]).float().mean() > 0.9


def test_a_classifier_of_another_path_or_a_missing_label_is_refused():
    plain = testing.two_humps(Linear())
    with pytest.raises(UsageError, match=r"retime\(denoiser, model.path\)"):
        classifier(Exact(EDM()))(plain)
    x, t = places(EDM())
    guided = classifier(Exact(EDM()))(retime(plain, EDM()))(x, t, BOTH)
    right = (guided - testing.TwoLabels(EDM())(x, t, BOTH)).abs() < 1e-9
    assert right[EDM().nsr(t) <= NSR_MAX].all()
    with pytest.raises(UsageError, match="needs the condition 'label'"):
        classifier(Exact(Linear()))(plain)(*places(Linear()), {"text": torch.zeros(18)})


KINDS = {
    "points": (PointClassifier(3, 4, width=8), [(3,)]),
    "series": (Classifier(2, 4, width=8, dims=1), [(2, 19), (2, 4)]),
    "planes": (Classifier(1, 4, width=8, depth=2), [(1, 12, 12), (1, 5, 3)]),
}


@pytest.mark.parametrize("kind", KINDS)
def test_the_network_sees_each_sample_alone_and_hears_the_time(kind):
    network, shapes = KINDS[kind]
    assert network(torch.randn(2, *shapes[0]), torch.rand(2)).abs().max() == 0
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    for shape in shapes:
        x, told = torch.randn(3, *shape), torch.tensor([0.1, 0.5, 0.9])
        logits = network(x, told)
        assert logits.shape == (3, 4)
        torch.testing.assert_close(logits[1:2], network(x[1:2], told[1:2]), rtol=1e-4, atol=1e-5)
        assert not torch.allclose(logits, network(x, told / 2), atol=1e-6)
    network(torch.randn(4, *shapes[0]), torch.rand(4)).pow(2).sum().backward()
    assert [name for name, p in network.named_parameters() if p.grad is None or p.grad.abs().max() == 0] == []


def test_a_network_is_told_the_time_and_given_unit_variance():
    seen = {}

    class Net(torch.nn.Module):
        def forward(self, x, told):
            seen["x"], seen["told"] = x, told
            return x

    path, x = EDM(), torch.randn(3, 2)
    model = NetworkClassifier(Net(), path, quarter_log_nsr, sigma_data=0.5)
    assert isinstance(model, NoisyClassifier)
    for t in (at(path, 2.0), torch.full((3,), 2.0, dtype=torch.float64)):
        model(x, t)
        torch.testing.assert_close(seen["told"], torch.full((3,), 2.0).log() / 4)
        torch.testing.assert_close(seen["x"], x / (0.25 + 4) ** 0.5)


@pytest.mark.parametrize("wrong", [{"dims": 4}, {"classes": 1}])
def test_networks_that_cannot_be_are_refused(wrong):
    with pytest.raises(UsageError, match="a classifier"):
        Classifier(**{"channels": 1, "classes": 3} | wrong)
