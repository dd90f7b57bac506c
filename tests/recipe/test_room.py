"""Whatever the size, the channels and the budget: all of the noise passes through the network that is chosen."""

import itertools

import pytest
import torch

from ebb.data.scan import read
from ebb.events import finished
from ebb.recipe.by_speed import suited_width
from ebb.recipe.recipe import DiffusionRecipe, Recipe
from ebb.recipe.starting import Facts, complete, room, squeezed
from ebb.run.plan import resolve
from ebb.run.prepare import prepared
from ebb.system.families.diffusion import network_of

SIDES, CHANNELS = (8, 16, 28, 32, 40, 41, 48, 56, 64, 96, 128, 256, 1024), (1, 3, 4, 8, 16, 32)


def shaped(channels, side):
    """Facts of pictures in grey or colour, or of latents of colour pictures."""
    picture = None if channels in (1, 3) else (3, 64, 64)
    return Facts(1000, (channels, side, side), 0.5, decoded=picture)


def lost(recipe, facts, side):
    """Numbers that do not pass: those of a picture [c, side, side], less the rank of the network's Jacobian."""
    torch.manual_seed(0)
    network = network_of(recipe.network, facts.shape).double().eval()
    for weight in network.parameters():  # outputs start at zero
        if weight.ndim > 1 and not weight.any():
            torch.nn.init.normal_(weight, std=weight[0].numel() ** -0.5)
    numbers = facts.shape[0] * side**2
    x = torch.randn(1, facts.shape[0], side, side, dtype=torch.double).expand(numbers, -1, -1, -1).requires_grad_()
    made = network(x, torch.full((numbers,), 0.5, dtype=torch.double), {})
    (jacobian,) = torch.autograd.grad(made, x, torch.eye(numbers, dtype=torch.double).reshape(made.shape))
    return numbers - int(torch.linalg.matrix_rank(jacobian.reshape(numbers, numbers), rtol=1e-7))


def flattened(recipe, width):
    """The recipe with one level and one block: the first and the last layer decide what passes."""
    network = {"width": width, "depth": 1, "multipliers": (1,)}
    return recipe.model_copy(update={"network": recipe.network.model_copy(update=network)})


@pytest.mark.parametrize("kind", ["unet", "dit", "mmdit"])
@pytest.mark.parametrize("channels", CHANNELS)
def test_there_is_room_for_a_patch_at_every_size_and_budget(kind, channels):
    """A short budget makes the network narrower, but no narrower than that."""
    for side, updates in itertools.product(SIDES, (10, 300, 1e4)):
        facts = shaped(channels, side)
        recipe, _ = complete(Recipe(budget="90s", network={"kind": kind}), facts)
        width = suited_width(recipe, facts, updates)[0] if kind == "unet" else recipe.network.width
        assert width >= 4 / 3 * channels * recipe.network.patch**2, (side, updates)
        assert squeezed(recipe.network, facts) is None


@pytest.mark.parametrize("kind", ["unet", "dit"])
@pytest.mark.parametrize(("side", "channels"), [(64, 3), (32, 3), (28, 1), (128, 3), (16, 16)])
def test_the_chosen_network_can_tell_all_of_the_noise(kind, side, channels):
    facts = shaped(channels, side)
    recipe, _ = complete(Recipe(budget="90s", network={"kind": kind}), facts)
    width = suited_width(recipe, facts, 10)[0] if kind == "unet" else recipe.network.width
    assert lost(flattened(recipe, width), facts, 2 * recipe.network.patch) == 0


def test_a_narrow_network_loses_a_third_and_is_told_of():
    facts = Facts(1000, (3, 64, 64), 0.5)

    def asked(**network):
        return complete(Recipe(network=network), facts)[0]

    narrow = asked(width=32, patch=4)
    assert lost(flattened(narrow, 32), facts, 8) >= 4 * (48 - 32)
    assert "48 numbers of every patch have to pass through 32 channels" in squeezed(narrow.network, facts)
    assert "--network.width 64 or more" in squeezed(narrow.network, facts)
    assert asked(width=32).network.patch == 2
    assert asked(patch=8).network.width == 256
    assert (asked().network.width, asked().network.patch) == (96, 4)


