"""What a checkpoint holds: a denoiser and what is needed to ask it for samples, with its contract in writing."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import Any, SupportsIndex, Unpack

import torch
from pydantic import ValidationError
from torch import Tensor, nn

from ebb.data.modality import Modality
from ebb.encode.conditioner import Conditioner, Values
from ebb.encode.labels import Labels
from ebb.encode.latent import LatentSpace
from ebb.errors import DamagedError, UsageError, nearest
from ebb.guide.apg import Projected
from ebb.guide.cfg import Guide
from ebb.guide.named import Auto, Threshold, automatic, guided, named
from ebb.guide.rescale import Rescaled
from ebb.machine import best_device, device_of, multiplies_bf16, ready
from ebb.process.denoiser import NetworkDenoiser
from ebb.recipe.document import explained
from ebb.recipe.limits import real, whole
from ebb.recipe.recipe import Sampling
from ebb.shapes import Float, batch_of, sides
from ebb.store import checkpoint, shared
from ebb.store.earlier import EARLIER, read_earlier
from ebb.store.provenance import weights_of
from ebb.system.contract import parts_of, written
from ebb.system.families.families import FAMILIES
from ebb.system.modalities import USUAL, modality_of, modality_written
from ebb.system.model import Model, answering_in, scheme_of
from ebb.system.put_on import Put, base_run, of_run, put_on
from ebb.system.sampler import Request, Sampler, Settings


@dataclass(frozen=True, eq=False)
class System:
    """A model, the shape of what it makes, what it can be asked for, and how to sample it unless told otherwise.

    Its contract (family, network, path, prediction, clock, scales, shape, modality, labels, vocabulary, numbers,
    what stands beside, autoencoder) is saved with the weights; on loading everything is rebuilt from it and a mismatch
    is refused by name.
    """

    model: Model
    shape: tuple[int, ...]
    conditioner: Conditioner = field(default_factory=Conditioner)
    sampling: Sampling = field(default_factory=Sampling)
    modality: Modality = USUAL
    others: tuple[tuple[int, ...], ...] = ()
    """other shapes that it has learnt to make (`shaped`)"""
    earlier: Callable[[], NetworkDenoiser] | None = None
    """what it denoised with earlier in its training, read when it is asked for; None where nothing was saved of that"""

    @property
    def space(self) -> LatentSpace | None:
        """The latent space that the model draws in, where it does."""
        return self.model.space

    @property
    def denoiser(self) -> NetworkDenoiser:
        """What it denoises with; raises UsageError for a model that draws in another way."""
        if self.model.denoiser is None:
            raise UsageError(
                f"a model of the family {self.model.family} draws at once: it has no denoiser to be asked on the way",
                "take a run of diffusion: ebb train DATA",
            )
        return self.model.denoiser

    @property
    def labels(self) -> Labels:
        """The names of the labels it can be asked for."""
        return self.conditioner.labels

    @property
    def inner(self) -> tuple[int, ...]:
        """The shape of what is denoised: `shape`, or that of its latent."""
        return self.shape if self.space is None else self.space.shape(self.shape)

    def encode(self, x: Float[Tensor, "b *d"]) -> Float[Tensor, "b *e"]:
        """What the denoiser works on, from values in units of the modality: they themselves, or their latents.

        Raises UsageError, as `decode` does, for a tensor of another kind or with other axes; sides may differ.
        """
        batch_of(self.modality.things, x, self.shape[:1], len(self.shape))
        return x if self.space is None else self.space.encode(x)

    def decode(self, z: Float[Tensor, "b *e"]) -> Float[Tensor, "b *d"]:
        """The inverse of `encode`, within what the modality holds; approximate for latents."""
        batch_of("what is denoised", z, self.inner[:1], len(self.inner))
        return self.modality.bounded(z if self.space is None else self.space.decode(z))

    def contract(self) -> dict[str, Any]:
        """The contract as JSON, from which `from_contract` makes the system again, but for its weights."""
        own = written(self.model, self.shape, self.conditioner, self.sampling)
        own |= {"modality": modality_written(self.modality)}
        return own | ({"others": [*map(list, self.others)]} if self.others else {})

    @classmethod
    def from_contract(cls, contract: dict[str, Any]) -> System:
        """The system a contract describes, with fresh weights; raises DamagedError where it cannot be one."""
        return cls(*parts_of(contract), modality_of(contract), tuple(map(tuple, contract.get("others", ()))))

    def shaped(self, size: Sequence[int]) -> System:
        """The same making another of the shapes that it has learnt, by its sides without the channels; UsageError for
        one that it has not."""
        every = (self.shape, *self.others)
        for shape in every:
            if shape[1:] == tuple(size):
                return dataclasses.replace(self, shape=shape, others=tuple(one for one in every if one != shape))
        learnt = ", ".join(sides(shape[1:]) for shape in every)
        way = "train on several shapes with --data.buckets" if len(every) == 1 else "choose one of these"
        raise UsageError(f"this model has learnt {learnt}, not {sides(size)}", way)

    def save(self, path: str | Path, documents: Mapping[str, Any] | None = None) -> None:
        """Write the system for others, weights and contract alone: a folder, or one file where the name ends in
        .safetensors. `load` reads both; `documents` are kept beside the contract.

        Raises UsageError for a place that holds something else, ResourceError for what the system refuses.
        """
        parts = {name: dict(part.state_dict()) for name, part in self.model.frozen.items()}
        contract = self.alone().contract()
        shared.write(Path(path), {"ema": self.model.saved(), **parts}, contract | dict(documents or {}))

    def alone(self) -> System:
        """The same without what it denoised with earlier, and so not guided by that, and with what is on it in its own
        weights."""
        how = self.sampling
        if auto := named(how.guides, Auto):
            others = tuple(text for text in how.guides if text not in auto)
            how = how.model_copy(update={"guidance": 1.0, "guides": others})
        return dataclasses.replace(self, model=self.model.whole(), sampling=how, earlier=None)

    @property
    def device(self) -> torch.device:
        """Where it samples."""
        return self.model.device

    def conditions(self, given: Values, count: int) -> dict[str, Tensor]:
        """What the denoiser hears where `count` samples are asked for this, on its device."""
        return {name: row.to(self.device) for name, row in self.conditioner(given, count).items()}

    def null(self) -> dict[str, Tensor]:
        """One row of conditions that ask for nothing, on its device."""
        return {name: row.to(self.device) for name, row in self.conditioner.null().items()}

    def guides(self, sampling: Sampling) -> list[Guide]:
        """What goes around its denoiser by some settings (`ebb.guide.named.guided`), on its device."""
        earlier = self.earlier
        weak = None if earlier is None else lambda: answering_in(earlier(), sampling.precision)
        return guided(sampling.guides, sampling.guidance, self.null(), self.model.towards, weak)

    def networks(self, sampling: Sampling) -> list[nn.Module]:
        """What is called while it draws by some settings: a row that one of them is given is an evaluation."""
        own = [self.model.network]
        if self.earlier is None or sampling.guidance == 1 or not automatic(sampling.guides):
            return own
        return [*own, self.earlier().network]

    def sample(
        self,
        count: SupportsIndex,
        *,
        label: Any = None,
        text: str | Sequence[str] | None = None,
        given: Mapping[str, Any] | None = None,
        seed: SupportsIndex = 0,
        guide: Guide | None = None,
        **settings: Unpack[Settings],
    ) -> Float[Tensor, "n *d"]:
        """`count` new samples, float32 [count, *shape] in [−1, 1], of what is asked for (`given`), by the system's own
        sampling but for the settings given here (`settled`); `guide` goes around the classifier-free guidance.

        `Sampler` does it in other batches, compiled, or step by step.
        """
        values = self.given(count, {"label": label, "text": text, **(given or {})}, seed)
        return Sampler(self)(self.request(values, count, seed, **settings), guide)

    def request(
        self, given: Values, count: SupportsIndex, seed: SupportsIndex = 0, **settings: Unpack[Settings]
    ) -> Request:
        """The request for what is `given`, by the system's own sampling but for some settings (`settled`)."""
        return Request(given, whole("n", count), self.settled(**settings), whole("seed", seed))

    def given(
        self, count: SupportsIndex, asked: Mapping[str, Any] | None = None, seed: SupportsIndex = 0
    ) -> dict[str, Any]:
        """A value for each of `count` samples, by the name of what is asked for; `conditions` makes tensors of it.

        `asked` holds of each name one value for all, or a list with one for each: "label" a name or an index (or a
        tensor or an array of them), "text" a prompt, "numbers" a mapping of names to numbers or such lists, and of
        what stands beside x, by its name, a file, or a tensor [c, h, w] in [−1, 1]. Without any, all labels (or else
        some texts that the model was trained on) in turn. Raises UsageError for what it does not hear or know.
        """
        return self.conditioner.given(whole("n", count), asked or {}, whole("seed", seed))

    def settled(self, **settings: Unpack[Settings]) -> Sampling:
        """The system's own sampling with some settings in place; UsageError for what there is not or cannot be."""
        for name in settings.keys() - Sampling.model_fields.keys():
            raise UsageError(f"there is no sampling setting {name!r}", nearest(name, Sampling.model_fields))
        given: dict[str, Any] = {name: value for name, value in settings.items() if value is not None}
        for name, number in NUMBERS.items():
            if name in given:
                given[name] = number(given[name])
        if self.sampling.grid.startswith("given") and {"steps", "solver"} & {
            name for name, value in given.items() if value != getattr(self.sampling, name)
        }:
            given = {"grid": Sampling().grid} | given  # times that were searched for other steps
        if given.get("solver", self.sampling.solver) != self.sampling.solver:
            given = {"noise_scale": 1.0} | given  # of the solver that the system has
        if self.sampling.precision == "bf16" and not multiplies_bf16(self.device):
            given = {"precision": "fp32"} | given  # of the machine that it was trained on
        try:
            how = Sampling.model_validate(self.sampling.model_dump() | given)
        except ValidationError as error:
            raise explained(error, "how to sample") from error
        if how.guidance != 1 and not self.conditioner.null() and not automatic(how.guides):
            raise UsageError(
                f"guidance {how.guidance:g} needs labels, texts or another condition, and this model hears none",
                "guide by an earlier average of its weights: --guide auto",
            )
        self.effective(how, given)
        return how

    def effective(self, how: Sampling, given: Container[str]) -> None:
        """Raise UsageError for guides that are not known, and where what is `given` of `how` would change nothing."""
        bends = [*named(how.guides, Auto, Rescaled, Projected)]
        self.guides(how)
        if bends and "guides" in given and how.guidance == 1:
            raise UsageError(f"{bends[0]} is of guidance, which is off at scale 1", "add --guidance 2")
        if self.space is not None and (bounds := [*named(how.guides, Threshold)]):
            raise UsageError(f"{bounds[0]} needs a range that the data keeps to, and latents have none", "leave it out")
        if how.noise_scale == 1:
            return
        if self.model.denoiser is None or not scheme_of(self.model.denoiser, how).stochastic:
            raise UsageError(
                f"{how.solver} draws no noise on its way, and {how.noise_scale:g} times none is none",
                'try --solver ddpm, or "ddim(eta=1)"',
            )


