"""A reference picture: keys and values of its own, the base to the bit without it, at scale 0 and before it learns."""

import copy

import pytest
import torch

from ebb.adapt.adapter import fingerprint
from ebb.adapt.addition import innermost
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
    "concepts": lambda: UNet(1, width=16, depth=1, multipliers=(1,), ports={"text": PiecesPort(20, 6, 2)}, cross=(0,)),
    "dit": lambda: DiT(1, width=32, depth=2, patch=2, head=16, ports=TEXT),
}


@pytest.fixture(params=NETWORKS)
def model(request):
    torch.manual_seed(0)
    made = NetworkDenoiser(NETWORKS[request.param](), Linear(), PREDICTIONS["velocity"]).requires_grad_(False).eval()
    for parameter in made.parameters():
        parameter.add_(0.05 * torch.randn_like(parameter))
    made.texts = torch.ones(2, *([2] if request.param == "concepts" else []), 6, dtype=torch.int64)
    return made


def picture(seed, count=2):
    return torch.randn(count, 1, 8, 8, generator=torch.Generator().manual_seed(seed)).clamp(-1, 1)


def asked(model, **more):
    with torch.no_grad():
        return model(picture(9), torch.full((2,), 0.5), {"text": model.texts, **more})


def stirred(added):
    for parameter in added.parameters():
        parameter.data.add_(0.3 * torch.randn_like(parameter))
    return added


def test_it_is_the_base_to_the_bit_until_a_picture_is_heard(model):
    before, bits = asked(model), fingerprint(model.network)
    added = ReferencePrompt(model, 1, vector=True)
    added.attach(model, "one")
    assert torch.equal(asked(model, **{REFERENCE: picture(1)}), before), "silent at first"
    stirred(added)
    assert torch.equal(asked(model), before), "nothing is shown"
    assert torch.equal(asked(model, **{REFERENCE: torch.full_like(picture(1), torch.nan)}), before), "nothing is said"
    loud = asked(model, **{REFERENCE: picture(1)})
    assert not torch.allclose(loud, before)
    assert not torch.allclose(asked(model, **{REFERENCE: picture(2)}), loud), "it matters which"
    heard_at(model.network, 0.0)
    assert torch.equal(asked(model, **{REFERENCE: picture(1)}), before)
    assert fingerprint(innermost(model.network)) == bits
    added.detach(model, "one")
    assert torch.equal(asked(model), before)


def test_each_sample_hears_its_own(model):
    stirred(added := ReferencePrompt(model, 1, vector=True)).attach(model, "one")
    shown = picture(1)
    shown[1] = torch.nan
    both, without = asked(model, **{REFERENCE: shown}), asked(model)
    torch.testing.assert_close(both[1], without[1])
    torch.testing.assert_close(both[0], asked(model, **{REFERENCE: picture(1)})[0])
    assert added.size == sum(p.numel() for p in added.parameters())


def test_all_of_it_learns_and_a_copy_has_its_own(model):
    added = ReferencePrompt(model, 1, vector=True)
    stirred(added).requires_grad_(True).attach(model, "one")
    model(picture(9), torch.full((2,), 0.5), {"text": model.texts, REFERENCE: picture(1)}).square().sum().backward()
    assert all(p.grad is not None and bool(p.grad.any()) for p in added.parameters())
    other = copy.deepcopy(model)
    stirred(added)
    assert not torch.equal(asked(other, **{REFERENCE: picture(1)}), asked(model, **{REFERENCE: picture(1)})), (
        "a copy stays as it was"
    )


def test_one_without_a_vector_is_read_as_it_was_saved(model):
    """Of before it spoke beside the time, too."""
    old = ReferencePrompt(model, 1)
    assert old.settings == {"channels": 1}
    assert not any(name.startswith("vector") for name in old.state_dict())
    stirred(old).attach(model, "old")
    whole = ReferencePrompt(model, 1, vector=True)
    assert whole.settings == {"channels": 1, "vector": True}
    assert not torch.allclose(asked(model, **{REFERENCE: picture(1)}), asked(model))


def test_what_cannot_hear_is_refused():
    bare = NetworkDenoiser(UNet(1, width=16, depth=1, multipliers=(1,)), Linear(), PREDICTIONS["velocity"])
    with pytest.raises(UsageError, match="attends to no text"):
        ReferencePrompt(bare, 1)
    with pytest.raises(UsageError, match="hears no reference picture"):
        heard_at(bare.network, 1.0)
    made = NetworkDenoiser(NETWORKS["unet"](), Linear(), PREDICTIONS["velocity"])
    ReferencePrompt(made, 1).attach(made, "one")
    with pytest.raises(UsageError, match="hears one already"):
        ReferencePrompt(made, 1).attach(made, "two")
