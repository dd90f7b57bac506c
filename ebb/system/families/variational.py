"""Variational: an autoencoder whose latents follow a normal prior, and draws by decoding one of these."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ebb.data.dataset import Dataset
from ebb.data.loader import Loader
from ebb.data.pictures import batches
from ebb.encode.autoencoder import KL, VQ, Autoencoder
from ebb.encode.latent import LatentSpace
from ebb.encode.statistics import latent_statistics
from ebb.errors import DamagedError, UsageError
from ebb.events import Message, Work
from ebb.guide.cfg import Guide
from ebb.judge.ensemble import Ensemble, load_ensemble, save_ensemble
from ebb.judge.features import ImageClassifier, train_classifier
from ebb.judge.pretrained import lpips
from ebb.networks.critic import Critic
from ebb.process.denoiser import Cond
from ebb.recipe.groups import AutoencodingRecipe, KLRecipe, VQRecipe
from ebb.recipe.recipe import AutoencoderRecipe, Sampling, resolved
from ebb.recipe.starting import Facts, complete_coder
from ebb.sample.noise import Noise
from ebb.sample.trajectory import Point
from ebb.store.failure import explained
from ebb.system.families.family import Family, Prepared, Trainable, Workshop, in_place, training_of
from ebb.system.model import Draw, Model
from ebb.train.objectives.autoencoding import (
    DISTANCES,
    Autoencoding,
    Bottleneck,
    Commitment,
    Divergence,
    FeatureMaps,
    Trainee,
    stages,
)


@dataclass(frozen=True, eq=False)
class LatentPrior(Model):
    """N(0, I) over the latents of an autoencoder: a sample is one of its draws, decoded."""

    space: LatentSpace = field()
    family = "autoencoder"
    reconstructs = True

    @property
    def module(self) -> Autoencoder:
        """The autoencoder."""
        return self.space.autoencoder

    def draw(
        self, shape: tuple[int, ...], sampling: Sampling, guides: Sequence[Guide] = (), *, compiled: bool = False
    ) -> Draw:
        """One point: ε itself. No setting matters to it; raises UsageError for a guide, which has nobody to ask."""
        if guides:
            raise UsageError("an autoencoder draws from its prior at once, and no guide can be asked on the way")

        def points(cond: Cond, noise: Noise) -> Iterator[Point]:
            z = noise.start(shape).to(self.device)
            yield Point(0.0, z, z)

        return points

    def forward(self, x: Tensor, cond: Cond) -> Tensor:
        """What comes back of examples through the latents."""
        return self.space.decode(self.space.encode(x))

    def card(self) -> tuple[str, str]:
        """The latents."""
        codec = self.space.autoencoder
        return "An autoencoder", f"latents: {codec.latent} channels, each side {codec.factor} times smaller"

    def contract(self) -> dict[str, Any]:
        """Nothing: all is said by its space."""
        return {}

    def own(self, trained: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The autoencoder's weights, without those of its critic."""
        return {name.removeprefix(OWN): value for name, value in trained.items() if name.startswith(OWN)}

    def saved(self) -> dict[str, Tensor]:
        """The autoencoder's weights under the names of training."""
        return {f"{OWN}{name}": value for name, value in self.module.state_dict().items()}


OWN = "autoencoder."
"""What the names of an autoencoder's weights begin with, in the checkpoint of a run that trained it."""


