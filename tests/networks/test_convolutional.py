import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

from ebb.errors import UsageError
from ebb.networks.convolutional import Decoder, Encoder, Grow, PlaceNorm, Pyramid, Shrink
from ebb.networks.critic import Critic

SHAPES = [
    {"multipliers": (1, 2)},
    {"multipliers": (1,), "patch": 2},
    {"multipliers": (1, 2, 2), "patch": 2, "residual": True},
]


def shaken(network):
    """The network with all weights moved, so that nothing is silent."""
    torch.manual_seed(0)
    with torch.no_grad():
        for p in network.parameters():
            p.add_(0.1 * torch.randn_like(p))
    return network


def pair(**shape):
    size = Pyramid(16, depth=1, **shape)
    return shaken(Encoder(3, 6, size)), shaken(Decoder(6, 3, size))


@pytest.mark.parametrize("shape", SHAPES)
@torch.no_grad()
def test_every_multiple_of_the_factor_goes_in_and_comes_out(shape):
    encoder, decoder = pair(**shape)
    f = encoder.factor
    assert f == decoder.factor == shape.get("patch", 1) * 2 ** (len(shape["multipliers"]) - 1)
    for h, w in ((1, 1), (2, 3), (4, 2)):
        x = torch.randn(2, 3, h * f, w * f)
        z = encoder(x)
        assert z.shape == (2, 6, h, w)
        assert decoder(z).shape == x.shape
        torch.testing.assert_close(decoder(encoder(x[1:])), decoder(z)[1:], atol=1e-5, rtol=1e-5)


def test_a_side_that_does_not_divide_is_named():
    with pytest.raises(UsageError, match="shrinks sides by 4, and 10×8 is no multiple"):
        Encoder(1, 2, Pyramid(16, (1, 1, 1)))(torch.zeros(1, 1, 8, 10))
    with pytest.raises(UsageError, match="one or more resolutions"):
        Pyramid(multipliers=())


@pytest.mark.parametrize("shape", SHAPES)
def test_every_weight_learns(shape):
    for network, channels in zip(pair(**shape), (3, 6), strict=True):
        out = network(torch.randn(2, channels, 8, 8))
        out.square().sum().backward()
        assert [name for name, p in network.named_parameters() if p.grad is None or p.grad.abs().max() == 0] == []


def reach(network, channels, size):
    """How far, in places of the input, an input in the middle is felt, read off the gradients."""
    x = torch.randn(1, channels, size, size, requires_grad=True)
    out = network(x)
    scale = out.shape[2] / size
    middle = int(size // 2 * scale)
    out[..., middle, middle].sum().backward()
    felt = x.grad.abs().sum((0, 1)).nonzero()
    return int((felt - size // 2).abs().max()), felt


def test_what_becomes_of_a_place_depends_on_its_surroundings_only():
    """And so a mutant that normalises over places is caught."""
    decoder = pair(multipliers=(1, 2))[1]
    assert reach(decoder, 6, 32)[0] <= 5

    def grouped(module):
        for name, child in module.named_children():
            if isinstance(child, PlaceNorm):
                setattr(module, name, nn.GroupNorm(1, child.normalized_shape[0]))
            grouped(child)

    grouped(decoder)
    assert reach(decoder, 6, 32)[0] == 16


def test_the_norm_is_that_of_each_place():
    x = torch.randn(2, 5, 3, 4)
    by_hand = (x - x.mean(1, keepdim=True)) / (x.var(1, keepdim=True, unbiased=False) + 1e-5).sqrt()
    torch.testing.assert_close(PlaceNorm(5)(x), by_hand, atol=1e-5, rtol=1e-5)


def space_to_channel(x):
    b, c, h, w = x.shape
    out = torch.empty(b, 4 * c, h // 2, w // 2)
    for k in range(4 * c):
        out[:, k] = x[:, k // 4, k % 4 // 2 :: 2, k % 2 :: 2]
    return out


@torch.no_grad()
def test_shortcuts_are_those_of_the_paper():
    """Without its convolution a residual step moves blocks into channels and averages groups; the way up is its mirror."""
    x = torch.randn(2, 4, 4, 6)
    down, up = Shrink(4, 8, residual=True), Grow(8, 4, residual=True)
    for layer in (down, up):
        nn.init.zeros_(layer.conv.weight), nn.init.zeros_(layer.conv.bias)
    blocks = space_to_channel(x)
    small = torch.stack([(blocks[:, 2 * k] + blocks[:, 2 * k + 1]) / 2 for k in range(8)], 1)
    torch.testing.assert_close(down(x), small)
    torch.testing.assert_close(up(small), F.pixel_shuffle(small.repeat_interleave(2, 1), 2))
    torch.testing.assert_close(down(up(small)), small)  # averaging undoes repeating
    assert not torch.allclose(down(x), blocks.unflatten(1, (2, 8)).mean(1))  # other groups
    with pytest.raises(UsageError, match="a residual step down from 4 channels cannot have 12"):
        Shrink(4, 12, residual=True)
    with pytest.raises(UsageError, match="a residual step up"):
        Grow(12, 4, residual=True)


def test_low_precision_goes_through():
    encoder, decoder = pair(multipliers=(1, 2), patch=2)
    x = torch.randn(2, 3, 16, 16)
    exact = decoder(encoder(x))
    with torch.autocast("cpu", torch.bfloat16):
        out = decoder(encoder(x))
        out.float().square().mean().backward()
    assert out.dtype == torch.bfloat16
    assert (out.float() - exact).abs().mean() < 0.1 * exact.abs().mean()
    assert all(p.grad.isfinite().all() for p in encoder.parameters())


def test_a_critic_scores_patches_of_each_image_alone():
    critic = shaken(Critic(3, width=16, halvings=2))
    x = torch.randn(3, 3, 16, 24)
    scores = critic(x)
    assert scores.shape == (3, 1, 4, 6)
    torch.testing.assert_close(critic(x[1:2]), scores[1:2], atol=1e-5, rtol=1e-5)
    again = Critic(**critic.settings)
    again.load_state_dict(critic.state_dict())
    torch.testing.assert_close(again(x), scores)
    with pytest.raises(UsageError, match="needs sides of 8 or more, got 16×4"):
        critic(torch.zeros(1, 3, 4, 16))
    with pytest.raises(UsageError, match="1 or more halvings"):
        Critic(1, halvings=0)
