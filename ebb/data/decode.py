"""One image file to uint8: what its header says, then its pixels in the shape that was chosen for all."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import BufferedIOBase, BytesIO
from pathlib import Path
from typing import IO, cast

import numpy as np
from PIL import Image, ImageOps

from ebb.errors import DataError

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")
SUFFIXES = {
    ".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP", ".gif": "GIF", ".bmp": "BMP",
    ".tif": "TIFF", ".tiff": "TIFF",
}  # fmt: skip
MAX_PIXELS = 64_000_000
MIN_SIDE = 4

Shape = tuple[int, int, int]


class UnusableError(Exception):
    """An image that has to be left out; the message is the kind of finding it becomes."""


@dataclass(frozen=True)
class Head:
    """What is known before a picture has its shape: height and width in pixels, upright, whether there may be colour,
    and of a small one its pixels as they are, with the (kind, action) of everything that had to be done."""

    height: int
    width: int
    colour: bool
    pixels: np.ndarray | None = None
    done: Sequence[tuple[str, str]] = ()

    def fitted(self, shape: Shape) -> np.ndarray | None:
        """Its pixels in `shape`, where they are known; see `fit`."""
        if self.pixels is None or self.pixels.shape == shape:
            return self.pixels
        return fit(Image.fromarray(self.pixels[0] if len(self.pixels) == 1 else self.pixels.transpose(1, 2, 0)), shape)


@contextmanager
def _opened(file: BufferedIOBase) -> Iterator[Image.Image]:
    try:
        with Image.open(cast(IO[bytes], file), formats=FORMATS) as image:  # a stream is all Pillow asks for
            if image.width * image.height > MAX_PIXELS:
                raise UnusableError("too large")
            if min(image.size) < MIN_SIDE:
                raise UnusableError("tiny")
            yield image
    except UnusableError:
        raise
    except Image.DecompressionBombError as error:
        raise UnusableError("too large") from error
    except (
        Exception
    ) as error:  # decoders raise nearly every type on damaged bytes, and one bad image must not end a run
        raise UnusableError("unreadable") from error


def head(file: BufferedIOBase, suffix: str = ".png", small: int = 0) -> Head:
    """Size and colour from the header alone; a picture of at most `small` pixels is decoded too, since opening it again
    would cost as much. Raises UnusableError."""
    with _opened(file) as image:
        width, height = image.size
        # asking a PNG for tags it does not announce would decode it
        tagged = "exif" in image.info or image.format == "TIFF"
        if tagged and image.getexif().get(0x0112, 1) > 4:  # the orientations that lie on their side
            width, height = height, width
        colour = image.mode not in ("1", "L", "LA", "La", "F") and image.mode[0] != "I"
        if width * height > small:
            return Head(height, width, colour)
        return Head(height, width, colour, *_decoded(image, suffix, (3 if colour else 1, height, width)))


def decode(file: BufferedIOBase, suffix: str, shape: Shape) -> tuple[np.ndarray, list[tuple[str, str]]]:
    """Pixels as uint8 of `shape` [c, h, w], with the (kind, action) of everything that had to be done.

    Raises UnusableError.
    """
    with _opened(file) as image:
        return _decoded(image, suffix, shape)


def _decoded(image: Image.Image, suffix: str, shape: Shape) -> tuple[np.ndarray, list[tuple[str, str]]]:
    """As `decode`, of an image that is open."""
    done = []
    if (image.format or "").replace("MPO", "JPEG") != SUFFIXES[suffix]:  # MPO: what some phones call .jpg
        done.append(("wrong suffix", "read by its content"))
    if getattr(image, "is_animated", False):
        done.append(("several frames", "first frame used"))
    if image.mode[0] == "I" or ";16" in str(getattr(image, "tile", "")):
        done.append(("16-bit", "scaled to 8 bits"))
    if image.format == "JPEG":  # large photographs decode at a fraction of the work; twice the size keeps LANCZOS exact
        image.draft(image.mode, (2 * max(shape[1:]), 2 * max(shape[1:])))
    image.load()
    if image.getexif().get(0x0112, 1) > 1:
        done.append(("rotated", "turned upright"))
        ImageOps.exif_transpose(image, in_place=True)
    return fit(_flat(image, done), shape), done


def _flat(image: Image.Image, done: list[tuple[str, str]]) -> Image.Image:
    """The image in mode L or RGB."""
    if image.mode[0] in "IF":
        values, top = np.asarray(image, np.float64), 1.0 if image.mode == "F" else 65535.0
        if not (values.min() >= 0 and values.max() <= top):
            raise UnusableError("values out of range")
        return Image.fromarray(np.rint(values * (255 / top)).astype(np.uint8))
    if image.has_transparency_data:
        done.append(("transparency", "composited on white"))
        white = Image.new("RGBA", image.size, "white")
        white.alpha_composite(image.convert("RGBA"))
        return white.convert("RGB")
    if image.mode in ("1", "L", "RGB"):
        return image.convert("L") if image.mode == "1" else image
    done.append(("palette" if image.mode == "P" else image.mode, "converted to RGB"))
    return image.convert("RGB")


def fit(image: Image.Image, shape: Shape) -> np.ndarray:
    """An L or RGB image as uint8 [c, h, w]: scaled with LANCZOS to cover h x w, then cropped at the centre."""
    channels, height, width = shape
    if image.mode != (mode := "L" if channels == 1 else "RGB"):
        image = image.convert(mode)
    if image.size != (width, height):
        image = ImageOps.fit(image, (width, height), Image.Resampling.LANCZOS)
    pixels = np.asarray(image)
    return pixels[None] if channels == 1 else pixels.transpose(2, 0, 1)


def read_picture(path: Path, shape: Shape | None = None) -> tuple[Head, np.ndarray]:
    """What a picture file is, and its pixels uint8 [c, h, w] in `shape`, or as large as they are, in grey or colour.

    Raises DataError for a file that is no picture or cannot be read.
    """
    content, kinds = path.read_bytes(), f"expected one of {', '.join(FORMATS)}"
    try:
        found = head(BytesIO(content))
        own = (3 if found.colour else 1, found.height, found.width)
        # what a file is, its content says: the suffix would only make a note
        return found, decode(BytesIO(content), ".png", shape or own)[0].copy()
    except UnusableError as error:
        raise DataError(f"{path} is not a picture ebb can read: {error}", kinds) from error
