import math

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

from ebb.data.loader import Batch
from ebb.encode.autoencoder import VQ, divergence
from ebb.errors import UsageError
from ebb.networks.critic import Critic
from ebb.train.ema import EMA
from ebb.train.loop import Training, updates
from ebb.train.objectives import autoencoding
from ebb.train.objectives.autoencoding import (
    Autoencoding,
    Commitment,
    Divergence,
    Trainee,
    absolute,
    perceived,
    squared,
    stages,
)
from ebb.train.objectives.objective import Objective
from ebb.train.optimiser import WarmupDecay, adamw


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def training_of(model, lr):
    return Training(model, adamw(model, lr), EMA(model))


def train(model, objective, batches, steps, lr):
    training = training_of(model, lr)
    return training, list(updates(training, objective, batches, steps=steps, rate=WarmupDecay(lr, steps, 10)))


class LinearVAE(nn.Module):
    """Encoder and decoder linear, the posterior's variance the same for every x: its optimum is PCA."""

    def __init__(self, dims, latent):
        super().__init__()
        self.code, self.back = nn.Linear(dims, latent), nn.Linear(latent, dims)
        self.log_variance = nn.Parameter(torch.zeros(latent))

    def posterior(self, x):
        mean = self.code(x)
        return mean, self.log_variance.expand_as(mean)

    def decode(self, z):
        return self.back(z)

    @torch.no_grad()
    def elbo(self, x, variance):
        """E[log N(x; Wz + b, variance)] − D, exactly: the mean over x and over z ~ q(z|x)."""
        model, x = self.double(), x.double()
        mean, log_variance = model.posterior(x)
        missed = (x - model.decode(mean)).square().sum(1).mean()
        missed = missed + (model.back.weight.square().sum(0) * log_variance[0].exp()).sum()
        fit = -(x.shape[1] * math.log(2 * math.pi * variance) + missed / variance) / 2
        return float(fit - divergence(mean, log_variance).sum(1).mean())


def pca_likelihood(x, latent, variance):
    """The most that W zz + b + noise of this variance can reach (Tipping & Bishop 1999, eq. 5 with W of eq. 7)."""
    x = x.double() - x.double().mean(0)
    spectrum = torch.linalg.eigvalsh(x.T @ x / len(x)).flip(0)
    explained = torch.full_like(spectrum, variance)
    explained[:latent] = spectrum[:latent].clamp(min=variance)
    return float(-(math.log(2 * math.pi) + explained.log() + spectrum / explained).sum() / 2)


@pytest.mark.parametrize(("factor", "least", "most"), [(1, -1e-6, 0.02), (2, 0.05, math.inf)])
def test_a_linear_vae_becomes_pca(factor, least, most):
    """β = 2s² is the ELBO: its optimum is the likelihood of probabilistic PCA. Twice that is another optimum."""
    generator, variance = seeded(), 0.1
    turn = torch.linalg.qr(torch.randn(6, 6, generator=generator))[0]
    x = torch.randn(512, 6, generator=generator) * torch.tensor([1.6, 1.0, 0.7, 0.3, 0.2, 0.2]) @ turn + 0.5
    torch.manual_seed(0)
    model = Trainee(LinearVAE(6, 3))
    objective = Autoencoding(Divergence(weight=factor * 2 * variance), squared)
    train(model, objective, lambda n: Batch(x, {}), 500, 0.05)
    gap = pca_likelihood(x, 3, variance) - model.autoencoder.elbo(x, variance)
    assert least < gap < most


class Small(nn.Module):
    """A linear autoencoder of 2×2 patches, to be quick."""

    def __init__(self, channels=1, log_variance=-4.0):
        super().__init__()
        self.code, self.back = nn.Conv2d(channels, 3, 2, stride=2), nn.ConvTranspose2d(3, channels, 2, stride=2)
        self.log_variance = log_variance

    def posterior(self, x):
        mean = self.code(x)
        return mean, torch.full_like(mean, self.log_variance)

    def decode(self, z):
        return self.back(z)


def images(seed, count=8, channels=1, size=8):
    return torch.rand(count, channels, size, size, generator=seeded(seed)) * 2 - 1


