"""Adapters on networks: nothing before they are trained, the exact sum after, and the very bits when they are off."""

import copy

import pytest
import torch

from ebb.adapt.adapter import attach, attached, detach, fingerprint, fresh, layers, merge, survives
from ebb.errors import UsageError
from ebb.networks.dit import DiT
from ebb.networks.mlp import MLP
from ebb.networks.unet import UNet

NETWORKS = {
    "unet": (lambda: UNet(1, width=16, depth=1, multipliers=(1,)), (1, 8, 8)),
    "dit": (lambda: DiT(1, width=32, depth=1, patch=2, head=16), (1, 8, 8)),
    "mlp": (lambda: MLP(5, width=32), (5,)),
}


@pytest.fixture(params=NETWORKS)
def network(request):
    torch.manual_seed(0)
    make, shape = NETWORKS[request.param]
    made = make().eval().requires_grad_(False)
    for parameter in made.parameters():  # layers that are silent at first would hide a change
        parameter.add_(0.02 * torch.randn_like(parameter))
    x, times = torch.randn(2, *shape, generator=torch.Generator().manual_seed(1)), torch.full((2,), 0.5)
    return made, lambda net: net(x, times, {})


def stirred(adapter):
    for parameter in adapter.parameters():
        parameter.data.add_(0.05 * torch.randn_like(parameter))
    return adapter


@pytest.mark.parametrize("kind", ["lora", "dora"])
def test_an_adapter_is_silent_loud_merged_and_gone(network, kind):
    net, out = network
    before, bits = out(net), fingerprint(net)
    adapter = attach(net, fresh(net, "a", 2, kind=kind)) and attached(net)["a"]
    assert torch.equal(out(net), before)
    stirred(adapter)
    changed = out(net)
    assert (changed - before).norm() > 1e-3 * before.norm()
    assert fingerprint(net) == bits, "what lies beneath stays"
    done = merge(net)
    assert (out(net) - changed).norm() <= 1e-6 * changed.norm()
    assert not attached(net)
    assert fingerprint(net) != bits
    done.undo()
    assert torch.equal(out(net), changed)
    assert set(attached(net)) == {"a"}
    detach(net, "a")
    assert torch.equal(out(net), before)
    assert fingerprint(net) == bits


def test_several_add_up_and_each_can_go(network):
    net, out = network
    one, two = stirred(fresh(net, "one", 2)), stirred(fresh(net, "two", 3, scale=0.5))
    name = next(iter(one.changes))
    weight = net.get_submodule(name).weight.clone()
    attach(net, one, 0.7)
    attach(net, two)
    wanted = weight + 0.7 * one.changes[name].change() + two.changes[name].change()
    torch.testing.assert_close(net.get_submodule(name).weight, wanted)
    detach(net, "one")
    alone = out(net)
    detach(net, "two")
    attach(net, two)
    assert torch.equal(out(net), alone)


def test_a_copy_has_its_own_changes(network):
    net, out = network
    attach(net, fresh(net, "a", 2))
    other = copy.deepcopy(net)
    stirred(attached(other)["a"])
    assert not torch.equal(out(other), out(net))


def test_only_changes_learn(network):
    net, out = network
    attach(net, fresh(net, "a", 2))
    out(net).square().sum().backward()
    moved = {name for name, parameter in net.named_parameters() if parameter.grad is not None}
    assert moved
    assert all(".parametrizations.weight.0." in name for name in moved)


def test_half_precision_refuses_a_merge_that_would_lose_it():
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(64, 64)).bfloat16()
    adapter = fresh(net, "small", 4)
    for change in adapter.changes.values():
        change.up.data.normal_(std=1e-4)
    attach(net, adapter)
    share = survives(net)
    with pytest.raises(UsageError, match=f"would keep {share:.1%}"):
        merge(net)
    before = net[0].parametrizations["weight"].original.clone()
    merge(net, least=0.0)
    assert float((net[0].weight != before).double().mean()) == pytest.approx(share, abs=0.01)
    assert share < 0.5
    assert survives(torch.nn.Sequential(torch.nn.Linear(4, 4))) == 1.0


REFUSED = {
    "no layer is called": lambda net: layers(net, ["nowhere.*"]),
    "a rank of at least 1": lambda net: fresh(net, "a", 0),
    "no kind of adapter called 'lara'": lambda net: fresh(net, "a", 1, kind="lara"),
    "called a is on this network already": lambda net: [attach(net, fresh(net, "a", 1)) for _ in range(2)],
    "there is no adapter b": lambda net: detach(net, "b"),
    "was learnt on weights": lambda net: attach(MLP(5, width=32), fresh(net, "a", 1)),
    "their order would matter": lambda net: [attach(net, fresh(net, kind, 1, kind=kind)) for kind in ("lora", "dora")],
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_cannot_be_is_refused_before_anything_changes(what):
    net = MLP(5, width=32)
    bits = fingerprint(net)
    with pytest.raises(UsageError, match=what):
        REFUSED[what](net)
    assert fingerprint(net) == bits


def test_an_adapter_of_another_shape_is_refused():
    adapter = fresh(MLP(5, width=64), "a", 1)
    for_any = type(adapter)("a", adapter.changes)
    with pytest.raises(UsageError, match=r"changes a weight \[64"):
        attach(MLP(5, width=32), for_any)
