"""The doctor on autoencoders: each fault is found where it is planted, and none in one that is well."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from ebb.doctor import run_autoencoder as checks
from ebb.doctor.finding import NothingToExamineError
from ebb.doctor.looks import fine_power, fine_share
from ebb.doctor.restored import Restored
from ebb.doctor.run_subject import RunSubject
from ebb.encode.autoencoder import VQ, Autoencoder
from ebb.encode.latent import LatentSpace
from ebb.recipe.recipe import AutoencoderRecipe


class Channels(Autoencoder):
    """Two channels of a picture, its two halves of rows; of `silent` ones the posterior is the prior, and unheard."""

    def __init__(self, silent=0, blur=0):
        super().__init__()
        self.channels, self.factor, self.latent, self.settings = 1, 1, 2, {}
        self.silent, self.blur = silent, blur
        self.weight = torch.nn.Parameter(torch.ones(()))

    def heard(self):
        return torch.tensor([float(at >= self.silent) for at in range(2)])[:, None, None]

    def posterior(self, x):
        rows = (torch.arange(x.shape[2]) % 2)[:, None]
        mean = torch.cat([x * rows, x * (1 - rows)], 1) * self.heard()
        return 3 * mean, torch.log(1e-2 ** self.heard()).expand_as(mean)

    def encode(self, x):
        return self.posterior(x)[0]

    def decode(self, z):
        x = (z * self.heard()).sum(1, keepdim=True) / 3
        for _ in range(self.blur):
            x = torch.nn.functional.avg_pool2d(torch.nn.functional.pad(x, (1, 1, 1, 1), mode="replicate"), 3, 1)
        return x


def pictures(count=64):
    return torch.rand(count, 1, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1


def run_of(codec, x=None):
    """A run that trained this autoencoder, on these pictures."""
    x, run = pictures() if x is None else x, RunSubject(Path("runs/codec"))
    space = LatentSpace.of(codec, (0.0,) * codec.latent, (1.0,) * codec.latent)
    run.__dict__["system"] = SimpleNamespace(space=space)
    run.__dict__["document"] = (AutoencoderRecipe(steps=10, batch=8), {"data": "photos", "command": "ebb train photos"})
    run.__dict__["restored"] = Restored.of(codec, x)
    return run


def found(run):
    return {finding.name: finding for check in checks.AUTOENCODER_CHECKS if (finding := check(run))}


def quantised(dead):
    """A codebook of 16 vectors that pictures need, of which some lie far from all."""
    torch.manual_seed(0)
    codec = VQ(1, latent=2, codes=16, width=8, multipliers=(1,), depth=1)
    rows = codec.encoder(pictures()).detach()
    for _ in range(50):
        codec.codebook.learn(rows, torch.Generator().manual_seed(0))
    codec.codebook.sums[:dead] += 1e4
    return codec


def test_an_autoencoder_that_is_well_is_left_in_peace():
    assert found(run_of(Channels())) == {}


@pytest.mark.parametrize(("silent", "severity"), [(1, "warning"), (2, "error")])
def test_channels_that_say_nothing_and_are_not_heard_have_collapsed(silent, severity):
    finding = found(run_of(Channels(silent)))["posterior collapse"]
    assert finding.severity == severity
    assert f"{silent} of 2 channels" in finding.evidence
    assert "--autoencoding.beta" in finding.commands[0]


def test_a_silent_channel_that_the_decoder_hears_has_not_collapsed():
    """It costs nothing, yet moves the answer: the divergence alone does not say so."""
    run = run_of(Channels(1))
    seen = run.restored
    run.__dict__["restored"] = Restored(seen.x, seen.back, (0.5, 0.5), seen.reconstruction)
    assert checks.check_posterior_collapse(run) is None


def test_dead_codes_are_counted():
    finding = found(run_of(quantised(14)))["dead codes"]
    assert finding.evidence.startswith("12% of 16 codes are used")
    assert "--autoencoding.codes 2" in finding.commands[0]
    assert "dead codes" not in found(run_of(quantised(0)))
    with pytest.raises(NothingToExamineError, match="too few to tell which of 16 codes are dead"):
        checks.check_dead_codes(run_of(quantised(0), pictures(2)))


def test_blur_is_power_that_is_missing():
    finding = found(run_of(Channels(blur=2)))["reconstructions blurred"]
    assert "of their power at high frequencies" in finding.evidence
    assert "--autoencoding.latent 4" in finding.commands[0]


def test_power_above_half_the_highest_frequency_is_that_of_white_noise():
    x = 0.5 * torch.randn(200, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    assert fine_power(x) == pytest.approx(0.25 * fine_share(x), rel=0.02)
    assert fine_power(2 * x) == pytest.approx(4 * fine_power(x), rel=1e-5)
