"""What the edits are held against: noise that is known, and a small system that is no one's."""

import torch

from ebb.encode.conditioner import Conditioner
from ebb.encode.labels import Labels
from ebb.networks.unet import UNet
from ebb.process.denoiser import NetworkDenoiser
from ebb.process.path import Cosine
from ebb.process.predict import v
from ebb.recipe.recipe import Sampling
from ebb.system.families.diffusion import DiffusionModel
from ebb.system.system import System


class Given:
    """The same rows at every draw: what a deterministic solver makes of them is a map, and can be compared as one."""

    def __init__(self, rows):
        self.rows = rows

    def __call__(self, step, like, part=0):
        return self.rows.to(like)


def axes(n):
    """No noise, and one unit of it along each axis: a linear map's offset and columns."""
    return torch.cat([torch.zeros(1, n), torch.eye(n)]).double()


def hearing(classes):
    """What hears the first labels of the alphabet."""
    return Conditioner({"label": Labels(tuple("abc"[:classes]))} if classes else {})


def system(classes=3, shape=(1, 8, 8), network=None):
    """A system that answers something, with weights that are no one's."""
    torch.manual_seed(0)
    network = network or UNet(shape[0], width=8, multipliers=(1, 2), depth=1, ports=hearing(classes).ports)
    with torch.no_grad():
        for p in network.parameters():
            p.add_(0.05 * torch.randn_like(p))
    denoiser = NetworkDenoiser(network, Cosine(), v, sigma_data=0.5).requires_grad_(False).eval()
    return System(DiffusionModel(denoiser), shape, hearing(classes), Sampling(steps=4))
