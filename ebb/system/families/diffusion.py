"""Diffusion: a network learns E[x0 | x_t] at every noise level, and draws by solving from noise to data."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from ebb.data.loader import Loader
from ebb.encode.latent import LatentSpace
from ebb.errors import UsageError
from ebb.guide.cfg import Guide
from ebb.guide.distilled import GUIDANCE, distilled
from ebb.guide.named import guided
from ebb.networks.dit import DiT
from ebb.networks.kinds import NETWORKS
from ebb.networks.mlp import MLP
from ebb.networks.mmdit import MMDiT
from ebb.networks.ports import NO_PORTS, Ports
from ebb.networks.unet import UNet
from ebb.process.denoiser import CLOCKS, Cond, NetworkDenoiser
from ebb.process.flow_map import WAY
from ebb.process.path import PATHS
from ebb.process.predict import PREDICTIONS
from ebb.process.times import DENSITIES, GRIDS
from ebb.recipe.groups import DiTRecipe, MLPRecipe, MMDiTRecipe, NetworkRecipe, UNetRecipe
from ebb.recipe.likely import likely
from ebb.recipe.names import parse, spell
from ebb.recipe.recipe import DenoiserRecipe, DiffusionRecipe, Sampling, resolved
from ebb.recipe.starting import Facts, complete, squeezed
from ebb.sample.fused import fused
from ebb.sample.jump import Jump
from ebb.sample.noise import Noise
from ebb.sample.solvers import NAMED
from ebb.sample.trajectory import Point
from ebb.system.families.family import Family, Prepared, Trainable, autocast_of, in_place, training_of
from ebb.system.model import Draw, Model, scheme_of
from ebb.train.gradients import probe_of
from ebb.train.objectives.compiled import Compiled, compiled
from ebb.train.objectives.coupling import COUPLINGS
from ebb.train.objectives.denoising import Denoising
from ebb.train.objectives.hybrid import OBJECTIVES, Aim
from ebb.train.objectives.objective import ConditionDropout, Objective
from ebb.train.objectives.weights import WEIGHTS
from ebb.train.validate import MOST, Validation, unseen_batches


@dataclass(frozen=True, eq=False)
class DiffusionModel(Model):
    """A denoiser, asked along a grid of times by a solver, in the data's own space or a latent one."""

    denoiser: NetworkDenoiser = field()
    space: LatentSpace | None = None
    family: str = "diffusion"
    guidances: tuple[float, float] | None = None
    """the lowest and the highest guidance scale that the network was told, where that is known"""

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
        scheme = scheme_of(self.denoiser, sampling).guided(*guides)
        if isinstance(scheme.solver, Jump) and not self.hears(WAY):
            raise UsageError("the solver jump is of few-step models, and this is none", "make one: ebb distil RUN")
        follow = fused(scheme.denoiser, scheme.solver, scheme.times, self.device) if compiled else scheme

        def points(cond: Cond, noise: Noise) -> Iterator[Point]:
            like = torch.empty(len(noise.seeds), *shape, device=self.device)
            return follow(scheme.start(noise, like), cond, noise)

        return points

    def hears(self, name: str) -> bool:
        """Whether its network has a port of this name."""
        return name in getattr(self.network, "settings", {}).get("ports", {})

    @property
    def towards(self) -> Callable[[float], Guide] | None:
        """The scale told to a network that has learned it."""
        return partial(distilled, among=self.guidances) if self.hears(GUIDANCE) else None

    def forward(self, x: Tensor, cond: Cond) -> Tensor:
        """x̂0 in the middle of the path."""
        answer: Tensor = self.denoiser(x, torch.full((len(x),), self.denoiser.path.end / 2, device=x.device), cond)
        return answer

    def card(self) -> tuple[str, str]:
        """Path and prediction."""
        path, prediction = spell(self.denoiser.path, PATHS), spell(self.denoiser.prediction, PREDICTIONS)
        steps = "few-step " if self.hears(WAY) else ""
        return f"A {steps}diffusion model", f"process: {path} path, {prediction} prediction"

    def contract(self) -> dict[str, Any]:
        """Network, path, prediction, clock and input scale."""
        d = self.denoiser
        return {
            "network": spell(d.network, NETWORKS),
            "path": spell(d.path, PATHS),
            "prediction": spell(d.prediction, PREDICTIONS),
            "clock": spell(d.clock, CLOCKS),
            "sigma_data": d.sigma_data,
        } | ({} if self.guidances is None else {"guidances": list(self.guidances)})


