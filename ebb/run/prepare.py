"""From data to what a run learns from: the conditions they come with, and their latents where those are asked for."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ebb.data.dataset import Dataset
from ebb.data.loader import Examples
from ebb.data.pictures import batches
from ebb.encode.autoencoder import Autoencoder
from ebb.encode.conditioner import conditioner_of
from ebb.encode.latent import LatentSpace
from ebb.encode.pretrained_text import FrozenText
from ebb.encode.statistics import Spread
from ebb.encode.text import Text, Vocabulary
from ebb.errors import DataError, UsageError
from ebb.events import Work
from ebb.recipe.document import from_yaml
from ebb.recipe.groups import TextRecipe
from ebb.recipe.recipe import AdapterRecipe, DenoiserRecipe, DiffusionRecipe, FewStepRecipe, Recipe, of_denoiser
from ebb.run.adapting import taught_besides
from ebb.run.caches import latents_in, states_in
from ebb.run.reflow import pairs_of
from ebb.store.origin import Origin
from ebb.store.shards import Make, Rows, cached
from ebb.system.families.families import FAMILIES
from ebb.system.families.family import Base, Prepared, Workshop
from ebb.system.requests import conditions_of, values_of
from ebb.system.system import load, locate
from ebb.terminal import command

CPU = torch.device("cpu")

AT_ONCE = 256
"""Examples that are encoded at once."""

LONGEST = 64
"""The most pieces of a text that are heard, unless the recipe says otherwise."""

ENCODED = 77
"""The pieces that a frozen encoder hears of a text, as CLIP has it, unless the recipe says otherwise."""

EXAMPLES = 32
"""Captions that a model keeps, to show what it can be asked for."""


def prepared(
    recipe: Recipe,
    dataset: Dataset,
    device: torch.device = CPU,
    cache: Path = Path("runs"),
) -> Work[Prepared]:
    """`dataset` as the recipe hears and sees it; latents are made once and kept under `cache`.

    Raises DataError for captions that are required and missing, UsageError for an autoencoder that does not fit.
    """
    family = FAMILIES[recipe.kind]
    if not family.conditioned:
        return (yield from family.prepared(recipe, dataset, Workshop(device, cache)))
    recipe = of_denoiser(recipe)
    if isinstance(recipe, AdapterRecipe):
        return (yield from taught_besides(recipe, dataset, device, cache))
    if isinstance(recipe, DiffusionRecipe) and recipe.reflow is not None:
        system, pairs = yield from pairs_of(recipe, dataset, device, cache)
        learnt = system.denoiser.state_dict()
        return Prepared(dataset, system.conditioner, pairs, None, system.space, weights=learnt)
    base = teacher_of(recipe, dataset, device) if isinstance(recipe, FewStepRecipe) and recipe.teacher else None
    text, latents = text_of(recipe.text, dataset, device), None
    if recipe.autoencoder is not None:
        latents = yield from latents_of(recipe, dataset, device, cache)
    factor = latents[0].autoencoder.factor if latents else 1
    conditioner = conditioner_of(dataset, text, factor)

    def of(some: Dataset, part: str) -> Work[Examples]:
        ready: dict[str, Rows] = {}
        if isinstance(text, FrozenText):
            place = states_in(cache, dataset.summary.name, text.fingerprint, part)
            ready["text"] = yield from states_of(text, some, place)
        conditions, others = conditions_of(conditioner, values_of(some), len(some.rows), ready), list[Examples]()
        for at, other in enumerate(some.others, 1):
            others.append((yield from of(other, f"{part}-{at}")))
        return replace(Examples(some.rows, unit=dataset.modality.unit, others=tuple(others)), **conditions)

    examples = yield from of(dataset, "train")
    unseen = None if dataset.held_out is None else (yield from of(dataset.held_out, "held-out"))
    weights = None if base is None else base.denoiser.state_dict()
    if latents is None:
        return Prepared(dataset, conditioner, examples, unseen, weights=weights, base=base)
    space, rows = latents
    first, *others = (
        replace(some, x0=one["x0"], mirrored=one.get("mirrored"), unit=space.unit)
        for some, one in zip(examples.buckets, rows, strict=True)
    )
    return Prepared(
        dataset, conditioner, replace(first, others=tuple(others)), unseen, space, weights=weights, base=base
    )


def teacher_of(recipe: FewStepRecipe, dataset: Dataset, device: torch.device) -> Base:
    """The model that teaches, and its run; UsageError for one of other data."""
    run = Path(str(recipe.teacher))
    if from_yaml(run / "run.yaml")[1].get("fingerprint") != dataset.summary.fingerprint:
        raise UsageError(f"{run} was trained on other data", "a few-step model learns from the data of its teacher")
    system = load(run, device=device)
    return Base(system.model, Origin.of(str(run), "base", locate(run)), sampling=system.sampling)


def states_of(text: FrozenText, dataset: Dataset, folder: Path) -> Work[Rows]:
    """The states of all captions, made once and kept in `folder` in half precision; anew when a caption or an encoder
    is another."""
    captions = dataset.captions or ("",) * len(dataset.rows)
    said = hashlib.sha256(json.dumps(list(captions)).encode()).hexdigest()

    def made(first: int, last: int) -> dict[str, Tensor]:
        return {"text": text(captions[first:last]).half()}

    key = {"captions": said, "encoders": text.fingerprint}
    return (yield from cached(folder, key, len(captions), made, what="encoding captions"))["text"]


def text_of(recipe: TextRecipe, dataset: Dataset, device: torch.device = CPU) -> Text | FrozenText | None:
    """The vocabulary that the captions of the data teach, or frozen encoders that read them; None where there are
    none, or they are ignored."""
    each = [part.captions for part in dataset.buckets]
    captions = None if each[0] is None else [caption for some in each for caption in some or ()]
    if recipe.captions == "ignored" or (captions is None and recipe.captions == "heard"):
        return None
    missing = [at for at, caption in enumerate(captions or [""]) if not caption.strip()]
    if recipe.captions == "required" and missing:
        lost = [str(match) for match in dataset.summary.matches if match.condition == "captions" and match.little]
        raise DataError(
            f"{len(missing):,} of {len(captions):,} {dataset.modality.things} have no caption"
            if captions
            else "; ".join(["there are no captions", *lost]),
            "add a line for each to metadata.jsonl, or let them be learnt without: --text.captions heard",
        )
    if recipe.concepts and recipe.encoders:
        raise UsageError("frozen encoders hear a whole caption", "leave --text.concepts or --text.encoders out")
    said = [caption for caption in captions or () if caption.strip()]
    examples = tuple(said[at] for at in np.random.default_rng(0).permutation(len(said))[:EXAMPLES])
    if recipe.encoders:
        return FrozenText.of(recipe.encoders, recipe.length or ENCODED, device, examples)
    vocabulary = Vocabulary.learnt(said, size=recipe.vocabulary)
    whole = Text(vocabulary, LONGEST, examples, recipe.concepts)
    most = max((whole.count(caption) for caption in said), default=1)
    return replace(whole, length=recipe.length or min(most, LONGEST))


def latents_of(
    recipe: DenoiserRecipe, dataset: Dataset, device: torch.device, cache: Path
) -> Work[tuple[LatentSpace, list[Mapping[str, Rows]]]]:
    """The latents of each bucket's examples as the encoder says them, and the space that brings those of the first to
    unit variance.

    They depend on the data and the autoencoder's weights, and are made anew when one of these changes.
    """
    run = Path(str(recipe.autoencoder))
    found = load(run, device=device).space
    beside = ["--beside", *recipe.beside] if recipe.beside else []  # what stands beside is no example
    again = command("train", "DATA", "--kind", "autoencoder", *beside, "--run", f"{run}-2")
    train = f"train one on these {dataset.modality.things}: {again}"
    if found is None:
        raise UsageError(f"{run} is a model without an autoencoder", train)
    about = locate(run).parent.parent / "run.yaml"
    known = from_yaml(about)[1] if about.is_file() else {}
    # what is heard besides does not matter to it; runs of before numbers have one fingerprint
    if known.get("examples", known.get("images", known.get("fingerprint"))) != dataset.summary.examples:
        raise UsageError(
            f"the autoencoder of {run} was trained on other data, or on this in another size or with other captions",
            train,
        )
    place, made = latents_in(cache, dataset.summary.name, run), list[Mapping[str, Rows]]()
    origin = Origin.of(str(run), "autoencoder", locate(run)).sha256
    for at, some in enumerate(dataset.buckets):
        key: dict[str, Any] = {"data": dataset.summary.examples, "flip": recipe.data.flip, "autoencoder": origin}
        key["shape"] = list(found.shape(some.rows.shape[1:]))
        encode = encoding(found.autoencoder, some.rows, recipe.data.flip, device)
        folder = place / f"bucket-{at}" if at else place
        made.append((yield from cached(folder, key, len(some.rows), encode, what="encoding latents")))
    return LatentSpace.of(found.autoencoder, *by_channel(made[0]["x0"])), made


def encoding(autoencoder: Autoencoder, examples: np.ndarray, flip: bool, device: torch.device) -> Make:
    """What encodes some of the examples: "x0", and "mirrored" where they are flipped too."""

    def made(first: int, last: int) -> dict[str, Tensor]:
        parts: dict[str, list[Tensor]] = {name: [] for name in ("x0", *["mirrored"] * flip)}
        with torch.no_grad():
            for x in batches(examples[first:last], AT_ONCE):
                for name, each in parts.items():
                    turned = x.flip(-1) if name == "mirrored" else x
                    each.append(autoencoder.encode(turned.to(device)).float().cpu())
        return {name: torch.cat(each) for name, each in parts.items()}

    return made


def by_channel(latents: Rows) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of each channel, over all examples and places, in float64."""
    spread = Spread()
    for part in latents.parts:
        for first in range(0, len(part), AT_ONCE):
            spread.add(part[first : first + AT_ONCE])
    return spread.channels()