NUMBERS: dict[str, Callable[[Any], float]] = {
    "steps": partial(whole, "solver steps"),
    "guidance": partial(real, "guidance"),
    "noise_scale": partial(real, "noise scale"),
}
"""How the numbers among the settings of sampling are read."""


def locate(run: str | Path) -> Path:
    """The newest checkpoint of a run folder, or itself what is a checkpoint or was exported; UsageError where there is
    none."""
    folder = Path(run)
    if (folder / "manifest.json").is_file() or (folder.suffix == shared.ONE and folder.is_file()):
        return folder
    found = checkpoint.newest(folder / "checkpoints")
    if found is None:
        known = (
            sorted(p.parent.as_posix() for p in folder.parent.glob("*/checkpoints")) if folder.parent.is_dir() else []
        )
        there = f"runs beside it: {', '.join(known)}" if known else "train one first: ebb train DATA"
        raise UsageError(f"{folder} holds no checkpoint", there)
    return found


def load(
    run: str | Path,
    weights: str = "ema",
    device: str | torch.device | None = None,
    adapters: Sequence[str | Path] = (),
) -> System:
    """The system of a run's newest checkpoint, of a checkpoint folder, or of what was exported; verified by its hashes.

    A run's own default settings, where `ebb sweep` found some, take the place of the recipe's. What the run saved of
    its weights earlier in its training is read when it is first asked for. An adapter's run is loaded on its base.

    `weights` is "ema", the average one samples from, or "model", the raw weights; `device` where to sample, a GPU if
    there is one; `adapters` what is put on: runs of `ebb adapt` or files, each whole or as PATH:AMOUNT. Raises
    DamagedError for a file that is not what was saved, UsageError for a folder without a checkpoint, for a device that
    is not there, and for an adapter that is of other weights.
    """
    place = best_device() if device is None else device_of(device)
    if weights not in ("ema", "model"):
        raise UsageError(f"weights are 'ema' or 'model', got {weights!r}")
    ready()
    where = locate(run)
    contract, read = shared.opened(where)
    system = (on_base if "base" in contract else alone)(contract, read, where, weights, place)
    if found := sorted(Path(run).glob("sampling.json")):
        system = dataclasses.replace(system, sampling=read_sampling(found[0]))
    if not adapters:
        return system
    puts = [Put.read(each) for each in adapters]
    hashed = contract["base"]["sha256"] if "base" in contract else weights_of(where)
    model, conditioner, sampling = put_on((system.model, system.conditioner, system.sampling), puts, hashed)
    return dataclasses.replace(system, model=model, conditioner=conditioner, sampling=sampling)


