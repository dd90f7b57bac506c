"""From data to what an adapter learns from: under the contract of its base, and beside the base's own samples."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ebb.adapt.reference import REFERENCE
from ebb.data.dataset import Dataset
from ebb.data.loader import Examples
from ebb.data.pictures import batches
from ebb.data.series import Series, Vectors
from ebb.data.series import agreed as columns_agreed
from ebb.data.sources import named
from ebb.encode.conditioner import Conditioner, Values, following, part
from ebb.encode.labels import Labels
from ebb.encode.reference_picture import ReferencePicture
from ebb.encode.text import Text
from ebb.errors import UsageError
from ebb.events import Work
from ebb.guide.named import automatic
from ebb.recipe.document import from_yaml
from ebb.recipe.few_numbers import learnt_besides, only_new
from ebb.recipe.recipe import AdapterRecipe, Sampling, of_denoiser, resolved
from ebb.run.caches import prior_in
from ebb.shapes import sides
from ebb.store import checkpoint
from ebb.store.origin import Origin
from ebb.store.shards import Rows, cached
from ebb.system.families.family import Base, Prepared
from ebb.system.put_on import base_run
from ebb.system.requests import conditions_of, referring
from ebb.system.sampler import Sampler
from ebb.system.system import System, load, locate
from ebb.system.taught import given_of, word_of
from ebb.train.from_base import Probe

FIRST = 2**60
"""The seed of the first sample of the base: none that a user counts up to."""

UNASKED = 10
"""One in so many of the base's samples is asked for nothing, so that guidance has what it leads away from."""

AT_ONCE = 256
"""Examples that are encoded at once."""


def beside_base(run: Path, data: str) -> Path:
    """The folder of what a run is taught by data: RUN-DATA."""
    return run.with_name(f"{run.name}-{named(data)}")


def size_of(run: Path) -> str:
    """How many numbers the adapter of a run has, how large their file is, and what share of its base's they are."""
    where = locate(run)
    base = base_run(checkpoint.about(where), where)
    own, whole = (sum(each.numel() for each in checkpoint.read(locate(one), "ema").values()) for one in (where, base))
    kilobytes = (where / "ema.safetensors").stat().st_size / 1000
    return f"{own:,} numbers, {kilobytes:,.0f} kB: {own / whole:.2%} of {base}"


def taught_besides(recipe: AdapterRecipe, dataset: Dataset, device: torch.device, cache: Path) -> Work[Prepared]:
    """The examples, and as many samples of the base, with what the base hears of them.

    Labels that the base does not know are added after its own. Raises UsageError for examples of another kind or size.
    """
    run = Path(resolved(recipe.adapts))
    system = load(run, device=device)
    if recipe.label is not None and not system.labels.names:
        raise UsageError(f"{run} hears no labels, so none can be added", "leave --label out")
    agreed(system, dataset, run)
    summary = replace(dataset.summary, shape=system.shape)
    dataset = replace(dataset, modality=system.modality, summary=summary)  # a table in the scale of the base's
    hears = system.conditioner
    besides: dict[str, dict[str, Any]] = {}
    if (control := recipe.control()) is not None:
        factor = 1 if system.space is None else system.space.autoencoder.factor
        hears = following(hears, dataset, control.name, control.extractor, factor)
        channels = hears.ports[control.name].beside
        besides["control"] = {"control": control.name, "channels": channels, "form": control.form}
    given = given_of(recipe, dataset, hears)
    conditioner, new = widened(hears, given)
    if new:
        besides["labels"] = {"count": len(new)}
    if recipe.concept is not None:
        conditioner = with_word(conditioner, recipe.concept)
        besides["words"] = {"count": 1}
    if recipe.reference:
        conditioner = with_reference(conditioner, system)
        besides["reference"] = {"channels": system.shape[0], "vector": True}
    alone = only_new(recipe, bool(new) and set(given["label"]) <= set(new))
    if alone:
        besides["only_new"] = {}
    origin = Origin.of(str(run), "base", locate(run))
    base = Base(system.model, origin, besides, sampling=sampling_of(recipe, run, system))
    x0 = seen_by(system, dataset)
    examples = Examples(x0, unit=unit_of(system), **conditions_of(conditioner, given, len(dataset.rows)))
    unseen = unseen_of(recipe, system, dataset, hears, conditioner)
    if count := learnt_besides(recipe, alone):
        drawn, asked = yield from prior_of(recipe, count, system, cache)
        if recipe.reference and isinstance(drawn, np.ndarray):
            asked = referring(asked, list(system.modality.unit(torch.from_numpy(drawn))))
        plain, own = (
            Examples(drawn, unit=unit_of(system), **conditions_of(heard, asked, len(drawn)))
            for heard in (system.conditioner, conditioner)
        )
        base = replace(base, rest=rest_of(plain, own, device))
        examples = half_and_half(examples, own)
    taught = given if recipe.concept or recipe.reference else None
    return Prepared(dataset, conditioner, examples, unseen, system.space, base=base, taught=taught)


def sampling_of(recipe: AdapterRecipe, run: Path, system: System) -> Sampling | None:
    """How the base samples by what it has measured; None where else is asked for, and where an earlier average guides,
    which no adapter has."""
    own = of_denoiser(from_yaml(run / "run.yaml")[0]).sample
    return None if recipe.sample != own or automatic(system.sampling.guides) else system.sampling


def unseen_of(
    recipe: AdapterRecipe, system: System, dataset: Dataset, hears: Conditioner, conditioner: Conditioner
) -> Examples | None:
    """The examples that are held back, by what the conditioner of what is put on makes of what is said of them."""
    if dataset.held_out is None:
        return None
    rows, given = dataset.held_out.rows, given_of(recipe, dataset.held_out, hears)
    return replace(Examples(rows, unit=system.modality.unit), **conditions_of(conditioner, given, len(rows)))


