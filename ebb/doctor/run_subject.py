"""A run as a doctor sees it: what its folder says, its weights, and a few samples; each is fetched when asked for."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ebb.data.dataset import Dataset
from ebb.data.loader import Batch
from ebb.data.of_run import data_of
from ebb.doctor.commands import length_of, resuming, training_again
from ebb.doctor.restored import RESTORED, Restored
from ebb.encode.conditioner import Values, part
from ebb.errors import DataError, EbbError, UsageError
from ebb.guide.cfg import Guide
from ebb.networks.evaluating import differentiable, evaluating
from ebb.process.denoiser import Cond, NetworkDenoiser, Wrapped, answer, target_error
from ebb.process.moment import Time, each
from ebb.process.times import DENSITIES, Density
from ebb.recipe.document import from_yaml
from ebb.recipe.names import parse
from ebb.recipe.recipe import AdapterRecipe, Recipe, Sampling, of_denoiser, resolved
from ebb.sample.noise import Noise
from ebb.sample.trajectory import Point
from ebb.shapes import Float
from ebb.system.requests import asked_for, labels_of, values_of
from ebb.system.sampler import Request, Sampler
from ebb.system.system import System, load, locate
from ebb.system.taught import base_of
from ebb.train.gradients import HALF, GradientProbe, LevelGradients
from ebb.train.objectives.denoising import Denoising
from ebb.train.objectives.weights import WEIGHTS
from ebb.understand.adapter_effect import AdapterEffect, Taught, effect_of

DRAWN = 96
"""Samples that are drawn at the run's own settings."""

FINE = 24
"""Of these, as many are drawn again in FINER times as many steps."""

FINER = 4

TEMPERATURES = (0.5, 1.0, 1.5)
"""At which FINE samples are drawn."""

ASKED = 128
"""Images at which the losses of both sets of weights are compared."""

REAL = 2000
"""Real images that samples are compared with, at most."""

SEED = 0
"""Everything drawn here is drawn from this seed."""