def batch(seed=0, **kwargs):
    return Batch(images(seed, **kwargs), {})


def small(critic=False, **kwargs):
    torch.manual_seed(0)
    return Trainee(Small(**kwargs), Critic(1, width=16, halvings=1) if critic else None)


def test_the_value_is_the_sum_of_its_terms():
    assert isinstance(Autoencoding(), Objective)
    model, x = small(critic=True), images(0)
    features = stages(nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 4, 3), nn.ReLU()))
    objective = Autoencoding(Divergence(0.3), absolute, features, perceptual=0.7, adversarial=0.2)
    loss = objective(model, batch(), seeded())
    t = {name: float(term) for name, term in loss.terms.items()}
    assert set(t) == {"reconstruction", "kl", "perceptual", "adversarial", "critic"}
    by_hand = t["reconstruction"] + 0.3 * t["kl"] / 64 + 0.7 * t["perceptual"] + 0.2 * (t["adversarial"] + t["critic"])
    assert loss.value.item() == pytest.approx(by_hand, rel=1e-5)
    assert not any(term.requires_grad for term in loss.terms.values())
    with torch.no_grad():
        mean, log_variance = model.autoencoder.posterior(x)
        eps = torch.randn(mean.shape, generator=seeded())
        made = model.autoencoder.decode(mean + (log_variance / 2).exp() * eps)
    assert t["reconstruction"] == pytest.approx(float((made - x).abs().mean()), rel=1e-5)
    assert t["kl"] == pytest.approx(float(divergence(mean, log_variance).sum((1, 2, 3)).mean()), rel=1e-5)
    assert Autoencoding()(model, batch(), seeded(1)).value != Autoencoding()(model, batch(), seeded(2)).value


def test_the_divergence_warms_up_with_the_images_seen():
    def cost(seen, warmup, training=True):
        model = small().train(training)
        model.seen += seen
        latents = Divergence(1.0, warmup)(model, images(0), seeded())
        return latents.cost.item() * 64 / latents.terms["kl"].item()

    assert [cost(seen, 100) for seen in (0, 25, 100, 500)] == pytest.approx([0, 0.25, 1, 1])
    assert cost(0, 0) == pytest.approx(1)


def test_free_nats_cost_nothing_to_use():
    """A channel below them is not pressed further down, one above pays as ever; the log has all nats."""

    class Given(nn.Module):
        def __init__(self):
            super().__init__()
            self.mean = nn.Parameter(torch.tensor([0.1, 2.0])[:, None, None].repeat(1, 2, 2))

        def posterior(self, x):
            mean = self.mean.expand(len(x), 2, 2, 2)
            return mean, torch.zeros_like(mean)

        def decode(self, z):
            return z

    model = Trainee(Given())
    latents = Divergence(1.0, free=0.5)(model, images(0, size=2), seeded())
    assert latents.terms["kl"].item() == pytest.approx(4 * (0.005 + 2))
    assert latents.cost.item() == pytest.approx(4 * (0.5 + 2) / 4)
    latents.cost.backward()
    assert model.autoencoder.mean.grad[0].abs().max() == 0
    assert model.autoencoder.mean.grad[1].min() > 0


# the critic


def gradients(model, objective):
    model.zero_grad()
    objective(model, batch(), seeded()).value.backward()
    return [{name: p.grad.clone() for name, p in part.named_parameters()} for part in (model.autoencoder, model.critic)]


def expected(model):
    """Each side's gradient from its own term alone, the other's weights left out of the derivative."""
    x = images(0)
    z = autoencoding.Divergence()(model, x, seeded())
    made = model.autoencoder.decode(z.z)
    mine = (made - x).square().mean() + z.cost - 0.5 * model.critic(made).mean()
    real, fake = model.critic(x), model.critic(made.detach())
    hinge = 0.5 * ((1 - real).clamp(min=0).mean() + (1 + fake).clamp(min=0).mean()) / 2
    parts = (model.autoencoder, mine), (model.critic, hinge)
    return [
        dict(zip(dict(part.named_parameters()), torch.autograd.grad(loss, list(part.parameters())), strict=True))
        for part, loss in parts
    ]