def test_a_picture_beside_has_room_too():
    facts = Facts(1000, (3, 64, 64), 0.5, beside=4)
    assert room(facts, 4) == 112 > complete(Recipe(), facts)[0].network.width >= room(facts, 3)
    assert complete(Recipe(), facts)[0].network.patch == 2


def test_large_pictures_have_more_levels_instead_of_larger_patches():
    levels = {}
    for side in (41, 64, 96, 128, 256):
        recipe, _ = complete(Recipe(), Facts(1000, (3, side, side), 0.5, conditioned=True, texts=True))
        levels[side] = len(recipe.network.multipliers)
        assert recipe.network.patch == 4
        assert recipe.network.cross == (levels[side] - 2, levels[side] - 1)
    assert levels == {41: 3, 64: 3, 96: 4, 128: 4, 256: 5}


@pytest.fixture
def learnt(pictures):
    return finished(prepared(Recipe(), read(str(pictures))))


def told(learnt, **asked):
    lines = []
    found = finished(resolve(Recipe(precision="fp32", **asked), learnt, torch.device("cpu")), lines.append)
    return found, [event.text for event in lines]


def test_a_network_asked_for_too_narrow_is_made_and_told_of(learnt, paced):
    paced(100.0)
    (recipe, _), lines = told(learnt, steps=2, network={"width": 8, "patch": 4})
    assert (recipe.network.width, recipe.network.patch) == (8, 4)
    assert any("16 numbers of every patch" in line for line in lines)
    assert not any("numbers of every patch" in line for line in told(learnt, steps=2)[1])


def test_a_slow_moment_at_the_start_does_not_choose_the_width(learnt, monkeypatch):
    """First updates at 20 images a second, whole ones at a thousand: the width is that of a thousand."""
    monkeypatch.setattr("ebb.run.plan.paces", lambda *_: {"fp32": 20.0})
    speeds = {"rate": 3000.0}
    monkeypatch.setattr("ebb.run.plan.pace", lambda recipe, *_: speeds["rate"])
    (recipe, reasons), _ = told(learnt, budget="5m")
    assert recipe.network.width > 32
    speeds["rate"] = 25.0
    (recipe, reasons), _ = told(learnt, budget="5m")
    assert recipe.network.width == 32
    assert "narrower" in reasons["network.width"]


def test_updates_are_timed_over_more_than_a_moment(learnt, monkeypatch):
    """Ten slow updates of 30 ms, as another program's start makes them: the ones after decide."""
    from ebb.run.plan import paces

    monkeypatch.setattr("ebb.run.plan.timed", lambda *_: itertools.chain([0.03] * 10, itertools.repeat(0.01)))
    recipe = complete(Recipe(batch=16, precision="fp32"), Facts(48, (1, 8, 8), 0.5, conditioned=True))[0]
    assert paces(recipe, learnt, torch.device("cpu")) == {"fp32": 1600.0}


def test_a_cpu_without_bf16_is_not_asked_for_it(learnt, monkeypatch, paced):
    paced({"fp32": 100.0, "bf16": 200.0})
    for can, precision, reason in ((True, "bf16", "measured"), (False, "fp32", "no instructions for bf16")):
        monkeypatch.setattr("ebb.run.plan.multiplies_bf16", lambda device, can=can: can)
        recipe, reasons = finished(resolve(Recipe(steps=2), learnt, torch.device("cpu")))
        assert recipe.precision == precision
        assert reason in reasons["precision"]


def test_the_length_of_windows_is_written_into_the_recipe():
    recipe, reasons = complete(DiffusionRecipe(), Facts(1000, (2, 64), 1.0, window=64))
    assert recipe.data.window == 64
    assert "windows" in reasons["data.window"]
    assert complete(DiffusionRecipe(data={"window": 32}), Facts(1000, (2, 32), 1.0, window=32))[0].data.window == 32
    assert complete(DiffusionRecipe(), Facts(1000, (2, 64), 1.0))[0].data.window is None