D = TypeVar("D", bound=DenoiserRecipe)


class DenoiserFamily(Family[D]):
    """What all families of denoisers share: a `DiffusionModel` under `ConditionDropout`, validated by denoising."""

    analyses: tuple[str, ...] = ("copies", "scenes", "captions", "words", "reconstruction", "floor", "levels", "bits")
    conditioned = True
    compiles = True

    def as_trained(self, recipe: D) -> tuple[D, dict[str, str]]:
        """The precision of sampling."""
        if recipe.sample.precision is not None:
            return recipe, {}
        sample = recipe.sample.model_copy(update={"precision": recipe.precision})
        return recipe.model_copy(update={"sample": sample}), {"sample.precision": "as trained"}

    def named(self, recipe: D) -> None:
        """Path, prediction, clock, density, weight, coupling, solver, grid and guides."""
        path = parse(recipe.path, PATHS, "path")
        parts = (
            (recipe.prediction, PREDICTIONS, "prediction"),
            (recipe.clock, CLOCKS, "clock"),
            (recipe.times, DENSITIES, "density"),
            (recipe.weight, WEIGHTS, "weight"),
            (recipe.coupling, COUPLINGS, "coupling"),
            (recipe.sample.solver, NAMED, "solver"),
        )
        for text, members, idea in parts:
            if text is not None:
                parse(text, members, idea)
        parse(recipe.sample.grid, GRIDS, "grid")(path, recipe.sample.steps)
        guided(recipe.sample.guides, recipe.sample.guidance, {})

    def calls(self, recipe: D) -> float:
        """One for each step, and with guidance two."""
        return recipe.sample.steps * (1 if recipe.sample.guidance == 1 else 2)

    def timed(self, asked: D, recipe: D) -> set[str]:
        """The batch, and of a U-Net the width."""
        width = isinstance(recipe.network, UNetRecipe) and asked.network.width is None
        return super().timed(asked, recipe) | ({"network.width"} if width else set())

    def concern(self, recipe: D, facts: Facts) -> str | None:
        """A network through which a patch does not pass."""
        return squeezed(recipe.network, facts)

    def load(self, contract: Mapping[str, Any], space: LatentSpace | None) -> DiffusionModel:
        """The denoiser that a contract describes."""
        denoiser = NetworkDenoiser(
            parse(contract["network"], NETWORKS, "network"),
            parse(contract["path"], PATHS, "path"),
            parse(contract["prediction"], PREDICTIONS, "prediction"),
            parse(contract["clock"], CLOCKS, "clock"),
            contract["sigma_data"],
        )
        low_high = contract.get("guidances")
        return DiffusionModel(in_place(denoiser), space, self.name, tuple(low_high) if low_high else None)


class DiffusionFamily(DenoiserFamily[DiffusionRecipe]):
    """A denoiser trained by `Denoising`, which samples in many steps."""

    name = "diffusion"
    autoguided = True

    def complete(self, asked: DiffusionRecipe, facts: Facts) -> tuple[DiffusionRecipe, dict[str, str]]:
        """By the size of the examples and what is said of them, and what a likelihood needs."""
        recipe, reasons = complete(asked, facts)
        return likely(recipe, reasons, asked) if asked.likelihood else (recipe, reasons)

    def named(self, recipe: DiffusionRecipe) -> None:
        """The parts of a denoiser, and the objective."""
        super().named(recipe)
        parse(recipe.objective, OBJECTIVES, "objective")

    def build(self, recipe: DiffusionRecipe, data: Prepared, device: torch.device) -> Trainable:
        """Network, objective and batches; the weights are those of the run that is reflowed, where one is."""
        aim: Aim = parse(recipe.objective, OBJECTIVES, "objective")
        denoiser = denoiser_of(recipe, data, data.conditioner.ports, aim.answers).to(device)
        if data.weights is not None:
            denoiser.load_state_dict(data.weights)
        return assembled(
            recipe, data, denoiser, aim.of(denoising_of(recipe)), lambda d: DiffusionModel(d, data.space, self.name)
        )


