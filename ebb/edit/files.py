"""Edits of files: pictures read as a model takes them, and written beside what they were made from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from rich.console import Console
from torch import Tensor

from ebb.data.decode import SUFFIXES, Shape, read_picture
from ebb.data.pictures import to_unit
from ebb.edit.editor import Editor, Label
from ebb.encode.images import grid, picture, save_png, to_pixels, writable
from ebb.errors import DataError, UsageError
from ebb.limits import whole
from ebb.shapes import Float
from ebb.system import load, locate
from ebb.terminal import tell


def listed(paths: Sequence[Path]) -> list[Path]:
    """The files, and of a folder the pictures in it by name. Raises DataError for what is not there."""
    if not paths:
        raise UsageError("there is nothing to edit", "name one or more pictures after the run")
    found = []
    for path in paths:
        inside = sorted(p for p in path.iterdir() if p.suffix.lower() in SUFFIXES) if path.is_dir() else [path]
        if not path.exists():
            raise DataError(f"there is no {path}", "name a picture, or a folder of pictures")
        if not inside:
            raise DataError(f"{path} holds no pictures", f"they end in {', '.join(SUFFIXES)}")
        found += inside
    return found


def versions(x0: Float[Tensor, "b *d"], count: int) -> Float[Tensor, "n *d"]:
    """Each picture `count` times in a row; raises UsageError for less than one."""
    return x0.repeat_interleave(whole("n", count), 0)


def tally(say: Callable[[str], None]) -> Callable[[int], None]:
    """Something to be told of every few pictures, that says how many they are in all."""
    made = 0

    def more(count: int) -> None:
        nonlocal made
        made += count
        say(f"{made} pictures made")

    return more


@dataclass(frozen=True, eq=False)
class Job:
    """An editor of a run, and where the edited pictures go."""

    run: Path
    out: Path
    console: Console
    editor: Editor

    @classmethod
    def of(
        cls, run: Path, out: Path, console: Console, say: Callable[[str], None], label: Label = None, **asked: Any
    ) -> Job:
        """The job of `ebb edit` with these sampling settings.

        Raises UsageError for a name to write to that cannot be, for a run that is no model of pictures, and as
        `Editor.of` does: all before anything is made.
        """
        writable(out)
        editor = Editor.of(load(run), label=label, progress=tally(say), **asked)
        if len(editor.system.shape) != 3 or editor.system.shape[0] not in (1, 3):
            raise UsageError(f"ebb edit is for models of pictures, this one makes {list(editor.system.shape)}")
        return cls(run, out, console, editor)

    @property
    def shape(self) -> Shape:
        """[c, h, w] of the pictures that the model makes."""
        channels, height, width = self.editor.system.shape
        return channels, height, width

    def read(self, paths: Sequence[Path]) -> Float[Tensor, "b c h w"]:
        """Pictures in [−1, 1] as the model makes them; says what had to be changed about them."""
        made, changed = [], dict[str, list[Path]]()
        for path in listed(paths):
            found, pixels = read_picture(path, self.shape)
            channels, height, width = self.shape
            done = ["made grey"] if found.colour and channels == 1 else []
            if (found.height, found.width) != (height, width):
                done.append(f"scaled and cropped from {found.width}×{found.height} to {width}×{height}")
            if done:
                changed.setdefault(" and ".join(done), []).append(path)
            made.append(to_unit(torch.from_numpy(pixels)))
        for what, files in changed.items():
            others = f" and {len(files) - 1} more" if len(files) > 1 else ""
            tell(self.console, f"{files[0]}{others}: {what}, as this model makes pictures")
        return torch.stack(made)

    def small(self, paths: Sequence[Path]) -> Float[Tensor, "b c h w"]:
        """Pictures as large as they are, grey or in colour as the model makes them; UsageError unless all are alike."""
        files = listed(paths)
        sizes = [(found.height, found.width) for found in (read_picture(path)[0] for path in files)]
        if len(set(sizes)) > 1:
            every = ", ".join(f"{path} {width}×{height}" for path, (height, width) in zip(files, sizes, strict=True))
            raise UsageError(f"pictures to enlarge together are of one size, got {every}", "give them one by one")
        made = [read_picture(path, (self.shape[0], *size))[1] for path, size in zip(files, sizes, strict=True)]
        return to_unit(torch.from_numpy(np.stack(made)))

    def mask(self, file: Path, paths: Sequence[Path]) -> Tensor:
        """Where a mask is white (128 and above of 255), bool [h, w], scaled and cropped as the pictures are.

        Raises UsageError for a mask that is not as large as every picture is.
        """
        (_, height, width), (file, *_) = self.shape, listed([file])
        mine = read_picture(file)[0]
        for path in listed(paths):
            theirs = read_picture(path)[0]
            if (theirs.height, theirs.width) != (mine.height, mine.width):
                raise UsageError(
                    f"the mask {file} is {mine.width}×{mine.height}, but {path} is {theirs.width}×{theirs.height}",
                    "a mask is as large as its picture: white where it is made new, black where it is kept",
                )
        return torch.from_numpy(read_picture(file, (1, height, width))[1][0] >= 128)

    def write(
        self,
        after: Float[Tensor, "n c h w"],
        before: Float[Tensor, "m c h w"] | None = None,
        seed: int | None = None,
        **settings: Any,
    ) -> None:
        """Write n pictures, made from m: a grid with a row for each, itself first; or a folder; or arrays.

        Every PNG carries its settings in its text chunk `ebb`, as those of `ebb sample` do.
        """
        pixels, first = to_pixels(after), None if before is None else to_pixels(before)
        seeds = [] if seed is None else [seed + i for i in range(len(pixels))]
        own = {
            "run": self.run.name,
            "checkpoint": locate(self.run).name,
            **self.editor.how.model_dump(),
            "label": self.editor.label,
            **settings,
        }
        if self.out.suffix == ".npz":
            before_them = pixels[:0] if first is None else first
            np.savez_compressed(self.out, images=pixels, before=before_them, seeds=np.array(seeds, dtype=np.int64))
        elif self.out.suffix == ".png":
            save_png(sheet(pixels, first), self.out, own | {"seed": seed, "count": len(pixels)})
        else:
            for i, image in enumerate(pixels):
                save_png(picture(image), self.out / f"{i:06d}.png", own | {"seed": seeds[i] if seeds else None})
        tell(self.console, f"{len(pixels)} images in {self.out}")


def sheet(after: np.ndarray, before: np.ndarray | None) -> Image.Image:
    """A row for each picture, itself first and then what was made of it; one row where there is nothing before."""
    if before is None:
        return grid(after, columns=len(after))
    versions = len(after) // len(before)
    rows = [np.concatenate([before[i : i + 1], after[i * versions : (i + 1) * versions]]) for i in range(len(before))]
    return grid(np.concatenate(rows), columns=versions + 1)
