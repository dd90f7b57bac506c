"""Pictures that mark a part of others: what a user drew, in white on black or on nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ebb.data.decode import Note, fit, read_layers

HALF = 128
"""The level of 255 from which a place is white, or drawn."""

MOST = 0.9
"""The share of what is drawn that is white in a drawing in white: a soft edge may be darker."""

DARK, LIGHT = 32, 224
"""Below the first and above the second a level is black or white, and no grey of a photograph."""


@dataclass(frozen=True, eq=False)
class Mask:
    """Where a picture marks: `marked` uint8 [h, w], 255 where it does, soft in between; in words, what marks; and the
    notes of all that had to be done to read it."""

    marked: NDArray[np.uint8]
    words: str
    done: Sequence[Note] = ()

    @property
    def size(self) -> tuple[int, int]:
        """Height and width, upright."""
        height, width = self.marked.shape
        return height, width

    def fitted(self, height: int, width: int) -> NDArray[np.uint8]:
        """As pictures are scaled and cropped to this size."""
        pixels: NDArray[np.uint8] = fit(Image.fromarray(self.marked), (1, height, width))[0]
        return pixels


def read_mask(path: Path) -> Mask:
    """What a picture file marks.

    Without transparency, what is white. With it, what is drawn on nothing if that is white (or a bright colour), and
    what is white of it if it is black and white; and what is transparent if black, or a photograph, is around it.
    Raises DataError for a file that is no picture or cannot be read.
    """
    image, done = read_layers(path)
    *colours, alpha = image.split() if image.mode.endswith("A") else (*image.split(), None)
    light = np.asarray(image.convert("L"))
    drawn = None if alpha is None else np.asarray(alpha)
    if drawn is None or bool((drawn == 255).all()):
        return Mask(light, "what is white", done)
    seen = drawn >= HALF
    if not seen.any():
        return Mask(np.zeros_like(drawn), "what is drawn", done)
    brightest = np.max([np.asarray(colour) for colour in colours], axis=0)[seen]  # of red, 255
    if (brightest >= HALF).mean() >= MOST:
        return Mask(drawn, "what is drawn on the transparent ground", done)
    levels = light[seen]
    if (levels >= LIGHT).any() and ((levels <= DARK) | (levels >= LIGHT)).mean() >= MOST:
        white = (light.astype(np.uint16) * drawn // 255).astype(np.uint8)
        return Mask(white, "what is drawn white on the transparent ground", done)
    return Mask(255 - drawn, "what is transparent", done)