def denoising_of(recipe: DenoiserRecipe) -> Denoising:
    """The objective of a denoiser."""
    return Denoising(
        parse(resolved(recipe.times), DENSITIES, "density"),
        parse(recipe.weight, WEIGHTS, "weight"),
        parse(recipe.coupling, COUPLINGS, "coupling"),
    )


def assembled(
    recipe: DenoiserRecipe, data: Prepared, trained: Any, objective: Objective, made: Callable[[Any], Model]
) -> Trainable:
    """What trains a denoiser, or what is put on one, by an objective: with conditions dropped, validated by denoising.

    `made` gives the model of what is trained, or of its average.
    """
    device = next(trained.parameters()).device
    if data.examples.cond and recipe.condition_dropout:
        null = {name: row.to(device) for name, row in data.conditioner.null().items()}
        objective = ConditionDropout(objective, null, recipe.condition_dropout)
    if recipe.engine == "compiled":
        objective = Compiled(objective, compiled(trained))
    training, batch = training_of(trained, recipe), resolved(recipe.batch)
    validation = None
    if data.unseen is not None:
        encode = (lambda x: x) if data.space is None else data.space.encode
        batches = unseen_batches(data.unseen, encode=encode, batch=min(MOST, batch), device=device)
        validation = Validation(batches, denoising_of(recipe), autocast=autocast_of(recipe))
    flips = recipe.data.flip and data.examples.noise is None
    return Trainable(
        made(trained),
        training,
        objective,
        Loader(data.examples, batch, recipe.seed, flips, device),
        lambda: made(training.ema.model),
        validation,
        recipe.sample,
        probe_of(data.examples, denoising_of(recipe), device, autocast_of(recipe)),
    )


def denoiser_of(recipe: DenoiserRecipe, data: Prepared, ports: Ports, answers: int = 1) -> NetworkDenoiser:
    """The denoiser that a recipe names, with fresh weights."""
    return in_place(
        NetworkDenoiser(
            network_of(recipe.network, data.shape, ports, answers),
            parse(recipe.path, PATHS, "path"),
            parse(resolved(recipe.prediction), PREDICTIONS, "prediction"),
            parse(resolved(recipe.clock), CLOCKS, "clock"),
            recipe.sigma_data,
        )
    )


Around = Mapping[str, Any]
"""What goes in and out of a network besides x: its ports, and how many answers."""


def network_of(recipe: NetworkRecipe, shape: tuple[int, ...], ports: Ports = NO_PORTS, answers: int = 1) -> nn.Module:
    """The network for what has this shape, with fresh weights from the global generator."""
    made: nn.Module = BUILDERS[recipe.kind](recipe, shape, {"ports": ports, "answers": answers})
    return made


def shared(recipe: NetworkRecipe) -> dict[str, Any]:
    """What every network with patches is built from besides the channels."""
    return {"width": resolved(recipe.width), "depth": resolved(recipe.depth), "patch": resolved(recipe.patch)}


def unet_of(recipe: UNetRecipe, shape: tuple[int, ...], around: Around) -> UNet:
    """A U-Net, which may attend to each of several concepts alone."""
    sizes: dict[str, Any] = {"multipliers": resolved(recipe.multipliers), "attention": resolved(recipe.attention)}
    sizes |= {"cross": resolved(recipe.cross), "waves": recipe.waves, "dims": len(shape) - 1}
    return UNet(shape[0], **sizes, **shared(recipe), **around)


def mlp_of(recipe: MLPRecipe, shape: tuple[int, ...], around: Around) -> MLP:
    """A perceptron."""
    return MLP(shape[0], width=resolved(recipe.width), depth=resolved(recipe.depth), **around)


def dit_of(recipe: DiTRecipe, shape: tuple[int, ...], around: Around) -> DiT:
    """A diffusion transformer; learnt positions are of the size at hand."""
    size = shape[1:] if recipe.positions == "learned" else ()
    return DiT(shape[0], positions=recipe.positions, size=size, **shared(recipe), **around)


def mmdit_of(recipe: MMDiTRecipe, shape: tuple[int, ...], around: Around) -> MMDiT:
    """A transformer of two streams."""
    return MMDiT(shape[0], **shared(recipe), **around)


BUILDERS: dict[str, Callable[[Any, tuple[int, ...], Around], nn.Module]] = {
    "unet": unet_of,
    "dit": dit_of,
    "mmdit": mmdit_of,
    "mlp": mlp_of,
}
"""How each network of a recipe is built."""
