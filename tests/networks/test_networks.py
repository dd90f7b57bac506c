import math

import pytest
import torch
from torch import nn

from ebb import testing
from ebb.errors import UsageError
from ebb.networks.blocks import assembled, cropped, cut, padded, patches, rippled, unpatch
from ebb.networks.dit import DiT
from ebb.networks.kinds import NETWORKS as TABLE
from ebb.networks.mlp import MLP
from ebb.networks.mmdit import MMDiT
from ebb.networks.ports import ClassPort
from ebb.networks.unet import UNet, Whereabouts
from ebb.recipe.names import parse, spell

from .known import HEARS, NETWORKS, PIECES, STATES, lively, told


def no_labels(n):
    return {}


def labels(n):
    return {"label": torch.arange(n) % 4}


SMALL = {
    "unet": lambda **k: UNet(1, width=8, multipliers=(1, 2), depth=1, patch=2, attention=(1,), **k),
    "dit": lambda **k: DiT(1, width=32, depth=2, patch=4, head=16, **k),
}


@pytest.mark.parametrize("kind", SMALL)
@pytest.mark.parametrize("classes", [0, 4])
def test_any_picture_size_works(kind, classes):
    shapes = [(1, 8, 8), (1, 28, 28), (1, 33, 47), (1, 5, 3)]
    testing.check_network(
        SMALL[kind](ports={"label": ClassPort(classes)} if classes else {}), shapes, labels if classes else no_labels
    )


@pytest.mark.parametrize("kind", SMALL)
@pytest.mark.parametrize(("dims", "shape"), [(1, (1, 19)), (3, (1, 5, 6, 7))])
def test_one_and_three_dimensions_by_the_same_code(kind, dims, shape):
    testing.check_network(SMALL[kind](dims=dims), [shape], no_labels)


def test_mlp_on_points():
    testing.check_network(MLP(2, width=16, depth=2, ports={"label": ClassPort(4)}), [(2,)], labels)


def test_learned_positions_know_their_size_only():
    network = DiT(3, width=32, depth=1, patch=4, head=16, positions="learned", size=(8, 8))
    testing.check_network(network, [(3, 8, 8)], no_labels)
    with pytest.raises(UsageError, match=r"learned for \(2, 2\) patches, got \(3, 2\)"):
        network(torch.zeros(1, 3, 12, 8), torch.zeros(1), {})
    with pytest.raises(UsageError, match="need the size"):
        DiT(3, positions="learned")


@pytest.mark.parametrize("network", [UNet(1, width=8), DiT(1, width=32, depth=1), MLP(2, width=16)])
def test_outputs_start_at_zero(network):
    x = torch.randn(2, 2) if isinstance(network, MLP) else torch.randn(2, 1, 8, 8)
    assert network(x, torch.rand(2), {}).abs().max() == 0


@pytest.mark.parametrize("network", [UNet(1, width=8, depth=1), DiT(1, width=32, depth=1), MLP(1, width=16)])
def test_every_parameter_gets_a_gradient_once_the_zeros_have_moved(network, generator):
    with torch.no_grad():
        for p in network.parameters():
            p.add_(0.05 * torch.randn(p.shape, generator=generator))
    x = torch.randn(4, 1, generator=generator) if isinstance(network, MLP) else torch.randn(4, 1, 8, 8)
    network(x, torch.rand(4, generator=generator), {}).pow(2).sum().backward()
    silent = [name for name, p in network.named_parameters() if p.grad is None or p.grad.abs().max() == 0]
    assert silent == []


def test_labels_matter_and_the_null_is_one_of_them():
    network = SMALL["unet"](ports={"label": ClassPort(4)})
    with torch.no_grad():
        for p in network.parameters():
            p.add_(0.1 * torch.randn_like(p))
        x, time = torch.randn(1, 1, 8, 8).expand(5, 1, 8, 8), torch.full((5,), 0.5)
        out = network(x, time, {"label": torch.arange(5)})
    assert len({round(float(v), 4) for v in out.flatten(1).sum(1)}) == 5


@pytest.mark.parametrize("cond", [{}, {"label": torch.zeros(1, dtype=torch.int64), "text": torch.zeros(1)}])
def test_conditions_that_do_not_fit_are_named(cond):
    with pytest.raises(UsageError, match=r"takes the conditions \['label'\], got"):
        MLP(2, width=8, ports={"label": ClassPort(3)})(torch.zeros(1, 2), torch.zeros(1), cond)


