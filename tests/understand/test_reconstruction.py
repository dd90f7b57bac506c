import dataclasses
import json
import math

import pytest
import torch
from torch import nn
from torch.distributions import Normal, kl_divergence
from torchmetrics.functional.image import structural_similarity_index_measure

from ebb.encode.autoencoder import KL, VQ, Autoencoder
from ebb.encode.statistics import latent_statistics
from ebb.errors import DataError, UsageError
from ebb.sample.noise import Noise
from ebb.understand.likelihood import WIDTH
from ebb.understand.reconstruction import Reconstruction, detail, psnr, ssim


def images(count=5, size=16, channels=3, seed=0):
    return torch.rand(count, channels, size, size, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def shaken(autoencoder):
    torch.manual_seed(0)
    with torch.no_grad():
        for p in autoencoder.parameters():
            p.add_(0.1 * torch.randn_like(p))
    return autoencoder


class Plain(Autoencoder):
    """Two functions, and nothing to learn."""

    def __init__(self, encode, decode):
        super().__init__()
        self.there, self.back, self.channels, self.latent, self.factor = encode, decode, 3, 3, 1

    def encode(self, x):
        return self.there(x)

    def decode(self, z):
        return self.back(z)


# fidelity


def test_decibels_by_hand():
    x = images()
    torch.testing.assert_close(psnr(x + 0.2, x), torch.full((5,), 20.0, dtype=torch.float64), rtol=1e-4, atol=0)
    assert psnr(x, x).tolist() == pytest.approx([100.0] * 5)
    mixed = torch.cat([x[:1] + 0.2, x[1:] + 0.02])
    assert psnr(mixed, x).tolist() == pytest.approx([20, 40, 40, 40, 40], abs=1e-2)


def test_similarity_is_that_of_an_independent_implementation():
    x = images(size=20)
    made = 0.7 * x + 0.3 * images(size=20, seed=1)
    how = {"sigma": 1.5, "kernel_size": 11, "return_full_image": True}

    def theirs(peak):
        whole = structural_similarity_index_measure(made.double(), x.double(), data_range=peak, **how)[1]
        return whole[..., 5:-5, 5:-5].mean((1, 2, 3))  # the windows that lie within the image

    torch.testing.assert_close(ssim(made, x), theirs(2.0), atol=1e-6, rtol=1e-6)
    assert (ssim(made, x) - theirs(1.0)).abs().min() > 1e-3


def test_similarity_where_it_is_known():
    x = images(size=12)
    assert ssim(x, x).tolist() == pytest.approx([1.0] * 5)
    a, b, c1 = 0.5, -0.2, (0.01 * 2) ** 2
    flat = torch.full((1, 3, 12, 12), a), torch.full((1, 3, 12, 12), b)
    assert float(ssim(*flat)) == pytest.approx((2 * a * b + c1) / (a * a + b * b + c1), rel=1e-6)
    with pytest.raises(UsageError, match="11×11 or more, got 8×8"):
        ssim(images(size=8), images(size=8))


def test_detail_is_what_a_mean_over_blocks_loses():
    board = torch.tensor([[1.0, -1.0], [-1.0, 1.0]]).repeat(3, 3)[None, None]
    assert float(detail(board)) == pytest.approx(36)
    assert float(detail(board + 0.3)) == pytest.approx(36)
    coarse = images(size=4).repeat_interleave(2, 2).repeat_interleave(2, 3)
    assert detail(coarse).tolist() == [0] * 5
    assert float(detail(torch.cat([board, board[..., :1]], -1))) == pytest.approx(36)


# latents


def test_statistics_of_latents_are_those_of_all_of_them_however_cut():
    autoencoder, x = shaken(KL(3, width=16, depth=1)), images(7)
    found, cut = (latent_statistics(autoencoder, parts) for parts in ([x], [x[:2], x[2:]]))
    z = autoencoder.encode(x).detach().movedim(1, 0).flatten(1)
    assert found.mean == pytest.approx(z.mean(1).tolist(), abs=1e-5)
    assert found.std == pytest.approx(z.std(1, unbiased=False).tolist(), rel=1e-4)
    assert cut.count == found.count == 7
    assert cut.std == pytest.approx(found.std, rel=1e-5)
    with pytest.raises(DataError, match="no images"):
        latent_statistics(autoencoder, [])
    with pytest.raises(DataError, match="throughout"):
        latent_statistics(autoencoder, [x, images(2, size=8)])


def test_a_channel_that_says_nothing_about_the_image_is_inactive():
    """Not what varies over places counts, but what varies over images."""

    def encode(x):
        places = torch.linspace(-1, 1, 256).reshape(1, 16, 16).expand(len(x), 16, 16)
        return torch.stack([x[:, 0], places, 0.05 * x[:, 2]], 1)

    x = images(200)
    found = Reconstruction.of(Plain(encode, lambda z: z), [x[:150], x[150:]])
    assert found.activity == pytest.approx([1 / 3, 0, 0.0025 / 3], abs=0.01)
    assert found.inactive == pytest.approx(2 / 3)
    assert any("2 of 3 latent channels hardly vary" in line for line in found.warnings())


def test_nothing_is_said_of_what_is_in_order_and_blur_is():
    sharp = Reconstruction.of(Plain(lambda x: x, lambda z: z), [images()])
    assert (sharp.psnr, sharp.ssim, sharp.detail) == pytest.approx((100, 1, 1))
    assert (sharp.evidence, sharp.codes, sharp.warnings()) == (None, None, [])
    blurred = Reconstruction.of(Plain(lambda x: x, lambda z: nn.functional.avg_pool2d(z, 3, 1, 1)), [images()])
    assert blurred.detail < 0.3
    assert any(line.startswith("blur") for line in blurred.warnings())
    halved = Reconstruction.of(Plain(lambda x: x, lambda z: z / 2), [images(size=8)])
    assert (halved.detail, halved.ssim) == (pytest.approx(0.25), None)


# evidence


@torch.no_grad()
def test_evidence_is_the_sum_of_what_torch_says_of_its_parts():
    autoencoder, x, variance = shaken(KL(3, width=16, depth=1)), images(6), 0.3
    found = Reconstruction.of(autoencoder, [x[:4], x[4:]], seed=3, variance=variance)
    mean, log_variance = autoencoder.posterior(x)
    z = mean + (log_variance / 2).exp() * Noise.of(3, 6)(0, mean)
    nats = -Normal(autoencoder.decode(z), math.sqrt(variance)).log_prob(x).sum((1, 2, 3)).mean()
    kl = kl_divergence(Normal(mean, (log_variance / 2).exp()), Normal(0.0, 1.0)).sum((2, 3)).mean(0)
    e = found.evidence
    assert e.reconstruction == pytest.approx(float(nats), rel=1e-5)
    assert e.kl_per_channel == pytest.approx(kl.tolist(), rel=1e-4)
    assert e.kl == pytest.approx(sum(e.kl_per_channel))
    assert e.elbo == pytest.approx(-(e.reconstruction + e.kl))
    again = autoencoder.posterior(x)[0] + Noise.of(4, 6)(0, mean)
    assert not torch.allclose(again, z)
    json.dumps(dataclasses.asdict(found))


def test_the_variance_that_is_not_given_is_the_likeliest():
    autoencoder, x = shaken(KL(3, width=16, depth=1)), images(6)
    best = Reconstruction.of(autoencoder, [x]).evidence
    for factor in (0.9, 1.1):
        assert Reconstruction.of(autoencoder, [x], variance=factor * best.variance).evidence.elbo < best.elbo
    with pytest.raises(UsageError, match="a variance is above 0"):
        Reconstruction.of(autoencoder, [x], variance=0.0)


def test_bits_bound_the_code_length_of_8_bit_values():
    """Of values that are all alike likely no model needs fewer than 8; of one that is known exactly, few."""

    class Blind(Plain):
        def posterior(self, x):
            return torch.zeros_like(x), torch.zeros_like(x)

    values = torch.randint(256, (40, 3, 16, 16), generator=torch.Generator().manual_seed(0)) / 127.5 - 1
    blind = Blind(torch.zeros_like, torch.zeros_like)
    found = Reconstruction.of(blind, [values]).evidence
    v = float(values.double().square().mean())
    by_hand = (math.log(2 * math.pi * v) + 1 + WIDTH**2 / 12 / v) / 2 / math.log(2) - math.log2(WIDTH)
    assert found.bits == pytest.approx(by_hand, rel=1e-6)
    assert 8 < found.bits < 8.5
    assert Reconstruction.of(blind, [0.01 * values]).evidence.bits < 3


# codes


def test_codes_in_use_are_counted_over_the_whole_set():
    torch.manual_seed(0)
    autoencoder = VQ(3, latent=3, codes=4, width=16, depth=1, multipliers=(1,), patch=1)
    autoencoder.encoder, autoencoder.decoder = nn.Identity(), nn.Identity()
    book = autoencoder.codebook
    book.counts.fill_(1.0)
    book.sums.copy_(torch.tensor([[-0.5] * 3, [0.5] * 3, [50.0] * 3, [90.0] * 3]))
    x = torch.cat([torch.full((1, 3, 12, 12), value) for value in (-0.6, 0.4, 0.6, 0.5)])
    found = Reconstruction.of(autoencoder, [x[:2], x[2:]]).codes
    shares = torch.tensor([1 / 4, 3 / 4])
    assert (found.codes, found.usage) == (4, 0.5)
    assert found.perplexity == pytest.approx(float(torch.special.entr(shares).sum().exp()), rel=1e-5)
    few = Reconstruction.of(autoencoder, [x[:1]])
    assert few.codes.usage == 0.25
    assert any("25% of 4 codes" in line for line in few.warnings())


def test_it_is_asked_as_it_will_be_used_and_left_as_it_was():
    class Moody(Plain):
        def encode(self, x):
            return x if not self.training else x + math.nan

    moody = Moody(None, lambda z: z).train()
    assert Reconstruction.of(moody, [images()]).psnr == pytest.approx(100)
    assert moody.training
    with pytest.raises(DataError, match="not finite"):
        Reconstruction.of(Plain(lambda x: x, lambda z: z + math.nan), [images()])
    with pytest.raises(DataError, match="no images"):
        Reconstruction.of(moody, [])
