"""Changes for what is new alone: in any batch these samples are as with the changes, and all others as without."""

import copy

import pytest
import torch

from ebb.adapt.additions import together
from ebb.adapt.only_new import Switched
from ebb.errors import UsageError
from ebb.networks.ports import ClassPort, PiecesPort
from ebb.networks.unet import UNet
from ebb.process.denoiser import NetworkDenoiser
from ebb.process.path import Linear
from ebb.process.predict import PREDICTIONS

KNOWN, WORDS, LENGTH = 3, 10, 4
NEW = {"labels": {"count": 2}, "words": {"count": 1}}


@pytest.fixture
def denoiser():
    torch.manual_seed(0)
    ports = {"label": ClassPort(KNOWN), "text": PiecesPort(WORDS, LENGTH)}
    network = UNet(1, width=16, depth=1, multipliers=(1,), ports=ports, cross=(0,))
    made = NetworkDenoiser(network, Linear(), PREDICTIONS["velocity"])
    for parameter in made.requires_grad_(False).eval().parameters():
        parameter.add_(0.05 * torch.randn_like(parameter))
    return made


def put(denoiser, *kinds, name="one", like=None):
    """What was asked for, put on, with a change that is felt; with the numbers of another one."""
    parts = {"low_rank": {"rank": 2}, **NEW, "only_new": {}}
    made = together(denoiser, {kind: parts[kind] for kind in kinds})
    for parameter in made.parameters():
        parameter.data.normal_(std=0.3, generator=torch.Generator().manual_seed(parameter.numel()))
    if like is not None:
        made.load_state_dict(like.state_dict())
    made.requires_grad_(False).attach(denoiser, name)
    return made


def asked(denoiser, labels, texts):
    """x̂0 of samples that are asked for so; each has noise and a time of its own."""
    noise = torch.randn(8, 1, 8, 8, generator=torch.Generator().manual_seed(1))[: len(labels)]
    cond = {"label": torch.tensor(labels), "text": torch.tensor(texts)}
    return denoiser(noise, torch.linspace(0.2, 0.8, 8)[: len(labels)], cond)


PLAIN, TAUGHT = [1, 2, 0, 0], [1, WORDS, 0, 0]
BATCHES = {
    "new labels among others": ([0, 3, 2, 4, 5], [PLAIN] * 5, [False, True, False, True, False]),
    "a new word among others": ([0, 1, 2], [PLAIN, TAUGHT, PLAIN], [False, True, False]),
    "what is new alone": ([3, 4], [PLAIN, TAUGHT], [True, True]),
    "nothing new": ([0, 5], [PLAIN, [0] * LENGTH], [False, False]),
}


@pytest.mark.parametrize("name", BATCHES)
def test_new_is_as_with_the_changes_and_all_else_as_without(denoiser, name):
    labels, texts, new = BATCHES[name]
    plain, changed = copy.deepcopy(denoiser), copy.deepcopy(denoiser)
    one = put(denoiser, "low_rank", "labels", "words", "only_new")
    put(changed, "low_rank", "labels", "words", like=one)
    silent = put(plain, "labels", "words")
    for kind in ("labels", "words"):
        silent.parts[kind].load_state_dict(one.parts[kind].state_dict())
    found, own, others = (asked(each, labels, texts) for each in (denoiser, changed, plain))
    assert not torch.allclose(own, others, atol=1e-2), "the change is felt"
    expected = torch.where(torch.tensor(new)[:, None, None, None], own, others)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    if len(set(new)) == 1:
        assert torch.equal(found, expected), "to the bit"


def test_samples_keep_their_places(denoiser, monkeypatch):
    """A mutant that gives them back as they were taken apart is seen."""
    labels, texts, _ = BATCHES["new labels among others"]
    put(denoiser, "low_rank", "labels", "only_new")
    one = asked(denoiser, labels, texts)
    monkeypatch.setattr(torch.Tensor, "argsort", lambda places: torch.arange(len(places)))
    assert not torch.allclose(asked(denoiser, labels, texts), one, atol=1e-3)


def test_two_are_each_for_its_own(denoiser):
    """The second's labels come after the first's; taken off, the first is as it was alone."""
    first = put(denoiser, "low_rank", "labels", "only_new", name="first")
    labels = [0, 3, 4]
    alone = asked(denoiser, labels, [PLAIN] * 3)
    second = put(denoiser, "low_rank", "labels", "only_new", name="second")
    torch.testing.assert_close(asked(denoiser, labels, [PLAIN] * 3), alone, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(asked(denoiser, [5], [PLAIN]), asked(denoiser, [4], [PLAIN]), atol=1e-2)
    second.detach(denoiser, "second")
    torch.testing.assert_close(asked(denoiser, labels, [PLAIN] * 3), alone)
    first.detach(denoiser, "first")
    assert not isinstance(denoiser.network, Switched)


def test_its_gradient_is_of_what_is_new_alone(denoiser):
    made = put(denoiser, "low_rank", "labels", "only_new").requires_grad_(True)
    loss = asked(denoiser, [0, 3], [PLAIN] * 2)[0].square().sum()
    changes = list(made.parts["low_rank"].parameters())
    assert not loss.requires_grad or all(
        part is None or not part.any() for part in torch.autograd.grad(loss, changes, allow_unused=True)
    )
    asked(denoiser, [0, 3], [PLAIN] * 2)[1].square().sum().backward()
    assert all(bool(part.grad.any()) for part in changes)


def test_what_is_for_all_is_refused(denoiser):
    with pytest.raises(UsageError, match="no label and no word is new"):
        put(denoiser, "low_rank", "only_new")
    made = put(denoiser, "labels", "only_new", name="two")
    with pytest.raises(UsageError, match="which are for all"):
        made.bake(denoiser)
