"""Samples that were asked for on their way into files, as they come, each with what made it."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from PIL import Image

from ebb.data.arriving import arriving
from ebb.data.images import form, save_film, save_npz, save_png, settings_of
from ebb.errors import EbbError, UsageError
from ebb.events import Message, Progress, Sink
from ebb.guide.apg import Projected
from ebb.guide.cfg import Guide
from ebb.guide.named import named
from ebb.guide.rescale import Rescaled
from ebb.process.moment import at
from ebb.recipe.recipe import Sampling
from ebb.sample.trajectory import Point
from ebb.store.provenance import KEY, Provenance
from ebb.store.write import replace_text
from ebb.system.sampler import Request, Sampler
from ebb.system.system import System

T = TypeVar("T")

FILMED = 64
"""Pictures whose denoising a film shows at once, at most."""

FRAMES = 60
"""Frames of a film of denoising, about, at most; of more steps some are left out."""


@dataclass(frozen=True, eq=False)
class Commission:
    """What is asked of a system, and what is written with it."""

    system: System
    request: Request
    guide: Guide | None
    settings: dict[str, Any]
    """of all samples"""
    made: Provenance
    by_label: bool = False
    """whether each sample goes into a folder of its label"""

    def __len__(self) -> int:
        return len(self.request)

    @property
    def things(self) -> str:
        """What is made, in the plural."""
        return self.system.modality.things

    def of_all(self, count: int) -> dict[str, Any]:
        """The settings of a file that holds the first `count` samples."""
        return self.settings | {"count": count} | self.made.entry(count)

    def of_one(self, i: int) -> dict[str, Any]:
        """The settings of the file that holds sample i alone."""
        given, settings = self.request.given, self.settings
        label, text = (given[name][i] if name in given else None for name in ("label", "text"))
        own = settings | {"seed": settings["seed"] + i, "label": label} | ({"text": text} if text else {})
        for name in {"numbers", "beside"} & settings.keys():
            own[name] = {each: turn[i % len(turn)] for each, turn in settings[name].items()}
        return own | self.made.entry(len(self), i)

    def name(self, i: int) -> str:
        """The name of the file of sample i in a folder, without its end."""
        name = f"{self.settings['seed'] + i:06d}"
        return f"{folder_of(self.request.given['label'][i])}/{name}" if self.by_label else name


def folder_of(label: str) -> str:
    """A folder for what has a label: its name, with an underscore for what cannot stand in one or would hide it."""
    return re.sub(r"^\.|[/\\\0]", "_", label)


def deliver(job: Commission, out: Path, progress: Sink, *, compiled: bool = False, only: int | None = None) -> None:
    """Make the samples and write them: into a folder as they come, else in one file at the end, or where it is stopped.

    With `only`, into a folder, that one sample alone, made among those that it was made with, so that it is the same
    to the last bit.
    """
    at_once = AT_ONCE if job.system.device.type == "cpu" and not compiled else 4 * AT_ONCE
    sampler = Sampler(job.system, at_once, compiled)
    if only is not None:
        into_folder(job, sampler, out, progress, range(only, only + 1))
    elif form(out) == "folder":
        go_on(job, sampler, out, progress)
    else:
        (into_film if form(out) == "film" else into_file)(job, sampler, out, progress)


AT_ONCE = 32
"""Samples that are made together on a CPU, where more take as much longer; how many it is shows in the last bits."""


def go_on(job: Commission, sampler: Sampler, out: Path, progress: Sink) -> None:
    """All samples as files of a folder; those that are there already, made in the same way, stay."""
    first, count = ready(job, out, int(sampler.batch)), len(job)
    if first:
        then = "all there is to make" if first == count else "going on from there"
        progress(Message(f"{first:,} of {count:,} {job.things} are in {out} already: {then}"))
    if first < count:
        into_folder(job, sampler, out, progress, range(first, count))


def into_folder(job: Commission, sampler: Sampler, out: Path, progress: Sink, wanted: range) -> None:
    """Each of the samples that are wanted as a file as soon as it is made, in the batches that all are made in."""
    batch, count = int(sampler.batch), len(job)
    i = wanted.start - wanted.start % batch
    progress(Progress("sampling", i, count))
    with arriving(out, count, progress, first=wanted.start) as some:
        for x in sampler.parts(job.request.part(i, -(-(wanted.stop - i) // batch) * batch), job.guide):
            for image in job.system.modality.stored(x):
                if i in wanted:
                    some.add(image, job.name(i), job.of_one(i))
                i += 1
            progress(Progress("sampling", i, count))


def ready(job: Commission, out: Path, batch: int) -> int:
    """How many samples, the first ones, are files of a folder already: all, or else those of whole batches."""
    missing = (i for i in range(len(job)) if written_in(out / f"{job.name(i)}.png") != comparable(job.of_one(i)))
    first = next(missing, len(job))
    return first if first == len(job) else first - first % batch


def written_in(file: Path) -> dict[str, Any]:
    """What made the picture in a file, to be compared; {} where there is none, or no ebb made it."""
    try:
        return comparable(settings_of(file))
    except EbbError:
        return {}


def comparable(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings without what may differ between calls that make the same sample: how many are made."""
    made = {name: value for name, value in settings.get(KEY, {}).items() if name != "count"}
    as_read: dict[str, Any] = json.loads(json.dumps(settings | {KEY: made}))
    return as_read


