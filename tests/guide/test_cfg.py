import pytest
import torch

from ebb import testing
from ebb.errors import UsageError
from ebb.guide.cfg import ClassifierFree, cfg
from ebb.process.path import PATHS, Cosine, Linear
from ebb.process.predict import PREDICTIONS, recover

NULL = {"label": torch.tensor([2])}


@pytest.mark.parametrize("path", PATHS)
def test_cfg_keeps_the_contract_of_guides(path):
    testing.check_guide(lambda scale: cfg(scale, NULL), PATHS[path])


def test_scale_one_is_the_denoiser_itself():
    plain = testing.TwoLabels(Cosine())
    assert cfg(1, NULL)(plain) is plain


def test_scale_zero_ignores_the_condition():
    plain, t = testing.TwoLabels(Cosine()), torch.full((4,), 0.6, dtype=torch.float64)
    x = torch.linspace(-1, 1, 4, dtype=torch.float64)[:, None]
    null = plain(x, t, {"label": torch.full((4,), 2)})
    torch.testing.assert_close(cfg(0, NULL)(plain)(x, t, {"label": torch.tensor([0, 1, 0, 1])}), null)


@pytest.mark.parametrize("name", PREDICTIONS)
def test_mixing_any_prediction_is_mixing_x0(name):
    """Guidance in F, ε, v, score or x0 is one and the same thing."""
    prediction = PREDICTIONS[name]
    path, t = Linear(), torch.tensor([0.2, 0.5, 0.8], dtype=torch.float64)
    x = torch.tensor([[0.3], [-0.8], [1.2]], dtype=torch.float64)
    plain, cond = testing.TwoLabels(path), {"label": torch.tensor([0, 1, 1])}
    guided = cfg(2.5, NULL)(plain)(x, t, cond)

    def network(label):
        x0 = plain(x, t, {"label": label})
        a, b = (c[:, None] for c in prediction(path, t))
        return a * x0 + b * path.noise(x, x0, t)

    null = network(torch.full((3,), 2))
    mixed = null + 2.5 * (network(cond["label"]) - null)
    torch.testing.assert_close(recover(path, prediction, x, mixed, t), guided)


def test_guidance_moves_towards_the_condition():
    plain, t = testing.TwoLabels(Cosine()), torch.tensor([0.5, 0.5], dtype=torch.float64)
    x, cond = torch.zeros(2, 1, dtype=torch.float64), {"label": torch.tensor([0, 1])}
    strong, plainly = cfg(3.0, NULL)(plain)(x, t, cond), plain(x, t, cond)
    assert strong[0] < plainly[0]  # the first hump lies below
    assert strong[1] > plainly[1]


def test_both_answers_come_from_one_call():
    calls = []

    class Counting:
        path = Cosine()

        def __call__(self, x, t, cond):
            calls.append(len(x))
            return x

    cfg(2, NULL)(Counting())(torch.zeros(3, 1), torch.full((3,), 0.5).double(), {"label": torch.zeros(3).long()})
    assert calls == [6]


def test_a_condition_without_a_null_is_named():
    plain = testing.TwoLabels(Cosine())
    with pytest.raises(UsageError, match="no null for the condition 'text'"):
        cfg(2, NULL)(plain)(torch.zeros(1, 1), torch.ones(1).double() / 2, {"text": torch.zeros(1)})


def test_mutants_are_caught(monkeypatch):
    """Null and condition exchanged; and the convention in which 0 is off."""

    def swapped(self, x, t, cond):
        null = {"label": self.null["label"].expand_as(cond["label"])}
        return torch.lerp(self.denoiser(x, t, cond), self.denoiser(x, t, null), self.scale)

    with pytest.raises(AssertionError, match="scale 1 is off"):
        testing.check_guide(lambda scale: lambda d: ClassifierFree(d, 1 + scale, NULL), Cosine())
    monkeypatch.setattr(ClassifierFree, "__call__", swapped)
    with pytest.raises(AssertionError, match="scale 1 is off"):
        testing.check_guide(lambda scale: lambda d: ClassifierFree(d, scale, NULL), Cosine())
