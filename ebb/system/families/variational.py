"""Variational: an autoencoder whose latents follow a normal prior, and draws by decoding one of these."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from ebb.data.loader import Examples, Loader
from ebb.data.pictures import batches
from ebb.encode.autoencoder import KL, VQ, Autoencoder
from ebb.encode.conditioner import Conditioner
from ebb.encode.latent import LatentSpace
from ebb.encode.statistics import latent_statistics
from ebb.errors import UsageError
from ebb.networks.critic import Critic
from ebb.networks.zero import Zero
from ebb.process.denoiser import NetworkDenoiser
from ebb.process.path import Cosine
from ebb.process.predict import PREDICTIONS
from ebb.recipe.recipe import AutoencoderRecipe, Recipe, resolved
from ebb.system.families.family import Built, Prepared, training_of
from ebb.system.system import System, in_place
from ebb.train.objectives.autoencoding import DISTANCES, Autoencoding, Commitment, Divergence, Trainee


@dataclass(frozen=True)
class VariationalFamily:
    """An `Autoencoder`, trained by `Autoencoding`; its latents are drawn with the mean and deviation, by channel, that
    some training images have."""

    name = "autoencoder"

    def build(self, recipe: Recipe, data: Prepared, device: torch.device) -> Built:
        """Autoencoder, critic where one is asked for, objective and batches without conditions."""
        how, shape = recipe.autoencoding, data.images.summary.shape
        model = Trainee(autoencoder_of(how, shape[0]), Critic(shape[0]) if how.adversarial else None)
        model = in_place(model).to(device)
        training, batch = training_of(model, recipe), resolved(recipe.batch)
        late = resolved(recipe.steps or 1) * batch * recipe.optimiser.accumulate // 4
        bottleneck = Divergence(how.beta, how.warmup, how.free_nats) if how.kind == "kl" else Commitment()
        objective = Autoencoding(
            bottleneck, DISTANCES[how.distance], data.features, how.perceptual, how.adversarial, start=late
        )

        def system(codec: Autoencoder) -> System:
            return System(prior.to(device), shape, Conditioner(), recipe.sample, measured(codec, data, device))

        prior = NetworkDenoiser(Zero(), Cosine(), PREDICTIONS["v"])
        return Built(
            system(model.autoencoder),
            training,
            objective,
            Loader(Examples(data.images.pixels), batch, recipe.seed, recipe.data.flip, device),
            data,
            lambda: system(training.ema.model.autoencoder),  # type: ignore[arg-type]
        )


def measured(codec: Autoencoder, data: Prepared, device: torch.device) -> LatentSpace:
    """The space of an autoencoder's latents, with the mean and deviation of those of some training images."""
    pixels = data.images.pixels
    some = pixels[:: max(1, len(pixels) // MEASURED)][:MEASURED]
    found = latent_statistics(codec, (x.to(device) for x in batches(some, 64)))
    return LatentSpace.of(codec, found.mean, found.std)


MEASURED = 512
"""Images whose latents tell where those of an autoencoder lie."""


def autoencoder_of(recipe: AutoencoderRecipe, channels: int) -> Autoencoder:
    """The autoencoder, with fresh weights; raises UsageError for a factor that is not a power of 2."""
    halvings = recipe.factor.bit_length() - 1
    if 2**halvings != recipe.factor or not halvings:
        raise UsageError(f"an autoencoder shrinks by 2, 4, 8, …, got {recipe.factor}", "try --autoencoding.factor 4")
    shape: dict[str, Any] = {
        "latent": recipe.latent,
        "width": recipe.width,
        "patch": 2,
        "multipliers": (1, *(2,) * (halvings - 1)),
        "residual": recipe.residual,
    }
    return KL(channels, **shape) if recipe.kind == "kl" else VQ(channels, codes=recipe.codes, **shape)
