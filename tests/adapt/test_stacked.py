"""Several adapters as one: the sum of what each does, to rounding, and nothing of what their factors do together."""

import pytest
import torch

from ebb.adapt import stacked as room
from ebb.adapt.adapter import Adapter, attach, fresh
from ebb.adapt.low_rank import LowRank
from ebb.adapt.stacked import Summand, overlaps, stacked
from ebb.errors import UsageError
from ebb.networks.mlp import MLP
from ebb.networks.unet import UNet


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    return UNet(1, width=16, depth=1, multipliers=(1,)).eval().requires_grad_(False)


def trained(net, name, rank, scale=1.0, kind="lora", **more):
    torch.manual_seed(sum(map(ord, name)))
    adapter = fresh(net, name, rank, kind=kind, scale=scale, **more)
    for parameter in adapter.parameters():
        parameter.requires_grad_(False).add_(0.1 * torch.randn_like(parameter))
    return adapter


def out(net, *parts):
    """What a copy of the network answers with these on."""
    import copy

    made = copy.deepcopy(net)
    for part in parts:
        attach(made, Adapter(part.adapter.name, part.adapter.changes, part.adapter.base), part.amount)
    x = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    return made(x, torch.full((2,), 0.5), {})


def test_one_adapter_does_what_all_do_at_once(net):
    """Of other ranks, scales, layers and signs."""
    parts = [
        Summand(trained(net, "one", 2, 0.5), 0.7),
        Summand(trained(net, "two", 3, 1.3, targets=("*conv*", "out*")), -0.5),
        Summand(trained(net, "three", 1), 1.0),
    ]
    made = stacked(parts, "all")
    at_once, as_one = out(net, *parts), out(net, Summand(made))
    assert (at_once - out(net)).norm() > 0.1 * at_once.norm()
    assert (as_one - at_once).norm() <= 1e-6 * at_once.norm()
    for layer, change in made.changes.items():
        assert change.rank == sum(p.adapter.changes[layer].rank for p in parts if layer in p.adapter.changes)
    assert made.base == parts[0].adapter.base


def averaged(layer, parts):
    """The factors added up by the roots of their weights, as others join them."""
    changes = [part.adapter.changes[layer] for part in parts]
    made = LowRank(changes[0].shape, max(change.rank for change in changes)).requires_grad_(False)
    made.down.zero_()
    for part, change in zip(parts, changes, strict=True):
        root = abs(part.amount * change.scale) ** 0.5
        made.down[: change.rank] += root * change.down
        made.up[:, : change.rank] += (1 if part.amount > 0 else -1) * root * change.up
    return made


def test_a_mutant_with_cross_terms_is_caught(net, monkeypatch):
    monkeypatch.setattr(room, "joint", averaged)
    with pytest.raises(AssertionError):
        test_one_adapter_does_what_all_do_at_once(net)


@pytest.mark.parametrize("kind", ["lora", "dora"])
def test_one_alone_by_one_is_itself(net, kind):
    one, none = trained(net, "one", 2, 0.3, kind), trained(net, "two", 2)
    made = stacked([Summand(one), Summand(none, 0.0)], "all")
    assert torch.equal(out(net, Summand(made)), out(net, Summand(one)))


def test_what_is_alike_is_said(net):
    one, two = trained(net, "one", 2), trained(net, "two", 2)
    [(*names, far), (*_, same), _] = overlaps([Summand(one), Summand(two), Summand(one, 0.5)])
    assert names == ["one", "two"]
    assert abs(far) < 0.3
    assert same == pytest.approx(1)


REFUSED = {
    "nothing of these": lambda net: [Summand(trained(net, "one", 1), 0.0)],
    "one and two were learnt on other weights": lambda net: [
        Summand(trained(net, "one", 1)), Summand(trained(MLP(5, width=32), "two", 1))
    ],
    "changes the direction": lambda net: [Summand(trained(net, "one", 1, kind="dora"), 0.5)],
    r"adds up with nothing": lambda net: [
        Summand(trained(net, "one", 1, kind="dora")), Summand(trained(net, "two", 1))
    ],
    r"out is \[4, 4\] and \[3, 4\]": lambda net: [
        Summand(Adapter(name, {"out": LowRank((size, 4), 1)})) for name, size in (("one", 4), ("two", 3))
    ],
}  # fmt: skip


@pytest.mark.parametrize("what", REFUSED)
def test_what_is_no_sum_is_refused(net, what):
    with pytest.raises(UsageError, match=what):
        stacked(REFUSED[what](net), "all")
