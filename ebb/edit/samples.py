"""Samples that are asked for in the words of a command line, made ready for files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Unpack

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from ebb.adapt.control import rescaled_by
from ebb.adapt.reference import REFERENCE, heard_at
from ebb.data.decode import cut_off, read_picture
from ebb.data.images import form, writable
from ebb.data.masks import read_mask
from ebb.edit.commission import Commission, deliver, folder_of, sampling_options, turns
from ebb.encode.picture import MAP
from ebb.errors import UsageError
from ebb.events import Message, Sink, ignored, noted
from ebb.guide.cfg import Guide
from ebb.guide.compose import compose
from ebb.guide.named import surrounded
from ebb.guide.region import regions as regional
from ebb.recipe.groups import DataRecipe
from ebb.recipe.limits import whole
from ebb.recipe.recipe import Sampling
from ebb.shapes import sides
from ebb.store.place import by_name
from ebb.store.provenance import Provenance, public
from ebb.system.put_on import Put
from ebb.system.sampler import Request, Settings
from ebb.system.system import System, load, locate
from ebb.terminal import as_options


@dataclass(frozen=True)
class Prompt:
    """What samples are asked for, as the words of a command line.

    Image i is of prompt i mod the number of prompts in `text`, or of all of them `together`, each pulling at the scale
    of guidance (`ebb.guide.compose`), or each in its own of the `regions` (see `region`); `numbers` (see
    `numbers_in`) and pictures `beside` are taken in turn too. Sample i is made from seed + i. With `by_label` there are
    as many of each label, at least `count` in all, each in the folder of its label. `size`, WIDTHxHEIGHT, is one of the
    shapes that the system has learnt, without it that of most of its data.
    """

    count: int = 16
    seed: int = 0
    label: str | None = None
    text: Sequence[str] = ()
    numbers: Sequence[str] = ()
    beside: Sequence[Path] = ()
    together: bool = False
    regions: Sequence[str] = ()
    by_label: bool = False
    adapters: Sequence[str] = ()
    """what is put on the run (`ebb.system.put_on.Put`)"""
    reference: Sequence[str] = ()
    """pictures that samples are to be like, in turn, as FILE or FILE:SCALE (`references_in`)"""
    size: str | None = None
    controls: Sequence[str] = ()
    """pictures that the samples follow, as NAME=FILE; several of a name in turn"""
    control_scale: float = 1.0
    """how much all of them count"""


def sample_to(
    run: str | Path,
    out: str | Path,
    prompt: Prompt,
    *,
    progress: Sink = ignored,
    compile: bool = False,
    only: int | None = None,
    **asked: Unpack[Settings],
) -> None:
    """Sample from `run` into `out`: a .png sheet, a .gif or .webp film of the denoising, a .npz, a .csv table, or a
    folder of single .png files, as its modality is written; with `only` that one sample alone, into a folder.

    Every picture carries its settings (run, checkpoint, label, text, numbers, pictures beside, seed and sampling) and
    what made it (`Provenance`) in its text chunk `ebb`.
    """
    run, out = Path(run), Path(out)
    system = load(run, adapters=prompt.adapters)
    if prompt.control_scale != 1:
        rescaled_by(system.denoiser.network, prompt.control_scale)
    if (size := DataRecipe(size=prompt.size).sides) is not None:
        system = system.shaped(size)
    if prompt.reference:
        heard_at(system.denoiser.network, references_in(prompt.reference)[1])
    if prompt.by_label:
        prompt = balanced(prompt, system, out)
    writable(out, system.modality.forms)
    job = commissioned(run, system, prompt, system.settled(**asked), compile)
    hint(system, prompt, progress)
    deliver(job, out, progress, compiled=compile, only=only)
    progress(Message(f"{len(job)} {job.things} in {out}"))


def commissioned(run: Path, system: System, prompt: Prompt, sampling: Sampling, compiled: bool) -> Commission:
    """The commission of what is prompted for, by some settings. Raises UsageError for what the system does not hear."""
    count, seed = whole("n", prompt.count), whole("seed", prompt.seed)
    label, text, regions, shown = prompt.label, prompt.text, prompt.regions, shown_by(prompt, system)
    said = numbers_in(prompt.numbers)
    asked_for = {
        "label": turns(system.labels.names, count) if prompt.by_label and label is None else label,
        "text": turns(text, count) or None,
        "numbers": {name: turns(values, count) for name, values in said.items()} or None,
        **{name: turns(files, count) for name, files in shown.items()},
        REFERENCE: turns(references_in(prompt.reference)[0], count) or None,
    }
    given, made = system.given(count, asked_for, seed), provenance(run, prompt, shown, sampling, compiled)
    settings = {"run": by_name(run).name, "checkpoint": locate(run).name, **sampling.model_dump()}
    guide: Guide | None = None
    if prompt.together or regions:
        guide = surrounded(sampling.guides, joined(system, text, sampling.guidance, regions))
        sampling = sampling.model_copy(update={"guidance": 1.0, "guides": ()})
        given["text"] = [None] * count
    named = {name: [*map(named_again, files)] for name, files in shown.items()}
    known = {"text": list(text), "numbers": said, "beside": named, "regions": [*map(place_of, regions)]}
    effects = [effect for each in prompt.adapters if (effect := Put.read(each).effect)]
    known |= {"adapters": [*prompt.adapters], "effect": effects, REFERENCE: [*map(public, prompt.reference)]}
    settings |= {} if prompt.control_scale == 1 else {"control_scale": prompt.control_scale}
    settings |= {name: what for name, what in known.items() if what} | ({"together": prompt.together} if text else {})
    settings |= {"label": label, "seed": seed}
    return Commission(system, Request(given, count, sampling, seed), guide, settings, made, prompt.by_label)


def provenance(
    run: Path, prompt: Prompt, shown: Mapping[str, Sequence[str]], sampling: Sampling, compiled: bool
) -> Provenance:
    """What makes the samples of a prompt, with the pictures that are `shown` beside, as a command."""
    puts = [Put.read(each) for each in prompt.adapters]
    files = [*map(file_of, chain(*shown.values())), *filter(Path.is_file, map(Path, prompt.regions))]
    files += [put.weights for put in puts] + [Path(file) for file in references_in(prompt.reference)[0]]
    options = {
        "seed": prompt.seed,
        "label": prompt.label,
        "text": prompt.text or None,
        "numbers": prompt.numbers or None,
        "beside": [f"{name}={named_again(file)}" for name, each in shown.items() for file in each] or None,
        "control_scale": None if prompt.control_scale == 1 else prompt.control_scale,
        "adapter": [f"{public(put.place)}:{put.amount:g}" for put in puts] or None,
        "reference": [*map(public, prompt.reference)] or None,
        "together": prompt.together or None,
        "regions": [*map(place_of, prompt.regions)] or None,
        "by": "label" if prompt.by_label else None,
        "size": prompt.size,
        "compile": compiled or None,
    }
    return Provenance.of("sample", run, locate(run), as_options(options | sampling_options(sampling)), files)


def balanced(prompt: Prompt, system: System, out: Path) -> Prompt:
    """The prompt for as many of each label, in folders of their own or rows of a table.

    Raises UsageError for what has no labels, for files that hold no label, for labels whose folders would be the same,
    and as `writable` does for each of these.
    """
    names = system.labels.names
    if not names:
        raise UsageError("this model was trained without labels", "leave --by label out")
    if form(out) not in ("folder", "table"):
        raise UsageError(f"{out} has no place for labels", "name a folder with --out, in which each label has its own")
    if len({folder_of(name).lower() for name in names}) < len(names):
        raise UsageError(f"two labels would share a folder: {', '.join(names)}", "leave --by label out")
    for name in names if form(out) == "folder" and out.is_dir() else ():
        writable(out / folder_of(name), system.modality.forms)
    turn = 1 if prompt.label is not None else len(names)
    return replace(prompt, count=-(-whole("n", prompt.count) // turn) * turn)


def place_of(region: str) -> str:
    """A region as it may be given away: its words, or the name of its picture."""
    return public(region) if Path(region).is_file() else region


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


def shown_by(prompt: Prompt, system: System) -> dict[str, list[str]]:
    """The pictures beside the samples and those that they follow, by name. Raises UsageError as `pictures_in` does, and
    for a control that the model has not."""
    controls = [name for name, map in system.conditioner.maps.items() if map.whole]
    for one in prompt.controls:
        name = one.partition("=")[0]
        if name not in controls or "=" not in one:
            raise UsageError(
                f"this model has the controls {', '.join(controls)}; {one} names none of them"
                if controls
                else "this model has no control",
                f"such as --control {controls[0]}=FILE" if controls else "ebb adapt RUN DATA --control edges",
            )
    return pictures_in([*prompt.beside, *map(Path, prompt.controls)], system)


def file_of(shown: str) -> Path:
    """The file of a picture that is shown, whatever it shows."""
    return Path(shown.removeprefix(MAP))


def named_again(shown: str) -> str:
    """A picture that is shown, as it may be given away."""
    return f"{MAP if shown.startswith(MAP) else ''}{public(file_of(shown))}"


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


def references_in(references: Sequence[str]) -> tuple[list[str], float]:
    """`["a.png", "b.png:0.5"]` → (["a.png", "b.png"], 0.5): the files, and how loud all of them are, 1 unless it is
    given. UsageError for two scales."""
    puts = [Put.read(each) for each in references]
    scales = {put.amount for put in puts if put.amount != 1} or {1.0}
    if len(scales) > 1:
        raise UsageError(f"the references of one command are as loud as each other, got {sorted(scales)}")
    return [str(put.place) for put in puts], scales.pop()


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


def hint(system: System, prompt: Prompt, progress: Sink) -> None:
    """Say which words of the prompts the model never heard, where it stops listening, which numbers lie beyond those
    that it was trained on, what was done about pictures beside, and what of pictures of regions it is that marks."""
    hears, texts, regions = system.conditioner, prompt.text, prompt.regions
    numbers, beside = numbers_in(prompt.numbers), shown_by(prompt, system)
    for what in hears.numbers.beyond(numbers) if hears.numbers and numbers else ():
        progress(Message(f"beyond what was heard: {what}"))
    for name, file in ((name, file_of(file)) for name, files in beside.items() for file in files):
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
