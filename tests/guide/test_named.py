"""Guides by name: the same as those that are built in Python, in the order given, and what is wrong with them."""

import pytest
import torch

from ebb import testing
from ebb.errors import UsageError
from ebb.guide.apg import Projected
from ebb.guide.autoguide import autoguide
from ebb.guide.cfg import cfg
from ebb.guide.interval import within
from ebb.guide.named import GUIDES, guided, surrounded
from ebb.guide.rescale import Rescaled
from ebb.guide.temperature import temperature
from ebb.guide.threshold import dynamic_threshold
from ebb.process.denoiser import NetworkDenoiser
from ebb.process.exact import Gaussian
from ebb.process.path import Cosine
from ebb.process.predict import PREDICTIONS
from ebb.recipe.names import parse, spell
from ebb.recipe.recipe import Sampling
from ebb.system.families.diffusion import DiffusionModel
from ebb.system.sampler import Request, Sampler
from ebb.system.system import System

from ..system.test_sampler import Exact, known
from ..system.test_system import system

NULL = {"label": torch.zeros(1, dtype=torch.long)}


class Labelled:
    """A Gaussian for each label, far apart; 0, the null, lies in the middle."""

    path = Cosine()

    def __call__(self, x, t, cond):
        centres = torch.tensor([[0.0, 0.0], [3.0, 1.0], [-2.0, 2.0]], dtype=torch.float64)[cond["label"]]
        return torch.cat([Gaussian(self.path, m, torch.eye(2).double())(*one, {}) for m, *one in rows(centres, x, t)])


def rows(centres, x, t):
    return [(m, x[i : i + 1], t[i : i + 1]) for i, m in enumerate(centres)]


def answers(texts, scale=4.0):
    guide, x, t, cond = guided(texts, scale, NULL), *asked()
    return guide[0](Labelled())(x, t, cond)


def asked():
    t = testing.inside(Cosine(), 6)
    x = torch.randn(6, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    return x, t, {"label": torch.tensor([1, 2] * 3)}


def close(texts, guide, scale=4.0):
    x, t, cond = asked()
    torch.testing.assert_close(answers(texts, scale), guide(Labelled())(x, t, cond))


@pytest.mark.parametrize("name", GUIDES)
def test_every_name_reads_back(name):
    member = parse(name, GUIDES, "guide")
    assert parse(spell(member, GUIDES), GUIDES, "guide") == member
    written = f"{name}({', '.join(f'{field}={value!r}' for field, value in vars(member).items())})"
    assert parse(written, GUIDES, "guide") == member


def test_a_name_is_the_guide_of_that_name():
    close((), cfg(4.0, NULL))
    close(("rescaled(0.3)",), cfg(4.0, NULL, Rescaled(0.3)))
    close(("projected(0.2, radius=1.5)",), cfg(4.0, NULL, Projected(0.2, 1.5)))
    close(("within(0.5, 2)",), within(cfg(4.0, NULL), 0.5, 2))
    close(("temperature(0.4)",), lambda denoiser: temperature(0.4)(cfg(4.0, NULL)(denoiser)))
    close(("threshold(0.6, limit=1)",), lambda denoiser: dynamic_threshold(0.6)(cfg(4.0, NULL)(denoiser)))


def test_auto_is_away_from_an_earlier_average_bent_and_surrounded_as_any():
    """Of a Gaussian and a wider one: strong^w·weak^{1 − w}, which tests of `autoguide` hold in closed form."""
    weak = Gaussian(Cosine(), torch.zeros(2).double(), 3 * torch.eye(2).double())
    x, t, cond = asked()

    def by_name(*texts, scale=4.0):
        return guided(texts, scale, NULL, earlier=lambda: weak)[0](Labelled())(x, t, cond)

    torch.testing.assert_close(by_name("auto"), autoguide(weak, 4.0)(Labelled())(x, t, cond))
    bent = autoguide(weak, 4.0, Projected(0.2, 1.5))(Labelled())(x, t, cond)
    torch.testing.assert_close(by_name("projected(0.2, 1.5)", "auto"), bent)
    middle = within(autoguide(weak, 4.0), 0.5, 2)(Labelled())(x, t, cond)
    torch.testing.assert_close(by_name("auto", "within(0.5, 2)"), middle)
    assert torch.equal(by_name("auto", scale=1.0), Labelled()(x, t, cond))
    assert not torch.allclose(by_name("auto"), answers(())), "classifier-free guidance"
    with pytest.raises(UsageError, match="there is none"):
        guided(("auto",), 4.0, NULL)
    with pytest.raises(UsageError, match="prompts are joined"):
        surrounded(("auto",), cfg(4.0, NULL))


def test_they_go_around_each_other_in_the_order_given():
    inner = ("rescaled(0.3)", "threshold(0.6)", "within(0.5, 2)")
    close(inner, within(lambda d: dynamic_threshold(0.6)(cfg(4.0, NULL, Rescaled(0.3))(d)), 0.5, 2))
    other = (inner[2], inner[1], inner[0])
    close(other, lambda d: dynamic_threshold(0.6)(within(cfg(4.0, NULL, Rescaled(0.3)), 0.5, 2)(d)))
    assert not torch.allclose(answers(inner), answers(other)), "the order would not matter"


def test_nothing_guides_where_nothing_is_asked():
    x, t, cond = asked()
    assert guided((), 1.0, NULL) == []
    assert torch.equal(answers(("rescaled",), 1.0), Labelled()(x, t, cond))
    outside = surrounded(("within(0.5, 2)", "rescaled"), cfg(4.0, NULL))(Labelled())(x, t, cond)
    torch.testing.assert_close(outside, answers(("within(0.5, 2)",)))


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (("rescale(0.7)",), "did you mean 'rescaled'"),
        (("rescaled(psi=0.7)",), r"(?s)no field 'psi'.*known: phi"),
        (("rescaled(7)",), "a share from 0"),
        (("within(2, 1)",), "0 ≤ low < high"),
        (("temperature(0)",), "a temperature is above 0"),
        (("threshold(2)",), r"a share in \(0, 1\]"),
        (("rescaled", "projected"), "bent once, and rescaled and projected would both"),
        (("within 0.3 3",), "not of the form"),
    ],
)
def test_mistakes_are_explained(texts, message):
    with pytest.raises(UsageError, match=message):
        guided(texts, 2.0, NULL)


