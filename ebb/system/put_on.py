"""What is put on a loaded model: an adapter's run, or its file, by an amount, as `PATH:0.7` says it."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from ebb.adapt.adapter import of_these
from ebb.adapt.adapter_files import read_adapter
from ebb.adapt.addition import Addition, innermost
from ebb.adapt.additions import together
from ebb.adapt.lora import LoRA
from ebb.encode.conditioner import Conditioner
from ebb.encode.labels import Labels
from ebb.encode.text import Text
from ebb.errors import DamagedError, UsageError
from ebb.recipe.recipe import Sampling
from ebb.store import checkpoint, shared
from ebb.store.checkpoint import sha256
from ebb.store.origin import Origin
from ebb.system.families.adapter_family import AdaptedModel
from ebb.system.families.diffusion import DiffusionModel
from ebb.system.model import Model


@dataclass(frozen=True)
class Put:
    """An adapter by its place, and how much of it is put on: 1 as it was trained, 0 nothing."""

    place: Path
    amount: float = 1.0

    @classmethod
    def read(cls, text: str | Path) -> Put:
        """PATH, or PATH:AMOUNT. A path that is there whole is one, whatever it ends in."""
        place, _, amount = str(text).rpartition(":")
        if not place or Path(text).exists() or not re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)", amount):
            return cls(Path(text))
        return cls(Path(place), float(amount))

    @property
    def weights(self) -> Path:
        """The file, or PEFT's folder, that has its numbers: of a run that of the average in its newest checkpoint."""
        where = checkpoint.newest(self.place / "checkpoints") or self.place
        return where / "ema.safetensors" if (where / "ema.safetensors").is_file() else where

    @property
    def effect(self) -> str:
        """How far it moves answers for what it was taught, as its run has measured; "" where that is not known."""
        home = self.place.parent.parent if self.place.parent.name == "checkpoints" else self.place
        try:
            size = json.loads((home / "effect.json").read_text(encoding="utf8"))["rows"][0]["size"]
            return f"{self.name} {size['value']:.1%} [{size['low']:.1%}, {size['high']:.1%}]"
        except (OSError, ValueError, KeyError, TypeError, IndexError):
            return ""

    @property
    def name(self) -> str:
        """What it is called among several: that of its run or its file."""
        place = self.place.resolve()
        return place.parent.parent.name if place.parent.name == "checkpoints" else place.stem


Parts = tuple[Model, Conditioner, Sampling]
"""What draws, what it can be asked for, and how it is sampled."""

SHARES = "shares"
"""The addition of what is told how far it is asked to go: it samples as it was trained to, and in few steps."""


def put_on(parts: Parts, puts: Sequence[Put], weights: str) -> Parts:
    """A model with adapters on it, in place, for which it is no longer the run's own; `weights` is the sha256 of these.

    Raises UsageError for two of one name, an adapter of other weights, of an autoencoder, and as reading one does.
    """
    names = [put.name for put in puts]
    for name in names:
        if names.count(name) > 1:
            raise UsageError(f"two adapters are called {name}", "put on one of them, or rename its folder or file")
    for put in puts:
        parts = one_on(parts, put, weights)
    return parts


def one_on(parts: Parts, put: Put, weights: str) -> Parts:
    """A model with one more adapter on it."""
    model, conditioner, sampling = parts
    if not put.place.exists():
        raise UsageError(
            f"there is no adapter {put.place}", "name a run of ebb adapt, a .safetensors file or PEFT's folder"
        )
    where = checkpoint.newest(put.place / "checkpoints") or put.place
    if (where / "manifest.json").is_file():
        contract, read = shared.opened(where)
        return of_run(parts, contract, read("ema"), put, weights)
    if model.denoiser is None:
        raise UsageError(f"{put.place} is put on a diffusion model, and this is one of the family {model.family}")
    network = innermost(model.denoiser.network)
    adapter, _ = read_adapter(put.place, network, name=put.name)
    of_these(adapter, network)
    addition = LoRA.of(adapter)
    addition.requires_grad_(False).attach(model.denoiser, put.name, put.amount)
    return AdaptedModel(base_in(model), addition, under=on_it(model)), conditioner, sampling