def leak_to_autoencoder(critic, made, x):
    real, fake = critic(x), critic(made)
    fooled = -critic(made.clone())
    return {
        "adversarial": fooled.mean().detach() + 0 * made.sum(),
        "critic": (1 - real).relu().mean() + (1 + fake).relu().mean(),
    }


def leak_to_critic(critic, made, x):
    real, fake = critic(x), critic(made.detach())
    return {"adversarial": -critic(made).mean(), "critic": ((1 - real).relu().mean() + (1 + fake).relu().mean()) / 2}


def alike(found, wanted):
    return [all(torch.allclose(a[name], b[name], atol=1e-6) for name in b) for a, b in zip(found, wanted, strict=True)]


def test_neither_side_feels_the_others_term(monkeypatch):
    model, objective = small(critic=True), Autoencoding(adversarial=0.5)
    wanted = expected(model)
    assert alike(gradients(model, objective), wanted) == [True, True]
    monkeypatch.setattr(autoencoding, "contest", leak_to_critic)
    assert alike(gradients(model, objective), wanted) == [True, False]
    monkeypatch.setattr(autoencoding, "contest", leak_to_autoencoder)
    assert alike(gradients(model, objective), wanted)[0] is False


def test_the_critic_is_heard_late_and_by_and_by():
    def terms(seen, start):
        model = small(critic=True)
        model.seen += seen
        loss = Autoencoding(adversarial=2.0, start=start)(model, batch(), seeded())
        rest = loss.terms["reconstruction"] + 1e-4 * loss.terms["kl"] / 64
        extra = sum(float(loss.terms.get(name, 0)) for name in ("adversarial", "critic"))
        return ((loss.value - rest).item() / 2 / extra) if extra else 0.0

    assert [terms(seen, 100) for seen in (0, 100, 150, 200, 900)] == pytest.approx([0, 0, 0.5, 1, 1], abs=1e-3)
    assert terms(0, 0) == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("jump", [False, True])
def test_the_guard_lets_the_critic_in_unless_it_bursts_in(jump, monkeypatch):
    if jump:
        monkeypatch.setattr(Autoencoding, "ramp", lambda self, model: float(int(model.seen) >= self.start))
    objective = Autoencoding(adversarial=1.0, start=8 * 120)
    _, steps = train(small(critic=True), objective, lambda n: batch(n % 4), 160, 1e-3)
    assert (sum(int(step.skipped) for step in steps) > 5) is jump
    assert "critic" not in steps[100].terms
    assert "critic" in steps[-1].terms


# what is saved


def test_images_seen_are_saved_and_resuming_goes_on_from_them():
    """A mutant that forgets them goes elsewhere."""
    objective, rate = Autoencoding(Divergence(1.0, warmup=100), adversarial=0.1, start=20), WarmupDecay(1e-2, 6, 10)

    def onwards(training, steps):
        list(updates(training, objective, batch, steps=steps, rate=rate))
        return training

    whole, first = onwards(training_of(small(critic=True), 1e-2), 6), onwards(training_of(small(critic=True), 1e-2), 3)
    assert int(whole.model.seen) == int(whole.ema.model.seen) == 48
    saved = {part: {k: v.clone() for k, v in tensors.items()} for part, tensors in first.state().items()}
    for seen, same in ((24, True), (0, False)):
        saved["model"]["seen"] = torch.tensor(seen)
        again = training_of(small(critic=True), 1e-2)
        again.restore(saved)
        onwards(again, 6)
        theirs, ours = whole.model.state_dict(), again.model.state_dict()
        assert all(torch.equal(ours[name], value) for name, value in theirs.items()) is same


def test_asking_for_a_loss_without_training_changes_nothing():
    for model, bottleneck in ((small(), Divergence()), (coded(), Commitment())):
        model.eval()
        before = {name: value.clone() for name, value in model.state_dict().items()}
        Autoencoding(bottleneck)(model, batch(), seeded())
        assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


# codes


