import pytest
import torch
from torch import nn

from ebb import testing
from ebb.errors import UsageError
from ebb.networks.blocks import Attention, cropped, padded, patches, rotate, rotation, unpatch
from ebb.networks.dit import DiT
from ebb.networks.mlp import MLP
from ebb.networks.unet import UNet


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
    testing.check_network(SMALL[kind](classes=classes), shapes, labels if classes else no_labels)


@pytest.mark.parametrize("kind", SMALL)
@pytest.mark.parametrize(("dims", "shape"), [(1, (1, 19)), (3, (1, 5, 6, 7))])
def test_one_and_three_dimensions_by_the_same_code(kind, dims, shape):
    testing.check_network(SMALL[kind](dims=dims), [shape], no_labels)


def test_mlp_on_points():
    testing.check_network(MLP(2, width=16, depth=2, classes=4), [(2,)], labels)


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
    network = SMALL["unet"](classes=4)
    with torch.no_grad():
        for p in network.parameters():
            p.add_(0.1 * torch.randn_like(p))
        x, time = torch.randn(1, 1, 8, 8).expand(5, 1, 8, 8), torch.full((5,), 0.5)
        out = network(x, time, {"label": torch.arange(5)})
    assert len({round(float(v), 4) for v in out.flatten(1).sum(1)}) == 5


@pytest.mark.parametrize("cond", [{}, {"label": torch.zeros(1, dtype=torch.int64), "text": torch.zeros(1)}])
def test_conditions_that_do_not_fit_are_named(cond):
    with pytest.raises(UsageError, match=r"takes the conditions \['label'\], got"):
        MLP(2, width=8, classes=3)(torch.zeros(1, 2), torch.zeros(1), cond)


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


def test_rotation_makes_scores_depend_on_distance_only(generator):
    turn = rotation((9,), 16, torch.device("cpu"))
    q, k = torch.randn(2, 1, 16, generator=generator)
    scores = rotate(q.expand(9, 16), turn) @ rotate(k.expand(9, 16), turn).T
    torch.testing.assert_close(scores[0, 3], scores[5, 8])
    assert not torch.allclose(scores[0, 3], scores[0, 4])


def test_attention_equals_its_formula(generator):
    layer = Attention(8, head=4)
    with torch.no_grad():
        layer.out.weight.copy_(torch.eye(8))
    x = torch.randn(2, 5, 8, generator=generator)
    q, k, v = (part.unflatten(-1, (2, 4)).transpose(1, 2) for part in layer.qkv(x).chunk(3, -1))
    q, k = (u / u.pow(2).mean(-1, keepdim=True).add(torch.finfo(u.dtype).eps).sqrt() for u in (q, k))
    by_hand = (torch.softmax(q @ k.mT / 2, -1) @ v).transpose(1, 2).flatten(2)
    torch.testing.assert_close(layer(x), by_hand, atol=1e-5, rtol=1e-5)
