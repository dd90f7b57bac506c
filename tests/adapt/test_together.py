"""Controls, a reference and changes of the weights on one model: each alone as ever, silent at 0, off in any order."""

import itertools

import pytest
import torch

from ebb.adapt import addition
from ebb.adapt.adapter import fingerprint
from ebb.adapt.addition import Together, innermost
from ebb.adapt.control import MapControl, rescaled_by
from ebb.adapt.lora import LoRA
from ebb.adapt.new_words import NewWords
from ebb.adapt.only_new import OnlyNew
from ebb.adapt.reference import REFERENCE, ReferencePrompt, heard_at
from ebb.errors import UsageError
from ebb.networks.dit import DiT
from ebb.networks.ports import PiecesPort
from ebb.networks.unet import UNet
from ebb.process.denoiser import NetworkDenoiser
from ebb.process.path import Linear
from ebb.process.predict import PREDICTIONS

TEXT = {"text": PiecesPort(20, 6)}
NETWORKS = {
    "unet": lambda: UNet(1, width=16, depth=1, multipliers=(1,), ports=TEXT, cross=(0,)),
    "dit": lambda: DiT(1, width=32, depth=2, patch=2, head=16, ports=TEXT),
}
KINDS = {
    "edges": lambda model: MapControl(model, "edges", 1),
    "depth": lambda model: MapControl(model, "depth", 1, "two_way"),
    "picture": lambda model: ReferencePrompt(model, 1, vector=True),
    "lora": lambda model: LoRA(model, 2),
}
ASKED = {"edges": "edges", "depth": "depth", "picture": REFERENCE}


def rows(seed):
    return torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(seed))


class World:
    """A model with all of KINDS, stirred; what is put on it, and what is asked."""

    def __init__(self, kind):
        torch.manual_seed(0)
        self.model = NetworkDenoiser(NETWORKS[kind](), Linear(), PREDICTIONS["velocity"]).requires_grad_(False).eval()
        for parameter in self.model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
        self.parts = {name: make(self.model).requires_grad_(False) for name, make in KINDS.items()}
        for parameter in itertools.chain(*(part.parameters() for part in self.parts.values())):
            parameter.add_(0.1 * torch.randn_like(parameter))

    def put(self, *names, amount=1.0):
        for name in names:
            self.parts[name].attach(self.model, name, amount)

    def off(self, *names):
        for name in names:
            self.parts[name].detach(self.model, name)

    def __call__(self, *heard):
        given = {ASKED[name]: rows(at) for at, name in enumerate(ASKED, 1) if name in heard}
        text = torch.ones(2, 6, dtype=torch.int64)
        return self.model(rows(9), torch.full((2,), 0.5), {"text": text} | given)


@pytest.fixture(params=NETWORKS)
def world(request):
    return World(request.param)


def test_each_alone_is_what_it_is_alone_and_the_order_does_not_matter(world):
    before, bits, alone = world(), fingerprint(world.model.network), {}
    for name in ASKED:
        world.put(name)
        alone[name] = world(name)
        world.off(name)
    world.put("lora")
    alone["lora"] = world()
    world.off("lora")
    every = []
    for order in (("edges", "depth", "picture", "lora"), ("picture", "lora", "edges", "depth")):
        world.put(*order[:2])
        world.put(*order[2:])
        every.append(world(*ASKED))
        world.off("lora")
        for name in ASKED:
            assert torch.equal(world(name), alone[name]), name
        assert torch.equal(world(), before)
        world.off(*reversed([name for name in order if name != "lora"]))
    assert torch.equal(*every)
    assert all(not torch.allclose(every[0], one) for one in (before, *alone.values()))
    assert isinstance(world.model.network, type(innermost(world.model.network))), "nothing is around it"
    assert fingerprint(world.model.network) == bits
    assert torch.equal(world(), before)


def test_what_they_do_together_depends_on_each(world):
    world.put(*KINDS)
    whole = world(*ASKED)
    for name in ASKED:
        assert not torch.allclose(world(*(ASKED.keys() - {name})), whole), name


def test_at_scale_0_the_base_is_there_to_the_bit(world):
    before = world()
    world.put(*KINDS, amount=0.0)
    assert torch.equal(world(*ASKED), before)
    world.off(*KINDS)
    world.put("picture", "edges")
    rescaled_by(world.model.network, 0.0)
    heard_at(world.model.network, 0.0)
    assert torch.equal(world("picture", "edges"), before)


def test_a_control_that_is_heard_already_changes_nothing(world):
    world.put("picture", "edges")
    net = world.model.network
    with pytest.raises(UsageError, match="a control by edges already"):
        world.put("edges")
    with pytest.raises(UsageError, match="hears one already"):
        world.put("picture")
    assert world.model.network is net


def test_a_batch_that_is_taken_apart_keeps_each_reference_with_its_sample(world):
    """Changes for a new word alone, put on before the reference or after it."""
    like, lora = world.parts["picture"], world.parts["lora"]
    words = NewWords(world.model, 1).requires_grad_(False)
    taught = Together({"low_rank": lora, "words": words, "only_new": OnlyNew(world.model)})
    text = torch.tensor([[1, 20, 0, 0, 0, 0], [1, 2, 0, 0, 0, 0]])

    def asked():
        given = {"text": text, REFERENCE: rows(2)}
        return world.model(rows(9), torch.full((2,), 0.5), given)

    found = []
    for one, other in ((like, taught), (taught, like)):
        one.attach(world.model, "one")
        other.attach(world.model, "other")
        found.append(asked())
        one.detach(world.model, "one")
        other.detach(world.model, "other")
    torch.testing.assert_close(*found)
    like.attach(world.model, "like")
    text = text.clamp(max=19)
    alone = asked()
    torch.testing.assert_close(found[0][1], alone[1])
    assert not torch.allclose(found[0][0], alone[0], atol=1e-3)


def test_a_mutant_is_caught(world, monkeypatch):
    """A reference that is put around and not taken off again from within others."""
    monkeypatch.setattr(addition, "exchange", lambda denoiser, old, new: setattr(denoiser, "network", new.within))
    with pytest.raises((AssertionError, AttributeError)):
        test_each_alone_is_what_it_is_alone_and_the_order_does_not_matter(world)
