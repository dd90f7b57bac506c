import pytest
import torch

from ebb.data.loader import Batch
from ebb.errors import UsageError
from ebb.guide.classifier_guidance import NetworkClassifier, classifier
from ebb.networks.classifier import PointClassifier
from ebb.process.exact import Mixture
from ebb.process.path import Cosine, Linear
from ebb.process.times import uniform_grid
from ebb.sample.ddim import DDIM
from ebb.sample.noise import Noise
from ebb.sample.trajectory import trajectory
from ebb.train.ema import EMA
from ebb.train.loop import Training, updates
from ebb.train.objectives.classify import Classify
from ebb.train.objectives.objective import Objective
from ebb.train.optimiser import WarmupDecay, adamw

PATH = Cosine()
CLUSTERS = Mixture(
    PATH,
    torch.tensor([[-0.7, 0.3], [0.6, -0.4]], dtype=torch.float64),
    torch.tensor([0.45, 0.45], dtype=torch.float64),
    torch.tensor([0.5, 0.5], dtype=torch.float64),
)
LEVELS = torch.tensor([0.05, 0.3, 0.5, 0.7], dtype=torch.float64)


def labelled(count, seed):
    generator = torch.Generator().manual_seed(seed)
    label = torch.randint(2, (count,), generator=generator)
    eps = torch.randn(count, 2, generator=generator)
    return Batch(CLUSTERS.means[label].float() + 0.45 * eps, {"label": label})


@pytest.fixture(scope="module")
def trained():
    torch.manual_seed(0)
    network = PointClassifier(2, 2, width=32, depth=1)
    model = NetworkClassifier(network, PATH)
    training = Training(model, adamw(model, 5e-3), EMA(model, ramp=0.2))
    rate = WarmupDecay(5e-3, 250, 10)
    for step in updates(training, Classify(), lambda n: labelled(256, n), steps=250, rate=rate):
        last = step
    assert set(last.terms) == {"accuracy"}
    return training.ema.model


def test_it_learns_the_posterior_at_every_noise_level(trained):
    batch = labelled(4000, 10_000)
    eps = torch.randn(4000, 2, generator=torch.Generator().manual_seed(1))
    for level in LEVELS:
        t = level.repeat(4000)
        x = PATH.mix(batch.x0, eps, t)
        exact, guessed = CLUSTERS.responsibilities(x, t).float(), trained(x, t).softmax(1)
        right = [(p.argmax(1) == batch.cond["label"]).float().mean() for p in (guessed, exact)]
        assert right[0] > right[1] - 0.01
        assert (guessed - exact)[:, 0].abs().mean() < 0.04


def test_what_it_learnt_guides_samples_to_their_class(trained):
    noise = Noise.of(0, 200)
    cond = {"label": torch.arange(200) % 2}
    accuracy = {}
    for scale in (0.0, 1.0, 3.0):
        guided = classifier(trained, scale)(CLUSTERS)
        for point in trajectory(guided, DDIM(), uniform_grid(PATH, 16), noise.start((2,)), cond, noise):
            x = point.x
        said = CLUSTERS.responsibilities(x, torch.full((200,), 1e-3, dtype=torch.float64)).argmax(1)
        accuracy[scale] = (said == cond["label"]).float().mean().item()
    assert accuracy[0.0] == pytest.approx(0.5, abs=0.1)
    assert accuracy[1.0] > 0.9
    assert accuracy[3.0] > 0.95


class Known:
    """The exact classifier with its logits multiplied by a gain to learn: at 1 nothing is to be gained."""

    def __init__(self, gain=1.0):
        self.path, self.gain = PATH, torch.tensor(gain, requires_grad=True)

    def __call__(self, x, t):
        return self.gain * CLUSTERS.joint(x.double(), t)[0].log_softmax(1)


def slope(model, objective=None):
    generator = torch.Generator().manual_seed(0)
    (objective or Classify())(model, labelled(20_000, 5), generator).value.backward()
    return model.gain.grad.item()


def test_the_expected_gradient_vanishes_at_bayes_and_only_there():
    assert abs(slope(Known())) < 0.01
    assert slope(Known(0.5)) < -0.05
    assert slope(Known(2.0)) > 0.05


def test_a_classifier_told_the_wrong_time_is_caught():
    class Late(Known):
        def __call__(self, x, t):
            return super().__call__(x, t / 2)

    assert slope(Late()) > 0.02


def test_randomness_comes_from_the_generator_and_a_guess_costs_log_two():
    assert isinstance(Classify(), Objective)
    model = NetworkClassifier(PointClassifier(2, 2, width=8), Linear())
    batch = labelled(64, 0)
    loss = Classify()(model, batch, torch.Generator().manual_seed(0))
    assert loss.value.item() == pytest.approx(0.6931, abs=1e-4)
    values = [Classify()(Known(), batch, torch.Generator().manual_seed(s)).value.item() for s in (0, 0, 1)]
    assert values[0] == values[1] != values[2]


def test_a_batch_without_labels_is_refused():
    with pytest.raises(UsageError, match="trained on the condition 'label'"):
        Classify()(Known(), Batch(torch.zeros(2, 2), {}), torch.Generator())