def into_file(job: Commission, sampler: Sampler, out: Path, progress: Sink) -> None:
    """All samples in one file; where making them is stopped, those that there are."""
    progress(Progress("sampling", 0, len(job)))
    with arriving(out, len(job), progress, lambda stored: write(job, stored, out)) as some:
        for x in sampler.parts(job.request, job.guide):
            for one in job.system.modality.stored(x):
                some.add(one, "", {})
            progress(Progress("sampling", len(some), len(job)))
    write(job, some.stored, out)


def into_film(job: Commission, sampler: Sampler, out: Path, progress: Sink) -> None:
    """A film of how the samples come out of the noise, side by side: x/√(α² + σ²) after each step.

    Raises UsageError for more than FILMED.
    """
    if len(job) > FILMED:
        raise UsageError(f"a film shows up to {FILMED} {job.things} side by side, got {len(job)}", "try --n 16")
    steps, frames = job.request.sampling.steps, list[Image.Image]()
    every = max(1, round(steps / FRAMES))
    for number, point in enumerate(sampler.stream(job.request, job.guide)):
        if number % every == 0:
            frames.append(frame(job, sampler, point))
        progress(Progress("sampling", min(number + 1, steps), steps))
    if number % every:
        frames.append(frame(job, sampler, point))
    save_film(frames, out, job.of_all(len(job)))


def frame(job: Commission, sampler: Sampler, point: Point) -> Image.Image:
    """Samples on their way, brought to unit scale, as a sheet."""
    denoiser = job.system.model.denoiser
    norm = 1.0 if denoiser is None else at(denoiser.path, point.t).norm
    return sheet(job, job.system.modality.stored(sampler.decoded(point.x / norm)))


def write(job: Commission, stored: np.ndarray, out: Path) -> None:
    """Samples, the first of an job, with what they were asked for in a file: arrays, a table, or a sheet."""
    modality, names = job.system.modality, names_of(job, len(stored))
    if form(out) == "arrays":
        save_npz(out, modality.arrays(stored) | asked_of(job, len(stored)))
    elif form(out) == "table":
        replace_text(out, modality.table(stored, [name or "" for name in names]))
    else:
        save_png(sheet(job, stored), out, job.of_all(len(stored)))


def sheet(job: Commission, stored: np.ndarray) -> Image.Image:
    """Samples side by side, with captions where texts differ, a column for each text."""
    texts = texts_of(job, len(stored))
    turn = len(set(texts))
    columns = turn * math.ceil(math.sqrt(len(stored)) / turn) if 1 < turn <= 8 else None
    return job.system.modality.sheet(stored, columns, texts if turn > 1 else ())


def texts_of(job: Commission, count: int) -> list[str]:
    """The texts of the first `count` samples, where texts are asked for."""
    return [text or "" for text in job.request.given.get("text", ())][:count]


def names_of(job: Commission, count: int) -> list[str | None]:
    """The labels of the first `count` samples, where the system has any."""
    return list(job.request.given.get("label", [None] * count))[:count] if job.system.labels.names else []


def asked_of(job: Commission, count: int) -> dict[str, np.ndarray]:
    """What the first `count` samples were asked for, as arrays: labels by number, −1 where there is none."""
    settings, texts, labels = job.settings, texts_of(job, count), job.system.labels
    named, shown = settings.get("numbers", {}), settings.get("beside", {})
    asked = {
        "labels": np.array([-1 if name is None else labels.index(name) for name in names_of(job, count)], np.int64),
        "texts": np.array(texts if any(texts) else [], str),
        "seeds": np.arange(count) + settings["seed"],
        "numbers": np.array([turns(turn, count) for turn in named.values()]).T,
        "number_names": np.array(list(named), str),
        "beside": np.array([turns(files, count) for files in shown.values()], str).T,
        "beside_names": np.array(list(shown), str),
    }
    return asked | ({"label_names": np.array(labels.names, str)} if labels.names else {})


def sampling_options(sampling: Sampling) -> dict[str, Any]:
    """The settings of sampling by the names of their options, but for guides of guidance where there is none."""
    how, idle = sampling.model_dump(), named(sampling.guides, Rescaled, Projected) if sampling.guidance == 1 else []
    guides = [guide for guide in how.pop("guides") if guide not in idle] or None
    return {name.replace("_", "-"): value for name, value in how.items()} | {"guide": guides}


def turns(given: Sequence[T], count: int) -> list[T]:
    """What is given, in turn, for `count` examples; nothing where nothing is given."""
    return [given[i % len(given)] for i in range(count)] if given else []
