"""What the tests of the networks share: small ones of every kind, and conditions of every kind to ask them with."""

from dataclasses import replace

import torch

from ebb.networks.dit import DiT
from ebb.networks.mmdit import MMDiT
from ebb.networks.ports import ClassPort, MapPort, PiecesPort, StatesPort, VectorPort
from ebb.networks.unet import UNet

PIECES = {"text": PiecesPort(11, 5)}
STATES = {"text": StatesPort(6, 5)}
REST = {"label": ClassPort(3), "numbers": VectorPort(2), "depth": MapPort(1), "edges": MapPort(2)}
HEARS = PIECES | REST


def unet(ports=REST, **settings):
    cross = (0, 1) if "text" in ports else ()
    return UNet(1, width=8, multipliers=(1, 2), depth=1, patch=2, attention=(1,), cross=cross, ports=ports, **settings)


def apart(ports, **settings):
    """A U-Net that hears texts in concepts."""
    return unet({**ports, "text": replace(ports["text"], concepts=2)}, **settings)


NETWORKS = {
    "unet": unet,
    "concepts": apart,
    "dit": lambda **settings: DiT(1, width=32, depth=2, patch=4, head=16, **settings),
    "mmdit": lambda **settings: MMDiT(1, width=32, depth=2, patch=4, head=16, **settings),
}
TEXT = torch.tensor([[3, 7, 2, 0, 0], [1, 2, 3, 4, 5], [0, 0, 0, 0, 0], [9, 0, 0, 0, 0]])
"""Of three pieces, of all five, of none, and of one."""


def told(network, shape, n=3):
    """Conditions of n samples of a shape, for `network`: the second has no number and no map, the last no label."""
    generator = torch.Generator().manual_seed(3)
    text = TEXT[torch.arange(n) % 4]

    def one(port):
        if isinstance(port, ClassPort):
            return torch.arange(1, n + 1) % (port.count + 1)
        if isinstance(port, PiecesPort | StatesPort):
            value = text
            if isinstance(port, StatesPort):
                value = torch.where(text[..., None] > 0, torch.randn(n, 5, port.width, generator=generator), 0.0)
            return torch.stack([value, value.roll(1, 0)], 1) if port.concepts else value
        value = torch.randn(n, *port.sizes(shape[1:]), generator=generator)
        value[1] = torch.nan
        return value

    return {name: one(port) for name, port in network.embedding.ports.items()}


def lively(network):
    """Parameters that are nowhere 0, since fresh networks answer 0."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return network