def test_a_request_is_sampled_with_its_guides():
    """A Gaussian at τ has τ times its covariance, by name as in Python."""
    made, network = known("linear")
    how = Sampling(solver="heun", steps=24, guides=("temperature(0.4)",))
    x = torch.cat(list(Sampler(made, batch=1500).encoded(Request({}, 3000, how)))).double()
    testing.close("the mean", x.mean(0), network.gauss.mean, 0.05)
    testing.close("the covariance", x.T.cov(), 0.4 * network.gauss.covariance, 0.03)


def test_settings_that_would_change_nothing_are_refused():
    made = system()
    assert made.settled(guides=["rescaled(0.7)"], guidance=2).guides == ("rescaled(0.7)",)
    assert made.settled(guides=["temperature(0.9)"]).guides == ("temperature(0.9)",)
    with pytest.raises(UsageError, match=r"(?s)rescaled\(0.7\) is of guidance, which is off.*--guidance 2"):
        made.settled(guides=["rescaled(0.7)"])
    with pytest.raises(UsageError, match="did you mean 'threshold'"):
        made.settled(guides=["treshold"])
    with pytest.raises(UsageError, match=r"(?s)dpmpp_2m draws no noise on its way, and 0.9 times none.*--solver ddpm"):
        made.settled(noise_scale=0.9, solver="dpmpp_2m")
    with pytest.raises(UsageError, match="noise scale must be between 0 and 10"):
        made.settled(noise_scale=-1, solver="ddpm")
    assert made.settled(noise_scale=0.9, solver="ddpm").noise_scale == 0.9


def test_the_noise_scale_belongs_to_the_solver_that_it_was_chosen_for():
    network = Exact(Cosine())
    model = DiffusionModel(NetworkDenoiser(network, Cosine(), PREDICTIONS["data"]))
    made = System(model, (2,), sampling=Sampling(solver="ddpm", noise_scale=0.9))
    assert made.settled(steps=4).noise_scale == 0.9
    assert made.settled(solver="heun").noise_scale == 1.0
