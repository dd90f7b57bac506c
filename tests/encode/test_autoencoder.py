import itertools

import pytest
import torch
from torch.distributions import Normal, kl_divergence

from ebb.encode.autoencoder import AUTOENCODERS, Variational, blended, divergence, draw, ramp, starts
from ebb.encode.quantise import Codebook, perplexity
from ebb.errors import UsageError
from ebb.recipe.names import parse, spell


def made(kind, **settings):
    torch.manual_seed(0)
    autoencoder = AUTOENCODERS[kind](3, width=16, depth=1, **settings)
    with torch.no_grad():
        for p in autoencoder.parameters():
            p.add_(0.1 * torch.randn_like(p))
    if kind == "vq":
        autoencoder.codebook.learn(torch.randn(2, autoencoder.latent, 8, 8), torch.Generator().manual_seed(0))
    return autoencoder


@pytest.mark.parametrize("kind", AUTOENCODERS)
@pytest.mark.parametrize("residual", [False, True])
@torch.no_grad()
def test_there_and_back_by_the_name_in_a_file(kind, residual):
    autoencoder = made(kind, latent=5, residual=residual)
    x = torch.rand(2, 3, 16, 8) * 2 - 1
    z = autoencoder.encode(x)
    assert z.shape == (2, autoencoder.latent, 16 // autoencoder.factor, 8 // autoencoder.factor)
    assert autoencoder.decode(z).shape == x.shape
    torch.testing.assert_close(autoencoder.encode(x), z, rtol=0, atol=0)
    again = parse(spell(autoencoder, AUTOENCODERS), AUTOENCODERS, "autoencoder")
    again.load_state_dict(autoencoder.state_dict())
    torch.testing.assert_close(again.decode(again.encode(x)), autoencoder.decode(z))


def test_a_posterior_is_what_makes_one_variational():
    assert isinstance(made("kl"), Variational)
    assert not isinstance(made("vq"), Variational)
    mean, log_variance = made("kl").posterior(1e6 * torch.randn(1, 3, 8, 8))
    assert log_variance.min() >= -30
    assert log_variance.max() <= 20
    assert mean.isfinite().all()


def test_the_divergence_is_that_of_torch(generator):
    mean, log_variance = torch.randn(2, 4, 3, 5, generator=generator).double()
    exact = kl_divergence(Normal(mean, (log_variance / 2).exp()), Normal(0.0, 1.0))
    torch.testing.assert_close(divergence(mean, log_variance), exact)
    assert not torch.allclose(divergence(mean, log_variance / 2), exact)
    assert divergence(torch.zeros(1, 1), torch.full((1, 1), 1e-4)).item() == pytest.approx(0.25e-8, rel=1e-3)


def test_draws_have_the_posteriors_moments(generator):
    mean, log_variance = torch.tensor([[1.0, -2.0]]).repeat(40_000, 1), torch.tensor([[0.0, -3.0]]).repeat(40_000, 1)
    z = draw(mean, log_variance, generator)
    torch.testing.assert_close(z.mean(0), mean[0], atol=0.02, rtol=0)
    torch.testing.assert_close(z.var(0), log_variance[0].exp(), atol=0, rtol=0.03)


# tiles


@pytest.mark.parametrize(
    ("size", "tile", "overlap"), [(5, 8, 2), (8, 8, 7), (9, 8, 7), (20, 8, 2), (31, 5, 0), (33, 10, 9)]
)
def test_tiles_cover_everything_and_share_what_was_asked(size, tile, overlap):
    at = starts(size, tile, overlap)
    assert at[0] == 0
    assert size <= tile or at[-1] == size - tile
    assert all(b - a <= tile - overlap for a, b in itertools.pairwise(at))


def test_a_ramp_rises_from_its_seams_only():
    assert ramp(0, 6, 12, 4).tolist() == [1, 1, 0.875, 0.625, 0.375, 0.125]
    assert ramp(0, 6, 6, 4).tolist() == [1] * 6
    torch.testing.assert_close(ramp(0, 6, 8, 4)[2:] + ramp(2, 6, 8, 4)[:4], torch.ones(4))


@torch.no_grad()
def test_tiles_are_exact_where_they_do_not_overlap_and_close_where_they_do():
    """This decoder looks 5 places to a side (see tests/networks); tiles blended in other ways are further off."""
    autoencoder = made("kl", patch=1, multipliers=(1, 2))
    z = torch.randn(1, 4, 39, 12)
    whole = autoencoder.decode(z)
    torch.testing.assert_close(autoencoder.tiled(z, tile=39, overlap=5), whole, rtol=0, atol=0)
    tiled = autoencoder.tiled(z, tile=22, overlap=5)  # rows 0…21 and 17…38
    alone = [*range(2 * 17), *range(2 * 22, 2 * 39)]
    torch.testing.assert_close(tiled[:, :, alone], whole[:, :, alone], rtol=1e-4, atol=1e-4)
    error = (tiled - whole).square().mean().sqrt()
    assert 0 < error < 0.1 * whole.std()
    hard = torch.cat([autoencoder.decode(z[:, :, :20]), autoencoder.decode(z[:, :, 20:])], 2)
    assert (hard - whole).square().mean().sqrt() > 2 * error


def test_blending_is_exact_for_what_looks_at_one_place(generator):
    z = torch.randn(2, 3, 11, 17, generator=generator)
    for factor in (1, 4):
        decode = lambda z, f=factor: z.repeat_interleave(f, 2).repeat_interleave(f, 3)  # noqa: E731
        torch.testing.assert_close(blended(decode, z, 3, factor, 5, 3), decode(z))
    with pytest.raises(UsageError, match="an overlap of 8 and tiles of 8"):
        made("kl").tiled(z, tile=8, overlap=8)


# codes


def codebook(vectors, decay=0.9):
    book = Codebook(len(vectors), vectors.shape[1], decay)
    book.counts.fill_(10.0)
    book.sums.copy_(10 * vectors)
    return book


def test_every_vector_gets_its_nearest_code(generator):
    vectors = torch.randn(17, 3, generator=generator)
    z = torch.randn(2, 3, 4, 5, generator=generator)
    q, index = codebook(vectors)(z)
    for b in range(2):
        for i in range(4):
            for j in range(5):
                k = min(range(17), key=lambda k: float((z[b, :, i, j] - vectors[k]).square().sum()))
                assert index[b, i, j] == k
                torch.testing.assert_close(q[b, :, i, j], vectors[k])
    by_angle = (z.movedim(1, -1) @ vectors.T).argmax(-1)  # a mutant: the largest product is not the nearest
    assert not torch.equal(by_angle, index)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(codebook(vectors)(z)[1], index)


def test_the_gradient_goes_straight_through(generator):
    z = torch.randn(2, 3, 4, generator=generator, requires_grad=True)
    up = torch.randn(2, 3, 4, generator=generator)
    book = codebook(torch.randn(5, 3, generator=generator))
    book(z)[0].backward(up)
    torch.testing.assert_close(z.grad, up)
    assert list(book.parameters()) == []


def test_running_means_are_those_of_the_clusters(generator):
    """One update against a plain loop; many, against the means of what each code stands for."""
    centres = torch.tensor([[-4.0, 0.0], [4.0, 0.0], [0.0, 6.0]])
    book = codebook(centres + 0.5)
    z = (centres[:, :, None] + 0.3 * torch.randn(3, 2, 50, generator=generator)).movedim(0, -1).flatten(1)[None]
    before, near = book.vectors, book(z)[1][0]
    book.learn(z, generator)
    for k in range(3):
        mine = z[0].T[near == k]
        n, m = 0.9 * 10 + 0.1 * len(mine), 0.9 * 10 * before[k] + 0.1 * mine.sum(0)
        torch.testing.assert_close(book.vectors[k], m / n)
    for _ in range(200):
        book.learn(z, generator)
    means = torch.stack([z[0].T[near == k].mean(0) for k in range(3)])
    torch.testing.assert_close(book.vectors, means, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(book.counts, torch.full((3,), 50.0))
    assert not torch.allclose(before, means, atol=0.1)


def test_an_unused_code_dies_and_is_moved_onto_the_data(generator):
    z = torch.randn(4, 2, 64, generator=generator)
    book = codebook(torch.tensor([[0.0, 0.0], [1.0, 1.0], [1e3, 1e3]]))
    uses = []
    for _ in range(60):
        book.learn(z, generator)
        uses.append(len(book(z)[1].unique()))
    assert uses[0] == 2
    assert uses[-1] == 3
    assert perplexity(book.counts) > 2


def test_the_first_batch_is_where_the_codes_begin():
    z = torch.randn(1, 2, 100, generator=torch.Generator().manual_seed(1))
    twins = [Codebook(8, 2), Codebook(8, 2)]
    for book in twins:
        assert book.vectors.abs().max() == 0
        book.learn(z, torch.Generator().manual_seed(0))
    torch.testing.assert_close(twins[0].vectors, twins[1].vectors, rtol=0, atol=0)
    assert len(twins[0](z)[1].unique()) == 8
    other = Codebook(8, 2)
    other.learn(z, torch.Generator().manual_seed(3))
    assert not torch.equal(other.vectors, twins[0].vectors)


@pytest.mark.parametrize("poison", [float("nan"), float("inf"), 1e30])
def test_a_batch_that_is_not_finite_changes_nothing(poison, generator):
    book = codebook(torch.tensor([[0.0, 0.0], [50.0, 50.0]]))
    z = torch.randn(1, 2, 30, generator=generator)
    book.learn(z, generator)
    before = {name: value.clone() for name, value in book.state_dict().items()}
    z[0, 1, 7] = poison
    book.learn(z, generator)
    assert all(torch.equal(value, before[name]) for name, value in book.state_dict().items())


def test_perplexity_counts_codes_used_alike():
    assert perplexity(torch.tensor([5.0, 5.0, 0.0, 5.0])).item() == pytest.approx(3)
    assert perplexity(torch.tensor([0.0, 7.0])).item() == pytest.approx(1)
    assert perplexity(torch.zeros(4)).item() == 1
    assert 1 < perplexity(torch.tensor([9.0, 1.0])) < 2
    with pytest.raises(UsageError, match="2 or more codes"):
        Codebook(1, 4)


@torch.no_grad()
def test_a_decoder_of_codes_sees_codes_only():
    autoencoder = made("vq")
    z = autoencoder.encode(torch.randn(1, 3, 16, 16))
    nudged = z + 1e-3 * torch.randn_like(z)
    torch.testing.assert_close(autoencoder.decode(nudged), autoencoder.decode(z), atol=1e-5, rtol=1e-4)
