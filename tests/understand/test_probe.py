"""Probes say what is computed, by hand and in closed form, and the network does not notice them."""

import math

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

from ebb import testing
from ebb.networks.dit import DiT
from ebb.networks.mlp import MLP
from ebb.networks.unet import UNet
from ebb.process.bins import centres
from ebb.process.denoiser import NetworkDenoiser
from ebb.process.moment import where
from ebb.process.path import EDM, Cosine, Linear
from ebb.process.predict import velocity
from ebb.sample.noise import Noise
from ebb.understand.probe import (
    Passage,
    activations,
    attention_maps,
    entropy,
    entropy_of_keys,
    narrowest,
    probabilities,
    sensitivity,
)


class Cross(nn.Module):
    """Attention from places x [b, n, w] to a condition's tokens [b, k, w]."""

    def __init__(self, width=4):
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(width, width) for _ in range(3))

    def forward(self, x, tokens):
        q, k, v = (part[:, None] for part in (self.q(x), self.k(tokens), self.v(tokens)))
        return x + F.scaled_dot_product_attention(q, k, v)[:, 0]


class Two(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.blocks = Cross(), nn.ModuleList([Cross()])

    def forward(self, x, tokens):
        return self.blocks[0](self.first(x, tokens), tokens)


def lively(network):
    """Weights that are nowhere zero, since fresh networks answer 0."""
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.3, generator=torch.Generator().manual_seed(1))
    return network.eval()


def test_cross_attention_is_recorded_by_layer_and_equals_the_softmax_by_hand(generator):
    network, x = lively(Two()), torch.randn(2, 6, 4, generator=generator)
    tokens = torch.randn(2, 3, 4, generator=generator)
    with attention_maps(network) as maps:
        answer = network(x, tokens).detach()
    assert set(maps) == {"first", "blocks.0"}
    q, k = network.first.q(x).detach(), network.first.k(tokens).detach()
    scores = torch.tensor([[[float(a @ b) / 2 for b in keys] for a in rows] for rows, keys in zip(q, k, strict=True)])
    exact = scores.exp() / scores.exp().sum(-1, keepdim=True)
    torch.testing.assert_close(maps["first"][0][:, 0], exact)
    assert not torch.allclose((2 * scores).softmax(-1), exact, atol=1e-2), "the mutant: without the root of the width"
    assert torch.equal(answer, network(x, tokens))
    assert len(maps["first"]) == 1, "after the block nothing is recorded"


@pytest.mark.parametrize("kind", ["dit", "unet"])
def test_networks_of_this_house_do_not_notice(kind, generator):
    torch.manual_seed(0)
    made = DiT(1, width=64, depth=2, patch=2) if kind == "dit" else UNet(1, width=32, depth=1, attention=(1,))
    network, x, t = lively(made), torch.randn(2, 1, 8, 8, generator=generator), torch.tensor([0.2, 0.7])
    before, hooks = network(x, t, {}), sum(len(m._forward_hooks) for m in network.modules())
    with attention_maps(network) as maps, activations(network) as found:
        during = network(x, t, {})
    assert torch.equal(before, during)
    assert torch.equal(before, network(x, t, {}))
    assert sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in network.modules()) == hooks
    assert len(maps) >= (2 if kind == "dit" else 1)
    names = dict(network.named_modules())
    for name, (probability,) in maps.items():
        assert "Attention" in type(names[name]).__name__
        torch.testing.assert_close(probability.sum(-1), torch.ones(probability.shape[:-1]))
        assert 0 < entropy(probability).mean() <= 1
    assert all(names[name] and one.calls >= 1 for name, one in found.items())


def test_gradients_pass_through_and_a_failing_network_leaves_nothing_behind(generator):
    network, x, tokens = lively(Two()), torch.randn(1, 2, 4, generator=generator), torch.randn(1, 3, 4)
    with attention_maps(network) as maps:
        network(x, tokens).sum().backward()
        with pytest.raises(RuntimeError):
            network(x, torch.zeros(1, 3, 5))
        network(x, tokens)
    assert [len(calls) for calls in maps.values()] == [2, 2], "names are right after the error"
    assert network.first.q.weight.grad.abs().sum() > 0
    assert not maps["first"][0].requires_grad


