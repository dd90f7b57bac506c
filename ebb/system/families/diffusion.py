"""Diffusion: a network learns E[x0 | x_t] at every noise level, and draws by solving from noise to data."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ebb.data.loader import Loader
from ebb.encode.latent import LatentSpace
from ebb.errors import UsageError
from ebb.guide.cfg import Guide
from ebb.networks.dit import DiT
from ebb.networks.kinds import NETWORKS
from ebb.networks.mlp import MLP
from ebb.networks.mmdit import MMDiT
from ebb.networks.unet import UNet
from ebb.process.denoiser import CLOCKS, Cond, NetworkDenoiser
from ebb.process.path import PATHS
from ebb.process.predict import PREDICTIONS
from ebb.process.times import DENSITIES
from ebb.recipe.names import parse, spell
from ebb.recipe.recipe import NetworkRecipe, Recipe, Sampling, resolved
from ebb.recipe.starting import Facts, squeezed
from ebb.sample.fused import fused
from ebb.sample.noise import Noise
from ebb.sample.trajectory import Point
from ebb.system.families.family import Family, Prepared, Trainable, autocast_of, facts_of, in_place, training_of
from ebb.system.model import Draw, Model, scheme_of
from ebb.train.objectives.compiled import Compiled, compiled
from ebb.train.objectives.coupling import COUPLINGS
from ebb.train.objectives.denoising import Denoising
from ebb.train.objectives.objective import ConditionDropout, Objective
from ebb.train.objectives.weights import WEIGHTS
from ebb.train.validate import MOST, validation_of


@dataclass(frozen=True, eq=False)
class DiffusionModel(Model):
    """A denoiser, asked along a grid of times by a solver, in the data's own space or a latent one."""

    denoiser: NetworkDenoiser = field()
    space: LatentSpace | None = None
    family = "denoiser"

    @property
    def module(self) -> NetworkDenoiser:
        """The denoiser."""
        return self.denoiser

    @property
    def network(self) -> nn.Module:
        """The denoiser's."""
        return self.denoiser.network

    @property
    def frozen(self) -> dict[str, nn.Module]:
        """The autoencoder of its latent space."""
        return {} if self.space is None else {"autoencoder": self.space.autoencoder}

    def draw(
        self, shape: tuple[int, ...], sampling: Sampling, guides: Sequence[Guide] = (), *, compiled: bool = False
    ) -> Draw:
        """The trajectory from σ(t₀)·ε along the grid; raises UsageError for a solver or a grid that is not known."""
        scheme = scheme_of(self.denoiser, sampling)
        for guide in guides:
            scheme = scheme.guided(guide)
        follow = fused(scheme.denoiser, scheme.solver, scheme.times) if compiled else scheme

        def points(cond: Cond, noise: Noise) -> Iterator[Point]:
            like = torch.empty(len(noise.seeds), *shape, device=self.device)
            return follow(scheme.start(noise, like), cond, noise)

        return points

    def forward(self, x: Tensor, cond: Cond) -> Tensor:
        """x̂0 in the middle of the path."""
        answer: Tensor = self.denoiser(x, torch.full((len(x),), self.denoiser.path.end / 2, device=x.device), cond)
        return answer

    def card(self) -> tuple[str, str]:
        """Path and prediction."""
        path, prediction = spell(self.denoiser.path, PATHS), spell(self.denoiser.prediction, PREDICTIONS)
        return "A diffusion model", f"process: {path} path, {prediction} prediction"

    def contract(self) -> dict[str, Any]:
        """Network, path, prediction, clock and input scale."""
        d = self.denoiser
        return {
            "network": spell(d.network, NETWORKS),
            "path": spell(d.path, PATHS),
            "prediction": spell(d.prediction, PREDICTIONS),
            "clock": spell(d.clock, CLOCKS),
            "sigma_data": d.sigma_data,
        }


