"""Every network exports as a graph with a free batch, which answers as the network does, at other batches too."""

import pytest
import torch
from torch.export import Dim
from torch.utils import _pytree as pytree

from ebb.networks.attention import rotate, rotation
from ebb.networks.classifier import Classifier, PointClassifier
from ebb.networks.convolutional import Decoder, Encoder, Pyramid
from ebb.networks.critic import Critic
from ebb.networks.dit import DiT
from ebb.networks.mlp import MLP
from ebb.networks.mmdit import MMDiT
from ebb.networks.unet import UNet

from .known import PIECES, REST, STATES, apart, lively, told

CONDITIONED = {
    "unet": (UNet(1, width=8, depth=1, cross=(1,), ports={**STATES, "label": REST["label"]}), (1, 4, 4)),
    "unet 1-D": (UNet(1, width=8, multipliers=(1,), depth=1, cross=(0,), dims=1, ports=PIECES), (1, 8)),
    "concepts": (apart(STATES), (1, 4, 4)),
    "dit": (DiT(1, width=16, depth=1, head=8, ports=STATES | REST), (1, 8, 6)),
    "mmdit": (MMDiT(1, width=16, depth=1, head=8, ports=STATES), (1, 8, 6)),
}
OTHERS = {
    "mlp": (MLP(2, width=8), lambda n: (torch.randn(n, 2), torch.rand(n), {})),
    "classifier": (Classifier(1, 3, width=8), lambda n: (torch.randn(n, 1, 8, 8), torch.rand(n))),
    "points": (PointClassifier(2, 3, width=8), lambda n: (torch.randn(n, 2), torch.rand(n))),
    "encoder": (Encoder(1, 2, Pyramid(8, residual=True)), lambda n: (torch.randn(n, 1, 8, 8),)),
    "decoder": (Decoder(2, 1, Pyramid(8)), lambda n: (torch.randn(n, 2, 4, 4),)),
    "critic": (Critic(1, width=8), lambda n: (torch.randn(n, 1, 16, 16),)),
}


def exported(network, inputs):
    """The program of a network for any batch, exported at the batch of `inputs`."""
    batch = Dim("batch")
    free = pytree.tree_map(lambda tensor: {0: batch}, inputs)
    return torch.export.export(network.eval(), inputs, dynamic_shapes=free)


def answers_alike(network, inputs):
    """`network` exported at a batch of 3 is asked at 2: no complex number, and the network's own answer."""
    program = exported(lively(network), inputs(3))
    values = [node.meta.get("val") for node in program.graph.nodes]
    assert not any(isinstance(value, torch.Tensor) and value.is_complex() for value in values)
    with torch.no_grad():
        expected = network(*inputs(2))
        torch.testing.assert_close(program.module()(*inputs(2)), expected, atol=1e-5, rtol=1e-5)
    assert expected.abs().max() > 1e-3


def in_turn(table, short):
    """The names of a table; those that are not among `short` are long forms."""
    return [name if name in short else pytest.param(name, marks=pytest.mark.full) for name in table]


@pytest.mark.parametrize("name", in_turn(CONDITIONED, ("unet 1-D", "dit")))
def test_a_network_with_conditions_exports_with_a_free_batch(name, unchecked):
    network, shape = CONDITIONED[name]
    unchecked()
    answers_alike(network, lambda n: (torch.ones(n, *shape), torch.linspace(0.2, 0.9, n), told(network, shape, n)))


@pytest.mark.parametrize("name", in_turn(OTHERS, ("mlp", "decoder")))
def test_a_network_exports_with_a_free_batch(name, unchecked):
    network, inputs = OTHERS[name]
    unchecked()

    def same(n):
        torch.manual_seed(0)
        return inputs(n)

    answers_alike(network, same)


def test_places_are_turned_alike_eagerly_and_in_a_graph():
    """The product of complex numbers and the sums of sines and cosines, in each precision."""
    turn = rotation((3, 4), 16, torch.device("cpu"))
    for dtype in (torch.float32, torch.bfloat16):
        x = torch.randn(2, 5, 12, 16).to(dtype)
        graph = torch.export.export(Rotation(), (x, turn)).module()
        torch.testing.assert_close(graph(x, turn), rotate(x, turn), atol=1e-6, rtol=1e-6)
        assert not torch.allclose(graph(x, turn.flip(-1)), rotate(x, turn), atol=1e-3)


class Rotation(torch.nn.Module):
    def forward(self, x, by):
        return rotate(x, by)
