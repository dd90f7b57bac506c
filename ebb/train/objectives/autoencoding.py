"""Autoencoding: images as faithful as possible through latents that cost something, with a critic to please or none."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn
from torch.func import functional_call

from ebb.data.loader import Batch
from ebb.encode.autoencoder import VQ, Variational, divergence, draw
from ebb.encode.quantise import perplexity
from ebb.errors import UsageError
from ebb.shapes import Float
from ebb.train.objectives.objective import Loss

Distance = Callable[[Tensor, Tensor], Tensor]
"""(x̂, x) → the difference of every element."""

FeatureMaps = Callable[[Tensor], Sequence[Tensor]]
"""Images [b, c, h, w] → feature maps [b, k, h', w'], one for each depth, whose squared differences count; frozen."""


def absolute(made: Float[Tensor, "*d"], x: Float[Tensor, "*d"]) -> Float[Tensor, "*d"]:
    """|x̂ − x|, whose best answer is a median: sharper, and less moved by the odd large error."""
    return (made - x).abs()


def squared(made: Float[Tensor, "*d"], x: Float[Tensor, "*d"]) -> Float[Tensor, "*d"]:
    """(x̂ − x)², whose best answer is the mean: the highest PSNR."""
    return (made - x).square()


DISTANCES: dict[str, Distance] = {"l1": absolute, "l2": squared}


class Trainee(nn.Module):
    """What is trained: an autoencoder, the critic it is trained against, if any, and the number of images seen.

    All in one module, so one optimiser, one average and one checkpoint hold it.
    """

    seen: Tensor

    def __init__(self, autoencoder: nn.Module, critic: nn.Module | None = None) -> None:
        super().__init__()
        self.autoencoder: Any = autoencoder
        self.critic = critic
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))


class Latents(NamedTuple):
    """Latents to decode, what they cost as a scalar to descend, and what to log."""

    z: Tensor
    cost: Tensor
    terms: dict[str, Tensor]


Bottleneck = Callable[[Trainee, Tensor, torch.Generator], Latents]
"""(model, x, generator) → latents: how x is pressed into them while training; all chance comes from the generator."""


@dataclass(frozen=True)
class Divergence:
    """β·D(q(z|x) ‖ N(0, I))/d for x of d elements, z drawn from q(z|x), for what is `Variational`.

    With the mean squared error and β = 2s² the sum is −2s²/d·ELBO, to within a constant, under a Gaussian decoder of
    variance s² (Higgins et al. 2017, eq. 4). β rises linearly from 0 to `weight` over the first `warmup` images (Bowman
    et al. 2016, §3.1). A channel's mean divergence counts as `free` nats per latent at least ("free bits", Kingma et
    al. 2016, appendix C.8), so below that nothing is gained by using it less. Logs kl, all nats of an image.
    """

    weight: float = 1e-4
    warmup: int = 0
    free: float = 0.0

    def __post_init__(self) -> None:
        if min(self.weight, self.warmup, self.free) < 0:
            raise UsageError(f"weight, warmup and free nats are 0 or more, got {self}")

    def __call__(self, model: Trainee, x: Float[Tensor, "b *d"], generator: torch.Generator) -> Latents:
        """z ~ q(z|x), and what it costs; raises UsageError for a model without a posterior."""
        if not isinstance(model.autoencoder, Variational):
            raise UsageError(
                f"a divergence is of a posterior, and {type(model.autoencoder).__name__} has none",
                "for codes: Commitment",
            )
        mean, log_variance = model.autoencoder.posterior(x)
        nats = divergence(mean, log_variance).mean(0).reshape(mean.shape[1], -1)  # [latent, places]
        paid = nats.sum(1).clamp(min=self.free * nats.shape[1]).sum()
        risen = (model.seen / self.warmup).clamp(max=1) if self.warmup else 1.0
        cost = self.weight * risen * paid / x[0].numel()
        return Latents(draw(mean, log_variance, generator), cost, {"kl": nats.sum()})


@dataclass(frozen=True)
class Commitment:
    """weight·mean (z − sg[e])², e the code nearest to z (van den Oord et al. 2017, eq. 3), for `VQ`.

    While the model trains the codebook learns from each batch first. Logs the perplexity of its running counts.
    """

    weight: float = 0.25

    def __call__(self, model: Trainee, x: Float[Tensor, "b c h w"], generator: torch.Generator) -> Latents:
        """The codes of x, and how far off they are; raises UsageError for a model without a codebook."""
        if not isinstance(model.autoencoder, VQ):
            raise UsageError(
                f"commitment is to a codebook, and {type(model.autoencoder).__name__} has none",
                "for posteriors: Divergence",
            )
        z, codebook = model.autoencoder.encoder(x).float(), model.autoencoder.codebook
        if model.training:
            codebook.learn(z, generator)
        q, _ = codebook(z)
        return Latents(q, self.weight * (z - q.detach()).square().mean(), {"perplexity": perplexity(codebook.counts)})


@dataclass(frozen=True)
class Autoencoding:
    """distance(x̂, x) + the bottleneck's cost + perceptual·`perceived` + adversarial·(the critic's two terms).

    x̂ = decode(z); the distance is the mean over elements. `features` see what `perceived` compares. The critic D is
    trained by the hinge loss, ½E[max(0, 1 − D(x))] + ½E[max(0, 1 + D(x̂))], and the autoencoder by −E[D(x̂)] (Lim & Ye
    2017). Each of the two takes the other's weights as constants, so one backward pass of their sum gives both
    gradients. The critic is silent for the first `start` images, and `adversarial` rises linearly over as many again:
    an update whose loss jumped would be skipped as an outlier (`ebb.train.guard`).

    A model in training mode counts the images it sees in `Trainee.seen`, which a checkpoint saves.
    """

    bottleneck: Bottleneck = Divergence()
    distance: Distance = squared
    features: FeatureMaps | None = None
    perceptual: float = 0.0
    adversarial: float = 0.0
    start: int = 0

    def __post_init__(self) -> None:
        if min(self.perceptual, self.adversarial, self.start) < 0:
            raise UsageError(
                f"weights and the start are 0 or more, got {self.perceptual:g}, {self.adversarial:g}, {self.start}"
            )
        if self.perceptual and self.features is None:
            raise UsageError("a perceptual distance needs a network to perceive with", "give features, or perceptual=0")

    def __call__(self, model: Trainee, batch: Batch, generator: torch.Generator) -> Loss:
        """The loss of one batch; raises UsageError as the bottleneck does, and for an absent critic."""
        x = batch.x0
        latents = self.bottleneck(model, x, generator)
        made = model.autoencoder.decode(latents.z).float()
        distance = self.distance(made, x).mean()
        value, terms = distance + latents.cost, {"reconstruction": distance, **latents.terms}
        if self.perceptual and self.features is not None:
            terms["perceptual"] = perceived(self.features, made, x)
            value = value + self.perceptual * terms["perceptual"]
        if self.adversarial:
            ramp = self.ramp(model)
            if ramp > 0:
                terms |= contest(model.critic, made, x)
                value = value + self.adversarial * ramp * (terms["adversarial"] + terms["critic"])
        if model.training:
            model.seen += len(x)
        return Loss(value, {name: term.detach() for name, term in terms.items()})

    def ramp(self, model: Trainee) -> float:
        """The share of `adversarial` that counts by now; waits for the device to learn how much has been seen."""
        if model.critic is None:
            raise UsageError(
                "an adversarial term needs a critic", "train Trainee(autoencoder, critic), or adversarial=0"
            )
        return min(1.0, max(0.0, int(model.seen) / self.start - 1)) if self.start else 1.0


def perceived(features: FeatureMaps, made: Float[Tensor, "b c h w"], x: Float[Tensor, "b c h w"]) -> Float[Tensor, ""]:
    """Σ over depths of the mean over places of |f(x̂) − f(x)|² (Zhang et al. 2018, eq. 1, whose weights are in f)."""
    with torch.no_grad():
        wanted = features(x)
    gaps = [(a - b).square().sum(1).mean() for a, b in zip(features(made), wanted, strict=True)]
    return torch.stack(gaps).sum()


def contest(critic: Any, made: Float[Tensor, "b c h w"], x: Float[Tensor, "b c h w"]) -> dict[str, Tensor]:
    """{"adversarial": −E[D(x̂)] with D's weights constant, "critic": D's hinge loss with x̂ constant}."""
    constant = {name: p.detach() for name, p in critic.named_parameters()}
    fooled = -functional_call(critic, constant, (made,)).float().mean()
    real, fake = critic(x).float(), critic(made.detach()).float()
    return {"adversarial": fooled, "critic": (F.relu(1 - real).mean() + F.relu(1 + fake).mean()) / 2}


def stages(body: nn.Sequential) -> FeatureMaps:
    """The feature maps of `body` after each of its ReLUs, of length 1 over channels; its weights are frozen.

    Where a feature is shorter than 1e-3 it is not stretched: it says nothing.
    """
    body.requires_grad_(False).eval()

    def features(x: Tensor) -> list[Tensor]:
        found = []
        for layer in body:
            x = layer(x)
            if isinstance(layer, nn.ReLU):
                found.append(F.normalize(x.float(), dim=1, eps=1e-3))
        return found

    return features