class DiffusionFamily(Family):
    """A `DiffusionModel`, trained by `Denoising` under `ConditionDropout`, validated on held-out examples."""

    name = "denoiser"
    analyses = ("copies", "scenes", "captions", "reconstruction", "levels", "bits")
    conditioned = True
    compiles = True

    def calls(self, recipe: Recipe) -> float:
        """One for each step, and with guidance two."""
        return recipe.sample.steps * (1 if recipe.sample.guidance == 1 else 2)

    def timed(self, asked: Recipe) -> set[str]:
        """The batch, and of a U-Net the width."""
        width = asked.network.kind == "unet" and asked.network.width is None
        return super().timed(asked) | ({"network.width"} if width else set())

    def concern(self, recipe: Recipe, facts: Facts) -> str | None:
        """A network through which a patch does not pass."""
        return squeezed(recipe.network, facts)

    def build(self, recipe: Recipe, data: Prepared, device: torch.device) -> Trainable:
        """Network, objective and batches; the weights are those of the run that is reflowed, where one is."""
        denoiser = denoiser_of(recipe, data).to(device)
        denoising = Denoising(
            parse(resolved(recipe.times), DENSITIES, "density"),
            parse(recipe.weight, WEIGHTS, "weight"),
            parse(recipe.coupling, COUPLINGS, "coupling"),
        )
        objective: Objective = denoising
        if data.examples.cond and recipe.label_dropout:
            null = {name: row.to(device) for name, row in data.conditioner.null().items()}
            objective = ConditionDropout(objective, null, recipe.label_dropout)
        if recipe.engine == "compiled":
            objective = Compiled(objective, compiled(denoiser))
        training, batch = training_of(denoiser, recipe), resolved(recipe.batch)
        validation = validation_of(
            data.unseen,
            denoising,
            encode=(lambda x: x) if data.space is None else data.space.encode,
            batch=min(MOST, batch),
            device=device,
            autocast=autocast_of(recipe),
        )
        flips = recipe.data.flip and data.examples.noise is None
        return Trainable(
            DiffusionModel(denoiser, data.space),
            training,
            objective,
            Loader(data.examples, batch, recipe.seed, flips, device),
            lambda: DiffusionModel(training.ema.model, data.space),  # type: ignore[arg-type]
            validation,
        )

    def load(self, contract: Mapping[str, Any], space: LatentSpace | None) -> DiffusionModel:
        """The denoiser that a contract describes."""
        denoiser = NetworkDenoiser(
            parse(contract["network"], NETWORKS, "network"),
            parse(contract["path"], PATHS, "path"),
            parse(contract["prediction"], PREDICTIONS, "prediction"),
            parse(contract["clock"], CLOCKS, "clock"),
            contract["sigma_data"],
        )
        return DiffusionModel(in_place(denoiser), space)


def denoiser_of(recipe: Recipe, data: Prepared) -> NetworkDenoiser:
    """The denoiser that a recipe names, with fresh weights, or those that the data brings."""
    denoiser = in_place(
        NetworkDenoiser(
            network_of(recipe.network, facts_of(data)),
            parse(recipe.path, PATHS, "path"),
            parse(resolved(recipe.prediction), PREDICTIONS, "prediction"),
            parse(resolved(recipe.clock), CLOCKS, "clock"),
            recipe.sigma_data,
        )
    )
    if data.weights is not None:
        denoiser.load_state_dict(data.weights)
    return denoiser


def network_of(recipe: NetworkRecipe, facts: Facts) -> UNet | DiT | MMDiT | MLP:
    """The network, with fresh weights from the global generator."""
    if recipe.kind == "mlp":
        return MLP(facts.shape[0], width=resolved(recipe.width), depth=resolved(recipe.depth), classes=facts.classes)
    shared: dict[str, Any] = {
        "width": resolved(recipe.width),
        "depth": resolved(recipe.depth),
        "patch": resolved(recipe.patch),
        "classes": facts.classes,
        "vocabulary": facts.vocabulary,
        "states": facts.states,
        "length": facts.length,
        "numbers": facts.numbers,
        "image": facts.image,
    }
    if recipe.kind != "unet" and facts.concepts:
        raise UsageError(f"a {recipe.kind} attends to whole texts", "leave --text.concepts out, or take a unet")
    if recipe.kind == "mmdit":
        return MMDiT(facts.shape[0], **shared)
    if recipe.kind == "dit":
        size = facts.shape[1:] if recipe.positions == "learned" else ()
        return DiT(facts.shape[0], positions=recipe.positions, size=size, **shared)
    levels: dict[str, Any] = {"multipliers": resolved(recipe.multipliers), "attention": resolved(recipe.attention)}
    levels |= {"cross": resolved(recipe.cross), "dims": len(facts.shape) - 1}
    return UNet(facts.shape[0], **levels, concepts=facts.concepts, **shared)
