"""Edits of files: pictures read as a model takes them, and written beside what they were made from."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Unpack

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ebb.data.archive import Notes, folder, shown
from ebb.data.arriving import arriving
from ebb.data.decode import SUFFIXES, Head, Shape, UnusableError, cut_off, fit, picture_of, refused
from ebb.data.images import form, picture, save_film, save_npz, save_png, sheet, to_pixels, writable
from ebb.data.listing import note_others, pictures_in, way_out
from ebb.data.masks import HALF, read_mask
from ebb.data.pictures import to_unit
from ebb.edit.commission import sampling_options
from ebb.edit.editor import Editor, Label
from ebb.errors import DataError, UsageError
from ebb.events import Message, Progress, Sink, noted
from ebb.recipe.limits import whole
from ebb.shapes import Float, sides
from ebb.store.place import by_name
from ebb.store.provenance import Provenance, public
from ebb.system.sampler import Settings
from ebb.system.system import load, locate
from ebb.terminal import as_options

Opened = Sequence[tuple[Path, Head, np.ndarray]]
"""Picture files, with what they are and their pixels."""


def listed(paths: Sequence[Path], notes: Notes) -> list[Path]:
    """The files, and of a folder those in it that training would take. Raises DataError for what is not there."""
    if not paths:
        raise UsageError("there is nothing to edit", "name one or more pictures after the run")
    found = []
    for path in paths:
        if not path.exists():
            raise DataError(f"there is no {path}", "name a picture, or a folder of pictures")
        found += _inside(path, notes) if path.is_dir() else [path]
    return found


def _inside(root: Path, notes: Notes) -> list[Path]:
    """The pictures in a folder. Raises DataError where there are none."""
    seen: Notes = defaultdict(list)
    files = folder(root, seen)
    names = pictures_in(files)
    note_others(files, files.sizes.keys() - set(names), seen)
    if not names:
        raise DataError(f"{root} holds no pictures", way_out(seen) or f"they end in {', '.join(SUFFIXES)}")
    for note, others in seen.items():
        notes[note] += [str(root / name) for name in others]
    return [root / name for name in names]


def opened(paths: Sequence[Path], shape: Shape | None, progress: Sink) -> Opened:
    """The pictures of files and folders, in `shape` or as large as they are, and a line for each kind of thing that had
    to be done about them. One of several that cannot be read is left out.

    Raises UsageError where none is named, DataError for what is not there, and where none can be read.
    """
    notes: Notes = defaultdict(list)
    files, found, last = listed(paths, notes), list[tuple[Path, Head, np.ndarray]](), None
    for file in files:
        try:
            head, pixels = picture_of(file, shape)
        except UnusableError as error:
            last = refused(file, error)
            notes[error.note].append(str(file))
            continue
        found.append((file, head, pixels))
        for note in head.done:
            notes[note].append(str(file))
    if not found and last is not None:
        raise last
    noted({note: [*map(shown, names)] for note, names in notes.items()}, progress)
    return found


def changed(pictures: Opened, shape: Shape) -> str:
    """What a model that makes pictures of `shape` [c, h, w] does not see of these; "" where it sees all."""
    channels, *size = shape
    grey = [path for path, head, _ in pictures if head.colour and channels == 1]
    cropped = [(path, head) for path, head, _ in pictures if [head.height, head.width] != size]
    done = ["made grey"] if grey else []
    if cropped:
        sizes = list(dict.fromkeys(sides((head.height, head.width)) for _, head in cropped))
        cuts = [head.cut(shape) for _, head in cropped]
        some = ", ".join(sizes[:3]) + (", …" if len(sizes) > 3 else "")
        done.append(f"scaled and cropped from {some} to {sides(size)}{cut_off(cuts)}")
    touched = list(dict.fromkeys([*grey, *(path for path, _ in cropped)]))
    others = f" and {len(touched) - 1} more" if len(touched) > 1 else ""
    return f"{touched[0]}{others}: {' and '.join(done)}, as this model makes pictures" if done else ""


def versions(x0: Float[Tensor, "b *d"], count: int) -> Float[Tensor, "n *d"]:
    """Each picture `count` times in a row; raises UsageError for less than one."""
    return x0.repeat_interleave(whole("n", count), 0)


def tally(progress: Sink) -> Callable[[int], None]:
    """Something to be told of every few pictures, that reports how many they are in all."""
    made = 0

    def more(count: int) -> None:
        nonlocal made
        made += count
        progress(Progress(f"{made} pictures made"))

    return more


@dataclass(frozen=True, eq=False)
class Job:
    """An editor of a run, and where the edited pictures go."""

    run: Path
    out: Path
    progress: Sink
    editor: Editor

    @classmethod
    def of(cls, run: Path, out: Path, progress: Sink, label: Label = None, **settings: Unpack[Settings]) -> Job:
        """The job of `ebb edit` with these sampling settings.

        Raises UsageError for a name to write to that cannot be, for a run that is no model of pictures, and as
        `Editor.of` does: all before anything is made.
        """
        writable(out)
        editor = Editor.of(load(run), label=label, progress=tally(progress), **settings)
        if len(editor.system.shape) != 3 or editor.system.shape[0] not in (1, 3):
            raise UsageError(f"ebb edit is for models of pictures, this one makes {list(editor.system.shape)}")
        return cls(run, out, progress, editor)

    @property
    def shape(self) -> Shape:
        """[c, h, w] of the pictures that the model makes."""
        channels, height, width = self.editor.system.shape
        return channels, height, width

    def read(self, paths: Sequence[Path]) -> Float[Tensor, "b c h w"]:
        """Pictures in [−1, 1] as the model makes them; says what had to be changed about them."""
        return self.taken(opened(paths, self.shape, self.progress))

    def taken(self, pictures: Opened) -> Float[Tensor, "b c h w"]:
        """Opened pictures in [−1, 1]; says what the model does not see of them."""
        if done := changed(pictures, self.shape):
            self.progress(Message(done))
        return to_unit(torch.from_numpy(np.stack([pixels for _, _, pixels in pictures])))

    def small(self, paths: Sequence[Path]) -> Float[Tensor, "b c h w"]:
        """Pictures as large as they are, grey or in colour as the model makes them; UsageError unless all are alike."""
        pictures = opened(paths, None, self.progress)
        sizes = [(head.height, head.width) for _, head, _ in pictures]
        if len(set(sizes)) > 1:
            every = ", ".join(f"{path} {sides(size)}" for (path, _, _), size in zip(pictures, sizes, strict=True))
            raise UsageError(f"pictures to enlarge together are of one size, got {every}", "give them one by one")
        shape = self.shape[0], *sizes[0]
        if done := changed(pictures, shape):
            self.progress(Message(done))
        return to_unit(torch.from_numpy(np.stack([fit(picture(pixels), shape) for _, _, pixels in pictures])))

    def masked(self, file: Path, paths: Sequence[Path]) -> tuple[Tensor, Float[Tensor, "b c h w"]]:
        """Where a mask marks (128 and above of 255), bool [h, w], and the pictures; both scaled and cropped alike.

        Says what of the mask it is that marks, and where it keeps nothing. Raises UsageError for a mask that is not as
        large as every picture is.
        """
        if not file.is_file():
            raise DataError(f"there is no {file}", "name a picture that is white where it is made new")
        mask, pictures = read_mask(file), opened(paths, self.shape, self.progress)
        for path, head, _ in pictures:
            if (head.height, head.width) != mask.size:
                raise UsageError(
                    f"the mask {file} is {sides(mask.size)}, but {path} is {sides((head.height, head.width))}",
                    "a mask is as large as its picture: white where it is made new, black where it is kept",
                )
        new = torch.from_numpy(mask.fitted(*self.shape[1:]) >= HALF)
        share = "nothing is kept" if new.all() else f"{float(new.float().mean()):.0%} of the picture"
        noted({note: [file] for note in mask.done}, self.progress)
        self.progress(Message(f"{file}: {mask.words} is made new, {share}"))
        return new, self.taken(pictures)

    def make(
        self,
        change: Callable[[Tensor, int], Tensor],
        given: Float[Tensor, "n *d"],
        before: Float[Tensor, "m c h w"] | None = None,
        seed: int | None = None,
        about: Mapping[str, Any] | None = None,
    ) -> Float[Tensor, "n c h w"]:
        """`change(part, seed)` of what is given, a batch at a time, and written: a sheet with a row for each of the m
        pictures before, itself first; or a folder; or arrays. Picture i is made from seed + i.

        Every picture carries its settings, what there is to say `about` the edit, and what made it (`Provenance`), as
        those of `ebb sample` do. Of `about`, "edit" is the verb, what is a path is named as it may be given away, and
        all but "edit" and "factor" are options of the verb.
        """
        about = about or {}
        own = {"run": by_name(self.run).name, "checkpoint": locate(self.run).name, **self.editor.sampling.model_dump()}
        own, done = own | {"label": self.editor.label, **shareable(about)}, list[Tensor]()
        origin, count = self.provenance(about, seed), len(given)
        with arriving(self.out, count, self.progress) as some:
            for part in self.editor.parts(given):
                done.append(change(part, (seed or 0) + len(some)))
                for image in to_pixels(done[-1]):
                    number, i = None if seed is None else seed + len(some), len(some)
                    some.add(image, f"{i:06d}", own | {"seed": number} | origin.entry(count, i))
        if form(self.out) != "folder":
            own |= {"seed": seed} | origin.entry(count)
            self.write(some.stored, None if before is None else to_pixels(before), own)
        self.progress(Message(f"{count} images in {self.out}"))
        return torch.cat(done)

    def provenance(self, about: Mapping[str, Any], seed: int | None) -> Provenance:
        """What makes an edit, as a command."""
        options, files = {**about}, [path for value in about.values() for path in paths_in(value)]
        verb, _ = options.pop("edit"), options.pop("factor", None)
        pictures = shareable({"pictures": options.pop("pictures", ())})["pictures"]
        label, sampling, hears = self.editor.label, self.editor.sampling, self.editor.system.conditioner
        if label is None:  # then there is nothing to guide towards
            sampling = sampling.model_copy(update={"guidance": 1.0})
        elif "labels" not in options:
            options |= {name: label for name in hears.about(label)}
        options = shareable(options) | {"seed": seed} | sampling_options(sampling)
        given = {name: value for name, value in options.items() if value != []}
        return Provenance.of(f"edit {verb}", self.run, locate(self.run), [*pictures, *as_options(given)], files)

    def write(self, after: np.ndarray, before: np.ndarray | None, settings: dict[str, Any]) -> None:
        """All pictures in one file: arrays, or a sheet."""
        if form(self.out) == "arrays":
            seed, first = settings["seed"], after[:0] if before is None else before
            seeds = np.array([] if seed is None else [seed + i for i in range(len(after))], np.int64)
            save_npz(self.out, {"images": after, "before": first, "seeds": seeds})
        elif form(self.out) == "film":
            save_film(film(after, before), self.out, settings | {"count": len(after)})
        else:
            save_png(in_rows(after, before), self.out, settings | {"count": len(after)})


def paths_in(value: Any) -> list[Path]:
    """The paths of a value: itself, or those of a sequence."""
    return [one for one in (value if isinstance(value, tuple) else [value]) if isinstance(one, Path)]


def shareable(about: Mapping[str, Any]) -> dict[str, Any]:
    """Values as JSON, paths among them as they may be given away."""

    def plain(value: Any) -> Any:
        return public(value) if isinstance(value, Path) else value

    return {name: [*map(plain, value)] if isinstance(value, tuple) else plain(value) for name, value in about.items()}


def film(after: np.ndarray, before: np.ndarray | None) -> list[Image.Image]:
    """The pictures side by side, as they were and then version by version; one after the other where there is nothing
    before."""
    if before is None:
        return [sheet(image[None]) for image in after]
    count = len(after) // len(before)
    return [sheet(some) for some in (before, *(after[version::count] for version in range(count)))]


def in_rows(after: np.ndarray, before: np.ndarray | None) -> Image.Image:
    """A row for each picture, itself first and then what was made of it; one row where there is nothing before."""
    if before is None:
        return sheet(after, columns=len(after))
    versions = len(after) // len(before)
    rows = [np.concatenate([before[i : i + 1], after[i * versions : (i + 1) * versions]]) for i in range(len(before))]
    return sheet(np.concatenate(rows), columns=versions + 1)