def rest_of(plain: Examples, own: Examples, device: torch.device) -> Probe:
    """Some of the base's own samples, with what it hears of each, and what it hears with what is put on it."""
    some = np.arange(min(RESTING, len(own.x0)))
    return Probe("elsewhere", own.read(some, device), plain.conditions(some, device), own.conditions(some, device))


RESTING = 32
"""Samples of the base by which its drift is seen."""


def agreed(system: System, dataset: Dataset, run: Path) -> None:
    """Raise UsageError for examples that the model of a run does not make, DataError for other columns of a table."""
    if dataset.others:
        raise UsageError(
            "a model is taught by examples of one shape, and buckets have several", "take a run without --data.buckets"
        )
    shape, things = dataset.summary.shape, dataset.modality.things
    one, other = system.modality, dataset.modality
    if isinstance(one, Vectors | Series) and type(one) is type(other):
        columns_agreed(one.scale.names, other.scale.names, dataset.summary.name)  # type: ignore[attr-defined]
    elif type(one) is not type(other) or shape != system.shape:
        raise UsageError(
            f"{run} makes {one.things} of {sides(system.shape[1:])}, channels: {system.shape[0]}, and these"
            f" are {things} of {sides(shape[1:])}, channels: {shape[0]}",
            "take data of the same kind, or another run",
        )


def with_reference(conditioner: Conditioner, system: System) -> Conditioner:
    """What can be asked for with a picture as a reference. UsageError for what makes no pictures."""
    if len(system.shape) != 3:
        raise UsageError(f"a reference is a picture, and this model makes {system.modality.things}", "leave it out")
    channels, height, width = system.shape
    return Conditioner({**conditioner.conditions, REFERENCE: ReferencePicture((channels, height, width))})


def with_word(conditioner: Conditioner, concept: str) -> Conditioner:
    """What can be asked for with a new word in texts. UsageError for a model without a vocabulary of its own, and a
    word that it knows."""
    word, text = word_of(concept), conditioner.text
    if not isinstance(text, Text):
        what = "hears no texts" if text is None else "hears texts by a frozen encoder, which has its own words"
        raise UsageError(f"this model {what}, so it can be taught no word", "leave --concept out, or take --label")
    if word in text.vocabulary.known or word in text.taught:
        raise UsageError(f"{word} is a word that this model knows", "take one that no caption has, such as sks")
    return Conditioner({**conditioner.conditions, "text": replace(text, taught=(*text.taught, word))})


def widened(conditioner: Conditioner, given: Values) -> tuple[Conditioner, list[str]]:
    """What can be asked for with the labels that are new, and these."""
    known = conditioner.labels.names
    new = [name for name in dict.fromkeys(given.get("label", ())) if name not in known]
    if not new:
        return conditioner, []
    return Conditioner({**conditioner.conditions, "label": Labels((*known, *new))}), new


def unit_of(system: System) -> Any:
    """How the stored examples become what the network meets."""
    return system.modality.unit if system.space is None else (lambda z: z)


def seen_by(system: System, dataset: Dataset) -> np.ndarray | Rows:
    """The examples as they are stored, or their latents."""
    if system.space is None:
        return dataset.rows
    with torch.no_grad():
        parts = [system.encode(x.to(system.device)).cpu() for x in batches(dataset.rows, AT_ONCE)]
    made = torch.cat(parts)
    return Rows((made,), len(made))


def prior_of(recipe: AdapterRecipe, count: int, system: System, cache: Path) -> Work[tuple[np.ndarray | Rows, Values]]:
    """Samples of the base, without guidance, and what each was asked for; made once and kept under `cache`."""
    given = {name: list(values) for name, values in system.given(count, {}, recipe.seed).items()}
    for values in given.values():
        values[::UNASKED] = [None] * len(values[::UNASKED])
    how = system.settled(guidance=1.0, guides=())

    def made(first: int, last: int) -> dict[str, Tensor]:
        request = replace(
            system.request(part(given, first, last - first), last - first, FIRST + recipe.seed + first), sampling=how
        )
        return {"x0": torch.cat([x.half().cpu() for x in Sampler(system).encoded(request)])}

    run = Path(resolved(recipe.adapts))
    key: dict[str, Any] = {"weights": Origin.of(str(run), "base", locate(run)).sha256, "seed": recipe.seed}
    key |= {"sampling": how.model_dump()}
    kept = yield from cached(prior_in(cache, run), key, count, made, what="drawing samples of the base")
    if system.space is not None:
        return kept["x0"], given
    every = torch.cat([part.float() for part in kept["x0"].parts])
    return system.modality.stored(system.modality.bounded(every)), given


def half_and_half(one: Examples, other: Examples) -> Examples:
    """Both, each repeated so that about half of what is met is of either."""
    counts = len(one.x0), len(other.x0)
    times = [max(1, round(max(counts) / count)) for count in counts]
    x0 = joined([one.x0, other.x0], times)
    cond = {name: joined([one.cond[name], other.cond[name]], times) for name in one.cond.keys() & other.cond.keys()}
    return replace(one, x0=x0, cond=cond)


def joined(parts: list[Any], times: list[int]) -> Any:
    """Arrays or rows one after the other, each so many times."""
    if isinstance(parts[0], np.ndarray):
        return np.concatenate([np.concatenate([part] * count) for part, count in zip(parts, times, strict=True)])
    tensors = [torch.cat([p.float() for p in rows.parts]) for rows in parts]
    made = torch.cat([torch.cat([part] * count) for part, count in zip(tensors, times, strict=True)])
    return Rows((made,), len(made))