def coded():
    torch.manual_seed(0)
    return Trainee(VQ(1, latent=2, codes=8, width=16, depth=1, multipliers=(1,), patch=2))


def test_codes_are_learnt_beside_the_weights():
    model, objective = coded(), Autoencoding(Commitment())
    _, steps = train(model, objective, lambda n: batch(n % 2), 40, 5e-3)
    assert steps[-1].loss < 0.9 * steps[0].loss
    assert 2 < steps[-1].terms["perplexity"] <= 8
    assert torch.equal(model.autoencoder.codebook.counts > 0, torch.ones(8, dtype=torch.bool))


def test_commitment_pulls_what_the_encoder_says_to_its_code():
    model, x = coded(), images(0)
    z = model.autoencoder.encoder(x)
    model.autoencoder.codebook.learn(z, seeded())
    model.eval()
    latents = Commitment(0.25)(model, x, seeded())
    q = model.autoencoder.codebook.vectors[model.autoencoder.codebook(z)[1]].movedim(-1, 1)
    assert latents.cost.item() == pytest.approx(0.25 * float((z - q).square().mean()), rel=1e-4)
    latents.cost.backward()
    assert model.autoencoder.encoder.out.weight.grad.abs().max() > 0


def test_a_bad_batch_poisons_neither_codes_nor_weights():
    model = coded()
    training, _ = train(model, Autoencoding(Commitment()), batch, 3, 1e-3)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    bad = Batch(torch.full((8, 1, 8, 8), float("nan")), {})
    [step] = list(updates(training, Autoencoding(Commitment()), lambda n: bad, steps=4))
    assert bool(step.skipped)
    assert all(torch.equal(v, before[name]) for name, v in model.state_dict().items() if name != "seen")


# perception


def test_perception_compares_directions_not_lengths(generator):
    body = nn.Sequential(nn.Conv2d(1, 3, 3, bias=False), nn.ReLU(), nn.Conv2d(3, 5, 3, bias=False), nn.ReLU())
    x, y = (torch.randn(2, 1, 8, 8, generator=generator) for _ in range(2))
    pairs = [(part(x), part(y)) for part in (body[:2], body)]
    gaps = [(F.normalize(a, dim=1) - F.normalize(b, dim=1)).square().sum(1).mean() for a, b in pairs]
    found = perceived(stages(body), x, y)
    torch.testing.assert_close(found, sum(gaps), rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(perceived(stages(body), 3 * x, y), found, rtol=1e-3, atol=1e-3)
    assert float(perceived(stages(body), 3 * x, x)) == pytest.approx(0, abs=1e-6)


def test_stages_are_the_rectified_maps_of_length_one_and_stay_as_they_are():
    body = nn.Sequential(
        nn.Conv2d(1, 3, 3), nn.GroupNorm(1, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(3, 2, 1), nn.ReLU()
    )
    x = images(0).requires_grad_()
    maps = stages(body)(x)
    assert [tuple(m.shape) for m in maps] == [(8, 3, 6, 6), (8, 2, 3, 3)]
    torch.testing.assert_close(maps[0], F.normalize(body[:3](x), dim=1, eps=1e-3))
    torch.testing.assert_close(maps[1], F.normalize(body(x), dim=1, eps=1e-3))
    perceived(stages(body), x, images(1)).backward()
    assert x.grad.abs().max() > 0
    assert all(p.grad is None for p in body.parameters())


# mistakes


def test_what_does_not_fit_is_named():
    with pytest.raises(UsageError, match="VQ has none"):
        Autoencoding(Divergence())(coded(), batch(), seeded())
    with pytest.raises(UsageError, match="Small has none"):
        Autoencoding(Commitment())(small(), batch(), seeded())
    with pytest.raises(UsageError, match="needs a critic"):
        Autoencoding(adversarial=0.1)(small(), batch(), seeded())
    with pytest.raises(UsageError, match="needs a network to perceive with"):
        Autoencoding(perceptual=1.0)
    with pytest.raises(UsageError, match="0 or more"):
        Autoencoding(adversarial=-1.0)
    with pytest.raises(UsageError, match="0 or more"):
        Divergence(free=-0.1)
