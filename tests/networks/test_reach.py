"""Time and conditions reach every block of ebb's networks, and a block that is cut off is named."""

import pytest
import torch
from torch import nn

from ebb import testing
from ebb.doctor.model_subject import ModelSubject
from ebb.doctor.model_wiring import check_block_cut_off
from ebb.networks.dit import DiT
from ebb.networks.mlp import MLP
from ebb.networks.mmdit import MMDiT
from ebb.networks.reach import alike, exchanged
from ebb.networks.unet import UNet

LABEL = {"label": "classes(count=3)"}
TEXT = LABEL | {"text": "pieces(vocabulary=9, length=4)"}
SHAPE = (1, 8, 8)


def unet(**options):
    return UNet(1, width=16, multipliers=(1, 1), depth=1, **options)


NETWORKS = {
    "unet": lambda: (unet(ports=LABEL, attention=(1,)), SHAPE),
    "unet, text": lambda: (unet(ports=TEXT, cross=(0, 1)), SHAPE),
    "dit": lambda: (DiT(1, width=32, depth=3, patch=4, head=16, ports=TEXT), SHAPE),
    "mmdit": lambda: (MMDiT(1, width=32, depth=3, patch=4, head=16, ports=TEXT), SHAPE),
    "mlp": lambda: (MLP(3, width=16, depth=3, ports=LABEL), (3,)),
}
BLOCKS = {
    "unet": "up.0.0.0", "unet, text": "down.1.0.0", "dit": "blocks.1", "mmdit": "blocks.2", "mlp": "film.1"
}  # fmt: skip
"""A block that is told the time as others are."""


def cond(network):
    """Examples of its conditions, no two alike."""
    rows = {"label": torch.arange(3), "text": torch.tensor([[1, 2, 3, 0], [4, 5, 0, 0], [6, 7, 8, 1]])}
    return {name: rows[name] for name in network.embedding.ports}


def cut(network, name, what):
    """Block `name` is told a constant in place of the embedding of the time, or the time alone, without the label."""
    last = {"asked": False}

    def begin(_, given):
        last["asked"] = True

    def end(_, given, answer):
        last["asked"] = False

    def note(embedder, given):
        last["time"] = embedder.time(given[0])

    def instead(vector):
        return last["time"] if what == "label" else torch.ones_like(vector)

    def spoilt(_, given):
        """Where what is told stands: in a named tuple, alone, or third, as an MM-DiT's blocks have it."""
        if not last["asked"]:
            return given
        if any(hasattr(each, "_fields") for each in given):
            return tuple(e._replace(vector=instead(e.vector)) if hasattr(e, "_fields") else e for e in given)
        return tuple(instead(e) if i == (2 if len(given) > 1 else 0) else e for i, e in enumerate(given))

    network.register_forward_pre_hook(begin)
    network.register_forward_hook(end)
    network.embedding.register_forward_pre_hook(note)
    network.get_submodule(name).register_forward_pre_hook(spoilt)


@pytest.mark.parametrize("kind", NETWORKS)
def test_a_healthy_network_passes(kind):
    network, shape = NETWORKS[kind]()
    assert check_block_cut_off(ModelSubject(network, shape, cond(network))) is None
    testing.check_network(network, [shape], lambda n: {name: rows[:n] for name, rows in cond(network).items()})


@pytest.mark.parametrize("what", ["time", "label"])
@pytest.mark.parametrize("kind", NETWORKS)
def test_a_block_that_is_cut_off_is_named(kind, what):
    network, shape = NETWORKS[kind]()
    cut(network, BLOCKS[kind], what)
    finding = check_block_cut_off(ModelSubject(network, shape, cond(network)))
    assert BLOCKS[kind] in finding.evidence
    assert ("the time" in finding.symptom) == (what == "time")
    with pytest.raises(AssertionError, match=f"does not reach {BLOCKS[kind]}"):
        testing.check_network(network, [shape], lambda n: {name: rows[:n] for name, rows in cond(network).items()})


def test_parts_that_hear_nothing_by_design_are_left_in_peace():
    class Stem(nn.Module):
        """Three equal maps before the time is told, two after it."""

        def __init__(self):
            super().__init__()
            self.layers, self.film = nn.ModuleList(nn.Linear(3, 3) for _ in range(5)), nn.Linear(1, 3)

        def forward(self, x, time, cond):
            for i, layer in enumerate(self.layers):
                x = torch.tanh(layer(x)) + (self.film(time[:, None]) if i == 2 else 0)
            return x

    assert check_block_cut_off(ModelSubject(Stem(), (3,), {})) is None


def test_what_depends_on_x_stays_and_the_rest_is_exchanged():
    x, other, told, later = (torch.full((2,), float(i)) for i in range(4))
    given = exchanged(
        (x, {"told": told}, [told, 7]), (other, {"told": later}, [later, 8]), (other, {"told": told}, [told, 7])
    )
    assert given[0] is x
    assert given[1]["told"] is later
    assert given[2] == [later, 7]
    assert alike(given, given)
    assert not alike(given[0], told)