class VariationalFamily(Family[AutoencoderRecipe]):
    """An `Autoencoder`, trained by `Autoencoding`; its latents are drawn with the mean and deviation, by channel, that
    some training examples have."""

    name = "autoencoder"
    analyses = ("copies", "reconstruction", "floor")

    def prepared(self, recipe: AutoencoderRecipe, dataset: Dataset, shop: Workshop) -> Work[Prepared]:
        """The examples, and the network in whose features they are compared, where one is asked for."""
        how, features = recipe.autoencoding, None
        if how.perceptual:
            features = lpips(Path(how.lpips), shop.device) if how.lpips else (yield from perceiver(dataset, shop))
        return replace((yield from super().prepared(recipe, dataset, shop)), features=features)

    def complete(self, asked: AutoencoderRecipe, facts: Facts) -> tuple[AutoencoderRecipe, dict[str, str]]:
        """Batch and optimiser."""
        return complete_coder(asked, facts)

    def named(self, recipe: AutoencoderRecipe) -> None:
        """A factor that halves some number of times."""
        shape_of(recipe.autoencoding)

    def calls(self, recipe: AutoencoderRecipe) -> float:
        """As many as an update makes: a sheet is of reconstructions."""
        return 3

    def steady(self, recipe: AutoencoderRecipe) -> bool:
        """Not with a critic, which is asked from a share of the run on: updates are faster before."""
        return not recipe.autoencoding.adversarial

    def timed(self, asked: AutoencoderRecipe, recipe: AutoencoderRecipe) -> set[str]:
        """Nothing."""
        return set()

    def build(self, recipe: AutoencoderRecipe, data: Prepared, device: torch.device) -> Trainable:
        """Autoencoder, critic where one is asked for, objective and batches without conditions."""
        how, channels = recipe.autoencoding, data.dataset.summary.shape[0]
        codec, bottleneck = CODECS[how.kind](how, channels)
        model = Trainee(codec, Critic(channels) if how.adversarial else None)
        model = in_place(model).to(device)
        training, batch = training_of(model, recipe), resolved(recipe.batch)
        late = resolved(recipe.steps or 1) * batch * recipe.optimiser.accumulate // 4
        objective = Autoencoding(
            bottleneck, DISTANCES[how.distance], data.features, how.perceptual, how.adversarial, start=late
        )
        return Trainable(
            LatentPrior(measured(model.autoencoder, data, device)),
            training,
            objective,
            Loader(data.examples, batch, recipe.seed, recipe.data.flip, device),
            lambda: LatentPrior(measured(training.ema.model.autoencoder, data, device)),  # type: ignore[arg-type]
        )

    def load(self, contract: Mapping[str, Any], space: LatentSpace | None) -> LatentPrior:
        """The prior of a latent space; raises DamagedError where a contract names none."""
        if space is None:
            raise DamagedError("the contract of an autoencoder names no autoencoder")
        return LatentPrior(space)


def measured(codec: Autoencoder, data: Prepared, device: torch.device) -> LatentSpace:
    """The space of an autoencoder's latents, with the mean and deviation of those of some training examples."""
    rows = data.dataset.rows
    some = rows[:: max(1, len(rows) // MEASURED)][:MEASURED]
    found = latent_statistics(codec, (x.to(device) for x in batches(some, 64)))
    return LatentSpace.of(codec, found.mean, found.std)


MEASURED = 512
"""Examples whose latents tell where those of an autoencoder lie."""


def shape_of(how: AutoencodingRecipe) -> dict[str, Any]:
    """What both autoencoders are built from; raises UsageError for a factor that is not a power of 2."""
    halvings = how.factor.bit_length() - 1
    if 2**halvings != how.factor or not halvings:
        raise UsageError(f"an autoencoder shrinks by 2, 4, 8, …, got {how.factor}", "try --autoencoding.factor 4")
    return {
        "latent": how.latent,
        "width": how.width,
        "patch": 2,
        "multipliers": (1, *(2,) * (halvings - 1)),
        "residual": how.residual,
    }


def kl_of(how: KLRecipe, channels: int) -> tuple[Autoencoder, Bottleneck]:
    """A Gaussian latent and what its divergence costs."""
    return KL(channels, **shape_of(how)), Divergence(how.beta, how.warmup, how.free_nats)


def vq_of(how: VQRecipe, channels: int) -> tuple[Autoencoder, Bottleneck]:
    """A codebook and the commitment to it."""
    return VQ(channels, codes=how.codes, **shape_of(how)), Commitment()


CODECS: dict[str, Callable[[Any, int], tuple[Autoencoder, Bottleneck]]] = {"kl": kl_of, "vq": vq_of}
"""How each autoencoder of a recipe is built, with fresh weights, and how its latents are pressed while it trains."""


PERCEIVER = 3
"""The seed of the classifier that examples are compared by: not one of those that `ebb evaluate` judges with."""


def perceiver(dataset: Dataset, shop: Workshop) -> Work[FeatureMaps]:
    """The feature maps of a classifier of the data's labels, trained once and kept in the workshop.

    Raises UsageError for data without labels.
    """
    if dataset.labels is None or len(dataset.names) < 2:
        raise UsageError(
            "a perceptual distance is taken in the features of a classifier, and these"
            f" {dataset.modality.things} have no labels",
            "leave --autoencoding.perceptual at 0, or give a file of LPIPS with --autoencoding.lpips",
        )
    file = shop.cache / f"perceiver-{dataset.summary.fingerprint[:12]}.safetensors"
    kept = load_ensemble(file, dataset.summary.fingerprint, ImageClassifier)
    if kept is None:
        yield Message(f"training a classifier to compare {dataset.modality.things} by, once")
        classifier, accuracy = train_classifier(dataset.rows, dataset.labels, len(dataset.names), seed=PERCEIVER)
        kept = Ensemble([classifier]), accuracy
        with explained(file.parent):
            file.parent.mkdir(parents=True, exist_ok=True)
        save_ensemble(file, *kept, dataset.summary.fingerprint)
    return stages(kept[0].members[0].body.to(shop.device))