@pytest.mark.parametrize("options", [
    {}, {"is_causal": True}, {"scale": 0.3}, {"attn_mask": "bool"}, {"attn_mask": "float"}, {"enable_gqa": True},
])  # fmt: skip
def test_probabilities_times_values_are_the_attention(options, generator):
    q, v = torch.randn(2, 4, 5, 8, generator=generator), torch.randn(2, 4, 5, 3, generator=generator)
    k = torch.randn(2, 4, 5, 8, generator=generator)
    if options.get("enable_gqa"):
        k, v = k[:, :2], v[:, :2]
    if mask := options.get("attn_mask"):
        drawn = torch.randn(5, 5, generator=generator)
        options = {"attn_mask": (drawn > 0) | torch.eye(5).bool() if mask == "bool" else drawn}
    every = v.repeat_interleave(2, 1) if len(v[0]) == 2 else v
    expected = F.scaled_dot_product_attention(q, k, v, **options)
    torch.testing.assert_close(probabilities(q, k, v, **options) @ every, expected)


def test_entropy_of_even_and_of_certain_attention():
    even, certain = torch.full((1, 1, 4, 8), 1 / 8), torch.eye(8)[None, None, :4]
    torch.testing.assert_close(entropy(even), torch.ones(1, 1, 4))
    torch.testing.assert_close(entropy_of_keys(even), torch.ones(1, 1, 8))
    assert entropy(certain).abs().max() == 0
    assert entropy_of_keys(certain)[0, 0, :4].abs().max() == 0
    assert entropy_of_keys(certain)[0, 0, 4:].isnan().all(), "nothing looks at these"
    half = torch.tensor([0.5, 0.5, 0, 0])
    assert entropy(half).item() == pytest.approx(0.5)
    assert entropy(torch.ones(3, 1)).tolist() == [0, 0, 0]


def test_a_token_seen_from_everywhere_differs_from_one_that_belongs_to_a_place():
    """Two tokens over four places: the first is looked at from one place only, the second from all."""
    seen = torch.tensor([[1.0, 0.0, 0.0, 0.0], [0.25, 0.25, 0.25, 0.25]]).T[None]
    maps = seen / seen.sum(-1, keepdim=True)
    place, everywhere = entropy_of_keys(maps)[0].tolist()
    assert place == 0
    assert everywhere > 0.9


def test_activations_are_those_of_the_values(generator):
    network = nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 2))
    with torch.no_grad():
        network[0].bias[1], network[0].weight[1] = -9.0, 0.0
    batches = [torch.randn(7, 3, generator=generator), torch.randn(4, 3, generator=generator)]
    with activations(network) as found:
        answers = [network(batch) for batch in batches]
    hidden = torch.cat([network[1](network[0](batch)) for batch in batches]).double()
    assert list(found) == ["0", "1", "2"]
    one = found["1"]
    assert (one.mean, one.std) == pytest.approx((hidden.mean().item(), hidden.std(correction=0).item()))
    assert one.largest == hidden.abs().max().item()
    assert one.zeros == pytest.approx((hidden == 0).double().mean().item())
    assert one.dead == pytest.approx(0.2), "the second unit, of five, in both calls"
    assert (one.calls, found["2"].dead) == (2, 0)
    assert all(torch.equal(network(batch), answer) for batch, answer in zip(batches, answers, strict=True))
    with activations(network) as found:
        network(batches[0][:1])
    assert found["1"].dead is None
    assert found["1"].calls == 1


def test_a_layer_that_overflows_shows(generator):
    network = nn.Sequential(nn.Linear(2, 2), nn.Identity())
    with torch.no_grad():
        network[0].weight.fill_(math.inf)
    with activations(network) as found:
        network(torch.ones(2, 2))
    assert found["0"].largest == math.inf
    assert math.isnan(found["0"].std)


def test_the_reactions_of_the_exact_denoiser_have_a_closed_form(generator):
    """D = m + αΣ(α²Σ + σ²)⁻¹(x − αm): its Jacobian is the gain, and its change with the level by autodiff."""
    gauss = testing.normal(Cosine())
    x0 = (
        gauss.mean.float()
        + torch.randn(4000, 2, generator=generator) @ torch.linalg.cholesky(gauss.covariance).mT.float()
    )
    found = sensitivity(gauss, x0, {}, bins=6, nats=0.05)
    prior, eps = torch.linalg.eigvalsh(gauss.covariance), Noise.of(0, len(x0))(0, x0).double()
    pushed, moved = [], []
    for centre in centres(6):
        now = where(gauss.path, centre / 2)
        gain = now.alpha * prior / (now.alpha**2 * prior + now.sigma**2)
        pushed.append(math.sqrt(float(gain.square().mean())))
        x = now.mix(x0.double(), eps)

        def answer(level, x=x):
            return gauss(x, gauss.path.time(torch.exp(-level / 2)).expand(len(x)), {})

        level = torch.tensor(centre, dtype=torch.float64)
        slope = torch.func.jvp(answer, (level,), (torch.ones_like(level),))[1]
        moved.append(math.sqrt(float(slope.square().mean())))
    assert found.input == pytest.approx(pushed, rel=0.05)
    assert found.time == pytest.approx(moved, rel=0.02)
    assert found.input[:2] != pytest.approx([value**2 for value in pushed[:2]], rel=0.05), "the mutant: not the root"
    assert found.time != pytest.approx([2 * value for value in moved], rel=0.02), "the mutant: per nat of log α/σ"
    assert found.output == [None] * 6


