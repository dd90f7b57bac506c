"""What bench/ablation.py tries besides fields of the recipe: a figure against it is only as good as its code."""

import sys
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from ebb.data.loader import Batch, Examples, Loader
from ebb.networks.unet import UNet
from ebb.process.denoiser import CLOCKS, NetworkDenoiser
from ebb.process.path import PATHS
from ebb.process.predict import PREDICTIONS
from ebb.recipe.recipe import Recipe
from ebb.train.muon import for_matrices
from ebb.train.objectives.denoising import Denoising

BENCH = Path(__file__).parents[1] / "bench"


@pytest.fixture(scope="module")
def tried():
    pytest.importorskip("scipy")
    sys.path.insert(0, str(BENCH))
    try:
        yield import_module("tried")
    finally:
        sys.path.remove(str(BENCH))
        sys.modules.pop("tried", None)


@pytest.fixture
def denoiser():
    torch.manual_seed(0)
    return NetworkDenoiser(UNet(1, width=8, depth=1), PATHS["linear"], PREDICTIONS["velocity"], CLOCKS["fraction"])


@pytest.fixture
def batch():
    return Batch(torch.randn(6, 1, 8, 8, generator=torch.Generator().manual_seed(1)), {})


def seen(loader, steps):
    return torch.cat([loader(step).x0.flatten(1)[:, 0] for step in range(steps)])


def loader_of(count=64, batch=8):
    pixels = np.arange(count, dtype=np.uint8).reshape(-1, 1, 1, 1).repeat(4, 2).repeat(4, 3)
    return Loader(Examples(pixels, {"label": np.arange(count) % 10}), batch, 3)


def test_growing_batches_show_the_same_images_in_the_same_order(tried):
    whole = loader_of()
    grown = tried.Growing(**vars(whole), whole_from=4)
    assert [len(grown(step).x0) for step in range(6)] == [4] * 4 + [8] * 2
    assert torch.equal(seen(grown, 6), seen(whole, 4))
    assert torch.equal(
        *(torch.cat([loader(step).cond["label"] for step in range(n)]) for loader, n in ((grown, 6), (whole, 4)))
    )


def test_images_rise_from_half_their_sides(tried):
    rising = tried.Rising(**vars(loader_of()), whole_from=2)
    assert [tuple(rising(step).x0.shape[2:]) for step in range(3)] == [(2, 2), (2, 2), (4, 4)]
    assert torch.equal(seen(rising, 2), seen(loader_of(), 2)), "images of one value keep it"


@dataclass
class Some:
    """The parts that a change of steps touches."""

    training: SimpleNamespace
    loader: Loader


def test_steps_are_those_of_as_many_images_or_as_much_arithmetic(tried):
    recipe = Recipe(steps=300)
    for change, steps in ((tried.growing, 450), (tried.rising, 525)):
        parts = Some(SimpleNamespace(guard=None), loader_of())
        assert change(recipe, parts)[0].steps == steps


def says(F):
    """A predictor of the velocity on the linear path that says F wherever it is asked."""
    return SimpleNamespace(path=PATHS["linear"], prediction=PREDICTIONS["velocity"], raw=lambda *_: F)


def test_a_contrastive_gradient_is_drawn_to_its_target_and_driven_from_that_before(tried, batch):
    eps, t = torch.randn_like(batch.x0), torch.full((6,), 0.3, dtype=torch.float64)
    F = torch.randn_like(batch.x0, requires_grad=True)
    losses = tried.Contrastive(away=0.3).losses(says(F), batch, t, eps)
    (slope,) = torch.autograd.grad(losses.sum(), F)
    u = eps - batch.x0
    torch.testing.assert_close(slope, 2 * (F - u) - 0.3 * 2 * (F - u.roll(1, 0)))
    torch.testing.assert_close(losses, Denoising().losses(says(F), batch, t, eps))  # what is logged and guarded


def test_the_shift_leads_to_where_the_contrastive_loss_is_least(tried):
    """Two kinds of image, ±A, and no noise: for each kind the gradient is 0 at its target shifted, and not unshifted."""
    A = torch.linspace(-1, 1, 64).reshape(1, 8, 8)
    x0 = torch.stack([A, A, -A, -A])  # before each kind stand as many of either
    network = nn.Identity()
    denoiser = NetworkDenoiser(network, PATHS["linear"], PREDICTIONS["velocity"], CLOCKS["fraction"])
    pixels = np.stack([np.zeros((1, 8, 8), np.uint8), np.full((1, 8, 8), 255, np.uint8)])  # of mean 0
    parts = SimpleNamespace(
        training=SimpleNamespace(model=denoiser), data=SimpleNamespace(dataset=SimpleNamespace(rows=pixels))
    )
    tried.shifted(None, parts)
    t, silent = torch.full((4,), 0.3, dtype=torch.float64), torch.zeros_like(x0)

    def slope(F):
        F = F.clone().requires_grad_()
        losses = tried.Contrastive().losses(says(F), Batch(x0, {}), t, silent)
        return torch.autograd.grad(losses.sum(), F)[0].reshape(2, 2, 64).sum(1).abs().max()

    assert slope(network.eval()(-x0)) < 1e-5 < 1e-2 < slope(network.train()(-x0))


