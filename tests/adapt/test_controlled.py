"""Controls beside networks: nothing before they learn, the network to the bit where they are off, and only then a hint."""

import copy

import pytest
import torch

from ebb.adapt.adapter import fingerprint
from ebb.adapt.control_net import AddedAcross, ControlNet
from ebb.adapt.controlled import CONTROLS, Controlled
from ebb.adapt.hint import Hint
from ebb.adapt.two_way import TwoWay
from ebb.errors import UsageError
from ebb.networks.dit import DiT
from ebb.networks.halves import Handed
from ebb.networks.mlp import MLP
from ebb.networks.mmdit import MMDiT
from ebb.networks.ports import ClassPort, MapPort, PiecesPort
from ebb.networks.unet import UNet

TEXT = {"text": PiecesPort(11, 5)}
NETWORKS = {
    "unet": lambda: UNet(
        1,
        width=16,
        multipliers=(1, 2),
        depth=2,
        patch=2,
        attention=(1,),
        cross=(1,),
        ports=TEXT | {"depth": MapPort(1)},
    ),
    "dit": lambda: DiT(1, width=32, depth=3, patch=2, head=16, ports={"label": ClassPort(3)}),
    "learned": lambda: DiT(1, width=32, depth=1, patch=2, head=16, positions="learned", size=(8, 6)),
    "mmdit": lambda: MMDiT(1, width=32, depth=2, patch=2, head=16, ports=TEXT),
}
GIVEN = {
    "text": torch.tensor([[3, 7, 0, 0, 0], [1, 2, 3, 4, 5], [0, 0, 0, 0, 0]]),
    "label": torch.tensor([0, 1, 2]),
    "depth": torch.linspace(-1, 1, 144).reshape(3, 1, 8, 6),
}


