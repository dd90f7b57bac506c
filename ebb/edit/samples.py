"""Samples to files: a grid, single pictures or arrays, each with the settings that made it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, Unpack

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from ebb.data.arriving import arriving
from ebb.data.decode import cut_off, read_picture
from ebb.data.images import form, save_npz, save_png, writable
from ebb.data.masks import read_mask
from ebb.data.modality import Modality
from ebb.encode.labels import Labels
from ebb.errors import UsageError
from ebb.events import Message, Progress, Sink, ignored, noted
from ebb.guide.cfg import Guide
from ebb.guide.compose import compose
from ebb.guide.named import surrounded
from ebb.guide.region import regions as regional
from ebb.recipe.limits import whole
from ebb.shapes import sides
from ebb.store.place import by_name
from ebb.store.write import replace_text
from ebb.system.sampler import Request, Sampler, Settings
from ebb.system.system import System, load, locate

T = TypeVar("T")


@dataclass(frozen=True)
class Prompt:
    """What samples are asked for, as the words of a command line.

    Image i is of prompt i mod the number of prompts in `text`, or of all of them `together`, each pulling at the scale
    of guidance (`ebb.guide.compose`), or each in its own of the `regions` (see `region`); `numbers` (see
    `numbers_in`) and pictures `beside` are taken in turn too. Sample i is made from seed + i.
    """

    count: int = 16
    seed: int = 0
    label: str | None = None
    text: Sequence[str] = ()
    numbers: Sequence[str] = ()
    beside: Sequence[Path] = ()
    together: bool = False
    regions: Sequence[str] = ()


def sample_to(
    run: str | Path,
    out: str | Path,
    prompt: Prompt,
    *,
    progress: Sink = ignored,
    compile: bool = False,
    **asked: Unpack[Settings],
) -> None:
    """Sample from `run` into `out`: a .png grid, a .npz, a .csv table, or a folder of single .png
    files, as its modality is written.

    Every PNG carries its settings (run, checkpoint, label, text, numbers, pictures beside, seed and sampling) in its
    text chunk `ebb`.
    """
    run, out, count, seed = Path(run), Path(out), whole("n", prompt.count), whole("seed", prompt.seed)
    system = load(run)
    writable(out, system.modality.forms)
    label, text, regions = prompt.label, prompt.text, prompt.regions
    said, shown = numbers_in(prompt.numbers), pictures_in(prompt.beside, system)
    asked_for = {
        "label": label,
        "text": turns(text, count) or None,
        "numbers": {name: turns(values, count) for name, values in said.items()} or None,
        **{name: turns(files, count) for name, files in shown.items()},
    }
    given = system.given(count, asked_for, seed)
    hint(system, text, said, shown, regions, progress)
    sampling = system.settled(**asked)
    settings = {"run": by_name(run).name, "checkpoint": locate(run).name, **sampling.model_dump()}
    guide: Guide | None = None
    if prompt.together or regions:
        guide = surrounded(sampling.guides, joined(system, text, sampling.guidance, regions))
        sampling = sampling.model_copy(update={"guidance": 1.0, "guides": ()})
        given["text"] = [None] * count
    known = {"text": list(text), "numbers": said, "beside": shown, "regions": list(regions)}
    settings |= {name: what for name, what in known.items() if what} | ({"together": prompt.together} if text else {})
    settings |= {"label": label, "seed": seed}
    request = Request(given, count, sampling, seed)
    make(system, Sampler(system, compiled=compile).parts(request, guide), request, out, settings, progress)
    progress(Message(f"{count} {system.modality.things} in {out}"))


def make(
    system: System,
    parts: Iterable[Tensor],
    request: Request,
    out: Path,
    settings: dict[str, Any],
    progress: Sink,
) -> None:
    """Write samples: into a folder each batch when it is made, else all in one file at the end."""
    progress(Progress("sampling", 0, len(request)))
    with arriving(out, len(request), progress) as some:
        for x in parts:
            for image in system.modality.stored(x):
                name = f"{settings['seed'] + len(some):06d}"
                some.add(image, name, single(len(some), request, settings))
            progress(Progress("sampling", len(some), len(request)))
    if form(out) != "folder":
        write(out, system.modality, some.pixels, request, system.labels, settings)


def turns(given: Sequence[T], count: int) -> list[T]:
    """What is given, in turn, for `count` images; nothing where nothing is given."""
    return [given[i % len(given)] for i in range(count)] if given else []


def numbers_in(numbers: Sequence[str]) -> dict[str, list[float]]:
    """`["angle=0,90", "size=2"]` → {"angle": [0, 90], "size": [2]}; UsageError for what is not written so."""
    found = dict[str, list[float]]()
    for one in numbers:
        name, _, values = one.rpartition("=")
        try:
            read = [float(value) for value in values.split(",")]
        except ValueError:
            read = []
        if not name or not read or name in found:
            raise UsageError(
                f"a number is asked for once, as NAME=VALUE, or NAME=VALUE,VALUE in turn; got {one!r}",
                "such as --numbers angle=0.5 size=2",
            )
        found[name] = read
    return found


def pictures_in(beside: Sequence[Path], system: System) -> dict[str, list[str]]:
    """`["depth=a.png", "edges=b.png"]` → {"depth": ["a.png"], "edges": ["b.png"]}, the files of each in turn.

    A file alone is of the only picture that the model hears; UsageError where there are several, or none.
    """
    names, found = list(system.conditioner.maps), dict[str, list[str]]()
    for one in map(str, beside):
        name, _, file = one.partition("=")
        if name not in names and len(names) != 1:
            raise UsageError(
                f"this model was trained with the pictures {', '.join(names)} beside its own; {one} names none of them"
                if names
                else "this model was trained without a picture beside its own, so it cannot be given one",
                f"such as --beside {' '.join(f'{each}=FILE' for each in names)}"
                if names
                else "train one that hears some: ebb train DATA --beside FIELD",
            )
        found.setdefault(*((name, []) if name in names else (names[0], []))).append(file if name in names else one)
    return found


def write(
    out: Path, modality: Modality, stored: np.ndarray, request: Request, labels: Labels, settings: dict[str, Any]
) -> None:
    """Samples with what they were asked for in a file: arrays, a table, or a grid, with captions where texts differ."""
    texts = [text or "" for text in request.given.get("text", ())]
    names = request.given.get("label", [None] * len(stored)) if labels.names else ()
    if form(out) == "arrays":
        save_npz(out, modality.arrays(stored) | asked_of(len(stored), texts, names, labels, settings))
    elif form(out) == "table":
        replace_text(out, modality.table(stored, [name or "" for name in names]))
    else:
        turn = len(set(texts))
        captions = texts if turn > 1 else ()
        columns = turn * math.ceil(math.sqrt(len(stored)) / turn) if 1 < turn <= 8 else None  # a column for each
        save_png(modality.sheet(stored, columns, captions), out, settings | {"count": len(stored)})


def asked_of(
    count: int, texts: Sequence[str], names: Sequence[str | None], labels: Labels, settings: dict[str, Any]
) -> dict[str, np.ndarray]:
    """What `count` samples were asked for, as arrays: labels by number, −1 where there is none."""
    named, shown = settings.get("numbers", {}), settings.get("beside", {})
    asked = {
        "labels": np.array([-1 if name is None else labels.index(name) for name in names], np.int64),
        "texts": np.array(texts if any(texts) else [], str),
        "seeds": np.arange(count) + settings["seed"],
        "numbers": np.array([turns(turn, count) for turn in named.values()]).T,
        "number_names": np.array(list(named), str),
        "beside": np.array([turns(files, count) for files in shown.values()], str).T,
        "beside_names": np.array(list(shown), str),
    }
    return asked | ({"label_names": np.array(labels.names, str)} if labels.names else {})


def single(i: int, request: Request, settings: dict[str, Any]) -> dict[str, Any]:
    """The settings of image i alone."""
    label, text = (request.given[name][i] if name in request.given else None for name in ("label", "text"))
    own = settings | {"seed": settings["seed"] + i, "label": label} | ({"text": text} if text else {})
    for name in {"numbers", "beside"} & settings.keys():
        own[name] = {each: turn[i % len(turn)] for each, turn in settings[name].items()}
    return own


def joined(system: System, texts: Sequence[str], scale: float, regions: Sequence[str] = ()) -> Guide:
    """The guide towards all texts at once, or towards each in its own region.

    Raises UsageError for fewer texts than two where there are no regions, and for another number of regions than texts.
    """
    if regions and len(regions) != len(texts):
        raise UsageError(f"every prompt has a region, got {len(texts)} prompts and {len(regions)} regions")
    if len(texts) < 2 and not regions:
        raise UsageError("several prompts can be asked for together", "give two or more with --text")
    null = {"text": system.null()["text"]}
    said = [{"text": system.conditions({"text": [text]}, 1)["text"]} for text in texts]
    if regions:
        size, (_, *inner) = system.shape[1:], system.inner
        masks = [F.interpolate(region(one, size)[None, None], inner, mode="area")[0, 0] for one in regions]
        return regional([(scale, mask, cond) for mask, cond in zip(masks, said, strict=True)], null)
    return compose([(scale, cond) for cond in said], null)


HALVES = {"top": (0, 0), "bottom": (0, 1), "left": (1, 0), "right": (1, 1)}
"""Each with its axis, and which half of it."""


def region(where: str, size: Sequence[int]) -> Tensor:
    """A part of a picture as a mask [h, w]: 1 where it is, 0 elsewhere.

    `where` is of the words top, bottom, left and right, several of which are what they have in common, or the name of
    a picture of this size that marks it, such as white on black (`read_mask`). Raises UsageError for anything else.
    """
    mask, words = torch.ones(*size), where.split()
    if set(words) <= HALVES.keys() and words:
        for axis, half in map(HALVES.__getitem__, words):
            mask.movedim(axis, 0).tensor_split(2)[1 - half].zero_()
        if not mask.any():
            raise UsageError(f"the region {where!r} is nowhere", "such as left, or top left")
        return mask
    file = Path(where)
    if not file.is_file():
        raise UsageError(
            f"a region is words such as 'top left', or a picture of {sides(size)}, got {where!r}",
            f"words: {', '.join(HALVES)}",
        )
    found = read_mask(file)
    if found.size != tuple(size):
        raise UsageError(f"a region of this model is a picture of {sides(size)}, got {sides(found.size)}")
    if not found.marked.any():
        raise UsageError(f"the region {where} is nowhere: the picture marks nothing", "paint the region white")
    return torch.from_numpy(found.marked / np.float32(255))


def hint(
    system: System,
    texts: Sequence[str],
    numbers: Mapping[str, Sequence[float]],
    beside: Mapping[str, Sequence[str]],
    regions: Sequence[str],
    progress: Sink,
) -> None:
    """Say which words of the prompts the model never heard, where it stops listening, which numbers lie beyond those
    that it was trained on, what was done about pictures beside, and what of pictures of regions it is that marks."""
    hears = system.conditioner
    for what in hears.numbers.beyond(numbers) if hears.numbers and numbers else ():
        progress(Message(f"beyond what was heard: {what}"))
    for name, file in ((name, Path(file)) for name, files in beside.items() for file in files):
        shape, (found, _) = hears.maps[name].shape, read_picture(file)
        noted({note: [file] for note in found.done}, progress)
        if cut := cut_off([found.cut(shape)]):
            size = sides((found.height, found.width))
            progress(Message(f"{file}: cropped at its centre from {size} to {sides(shape[1:])}{cut}"))
    for file in filter(Path.is_file, map(Path, regions)):
        mask = read_mask(file)
        noted({note: [file] for note in mask.done}, progress)
        progress(Message(f"{file}: {mask.words} is the region, {mask.marked.mean() / 255:.0%} of the picture"))
    heard = hears.text
    if heard is None:
        return
    if unseen := [word for text in texts for word in heard.unseen(text)]:
        progress(Message(f"no caption that was trained on has: {', '.join(dict.fromkeys(unseen[:8]))}"))
    longest = max((heard.count(text) for text in texts if text.strip()), default=0)
    if longest > heard.length:
        progress(Message(f"a prompt has {longest:,} pieces; the model hears the first {heard.length}"))