def test_the_shift_is_from_the_mean_image(tried, denoiser):
    pixels = np.random.default_rng(0).integers(0, 256, (50, 1, 8, 8), dtype=np.uint8)
    parts = SimpleNamespace(
        training=SimpleNamespace(model=denoiser), data=SimpleNamespace(dataset=SimpleNamespace(rows=pixels))
    )
    tried.shifted(None, parts)
    mean = -torch.from_numpy(pixels / 127.5 - 1).float().mean(0)  # of ε − x0
    said = denoiser.eval().network(torch.zeros(1, 1, 8, 8), torch.zeros(1), {})  # 0 before the shift
    torch.testing.assert_close(said[0], mean - mean / 0.95)


def test_features_are_pushed_apart(tried, denoiser, batch):
    dispersive = tried.Dispersive(Denoising())

    def found():
        return dispersive(denoiser, batch, torch.Generator().manual_seed(2))

    kept = []
    hook = denoiser.network.down[-1][-1][-1].register_forward_hook(lambda _module, _given, out: kept.append(out))
    before = found()
    hook.remove()
    z = kept[0].flatten(1).double()
    every = torch.exp(-(z[:, None] - z).square().mean(2) / 0.5)
    assert before.terms["alike"].item() == pytest.approx(every.mean().log().item(), rel=1e-4)
    assert before.value == Denoising()(denoiser, batch, torch.Generator().manual_seed(2)).value
    before.value.backward()
    with torch.no_grad():
        for p in denoiser.network.down.parameters():
            p.sub_(0.01 * p.grad)
    assert found().terms["alike"] < before.terms["alike"]
    assert not denoiser.network.down[-1][-1][-1]._forward_hooks


def test_the_shortest_pairing_is_that_of_sorted_numbers(tried):
    x0 = torch.tensor([[2.0], [-1.0], [0.5]])
    eps = tried.shortest(x0, torch.Generator().manual_seed(0))
    drawn = torch.randn(3, 1, generator=torch.Generator().manual_seed(0))
    assert torch.equal(eps.flatten().sort()[0], drawn.flatten().sort()[0])
    assert eps.flatten().argsort().tolist() == x0.flatten().argsort().tolist()


def test_an_average_over_a_share_forgets_half_in_that_share_of_the_images(tried):
    model = nn.Linear(1, 1, bias=False)
    parts = SimpleNamespace(training=SimpleNamespace(model=model, ema=None))
    tried.averaged(0.1)(Recipe(), parts)
    before = parts.training.ema.model.weight.item()
    with torch.no_grad():
        model.weight.add_(1)
    parts.training.ema.update(model, 100, 1000)
    assert parts.training.ema.model.weight.item() == pytest.approx(before + 0.5)


def stepped(optimiser, gradients):
    """Where a matrix of 32 × 32 lies after updates by these gradients, at a rate of 0.01."""
    model = nn.Linear(32, 32, bias=False, dtype=torch.float64)
    model.weight.data.zero_()
    made = optimiser(model)
    for gradient in gradients:
        model.weight.grad = gradient.clone()
        made.step()
    return model.weight.detach()


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_soap_is_adam_where_the_axes_are_the_gradients_bases(tried):
    """After its first gradient, through turns, and wherever the axes are turned to; gradients of 0 come before."""
    rows = random(25, 32)
    diagonal = [torch.diag(row) for row in rows]
    soap = partial(for_matrices, tried.SOAP(), lr=0.01, weight_decay=0.0)
    adam = stepped(
        lambda model: torch.optim.AdamW(model.parameters(), lr=0.01, betas=(0.95, 0.95), weight_decay=0.0), diagonal[1:]
    )
    torch.testing.assert_close(stepped(soap, [0 * diagonal[0], *diagonal]), adam)
    left, right = (torch.linalg.qr(random(32, 32, seed=s))[0] for s in (1, 2))
    turned = stepped(soap, [left @ g @ right.mT for g in diagonal])
    torch.testing.assert_close(left.mT @ turned @ right, adam, rtol=1e-4, atol=1e-6)


def test_soap_makes_no_bad_update(tried):
    model = nn.Linear(32, 32, bias=False)
    made, before = for_matrices(tried.SOAP(), model, 0.01, 0.0), model.weight.detach().clone()
    for bad in (0.0, 1.0, 1.0, 0.0):
        made.found_inf = torch.tensor(bad)
        model.weight.grad = torch.full_like(model.weight, torch.nan if bad else 1.0) + (0 if bad else torch.eye(32))
        made.step()
        assert torch.equal(model.weight, before) == (made.state[model.weight]["n"] == 0)
    assert made.state[model.weight]["n"] == 1
