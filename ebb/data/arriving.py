"""Examples on their way to a place: in a folder each is a file as soon as it is made, so that nothing waits for all."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ebb.data.images import form, picture, save_png
from ebb.events import Message, Sink


@dataclass(frozen=True, eq=False)
class Arriving:
    """The examples made so far for `out`, a folder or the name of a file that holds all of them."""

    out: Path
    images: list[np.ndarray] = field(default_factory=list)
    """as they are stored, such as uint8 [c, h, w]"""

    def __len__(self) -> int:
        return len(self.images)

    def add(self, image: np.ndarray, name: str, settings: Mapping[str, Any]) -> None:
        """One more picture; in a folder it is written as NAME.png with its settings."""
        if form(self.out) == "folder":
            save_png(picture(image), self.out / f"{name}.png", settings)
        self.images.append(image)

    @property
    def stored(self) -> np.ndarray:
        """All of them, such as uint8 [n, c, h, w]."""
        return np.stack(self.images)


@contextmanager
def arriving(
    out: Path,
    count: int,
    progress: Sink,
    together: Callable[[np.ndarray], None] | None = None,
    first: int | None = None,
) -> Iterator[Arriving]:
    """Examples for `out`; where making them ends before there are `count`, `progress` is told what was written.

    That is, in a folder, all that were made, beside the `first` ones that were there, if the same command goes on from
    those; for a file those that `together` writes, if it is there for what is cut short. What the end is due to is
    raised again.
    """
    some, single = Arriving(out), form(out) != "folder"
    try:
        yield some
    except BaseException as error:
        if len(some) and single and together:
            together(some.stored)
        if len(some) and (together or not single):
            then = "begins anew" if first is None else "goes on from there"
            progress(Message(f"{(first or 0) + len(some)} of {count} images are in {out}; the same command {then}"))
        elif isinstance(error, KeyboardInterrupt):
            progress(Message(f"nothing was written to {out}"))
        raise