def stirred(module, by=0.1, seed=0):
    """Weights that are nowhere zero."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(by * torch.randn(parameter.shape, generator=generator))
    return module


class World:
    """A frozen network, what it is asked, and a hint of two channels."""

    def __init__(self, kind):
        torch.manual_seed(0)
        self.network = stirred(NETWORKS[kind]()).eval().requires_grad_(False)
        self.cond = {name: GIVEN[name] for name in self.network.embedding.ports}
        generator = torch.Generator().manual_seed(1)
        self.x, self.hint = torch.randn(3, 1, 8, 6, generator=generator), torch.rand(3, 2, 8, 6, generator=generator)

    def __call__(self, network, **hints):
        return network(self.x, torch.tensor([0.2, 0.5, 0.9]), self.cond | hints)

    def control(self, kind):
        return CONTROLS[kind].build(self.network, 2)


def bits(x):
    return x.detach().view(torch.int32)


@pytest.fixture(params=NETWORKS, scope="module")
def world(request):
    return World(request.param)


@pytest.mark.parametrize("kind", CONTROLS)
def test_a_control_is_silent_loud_and_off(world, kind):
    """The network to the bit at first, at scale 0, for a sample without a hint, and without any; else not."""
    base, before = world(world.network), fingerprint(world.network)
    control = world.control(kind)
    net = Controlled(world.network, {"edges": control})
    assert torch.equal(bits(world(net, edges=world.hint)), bits(base))
    stirred(control)
    loud, other = world(net, edges=world.hint), world(net, edges=world.hint.roll(1, 0))
    assert (loud - base).norm() > 1e-2 * base.norm()
    assert (loud - other).norm() > 1e-3 * base.norm()
    some = world.hint.clone()
    some[1] = torch.nan
    torch.testing.assert_close(world(net, edges=some)[::2], loud[::2])
    assert torch.equal(world(net, edges=some)[1], base[1])
    off = Controlled(world.network, {"edges": control}, {"edges": 0.0})
    for silent in (world(net), world(off, edges=world.hint)):
        assert torch.equal(bits(silent), bits(base))
    assert fingerprint(world.network) == before


def test_controls_add_up(world):
    """Two of the same at halves are one, and what one adds does not depend on the other."""
    one, two = stirred(world.control("controlnet")), stirred(world.control("controlnet"), seed=3)
    whole = world(Controlled(world.network, {"a": one}), a=world.hint)
    halves = Controlled(world.network, {"a": one, "b": copy.deepcopy(one)}, {"a": 0.5, "b": 0.5})
    torch.testing.assert_close(world(halves, a=world.hint, b=world.hint), whole, rtol=1e-4, atol=1e-5)
    both = Controlled(world.network, {"a": one, "b": two})
    torch.testing.assert_close(world(both, a=world.hint), whole)
    assert not torch.allclose(world(both, a=world.hint, b=world.hint), whole, atol=1e-3)


@pytest.mark.parametrize("kind", CONTROLS)
def test_all_of_a_control_learns_and_nothing_of_the_network(world, kind):
    """Of zeros the first gradient reaches the last layers alone, of a small start all; after an update, all."""
    for start in (0.0, 1e-3):
        control = type(CONTROLS[kind])(start=start).build(world.network, 2)
        net = Controlled(world.network, {"edges": control})

        def silent(net=net, control=control):
            control.zero_grad()
            world(net, edges=world.hint).square().sum().backward()
            return {n for n, p in control.named_parameters() if p.grad is None or not p.grad.abs().max() > 0}

        first = silent()
        behind = {name for name, _ in control.named_parameters() if not name.startswith("zeros.")}
        fresh = {name for name in behind if name.startswith("blocks.")}  # have zeros of their own at first
        assert first - fresh == (behind - fresh if start == 0 else set())
        stirred(control, 1e-2)
        assert silent() == set()
        assert all(p.grad is None for p in world.network.parameters())


def test_a_copy_of_two_streams_ends_in_the_data_alone():
    """Its features are those of the network, to rounding, without what would only make text of text."""
    world = World("mmdit")
    opened, record = world.network.opened(world.x, torch.rand(3), world.cond), (Handed(), Handed())
    for encoder, one in zip((world.network.encoder, world.network.copied()), record, strict=True):
        world.network.encoded(encoder, world.network.entered(world.network.stem, opened), opened, one)
    for own, copied in zip(*(one.features for one in record), strict=True):
        torch.testing.assert_close(own, copied)
    sizes = [
        sum(p.numel() for p in part.parameters()) for part in (world.network.encoder[-1], world.network.copied()[-1])
    ]
    assert sizes[1] < 0.7 * sizes[0]


def test_a_narrow_control_is_small():
    network = UNet(3, width=64, multipliers=(1, 2, 2), depth=2)
    sizes = [sum(p.numel() for p in kind.build(network, 1).parameters()) for kind in (TwoWay(), ControlNet())]
    assert sizes[0] < 0.15 * sizes[1]


@pytest.mark.parametrize(("dims", "shape"), [(1, (1, 19)), (3, (1, 5, 6, 7))])
@pytest.mark.parametrize("kind", CONTROLS)
def test_one_and_three_dimensions_and_odd_sizes(kind, dims, shape):
    for network in (UNet(1, width=16, multipliers=(1, 2), depth=1, dims=dims), DiT(1, width=32, depth=2, dims=dims)):
        net = Controlled(stirred(network), {"edges": stirred(CONTROLS[kind].build(network, 2))})
        x, time = torch.randn(2, *shape), torch.rand(2)
        out = net(x, time, {"edges": torch.rand(2, 2, *shape[1:])})
        assert out.shape == x.shape
        assert not torch.allclose(out, network(x, time, {}))


def test_a_mutant_is_caught(world, monkeypatch):
    """A scale that is forgotten, and features that are added a block too late."""
    with monkeypatch.context() as patch:
        patch.setattr(Hint, "weighed", lambda hint, features: features)
        with pytest.raises(AssertionError):
            test_controls_add_up(world)
    late = lambda added, block, h: h + added.features[block - 1] if 0 < block < len(added.features) else h  # noqa: E731
    monkeypatch.setattr(AddedAcross, "across", late)
    with pytest.raises((AssertionError, RuntimeError)):
        test_all_of_a_control_learns_and_nothing_of_the_network(world, "controlnet")


def test_what_cannot_be_controlled_is_named(world):
    control = world.control("two_way")
    with pytest.raises(UsageError, match="a MLP has no encoder"):
        Controlled(MLP(2), {"edges": control})
    with pytest.raises(UsageError, match=r"no control 'egdes'"):
        Controlled(world.network, {"edges": control}).take("egdes")
    with pytest.raises(UsageError, match="a control by edges already"):
        Controlled(world.network, {"edges": control}).put("edges", control)
    for name in world.network.embedding.ports:
        with pytest.raises(UsageError, match=f"hears {name} itself"):
            Controlled(world.network, {name: control})
    net = Controlled(world.network, {"edges": control})
    for wrong in (world.hint[:, :1], world.hint[:, :, :4], world.hint[:1], world.hint.int()):
        with pytest.raises(UsageError, match=r"'edges' is floating \[3, 2, 8, 6\]"):
            world(net, edges=wrong)
    with pytest.raises(UsageError, match="deviation of at least 0"):
        ControlNet(start=-1).build(world.network, 2)
    with pytest.raises(UsageError, match="share"):
        TwoWay(share=0)