def of_run(parts: Parts, contract: Mapping[str, Any], state: Mapping[str, Tensor], put: Put, weights: str) -> Parts:
    """A model with the adapter that a checkpoint holds.

    One of few steps may be put on other weights than its own base's, since landing is learnt of the flow as a whole.
    """
    model, conditioner, sampling = parts
    if "base" not in contract:
        raise UsageError(f"{put.place} is a model, and no adapter", f"make one of it: ebb adapt {put.place} DATA")
    origin, few = Origin.read(contract["base"]), SHARES in contract["additions"]
    if origin.sha256 != weights and not few:
        raise UsageError(
            f"{put.place} was made for {origin.run}, whose weights have sha256 {origin.sha256[:12]}…, and these have"
            f" {weights[:12]}…",
            f"put it on {origin.run}",
        )
    if model.denoiser is None:
        raise DamagedError(f"{put.place} is of a diffusion model, and this is one of the family {model.family}")
    addition = together(model.denoiser, contract["additions"]).to(model.device)
    single = None if isinstance(model, AdaptedModel) else origin
    scales = contract.get("guidances")
    base = replace(base_in(model), guidances=tuple(scales)) if scales else base_in(model)
    made = AdaptedModel(base, addition, single, on_it(model))
    try:
        addition.load_state_dict(made.own(state))
    except RuntimeError as error:
        raise DamagedError(f"the weights of {put.place} do not fit its contract: {error}") from error
    addition.requires_grad_(False).eval().attach(model.denoiser, put.name, put.amount)
    heard = both(conditioner, Conditioner.from_json(contract["conditions"]))
    return made, heard, Sampling.model_validate(contract["sampling"]) if few else sampling


def base_in(model: Model) -> DiffusionModel:
    """The diffusion model itself."""
    if isinstance(model, AdaptedModel):
        return model.base
    if not isinstance(model, DiffusionModel):
        raise UsageError(f"an adapter is put on a diffusion model, and this is one of the family {model.family}")
    return model


def on_it(model: Model) -> tuple[Addition, ...]:
    """What was put on a model before."""
    return (*model.under, model.addition) if isinstance(model, AdaptedModel) else ()


def both(own: Conditioner, other: Conditioner) -> Conditioner:
    """What can be asked for of a model that hears `own` with an addition that was trained hearing `other`.

    New labels and words come after those that are there, so that several adapters bring theirs in turn.
    """
    names = own.labels.names
    labels = Labels((*names, *(name for name in other.labels.names if name not in names)))
    found = {**own.conditions, **other.conditions} | ({"label": labels} if labels.names else {})
    if isinstance(text := own.text, Text) and isinstance(other.text, Text):
        new = tuple(word for word in other.text.taught if word not in text.taught)
        found["text"] = dataclasses.replace(text, taught=(*text.taught, *new))
    return Conditioner(found)


def base_run(contract: Mapping[str, Any], where: Path) -> Path:
    """Where the run of an adapter's base is: where it was, or beside the adapter's own. UsageError where it is not, or
    has other weights by now."""
    origin = Origin.read(contract["base"])
    home = where.parent.parent.parent if where.parent.name == "checkpoints" else where.parent
    for place in (Path(origin.run), home / Path(origin.run).name):
        found = checkpoint.newest(place / "checkpoints")
        if found is None and (place / "manifest.json").is_file():
            found = place
        if found is not None and sha256(found / "ema.safetensors") == origin.sha256:
            return place
    raise UsageError(
        f"{where} is put on the run {origin.run} with weights of sha256 {origin.sha256[:12]}…, which is not there",
        f"bring it back, or put it beside: {home / Path(origin.run).name}",
    )