def test_a_network_blind_to_time_fails_the_suite():
    class Blind(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Conv2d(1, 1, 3, padding=1)

        def forward(self, x, time, cond):
            return self.layer(x)

    with pytest.raises(AssertionError, match="is the clock wired"):
        testing.check_network(Blind(), [(1, 8, 8)], no_labels)


def test_batchnorm_fails_the_suite():
    with pytest.raises(AssertionError, match="mixes the samples"):
        testing.check_network(nn.Sequential(nn.BatchNorm2d(1)), [], no_labels)


@pytest.mark.parametrize("shape", [(2, 3, 12), (2, 3, 8, 12), (2, 3, 4, 8, 12)])
def test_patches_and_back(shape):
    x = torch.randn(shape)
    cut = patches(x, 4)
    assert cut.shape == (2, 3 * 4 ** (len(shape) - 2), *(n // 4 for n in shape[2:]))
    torch.testing.assert_close(unpatch(cut, 4), x)


def test_a_patch_holds_its_own_pixels():
    x = torch.arange(16.0).reshape(1, 1, 4, 4)
    assert patches(x, 2)[0, :, 0, 1].tolist() == [2, 3, 6, 7]


def test_padding_repeats_the_edge_and_is_undone():
    x = torch.randn(1, 1, 3, 5)
    wide = padded(x, 4)
    assert wide.shape == (1, 1, 4, 8)
    assert wide[0, 0, 3, 7] == x[0, 0, 2, 4]
    torch.testing.assert_close(cropped(wide, (3, 5)), x)


@pytest.mark.parametrize("shape", [(2, 3, 7), (2, 3, 5, 6), (2, 3, 4, 3, 5)])
def test_cut_into_rows_and_assembled_again(shape):
    x = torch.randn(shape)
    rows, grid = cut(x, 4)
    assert grid == tuple(-(-n // 4) for n in shape[2:])
    assert rows.shape == (2, torch.tensor(grid).prod(), 3 * 4 ** len(grid))
    torch.testing.assert_close(assembled(rows, grid, 4, shape[2:]), x)


TEXTS = {"pieces and all else": HEARS, "states": STATES}


@pytest.mark.parametrize("heard", TEXTS)
@pytest.mark.parametrize("kind", NETWORKS)
@pytest.mark.parametrize("shape", [(1, 19), (1, 9, 7), (1, 5, 6, 7)])
def test_every_condition_in_one_two_and_three_dimensions(kind, heard, shape):
    network = NETWORKS[kind](dims=len(shape) - 1, ports=TEXTS[heard])
    testing.check_network(network, [shape], lambda n: told(network, shape, n))


@pytest.mark.parametrize("kind", NETWORKS)
def test_a_batch_in_another_order_is_the_answers_in_that_order(kind):
    network, order = lively(NETWORKS[kind](ports=HEARS)), torch.tensor([2, 0, 3, 1])
    x, time, cond = torch.randn(4, 1, 9, 7), torch.rand(4), told(network, (1, 9, 7), 4)
    with torch.no_grad():
        turned = network(x[order], time[order], {name: value[order] for name, value in cond.items()})
        torch.testing.assert_close(turned, network(x, time, cond)[order], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("heard", TEXTS)
@pytest.mark.parametrize("kind", NETWORKS)
def test_with_conditions_too_outputs_start_at_zero_and_every_parameter_learns(kind, heard):
    network = NETWORKS[kind](ports=TEXTS[heard])
    x, time, cond = torch.randn(3, 1, 8, 8), torch.rand(3), told(network, (1, 8, 8))
    assert network(x, time, cond).abs().max() == 0
    lively(network)(x, time, cond).pow(2).sum().backward()
    assert [name for name, p in network.named_parameters() if p.grad is None or p.grad.abs().max() == 0] == []


@pytest.mark.parametrize("heard", TEXTS)
@pytest.mark.parametrize("kind", NETWORKS)
def test_lower_precision_is_no_obstacle(kind, heard):
    """bf16 where autocast chooses it: the text and the gradients stay in float32, the answer is nearly the same."""
    network = lively(NETWORKS[kind](ports=TEXTS[heard]))
    x, time, cond = torch.randn(3, 1, 8, 8), torch.rand(3), told(network, (1, 8, 8))
    exact = network(x, time, cond).detach()
    with torch.autocast("cpu", torch.bfloat16):
        out = network(x, time, cond)
        assert network.embedding(time, cond).rows.dtype == torch.float32
    out.float().square().sum().backward()
    assert all(p.grad.dtype == torch.float32 and p.grad.isfinite().all() for p in network.parameters())
    assert (out - exact).square().mean().sqrt() < 0.1 * exact.square().mean().sqrt()
    assert network.double()(x.double(), time, cond).dtype == torch.float64


@pytest.mark.parametrize("heard", TEXTS)
@pytest.mark.parametrize("kind", NETWORKS)
def test_settings_in_text_build_the_same_network(kind, heard):
    network = NETWORKS[kind](ports=TEXTS[heard])
    again = parse(spell(network, TABLE), TABLE, "network")
    assert again.settings == network.settings
    again.load_state_dict(network.state_dict())
    assert set(network.settings["ports"]) == set(TEXTS[heard])


RESIDUAL = ["norm1", "conv1", "film", "norm2", "conv2"]
ATTENTION = ["norm", "attention.qkv", "attention.norm_q", "attention.norm_k", "attention.out"]
UNCONDITIONED = [
    *("embedding.time.1", "embedding.time.3", "embedding.layers.0.table", "stem"),
    *(f"down.0.0.0.{name}" for name in RESIDUAL),
    *(f"down.0.0.1.{name}" for name in ATTENTION),
    *(f"up.0.0.0.{name}" for name in [*RESIDUAL, "skip"]),
    *(f"up.0.0.1.{name}" for name in ATTENTION),
    *("norm", "out"),
]
"""The layers that checkpoints of this network have held since format 3."""


def test_networks_without_new_conditions_hold_what_they_held():
    network = UNet(1, width=8, multipliers=(1,), depth=1, attention=(0,), ports={"label": ClassPort(3)})
    assert list(dict.fromkeys(name.rpartition(".")[0] for name in network.state_dict())) == UNCONDITIONED
    assert sum(p.numel() for p in network.parameters()) == 5089
    old = parse(
        "unet(channels=1, width=8, multipliers=(1,), depth=1, patch=1, attention=(0,), dims=2, ports={'label': 'classes(count=3)'})",
        TABLE,
        "network",
    )
    assert old.settings == network.settings


def test_what_a_network_cannot_be_is_said():
    with pytest.raises(UsageError, match="mmdit has a stream for text"):
        MMDiT(1)
    with pytest.raises(UsageError, match="cross-attention needs a text"):
        UNet(1, cross=(0,))
    with pytest.raises(UsageError, match=r"cross resolutions go from 0 to 1, got \(2,\)"):
        UNet(1, cross=(2,), ports={"text": "pieces(vocabulary=3, length=2)"})


@pytest.mark.parametrize("size", [(9,), (6, 4), (2, 3, 4)])
def test_a_place_is_told_where_on_the_whole_it_lies(size):
    """Whatever the number of places: the middle of a map is the middle of a finer one, and no two places are alike."""
    where = Whereabouts(16, len(size))
    told = where(torch.zeros(1, 16, *size))[0].detach()
    finer = where(torch.zeros(1, 16, *(3 * n for n in size)))[0].detach().reshape(*(3 * n for n in size), 16)
    middles = finer[tuple(slice(1, None, 3) for _ in size)].reshape(-1, 16)
    torch.testing.assert_close(middles, told)
    assert torch.pdist(told).min() > 1e-2
    x = torch.randn(2, 16, *size)
    torch.testing.assert_close(where(x) - told, x.flatten(2).mT, atol=1e-5, rtol=0)


@pytest.mark.parametrize("kind", ["dit", "mmdit"])
def test_a_text_tells_a_patch_where_on_the_whole_it_is(kind):
    """Turned queries and keys know differences only: without text, an even picture is answered evenly."""
    network = lively(NETWORKS[kind](ports=PIECES))
    x, time = torch.ones(3, 1, 8, 8), torch.full((3,), 0.5)
    with torch.no_grad():
        first, *others = network(x, time, told(network, (1, 8, 8)))[1].unfold(1, 4, 4).unfold(2, 4, 4)[0].flatten(0, 1)
        assert all((other - first).abs().max() > 1e-3 for other in others)
        even = lively(NETWORKS["dit"](ports={}))(x, time, {})[0, 0]
    torch.testing.assert_close(even, even[:4, :4].repeat(2, 2))


def test_waves_beside_x_tell_8_bit_values_apart_and_are_written_down():
    values = torch.arange(256).reshape(256, 1, 1, 1) * 2 / 255 - 1
    seen = rippled(values, (127.5 * math.pi,))
    assert seen.shape == (256, 3, 1, 1)
    assert torch.equal(seen[:, :1], values)
    near = (seen[1:] - seen[:-1]).square().sum((1, 2, 3)).sqrt()
    assert float(near.min()) > 1.9, "neighbours lie on opposite sides"
    assert rippled(values, ()) is values
    network = UNet(1, width=16, depth=1, waves=(100.0,))
    again = parse(spell(network, TABLE), TABLE, "network")
    assert again.settings == network.settings
    assert again.stem.in_channels == 3
    again.load_state_dict(network.state_dict())
    assert "waves" not in UNet(1, width=16, depth=1).settings
