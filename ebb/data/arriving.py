"""Pictures on their way to a place: in a folder each is a file as soon as it is made, so that nothing waits for all."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ebb.data.images import form, picture, save_png
from ebb.events import Message, Sink


@dataclass(frozen=True, eq=False)
class Arriving:
    """The pictures made so far for `out`, a folder or the name of a file that holds all of them."""

    out: Path
    images: list[np.ndarray] = field(default_factory=list)
    """uint8 [c, h, w] each"""

    def __len__(self) -> int:
        return len(self.images)

    def add(self, image: np.ndarray, name: str, settings: Mapping[str, Any]) -> None:
        """One more picture; in a folder it is written as NAME.png with its settings."""
        if form(self.out) == "folder":
            save_png(picture(image), self.out / f"{name}.png", settings)
        self.images.append(image)

    @property
    def pixels(self) -> np.ndarray:
        """All of them, uint8 [n, c, h, w]."""
        return np.stack(self.images)


@contextmanager
def arriving(out: Path, count: int, progress: Sink) -> Iterator[Arriving]:
    """Pictures for `out`; where making them ends before there are `count`, `progress` is told what was written."""
    some = Arriving(out)
    try:
        yield some
    except BaseException as error:
        written = len(some) if form(out) == "folder" else 0
        if written:
            progress(Message(f"{written} of {count} images are in {out}"))
        elif isinstance(error, KeyboardInterrupt):
            progress(Message(f"nothing was written to {out}"))
        raise
