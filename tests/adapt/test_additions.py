"""Additions on a denoiser: silent when fresh, off again to the bit, in any order, and chosen where the gradient is."""

import pytest
import torch

from ebb.adapt.addition import Together, copied, sharing
from ebb.adapt.additions import together
from ebb.adapt.lora import RANKS, allotted
from ebb.errors import DamagedError, UsageError
from ebb.networks.unet import UNet
from ebb.process.denoiser import NetworkDenoiser
from ebb.process.path import Linear
from ebb.process.predict import velocity

PARTS = {
    "low_rank": {"rank": 2},
    "dora": {"rank": 1, "form": "dora", "layers": ["stem"]},
    "labels": {"count": 2},
    "shares": {"names": ["way"]},
}


@pytest.fixture(scope="module")
def base():
    torch.manual_seed(0)
    made = NetworkDenoiser(
        UNet(1, width=16, depth=1, multipliers=(1,), ports={"label": "classes(count=3)"}), Linear(), velocity
    )
    for parameter in made.requires_grad_(False).eval().parameters():
        parameter.add_(0.02 * torch.randn_like(parameter))
    return made


def answered(denoiser, **more):
    x = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    return denoiser(x, torch.full((2,), 0.5), {"label": torch.tensor([0, 2]), **more})


def made(denoiser, kind):
    return together(denoiser, {"low_rank" if kind == "dora" else kind: PARTS[kind]})


def stirred(addition):
    with torch.no_grad():
        for parameter in addition.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return addition


@pytest.mark.parametrize("kind", PARTS)
def test_an_addition_is_silent_loud_nothing_and_gone(base, kind):
    """Fresh, and by an amount of 0, the answers are the base's to the bit; off, all of its weights are."""
    denoiser, before = sharing(base), answered(base)
    more = {"way": torch.full((2,), 0.7)} if kind == "shares" else {}
    addition = made(denoiser, kind)
    addition.attach(denoiser, "one")
    assert torch.equal(answered(denoiser, **more), before)
    stirred(addition)
    other = {"label": torch.tensor([3, 4])} if kind == "labels" else more
    loud = answered(denoiser, **other)
    assert not torch.equal(loud, before)
    addition.detach(denoiser, "one")
    assert torch.equal(answered(denoiser), before)
    assert {n: id(t) for n, t in denoiser.named_parameters()} == {n: id(t) for n, t in base.named_parameters()}
    addition.attach(denoiser, "one", 0.0)
    assert torch.equal(answered(denoiser, **more), before)


def test_the_first_of_two_can_go_and_the_second_stays(base):
    denoiser = sharing(base)
    one, two = (stirred(together(denoiser, {"low_rank": {"rank": 1}, "labels": {"count": 1}})) for _ in range(2))
    two.attach(denoiser, "two")
    alone = answered(denoiser, label=torch.tensor([0, 3]))
    two.detach(denoiser, "two")
    one.attach(denoiser, "one")
    two.attach(denoiser, "two")
    apart = copied(denoiser, {})
    one.detach(denoiser, "one")
    assert torch.equal(answered(denoiser, label=torch.tensor([0, 3])), alone)
    assert not torch.equal(answered(apart, label=torch.tensor([0, 3])), alone), "a copy has what was on it"


def test_what_is_baked_answers_as_what_is_put_on(base):
    denoiser = copied(base, {})
    parts = {kind: PARTS[kind] for kind in ("low_rank", "labels", "shares")}
    addition = stirred(together(denoiser, parts))
    addition.attach(denoiser, "one", 0.5)
    asked = {"label": torch.tensor([1, 4]), "way": torch.full((2,), 0.7)}
    before = answered(denoiser, **asked)
    addition.bake(denoiser)
    assert torch.allclose(answered(denoiser, **asked), before, atol=1e-5)
    again = NetworkDenoiser(UNet(**denoiser.network.settings), Linear(), velocity)
    again.load_state_dict(denoiser.state_dict())
    assert torch.allclose(answered(again.eval(), **asked), before, atol=1e-5), "its settings build it"


def test_the_rank_goes_where_the_gradient_is():
    """Of known singular values: the layer with nearly all of it, by the rank that it has; what does not fit is left."""
    torch.manual_seed(0)
    strong = torch.randn(20, 2) @ torch.randn(2, 30)
    gradients = {"weak": 1e-3 * torch.randn(20, 30), "strong": strong, "none": torch.zeros(20, 30)}
    found = allotted(gradients, room=2 * 50)
    assert (found.rank, found.layers) == (2, ("strong",))
    assert found.held > 0.999
    thin = allotted(gradients, room=50)
    assert (thin.rank, thin.layers) == (1, ("strong",))
    assert thin.held == pytest.approx(float(torch.linalg.svdvals(strong)[0] ** 2 / strong.square().sum()), abs=1e-3)
    assert allotted(gradients, room=0).layers == ("strong",), "never none"
    assert set(allotted(gradients, room=1e9).layers) == set(gradients)
    assert allotted(gradients, room=1e9).rank in RANKS


def test_what_cannot_be_put_on_is_refused(base):
    with pytest.raises(DamagedError, match="no addition magic"):
        together(base, {"magic": {}})
    bare = NetworkDenoiser(UNet(1, width=16, depth=1, multipliers=(1,)), Linear(), velocity)
    with pytest.raises(UsageError, match="hears no labels"):
        together(bare, {"labels": {"count": 1}})
    told = together(denoiser := sharing(base), {"shares": {"names": ["way"]}})
    told.attach(denoiser, "one")
    with pytest.raises(UsageError, match="told its way already"):
        together(denoiser, {"shares": {"names": ["way"]}}).attach(denoiser, "two")
    assert isinstance(told, Together)
