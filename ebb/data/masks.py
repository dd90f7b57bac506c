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

COARSE, BRUSHES = 8, 3
"""Levels that count as one, and the colours of strokes that few draw more than."""

Levels = NDArray[np.uint8]


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

    Without transparency, what is white, or where nothing is, what is brightest. With it, what is drawn on nothing if
    that is white or of other colours than black, and what is white of it if it is black and white; and what is
    transparent if black, a colour that reaches the edges, or a photograph is around it.
    Raises DataError for a file that is no picture or cannot be read.
    """
    image, done = read_layers(path)
    *colours, alpha = image.split() if image.mode.endswith("A") else (*image.split(), None)
    brightest = np.max([np.asarray(colour) for colour in colours], axis=0)  # of red, 255
    light = np.asarray(image.convert("L"))
    drawn = None if alpha is None else np.asarray(alpha)
    if drawn is None or bool((drawn == 255).all()):
        return _opaque(light, brightest, done)
    drawn = _stretched(drawn)  # a brush may be half transparent throughout
    seen = drawn >= HALF
    if not seen.any():
        return Mask(drawn, "what is drawn", done)
    levels = light[seen]
    if (levels >= LIGHT).mean() >= MOST or (_painted(image, seen) and not _ground(seen, brightest)):
        return Mask(drawn, "what is drawn on the transparent ground", done)
    if (levels >= LIGHT).any() and ((levels <= DARK) | (levels >= LIGHT)).mean() >= MOST:
        white = (light.astype(np.uint16) * drawn // 255).astype(np.uint8)
        return Mask(white, "what is drawn white on the transparent ground", done)
    return Mask(255 - drawn, "what is transparent", done)


def _opaque(light: Levels, brightest: Levels, done: Sequence[Note]) -> Mask:
    """What is white; of 0 and 1, or of red on black, what is brightest."""
    stretched = _stretched(brightest)
    two = ((stretched <= DARK) | (stretched >= LIGHT)).mean() >= MOST
    if light.max() >= HALF or not two or stretched.min() == stretched.max():
        return Mask(light, "what is white", done)
    return Mask(stretched, "what is brightest, since nothing is white,", done)


def _stretched(levels: Levels) -> Levels:
    """Levels in such a unit that the highest is 255."""
    stretched: Levels = (levels.astype(np.uint16) * 255 // max(int(levels.max()), 1)).astype(np.uint8)
    return stretched


def _painted(image: Image.Image, seen: NDArray[np.bool_]) -> bool:
    """Whether most of what is seen has one of a few colours, as strokes of a brush do and a photograph does not."""
    colours = np.asarray(image.convert("RGB"))[seen] // COARSE
    _, counts = np.unique(colours, axis=0, return_counts=True)
    return bool(np.sort(counts)[-BRUSHES:].sum() >= MOST * counts.sum())


def _ground(seen: NDArray[np.bool_], brightest: Levels) -> bool:
    """Whether what is seen is what holes were made in: it is black, or reaches the edges all around."""
    edges = np.concatenate([seen[0], seen[-1], seen[:, 0], seen[:, -1]])
    return bool((brightest[seen] <= DARK).mean() > 1 - MOST or edges.mean() >= MOST)
