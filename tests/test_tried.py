"""What bench/ablation.py tries besides fields of the recipe: a figure against it is only as good as its code."""

import sys
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
    return Loader(Examples(pixels), batch, 3)


def test_growing_batches_show_the_same_images_in_the_same_order(tried):
    whole = loader_of()
    grown = tried.Growing(**vars(whole), grown=4)
    assert [len(grown(step).x0) for step in range(6)] == [4] * 4 + [8] * 2
    assert torch.equal(seen(grown, 6), seen(whole, 4))


def test_images_rise_from_half_their_sides(tried):
    rising = tried.Rising(**vars(loader_of()), risen=2)
    assert [tuple(rising(step).x0.shape[2:]) for step in range(3)] == [(2, 2), (2, 2), (4, 4)]
    assert torch.equal(seen(rising, 2), seen(loader_of(), 2)), "images of one value keep it"


def test_a_silent_network_is_drawn_to_its_targets_less_by_what_drives_it_from_the_others(tried, denoiser, batch):
    """Outputs start at 0, so both pull at the last bias alike: those of a batch are the others' targets too."""
    pull, loss = [], []
    for objective in (Denoising(), tried.Contrastive(away=0.3)):
        denoiser.zero_grad()
        loss.append(objective(denoiser, batch, torch.Generator().manual_seed(2)).value)
        loss[-1].backward()
        pull.append(denoiser.network.out.bias.grad.clone())
    torch.testing.assert_close(pull[1], 0.7 * pull[0])
    assert loss[0] == loss[1], "what is logged and guarded is the error"


def test_what_is_moved_away_is_what_the_contrastive_loss_is_least_at(tried, denoiser):
    """Of predictions c for targets u = −x0 + ε that nothing tells apart, by descent, and by moving E[u] away from ū."""
    pixels = np.random.default_rng(0).integers(0, 256, (50, 1, 8, 8), dtype=np.uint8)
    images = SimpleNamespace(images=SimpleNamespace(pixels=pixels))
    tried.moved(None, SimpleNamespace(training=SimpleNamespace(model=denoiser), data=images))
    seen, away = torch.zeros(1, 1, 8, 8), tried.Contrastive.away
    learnt = denoiser.eval().network(seen, torch.zeros(1), {})
    mean = -torch.from_numpy(pixels / 127.5 - 1).float().mean(0)
    c = torch.zeros(1, 8, 8, requires_grad=True)  # what this network, which says 0, was taught E[u|x] = 0 for
    loss = (c - 0).square().sum() - away * (c - mean).square().sum()
    (slope,) = torch.autograd.grad(loss, c)
    torch.testing.assert_close(learnt[0].detach(), -slope.detach() / (2 * (1 - away)))  # Newton's step is exact
    assert denoiser.train().network(seen, torch.zeros(1), {}).abs().max() == 0


def test_features_are_pushed_apart(tried, denoiser, batch):
    dispersive = tried.Dispersive(Denoising())

    def found():
        return dispersive(denoiser, batch, torch.Generator().manual_seed(2))

    before = found()
    assert before.terms["alike"] < 0, "log mean exp(−d) is 0 only where all are alike"
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
    assert eps.flatten().argsort().tolist() == x0.flatten().argsort().tolist()


def descended(optimiser, left, right):
    """Where 12 steps lead from a start on ½‖A·W·B − C‖², another C at each, with W seen in other bases."""
    generator = torch.Generator().manual_seed(0)
    start, a, b = (torch.randn(32, 32, generator=generator, dtype=torch.float64) for _ in range(3))
    model = nn.Linear(32, 32, bias=False, dtype=torch.float64)
    model.weight.data = left @ start @ right
    made = optimiser(model, 0.01)
    for _ in range(12):
        model.zero_grad()
        c = torch.randn(32, 32, generator=generator, dtype=torch.float64)
        (0.5 * (a @ left.mT @ model.weight @ right.mT @ b - c).square().mean()).backward()
        made.step()
    return left.mT @ model.weight.detach() @ right.mT


def test_soap_descends_alike_in_any_basis_and_adam_does_not(tried):
    """Its steps are in the bases of the gradients' own sides; a mutant that stays in the given ones is Adam."""
    generator, as_given = torch.Generator().manual_seed(1), [torch.eye(32, dtype=torch.float64)] * 2
    turns = [torch.linalg.qr(torch.randn(32, 32, generator=generator, dtype=torch.float64))[0] for _ in as_given]

    class Unturned(tried.SOAP):
        def move(self, group, pairs, bad):
            for p, _ in pairs:
                if self.state[p]:
                    self.state[p]["bases"] = list(as_given)
            super().move(group, pairs, bad)

    moved = (descended(tried.SOAP, *as_given) - descended(tried.SOAP, *turns)).abs().max()
    mutant = (descended(Unturned, *as_given) - descended(Unturned, *turns)).abs().max()
    assert moved < 1e-2 < mutant
