"""What the tests of the networks share: small ones of every kind, and conditions of every kind to ask them with."""

import torch

from ebb.networks.dit import DiT
from ebb.networks.mmdit import MMDiT
from ebb.networks.unet import UNet

HEARS = {"vocabulary": 11, "length": 5, "classes": 3, "numbers": 2, "image": 2}
STATES = {"states": 6, "length": 5}


def unet(**settings):
    cross = (0, 1) if settings.get("length") else ()
    return UNet(1, width=8, multipliers=(1, 2), depth=1, patch=2, attention=(1,), cross=cross, **settings)


NETWORKS = {
    "unet": unet,
    "concepts": lambda **settings: unet(concepts=2, **settings),
    "dit": lambda **settings: DiT(1, width=32, depth=2, patch=4, head=16, **settings),
    "mmdit": lambda **settings: MMDiT(1, width=32, depth=2, patch=4, head=16, **settings),
}
TEXT = torch.tensor([[3, 7, 2, 0, 0], [1, 2, 3, 4, 5], [0, 0, 0, 0, 0], [9, 0, 0, 0, 0]])
"""Of three pieces, of all five, of none, and of one."""


def told(network, shape, n=3):
    """Conditions of n samples of a shape, for `network`: the second has no number and no image, the last no label."""
    settings, generator, cond = network.settings, torch.Generator().manual_seed(3), {}
    if settings["classes"]:
        cond["label"] = torch.arange(1, n + 1) % (settings["classes"] + 1)
    if settings["length"]:
        cond["text"] = TEXT[torch.arange(n) % 4]
    if settings["states"]:
        states = torch.randn(n, 5, settings["states"], generator=generator)
        cond["text"] = torch.where(cond["text"][..., None] > 0, states, 0.0)
    if settings.get("concepts"):
        cond["text"] = torch.stack([cond["text"], cond["text"].roll(1, 0)], 1)
    if settings["numbers"]:
        cond["numbers"] = torch.randn(n, settings["numbers"], generator=generator)
        cond["numbers"][1] = torch.nan
    if settings["image"]:
        cond["image"] = torch.randn(n, settings["image"], *shape[1:], generator=generator)
        cond["image"][1] = torch.nan
    return cond


def lively(network):
    """Parameters that are nowhere 0, since fresh networks answer 0."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return network
