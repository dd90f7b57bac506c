"""The validation loss repeats bit for bit, disturbs nothing, and means the loss on the images it is given."""

import dataclasses

import numpy as np
import pytest
import torch
from torch import nn

from ebb import testing
from ebb.data.loader import Batch
from ebb.data.scan import read
from ebb.events import finished
from ebb.networks.mlp import MLP
from ebb.process.bins import level_of
from ebb.process.denoiser import NetworkDenoiser
from ebb.process.path import Cosine, Linear
from ebb.process.predict import noise, velocity
from ebb.process.times import LogitNormal, LogNormal, uniform
from ebb.recipe.recipe import Recipe
from ebb.run.prepare import prepared
from ebb.train.objectives.denoising import Denoising
from ebb.train.objectives.weights import simple
from ebb.train.validate import MOST, Validation, unseen_batches


def model_of():
    torch.manual_seed(0)
    model = NetworkDenoiser(MLP(2), Linear(), velocity)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.2, generator=torch.Generator().manual_seed(1))
    return model


def batches(count=40, size=40, seed=0):
    x0 = torch.randn(count, 2, generator=torch.Generator().manual_seed(seed))
    return [Batch(part, {}) for part in x0.split(size)]


def test_twice_is_the_same_and_nothing_is_disturbed():
    model = model_of().train()
    model.network.extra = nn.Dropout(0.5).eval()
    modes, before = [m.training for m in model.modules()], torch.get_rng_state()
    validation = Validation(batches(), Denoising(), seed=3)
    losses = [validation(model), validation(model)]
    assert losses[0] == losses[1]
    assert [m.training for m in model.modules()] == modes
    assert torch.equal(torch.get_rng_state(), before)
    assert all(p.grad is None and p.requires_grad for p in model.parameters())


def test_dropout_is_off_and_comes_back_after_an_error():
    model = model_of().train()

    def fails(x, told, cond):
        assert not model.network.training
        raise RuntimeError("no")

    model.network.forward = fails
    with pytest.raises(RuntimeError):
        Validation(batches())(model)
    assert model.network.training


def test_the_noise_belongs_to_the_image_and_not_to_the_batch():
    whole, parts = (Validation(batches(40, size), Denoising())(model_of()) for size in (40, 7))
    assert parts == pytest.approx(whole, rel=1e-6)
    assert Validation(batches(), Denoising(), seed=1)(model_of()) != whole


def test_it_is_the_training_loss_of_the_same_images():
    """Against many draws of the objective itself; mutants: another weight, another density."""
    model, data = model_of(), batches(2000, 2000)
    objective, generator = Denoising(LogNormal(-1.0, 0.5), simple), torch.Generator().manual_seed(0)
    drawn = torch.stack([objective(model, data[0], generator).value.detach() for _ in range(20)]).mean().item()

    def mean(validated):
        return np.mean([Validation(data, validated, seed=10_000 * s)(model) for s in range(3)])

    assert mean(objective) == pytest.approx(drawn, rel=0.03)
    for wrong in (Denoising(uniform, simple), Denoising(LogNormal(-1.0, 0.5))):
        assert mean(wrong) != pytest.approx(drawn, rel=0.2)


def test_the_times_cover_the_density():
    seen = []
    model = model_of()
    model.network.forward = lambda x, told, cond: seen.append(told) or x
    Validation(batches(128, 50), Denoising(LogitNormal()))(model)
    t = torch.cat(seen).double()
    u = torch.special.ndtr(torch.logit(t))
    torch.testing.assert_close(u, (torch.arange(128).double() + 0.5) / 128, atol=1e-5, rtol=0)
    assert len(level_of(Linear(), t).unique()) >= 7


def test_the_exact_denoiser_has_the_lowest_loss(generator):
    gauss = testing.normal(Cosine())
    drawn = gauss.mean + torch.randn(128, 2, generator=generator).double() @ torch.linalg.cholesky(gauss.covariance).mT
    validation = Validation([Batch(drawn.float(), {})], Denoising(LogNormal(-0.2, 0.5)))

    class Read(nn.Module):
        path, prediction, off = Cosine(), staticmethod(noise), 0.0

        def raw(self, x, t, cond):
            return self.path.noise(x, gauss(x, t, cond), t) + self.off

    exact = Read()
    best = validation(exact)
    exact.off = 0.3
    assert best < 1
    assert validation(exact) > best


def test_it_is_built_from_held_out_images_with_their_labels(tmp_path):
    rng = np.random.default_rng(0)
    train, test = rng.integers(0, 256, (20, 4, 4), np.uint8), rng.integers(0, 256, (300, 4, 4), np.uint8)
    kept, unseen = np.arange(20) % 3, np.arange(300) % 3
    np.savez(tmp_path / "a.npz", x_train=train, y_train=kept, x_test=test, y_test=unseen)
    dataset = read(str(tmp_path / "a.npz"))
    batches = unseen_batches(finished(prepared(Recipe(), dataset)).unseen, batch=50, seed=5)
    assert [len(batch.x0) for batch in batches] == [50, 50, 28]
    found = torch.cat([batch.x0 for batch in batches])
    labels = torch.cat([batch.cond["label"] for batch in batches]).tolist()
    rows = {row.tobytes(): label for row, label in zip(test, unseen, strict=True)}
    bytes_of = ((found + 1) * 127.5).round().to(torch.uint8).numpy()[:, 0]
    assert [rows[row.tobytes()] for row in bytes_of] == labels
    assert len({row.tobytes() for row in bytes_of}) == MOST
    again = unseen_batches(finished(prepared(Recipe(), dataset)).unseen, batch=50, seed=5)
    assert all(torch.equal(a.x0, b.x0) for a, b in zip(batches, again, strict=True))
    bare = dataclasses.replace(dataset, held_out=dataclasses.replace(dataset.held_out, labels=None))
    assert unseen_batches(finished(prepared(Recipe(), bare)).unseen)[0].cond["label"].unique().tolist() == [3]
    alone = dataclasses.replace(bare, labels=None, names=())
    assert unseen_batches(finished(prepared(Recipe(), alone)).unseen)[0].cond == {}
