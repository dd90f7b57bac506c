"""The nearest adapter of a rank: its error is what Eckart and Young say, before it is written."""

import math

import pytest
import torch

from ebb.adapt.adapter import Adapter, attach, fresh, own_weights, retyped
from ebb.adapt.approximate import extracted, resized
from ebb.errors import UsageError
from ebb.networks.mlp import MLP
from ebb.networks.unet import UNet


@pytest.fixture
def two():
    """Two networks that differ in every weight."""
    torch.manual_seed(0)
    old, new = (UNet(1, width=16, depth=1, multipliers=(1,)).requires_grad_(False) for _ in range(2))
    return old, new


def moved(network, adapter):
    """The weights with the adapter, by layer."""
    attach(network, adapter)
    return {layer: network.get_submodule(layer).weight for layer in adapter.changes}


@pytest.mark.parametrize("rank", [1, 4])
def test_an_extracted_adapter_misses_what_was_said(two, rank):
    old, new = two
    before, after = own_weights(old), own_weights(new)
    found = extracted(old, new, "a", rank)
    missed = {layer: after[f"{layer}.weight"] - w for layer, w in moved(old, found.adapter).items()}
    for layer, rest in missed.items():
        difference = (after[f"{layer}.weight"] - before[f"{layer}.weight"]).double().flatten(1)
        values = torch.linalg.svdvals(difference)
        assert float(rest.norm()) == pytest.approx(float(values[rank:].norm()), rel=1e-5, abs=1e-6)
    whole = math.hypot(*(float((after[f"{layer}.weight"] - before[f"{layer}.weight"]).norm()) for layer in missed))
    assert found.error(rank) == pytest.approx(math.hypot(*(float(r.norm()) for r in missed.values())) / whole, rel=1e-5)


def test_a_whole_rank_leads_all_the_way_but_for_what_no_adapter_reaches(two):
    old, new = two
    with torch.no_grad():
        for name, parameter in new.named_parameters():
            if not name.endswith("weight"):
                parameter.copy_(dict(old.named_parameters())[name] + 0.1)
    found = extracted(old, new, "a", 999)
    assert found.error(999) == 0
    assert found.besides
    assert all(
        not name.endswith(".weight") or name.removesuffix(".weight") not in found.values for name in found.besides
    )
    assert 0 < found.beyond() < 1
    for layer, weight in moved(old, found.adapter).items():
        torch.testing.assert_close(weight, new.get_submodule(layer).weight, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", ["lora", "dora"])
def test_a_resized_adapter_is_nearest_and_a_larger_one_the_same(two, kind):
    old, _ = two
    adapter = fresh(old, "a", 4, kind=kind, scale=0.5)
    for change in adapter.changes.values():
        change.requires_grad_(False).up.normal_()
    less, more = resized(adapter, 2), resized(adapter, 6)
    assert more.error(6) == pytest.approx(0, abs=1e-6)
    for layer, change in adapter.changes.items():
        whole = change.change()
        values = torch.linalg.svdvals(whole.double().flatten(1))
        missed = float((whole - less.adapter.changes[layer].change()).norm())
        assert missed == pytest.approx(float(values[2:].norm()), rel=1e-4, abs=1e-5)
        weight = old.get_submodule(layer).weight
        torch.testing.assert_close(more.adapter.changes[layer](weight), change(weight), rtol=1e-4, atol=1e-5)
        assert type(less.adapter.changes[layer]) is type(change)


REFUSED = {
    "a rank of at least 1, got 0": lambda old, new: extracted(old, new, "a", 0),
    "equal to the bit": lambda old, _: extracted(old, old, "a", 2),
    "only one of the two has": lambda old, _: extracted(old, MLP(5, width=32), "a", 2),
    "in the first and": lambda *_: extracted(MLP(5, width=32), MLP(5, width=64), "a", 2),
    "of at least 1, got -1": lambda old, _: resized(Adapter("a", fresh(old, "a", 1).changes), -1),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_has_no_nearest_is_refused(two, what):
    with pytest.raises(UsageError, match=what):
        REFUSED[what](*two)


def test_weights_change_their_type_and_adapters_stay(two):
    old, _ = two
    attach(old, fresh(old, "a", 2))
    retyped(old, torch.bfloat16)
    types = {name: parameter.dtype for name, parameter in old.named_parameters()}
    assert {t for name, t in types.items() if ".parametrizations." in name and not name.endswith("original")} == {
        torch.float32
    }
    assert {t for name, t in types.items() if ".parametrizations." not in name or name.endswith("original")} == {
        torch.bfloat16
    }
