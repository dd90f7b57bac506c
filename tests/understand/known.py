"""Systems whose likelihood is known: the exact denoiser of a mixture, dressed as a network that predicts the data."""

from __future__ import annotations

import torch
from torch import nn

from ebb.data.images import to_pixels
from ebb.encode.conditioner import Conditioner
from ebb.encode.labels import Labels
from ebb.process.denoiser import NetworkDenoiser
from ebb.process.exact import Mixture
from ebb.process.predict import PREDICTIONS
from ebb.system.families.diffusion import DiffusionModel
from ebb.system.system import System
from ebb.understand.likelihood import WIDTH


class Known(nn.Module):
    """The answers of exact denoisers, one for each label, all on one path; `off` is added to them."""

    def __init__(self, *mixtures, off=0.0):
        super().__init__()
        self.mixtures = mixtures
        self.off = nn.Parameter(torch.tensor(off), requires_grad=False)

    def forward(self, x, told, cond):
        t = told.double() * self.mixtures[0].path.end
        answers = torch.stack([mixture(x, t, {}) for mixture in self.mixtures])
        label = cond.get("label", torch.zeros(len(x), dtype=torch.int64))
        return answers[label, torch.arange(len(x))] + self.off


def system_of(*mixtures, off=0.0):
    """The system that knows these mixtures, one for each of its labels; of one mixture, without labels."""
    names = tuple(f"kind {k}" for k in range(len(mixtures))) if len(mixtures) > 1 else ()
    denoiser = NetworkDenoiser(Known(*mixtures, off=off), mixtures[0].path, PREDICTIONS["data"])
    return System(
        DiffusionModel(denoiser),
        tuple(mixtures[0].means.shape[1:]),
        Conditioner({"label": Labels(names)} if names else {}),
    )


def cloud(path, shift=0.0):
    means = torch.tensor([[-0.3, 0.2], [0.25, -0.1]], dtype=torch.float64).reshape(2, 1, 1, 2) + shift
    return Mixture(path, means, torch.tensor([0.4, 0.5]).double(), torch.tensor([0.4, 0.6]).double())


def images_of(mixture, count, seed=0):
    """Draws within [−1, 1], as 8-bit images."""
    x = mixture.sample(4 * count, torch.Generator().manual_seed(seed))
    return to_pixels(x[(x.abs() < 1).flatten(1).all(1)][:count])


def exact_bits(mixture, images):
    """−log₂ of the mixture's mass in the cell of each value, per dimension."""
    x = torch.from_numpy(images).double().flatten(1)[:, None] / 127.5 - 1
    means, stds = mixture.means.flatten(1), mixture.stds[:, None]
    mass = torch.special.ndtr((x + WIDTH / 2 - means) / stds) - torch.special.ndtr((x - WIDTH / 2 - means) / stds)
    return -torch.log2((mixture.weights * mass.prod(2)).sum(1)) / x.shape[2]
