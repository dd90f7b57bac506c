"""LoRA and DoRA against what is known in closed form: the best change of a linear denoiser, and what rounding leaves."""

import pytest
import torch

from ebb.adapt.low_rank import LowRank, LowRankDirection, factors, lengths, rank_for, surviving


def linear_world(sides=12, rank=3, alpha=0.8, sigma=0.6):
    """(K₀, K₁, C): the linear denoisers of N(0, Σ₀) and of N(0, Σ₀ + UUᵀ), and the covariance of the noisy new data.

    K = αΣ(α²Σ + σ²I)⁻¹; K₁ − K₀ has the rank of U (Woodbury).
    """
    generator = torch.Generator().manual_seed(0)
    root = torch.randn(sides, sides, generator=generator, dtype=torch.float64) / sides**0.5
    first = root @ root.T + 0.1 * torch.eye(sides, dtype=torch.float64)
    extra = torch.randn(sides, rank, generator=generator, dtype=torch.float64)
    second = first + extra @ extra.T
    noisy = [alpha**2 * each + sigma**2 * torch.eye(sides, dtype=torch.float64) for each in (first, second)]
    denoisers = [alpha * each @ torch.linalg.inv(of) for each, of in zip((first, second), noisy, strict=True)]
    return *denoisers, noisy[1]


def excess(change, k0, k1, covariance):
    """How far K₀ + `change` is above the least loss under the new data: ‖(K₁ − K₀ − change)·C^½‖²."""
    gap = k1 - k0 - change
    return float(torch.trace(gap @ covariance @ gap.T))


def learned(rank, k0, k1, covariance):
    """The change that gradient descent on the expected loss finds."""
    torch.manual_seed(rank)
    lora = LowRank(k0.shape, rank).double()
    optimiser = torch.optim.LBFGS(lora.parameters(), max_iter=400, tolerance_grad=1e-12, line_search_fn="strong_wolfe")

    def loss():
        optimiser.zero_grad()
        gap = k1 - k0 - lora.change()
        value = torch.trace(gap @ covariance @ gap.T)
        value.backward()
        return value

    for _ in range(4):
        optimiser.step(loss)
    return lora.change().detach()


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_a_lora_of_a_linear_denoiser_misses_what_its_rank_leaves_out(rank):
    """Σ_{i>q} sᵢ², s the singular values of (K₁ − K₀)·C^½, is the least that rank q can leave."""
    k0, k1, covariance = linear_world()
    s = torch.linalg.svdvals((k1 - k0) @ torch.linalg.cholesky(covariance))
    tail = float(s[rank:].square().sum())
    found = excess(learned(rank, k0, k1, covariance), k0, k1, covariance)
    whole = float(s.square().sum())
    assert abs(found - tail) < 0.01 * max(tail, 1e-6 * whole) + 1e-6 * whole
    assert excess(torch.zeros_like(k0), k0, k1, covariance) == pytest.approx(whole)
    if rank < 3:  # what is nearest to K₁ − K₀ itself does not weigh by the data, and misses more
        assert excess(factors(k1 - k0, rank)[0].change().double(), k0, k1, covariance) > 1.01 * tail


@pytest.mark.parametrize("shape", [(6, 10), (8, 4, 3, 3), (5, 3, 3)])
def test_a_fresh_change_changes_nothing_to_the_bit(shape):
    weight = torch.randn(shape)
    for change in (LowRank(shape, 2), LowRankDirection(weight, 2)):
        assert torch.equal(change(weight), weight)
        change.up.data.normal_()
        assert not torch.equal(change(weight), weight)


def test_a_change_of_a_convolution_is_two_convolutions():
    x, change = torch.randn(2, 4, 9, 9), LowRank((8, 4, 3, 3), 2, scale=0.5)
    change.up.data.normal_()
    thin = torch.nn.functional.conv2d(x, change.down)
    two = 0.5 * torch.nn.functional.conv2d(thin, change.up[:, :, None, None])
    torch.testing.assert_close(torch.nn.functional.conv2d(x, change.change()), two, rtol=1e-4, atol=1e-5)


def test_a_direction_has_the_length_that_it_learnt():
    weight = torch.randn(6, 10)
    change = LowRankDirection(weight, 2)
    change.up.data.normal_()
    change.magnitude.data.uniform_(1, 2)
    torch.testing.assert_close(lengths(change(weight)), change.magnitude.data)
    half = LowRankDirection(weight, 2)
    half.load_state_dict(change.state_dict())
    half.amount = 0.5
    torch.testing.assert_close(half(weight), (weight + change(weight)) / 2)


def test_factors_miss_the_tail_and_a_rank_is_enough():
    change = torch.randn(8, 12, dtype=torch.float64)
    for rank in (1, 4, 8):
        near, values = factors(change, rank)
        missing = (near.change().double() - change).square().sum()
        torch.testing.assert_close(missing, values[rank:].square().sum(), rtol=1e-4, atol=1e-9)
        share = float((values[rank:].square().sum() / values.square().sum()).sqrt())
        assert rank_for(values, share + 1e-9) == rank
        assert rank == 1 or rank_for(values, share - 1e-6) > rank or share == 0


def test_what_bf16_keeps_of_a_small_change():
    """An update of a hundredth of the weights moves five of six entries, of a thousandth one of four or five; float32
    keeps all."""
    generator = torch.Generator().manual_seed(0)
    weight, change = torch.randn(2, 512, 512, generator=generator)
    kept = [surviving(weight, size * change, torch.bfloat16) for size in (1e-2, 1e-3, 3e-4)]
    assert kept == pytest.approx([0.83, 0.22, 0.07], abs=0.02)
    assert surviving(weight, 1e-3 * change, torch.float32) > 0.999
    assert surviving(weight, torch.zeros_like(weight), torch.bfloat16) == 1