def alone(contract: dict[str, Any], read: shared.Read, where: Path, weights: str, place: torch.device) -> System:
    """The system whose weights are all in its checkpoint."""
    system = System.from_contract(contract)
    try:
        parts = {system.model.module: system.model.own(read(weights))}
        parts |= {module: dict(read(name)) for name, module in system.model.frozen.items()}
    except KeyError as error:
        raise UsageError(
            f"{where} holds no {error.args[0]} weights", "what is exported has the averaged ones"
        ) from error
    for module, state in parts.items():
        try:
            module.load_state_dict(state)
        except RuntimeError as error:
            raise DamagedError(f"the weights of {where} do not fit its contract: {error}") from error
        module.requires_grad_(False).eval().to(place)
    earlier = where.parent.parent / EARLIER
    if where.parent.name == "checkpoints" and earlier.is_file():
        system = dataclasses.replace(system, earlier=cache(partial(earlier_denoiser, system, earlier)))
    return system


def on_base(contract: dict[str, Any], read: shared.Read, where: Path, weights: str, place: torch.device) -> System:
    """The system of an adapter's checkpoint: its base, with it on."""
    base = load(base_run(contract, where), device=place)
    put = Put(where)
    parts = base.model, base.conditioner, base.sampling
    model, conditioner, _ = of_run(parts, contract, read(weights), put, contract["base"]["sha256"])
    sampling = Sampling.model_validate(contract["sampling"])
    return dataclasses.replace(base, model=model, conditioner=conditioner, sampling=sampling)


def earlier_denoiser(system: System, file: Path) -> NetworkDenoiser:
    """The denoiser of a system with other weights, in evaluation mode; DamagedError for weights that are not of it."""
    again = FAMILIES[system.model.family].load(system.model.contract(), None)
    if again.denoiser is None:
        raise DamagedError(f"{file} is of a denoiser, and a model of the family {again.family} has none", "delete it")
    try:
        again.denoiser.load_state_dict(read_earlier(file))
    except RuntimeError as error:
        raise DamagedError(f"{file} does not fit the run: {error}", "delete it, and sample without auto") from error
    return again.denoiser.requires_grad_(False).eval().to(system.device)


def read_sampling(file: Path) -> Sampling:
    """The settings that a sweep left in a run folder; raises DamagedError for a file that is not such settings."""
    try:
        return Sampling.model_validate(json.loads(file.read_text(encoding="utf8"))["sampling"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DamagedError(f"{file} cannot be read: {error}", "delete it, or run ebb sweep again") from error