@dataclass(frozen=True, eq=False)
class RunSubject:
    """A run folder, and where its data is now if it was moved. Each fact raises the error that says why it cannot be
    had; no check needs all of them."""

    folder: Path
    place: str | None = None

    @cached_property
    def document(self) -> tuple[Recipe, Mapping[str, Any]]:
        """run.yaml: the recipe, and what else it says of the run."""
        return from_yaml(self.folder / "run.yaml")

    @property
    def recipe(self) -> Recipe:
        """All that the run was meant to be."""
        return self.document[0]

    @property
    def resume(self) -> str:
        """The command that goes on with the run."""
        return resuming(self.folder, self.document[1])

    def again(self, changes: Mapping[str, Any] | None = None) -> str:
        """The command that trains anew beside this run, all as it was but for `changes` by dotted name."""
        return training_again(self.folder, self.document[1], self.recipe, changes or {})

    def length(self, steps: float | None = None) -> str:
        """How many images so many updates see (as many as the run's, without), and how long that takes."""
        return length_of(self.recipe, self.log[-1], steps)

    @property
    def anew(self) -> str:
        """What `again` without changes does, in words."""
        return f"train again: {self.length()}"

    @property
    def data(self) -> str:
        """Where its data lies."""
        return str(self.document[1].get("data", "DATA"))

    @property
    def steps(self) -> int:
        """Updates the run was meant to make."""
        return resolved(self.recipe.steps)

    @property
    def per_step(self) -> int:
        """Images in an update."""
        return resolved(self.recipe.batch) * self.recipe.optimiser.accumulate

    @cached_property
    def density(self) -> Density:
        """The density of times it was trained with."""
        found: Density = parse(resolved(of_denoiser(self.recipe).times), DENSITIES, "density")
        return found

    @cached_property
    def log(self) -> list[dict[str, Any]]:
        """The lines of log.jsonl, oldest first; one that was cut off is left out. UsageError where there is none."""
        file = self.folder / "log.jsonl"
        lines = file.read_text(encoding="utf8").splitlines() if file.is_file() else []
        entries = [json.loads(line) for line in lines if line.endswith("}")]
        if not entries:
            raise UsageError(f"{file} holds no line", "train first: " + self.resume)
        return entries

    @cached_property
    def events(self) -> list[dict[str, Any]]:
        """What the guard did, oldest first: the entries of guard.json."""
        found = document_in(self.folder / "guard.json")
        return found if isinstance(found, list) else []

    @cached_property
    def counted(self) -> dict[str, Any]:
        """data.json: what was found in the data."""
        found = document_in(self.folder / "data.json")
        if not isinstance(found, dict):
            raise DataError(f"{self.folder / 'data.json'} cannot be read", "train again:\n    " + self.again())
        return found

    @cached_property
    def evaluation(self) -> dict[str, Any] | None:
        """evaluation.json, if it was made from the newest checkpoint."""
        found = document_in(self.folder / "evaluation.json")
        if not isinstance(found, dict) or found.get("settings", {}).get("checkpoint") != self.checkpoint.name:
            return None
        return found

    @property
    def checkpoint(self) -> Path:
        """The newest checkpoint; raises UsageError where there is none."""
        return locate(self.folder)

    @cached_property
    def averaged(self) -> bool:
        """Whether the checkpoint holds averaged weights."""
        return (self.checkpoint / "ema.safetensors").is_file()

    @cached_property
    def system(self) -> System:
        """The system one samples from: with the averaged weights where there are some."""
        return load(self.folder, "ema" if self.averaged else "model")

    @cached_property
    def raw(self) -> System:
        """The system with the weights as the last update left them."""
        return load(self.folder, "model")

    @cached_property
    def reading(self) -> Dataset | EbbError:
        """The data, read again once, or what went wrong."""
        try:
            return data_of(self.folder, self.place)
        except EbbError as error:
            return error

    @property
    def dataset(self) -> Dataset:
        """The images the run was trained on; raises DataError where they are gone or others."""
        if isinstance(self.reading, EbbError):
            raise self.reading
        return self.reading

    @cached_property
    def real(self) -> Float[Tensor, "m c h w"]:
        """At most REAL training images in [−1, 1], drawn by the seed."""
        return self.dataset.x(chosen(len(self.dataset.rows), REAL))

    @cached_property
    def clean(self) -> Float[Tensor, "m *d"]:
        """The `real` images as they are denoised."""
        return torch.cat([self.system.encode(x.to(self.system.device)).cpu() for x in self.real.split(64)])  # type: ignore[no-untyped-call]

    @cached_property
    def given(self) -> Values:
        """What the samples are asked for, drawn from the data; of an adapter's run, what that is taught as."""
        return asked_for(self.system, self.dataset, DRAWN, SEED)

    @property
    def asked(self) -> NDArray[np.int64] | None:
        """The labels of the samples; None where the data has none."""
        return labels_of(self.system, self.given, self.dataset)

    @cached_property
    def drawn(self) -> RunSamples:
        """DRAWN samples at the run's own settings, with their way there."""
        return self.draw(DRAWN, self.system.settled())

    @cached_property
    def finer(self) -> RunSamples:
        """The first FINE of the samples, from the same noise in FINER times as many steps."""
        settings = self.system.sampling
        grid = "log_snr" if settings.grid.startswith("given") else settings.grid
        return self.draw(FINE, self.system.settled(steps=FINER * settings.steps, grid=grid))

    @cached_property
    def tempered(self) -> dict[float, RunSamples]:
        """FINE samples at each of TEMPERATURES, from the same noise."""
        how = self.system.settled()
        named = {tau: (*how.guides, *[f"temperature({tau:g})"] * (tau != 1)) for tau in TEMPERATURES}
        return {tau: self.draw(FINE, how.model_copy(update={"guides": guides})) for tau, guides in named.items()}

    def draw(self, count: int, sampling: Sampling) -> RunSamples:
        """`count` samples of the system; the first ones whatever the count."""
        points: list[Point] = []
        request = Request(part(self.given, 0, count), count, sampling, SEED)
        return RunSamples(Sampler(self.system, count)(request, watched(points)), points)

    @cached_property
    def effect(self) -> AdapterEffect:
        """Of an adapter, what it changes of its base; UsageError for another run."""
        if not isinstance(self.recipe, AdapterRecipe):
            raise UsageError(f"{self.folder} is no adapter's run")
        return effect_of(Taught.of(self.recipe, self.dataset, self.system, base_of(self.folder)), SEED)

    @cached_property
    def losses(self) -> tuple[Float[Tensor, "n"], Float[Tensor, "n"]]:
        """The loss of each of ASKED unseen images with the averaged weights, and with the raw ones: same noise."""
        x0, cond = self.some(self.dataset.held_out or self.dataset, ASKED)
        averaged, raw = (self.loss_of(system.denoiser, x0, cond) for system in (self.system, self.raw))
        return averaged, raw

    def some(self, dataset: Dataset, count: int) -> tuple[Float[Tensor, "n c h w"], Cond]:
        """At most `count` of the images as they are denoised, drawn by the seed, with their conditions."""
        index = chosen(len(dataset.rows), count)
        x0 = dataset.x(index).to(self.system.device)
        return self.system.encode(x0), self.system.conditions(values_of(dataset, index), len(index))

    def loss_of(self, model: NetworkDenoiser, x0: Tensor, cond: Cond, seed: int = SEED) -> Float[Tensor, "n"]:
        """The mean squared error of the model's target for each image, at noise that depends on the seed alone.

        The time of image i is the ((i + ½)/n)-quantile of the density that the run was trained with, so that all
        together meet every noise level; unit weight, float32, evaluation mode.
        """
        u = (torch.arange(len(x0), dtype=torch.float64) + 0.5) / len(x0)
        t = self.density(model.path, u)
        eps = Noise.of(seed, len(x0))(0, x0)
        with evaluating(model):
            return target_error(model, x0, eps, t, cond).square().flatten(1).mean(1)

    @cached_property
    def level_gradients(self) -> LevelGradients:
        """The gradient at each noise level: as the log has it last, else of the raw weights as they are now."""
        logged = [entry["gradients"] for entry in self.log if isinstance(entry.get("gradients"), dict)]
        if not logged:
            return self.gradients_under(of_denoiser(self.recipe).weight)
        return LevelGradients.read(logged[-1])

    def gradients_under(self, weight: str) -> LevelGradients:
        """The gradient of the raw weights at each noise level, under a loss weight; of training images, in float32."""
        batch = Batch(*self.some(self.dataset, 2 * HALF))
        return GradientProbe(batch, Denoising(self.density, parse(weight, WEIGHTS, "weight")))(self.raw.denoiser)

    @cached_property
    def restored(self) -> Restored:
        """RESTORED training pictures through the autoencoder that it trained; UsageError where it trained none."""
        if self.system.space is None:
            raise UsageError(f"{self.folder} trained no autoencoder")
        some = self.dataset.x(chosen(len(self.dataset.rows), RESTORED))
        return Restored.of(self.system.space.autoencoder, some)

    @cached_property
    def gradients(self) -> Gradients:
        """How gradients of the raw weights differ between PARTS batches of the run's own size, of training images."""
        model, size = self.raw.denoiser, min(self.per_step, 128)
        x0, cond = self.some(self.dataset, PARTS * size)
        total: list[Tensor] = []
        squares, order = list[float](), torch.randperm(len(x0), generator=torch.Generator().manual_seed(SEED))
        with differentiable(model) as parameters:
            for part, index in enumerate(order.chunk(PARTS)):
                losses = self.loss_of(model, x0[index], {name: row[index] for name, row in cond.items()}, SEED + part)
                gradient = torch.autograd.grad(losses.mean(), parameters, allow_unused=True)
                found = [torch.zeros_like(p) if g is None else g for p, g in zip(parameters, gradient, strict=True)]
                squares.append(square(found))
                total = [a + b for a, b in zip(total, found, strict=True)] if total else found
        return Gradients(len(x0) / PARTS, float(np.mean(squares)), square(total) / PARTS**2)