def test_a_network_that_does_not_hear_the_time_is_told_nothing(generator):
    model = NetworkDenoiser(lively(MLP(2)), Linear(), velocity)
    x0 = torch.randn(8, 2, generator=generator)
    hears = sensitivity(model, x0, {}, bins=4)
    assert min(hears.output) > 1e-4
    deaf = NetworkDenoiser(model.network, Linear(), velocity, lambda path, t: torch.full_like(t, 0.3))
    found = sensitivity(deaf, x0, {}, bins=4)
    assert found.output == [0] * 4
    assert min(found.time) > 0, "the path's algebra still moves x0"
    assert sensitivity(model, x0, {}, bins=4) == hears


def test_levels_beyond_the_path_are_left_out(generator):
    found = sensitivity(testing.normal(EDM()), torch.randn(4, 2, generator=generator), {})
    assert [value is None for value in found.time] == [centre < -8.7 for centre in centres()]


def rank_of(network, x):
    """The rank of the whole Jacobian of an answer at x [1, *d], in float64."""
    network = network.double()
    t = torch.full((1,), 0.5, dtype=torch.float64)
    jacobian = torch.autograd.functional.jacobian(lambda x: network(x, t, {}), x.double())
    return int(torch.linalg.matrix_rank(jacobian.reshape(x.numel(), x.numel())))


@pytest.mark.parametrize(("width", "layer"), [(16, "stem"), (32, None)])
def test_what_fits_through_a_network_is_the_rank_of_its_jacobian(width, layer, generator):
    """16 of the 27 values of a 3×3 patch of colour, less what normalisation takes of the whole."""
    network = lively(UNet(3, width=width, patch=3, depth=1, multipliers=(1,)))
    x = torch.randn(1, 3, 6, 6, generator=generator)
    found = narrowest(network, lambda x: network(x, torch.tensor([0.5]), {}), x)
    rank = rank_of(network, x)
    if layer is None:
        assert found is None
        assert rank == x.numel()
    else:
        assert found.layer == layer
        assert 0.9 * found.numbers <= rank <= found.numbers == 4 * 16


def asked_about(network, *shape):
    return narrowest(network, network, torch.randn(2, *shape))


def test_a_narrow_layer_counts_only_where_nothing_gets_around_it():
    class Skipping(nn.Module):
        def __init__(self):
            super().__init__()
            self.down, self.up = nn.Linear(6, 2), nn.Linear(2, 6)

        def forward(self, x):
            return x + self.up(self.down(x))

    assert asked_about(Skipping(), 6) is None
    assert asked_about(nn.Sequential(nn.Linear(6, 2), nn.Linear(2, 6)), 6) == Passage("0", 2)
    assert asked_about(nn.Sequential(nn.Linear(6, 9), nn.Tanh(), nn.Linear(9, 4), nn.Linear(4, 6)), 6) == Passage(
        "2", 4
    )


def test_a_weight_of_low_rank_lets_as_little_pass():
    network = nn.Sequential(nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1))
    assert asked_about(network, 4, 3, 3) is None
    with torch.no_grad():
        network[1].weight[3] = network[1].weight[0] - network[1].weight[2]
    assert asked_about(network, 4, 3, 3) == Passage("1", 27)
    with torch.no_grad():
        network[1].weight.zero_()  # as many networks begin
    assert asked_about(network, 4, 3, 3) is None


def test_asking_what_fits_through_changes_nothing():
    network = nn.Sequential(nn.Linear(6, 2), nn.Dropout(0.5), nn.Linear(2, 6)).train()
    network[0].weight.requires_grad_(False)
    asked_about(network, 6)
    assert [p.requires_grad for p in network.parameters()] == [False, True, True, True]
    assert all(part.training for part in network.modules())
    assert not any(part._forward_hooks for part in network.modules())
    assert all(p.grad is None for p in network.parameters())