PARTS = 8
"""Batches whose gradients are compared."""


@dataclass(frozen=True)
class Gradients:
    """The mean of |G|² over PARTS batches of `size`, and |G|² of all of them together."""

    size: float
    each: float
    together: float

    @property
    def signal(self) -> float:
        """|∇L|² without noise, unbiased (McCandlish et al. 2018, appendix A.1)."""
        return (PARTS * self.together - self.each) / (PARTS - 1)

    @property
    def noise(self) -> float:
        """The trace of the covariance of one image's gradient, unbiased (McCandlish et al. 2018, appendix A.1)."""
        return (self.each - self.together) * self.size * PARTS / (PARTS - 1)


@dataclass(frozen=True, eq=False)
class RunSamples:
    """Samples [n, c, h, w] in [−1, 1], and every question that the solver asked on the way to them."""

    samples: Float[Tensor, "n c h w"]
    points: list[Point]


@dataclass(frozen=True)
class Watched(Wrapped):
    """`denoiser`, noting each question and its answer in `points`."""

    points: list[Point]

    def __call__(self, x: Float[Tensor, "b *d"], t: Time, cond: Cond) -> Float[Tensor, "b *d"]:
        """x̂0, unchanged."""
        x0 = answer(self.denoiser, x, t, cond)
        self.points.append(Point(float(each(t, 1)[0]), x, x0))
        return x0


def watched(points: list[Point]) -> Guide:
    """A guide that changes nothing and notes all in `points`."""
    return lambda denoiser: Watched(denoiser, points)


def chosen(count: int, most: int) -> NDArray[np.int64]:
    """At most `most` of `count` places, drawn by the seed, rising."""
    return np.sort(np.random.default_rng(SEED).permutation(count)[:most])


def square(tensors: list[Tensor]) -> float:
    """The sum of the squares of all elements."""
    return sum(float(x.double().square().sum()) for x in tensors)


def document_in(file: Path) -> Any:
    """What a JSON file holds; None where there is none or it cannot be read."""
    try:
        return json.loads(file.read_text(encoding="utf8"))
    except (OSError, ValueError):
        return None


def significance(differences: Float[Tensor, "n"]) -> float:
    """The mean of paired differences, in its standard errors; 0 for one alone, which is sure of nothing."""
    if len(differences) < 2:
        return 0.0
    error = float(differences.double().std()) / math.sqrt(len(differences))
    return float(differences.double().mean()) / max(error, 1e-30)
