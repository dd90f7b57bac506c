"""One image file to uint8: what its header says, then its pixels in the shape that was chosen for all."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.util import find_spec
from io import BufferedIOBase, BytesIO
from pathlib import Path
from shlex import quote
from typing import IO, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from ebb.data.upright import upright, upright_size
from ebb.errors import DataError
from ebb.store.png import inscription

SUFFIXES = {
    ".png": "PNG", ".apng": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".jpe": "JPEG", ".jfif": "JPEG", ".webp": "WEBP",
    ".gif": "GIF", ".bmp": "BMP", ".tif": "TIFF", ".tiff": "TIFF",
} | ({".avif": "AVIF"} if find_spec("PIL._avif") else {})  # fmt: skip
"""What is opened, by the end of its name; AVIF where Pillow was built with it."""

FORMATS = tuple(dict.fromkeys(SUFFIXES.values()))
MAX_PIXELS = 64_000_000
MIN_SIDE = 4

FOREIGN = {
    ".heic", ".heif", ".avif", ".jxl", ".jp2", ".j2k", ".svg", ".psd", ".xcf", ".tga", ".ico", ".ppm", ".pgm", ".pbm",
    ".pdf", ".exr", ".hdr", ".dng", ".cr2", ".cr3", ".nef", ".arw",
} - SUFFIXES.keys()  # fmt: skip
"""Ends of names of pictures that ebb does not open."""

CONVERT = "convert them to .png or .jpg"
STARTS = {
    b"\x89PNG\r\n\x1a\n": "PNG", b"\xff\xd8\xff": "JPEG", b"GIF8": "GIF", b"II*\0": "TIFF", b"MM\0*": "TIFF",
    b"8BPS": "Photoshop", b"\xff\x0a": "JPEG XL", b"\0\0\0\x0cJXL ": "JPEG XL", b"\0\0\0\x0cjP  ": "JPEG 2000",
}  # fmt: skip
BRANDS = {b"avif": "AVIF", b"avis": "AVIF"} | dict.fromkeys((b"heic", b"heix", b"hevc", b"mif1", b"msf1"), "HEIC")
"""The major brand of an ISO media file (ISO/IEC 14496-12), which follows `ftyp`."""

Shape = tuple[int, int, int]
Note = tuple[str, str]
"""(kind, action): what was found about a picture, and what was done about it."""


class UnusableError(Exception):
    """An image that has to be left out: the kind of finding that it becomes, and its action."""

    def __init__(self, kind: str, action: str = "skipped") -> None:
        super().__init__(kind)
        self.note: Note = (kind, action)


@dataclass(frozen=True)
class Head:
    """What is known before a picture has its shape: height and width in pixels, upright, whether there may be colour,
    whether ebb made it, and of a small one its pixels as they are, with the notes of everything that had to be done."""

    height: int
    width: int
    colour: bool
    made: bool = False
    pixels: np.ndarray | None = None
    done: Sequence[Note] = ()

    def fitted(self, shape: Shape) -> np.ndarray | None:
        """Its pixels in `shape`, where they are known; see `fit`."""
        if self.pixels is None or self.pixels.shape == shape:
            return self.pixels
        return fit(Image.fromarray(self.pixels[0] if len(self.pixels) == 1 else self.pixels.transpose(1, 2, 0)), shape)

    def cut(self, shape: Sequence[int]) -> float:
        """The share of its area that is cut off when it is scaled to cover [c, h, w] and cropped."""
        return float(lost(np.array([[self.height, self.width]]), shape)[0])


def lost(sizes: NDArray[np.int64], shape: Sequence[int]) -> NDArray[np.float64]:
    """The share of the area of each picture of sizes [n, (height, width)] that is cut off when it is scaled to cover
    [c, h, w] and cropped, [n]."""
    wider = sizes[:, 1] * shape[1] / (sizes[:, 0] * shape[2])
    shares: NDArray[np.float64] = 1 - np.minimum(wider, 1 / wider)
    return shares


def cut_off(shares: Sequence[float]) -> str:
    """What is said of the shares of pictures that are cut off, behind their size; nothing below 1 in 100."""
    worst, median = max(shares, default=0.0), float(np.median(shares)) if len(shares) else 0.0
    if worst < 0.01:
        return ""
    if worst - median < 0.01:
        return f", {median:.0%} of the area cut off"
    return f", {median:.0%} of the area cut off in the median, {worst:.0%} at worst"


def seems(start: bytes) -> str | None:
    """The format of a picture that begins so; None where it is none that is known."""
    if start[:4] == b"RIFF" and start[8:12] == b"WEBP":
        return "WEBP"
    if start[:2] == b"BM" and not any(start[6:10]):
        return "BMP"
    if start[4:8] == b"ftyp":
        return BRANDS.get(start[8:12])
    return next((name for sign, name in STARTS.items() if start.startswith(sign)), None)


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
        raise _unreadable(file) from error


def _unreadable(file: BufferedIOBase) -> UnusableError:
    """Why a file could not be read: it is empty, of a format that is not opened, or else damaged."""
    try:
        file.seek(0)
        start = file.read(16)
    except Exception:
        return UnusableError("unreadable")
    if not start:
        return UnusableError("empty file")
    found = seems(start)
    if found is None or found in FORMATS:
        return UnusableError("unreadable")
    return UnusableError(found, f"skipped: {CONVERT}")


def head(file: BufferedIOBase, suffix: str = ".png", small: int = 0) -> Head:
    """Size and colour from the header alone; a picture of at most `small` pixels is decoded too, since opening it again
    would cost as much. Raises UnusableError."""
    with _opened(file) as image:
        colour = image.mode not in ("1", "L", "LA", "La", "F") and image.mode[0] != "I"
        made = inscription(image) is not None
        if image.width * image.height > small:
            width, height = upright_size(image, file)
            return Head(height, width, colour, made)
        seen, done = _seen(image, suffix)
        pixels = fit(_on_white(seen, done), (3 if colour else 1, seen.height, seen.width))
        return Head(seen.height, seen.width, colour, made, pixels, done)


def decode(file: BufferedIOBase, suffix: str, shape: Shape) -> tuple[np.ndarray, list[Note]]:
    """Pixels as uint8 of `shape` [c, h, w], with the notes of everything that had to be done.

    Raises UnusableError.
    """
    with _opened(file) as image:
        # large photographs decode at a fraction of the work; twice the size keeps LANCZOS exact
        seen, done = _seen(image, suffix, 2 * max(shape[1:]))
        return fit(_on_white(seen, done), shape), done


def _seen(image: Image.Image, suffix: str, least: int | None = None) -> tuple[Image.Image, list[Note]]:
    """An image that is open as it is meant to be seen: upright, in sRGB, in mode L, LA, RGB or RGBA; a JPEG reduced
    where it stays `least` pixels a side."""
    done = []
    if (image.format or "").replace("MPO", "JPEG") != SUFFIXES.get(suffix):  # MPO: what some phones call .jpg
        done.append(("wrong suffix", "read by its content"))
    if getattr(image, "is_animated", False):
        done.append(("several frames", "first frame used"))
    if image.mode[0] == "I" or ";16" in str(getattr(image, "tile", "")):
        done.append(("16-bit", "scaled to 8 bits"))
    if least is not None and image.format == "JPEG":
        image.draft(image.mode, (least, least))
    image, turned = upright(image)
    if turned:
        done.append(("rotated", "turned upright"))
    profile = image.info.get("icc_profile")
    return _in_srgb(_plain(image, done), profile, done), done


def _plain(image: Image.Image, done: list[Note]) -> Image.Image:
    """The image with 8 bits a value, in mode L, LA, RGB, RGBA or CMYK."""
    if image.mode[0] in "IF":
        values, top = np.asarray(image, np.float64), 1.0 if image.mode == "F" else 65535.0
        if not (values.min() >= 0 and values.max() <= top):
            raise UnusableError("values out of range")
        return Image.fromarray(np.rint(values * (255 / top)).astype(np.uint8))
    if image.has_transparency_data:
        return image.convert("LA" if image.mode in ("1", "L", "LA", "La") else "RGBA")
    if image.mode in ("L", "RGB", "CMYK"):
        return image
    if image.mode == "1":
        return image.convert("L")
    done.append(("palette" if image.mode == "P" else image.mode, "converted to RGB"))
    return image.convert("RGB")


def _in_srgb(image: Image.Image, profile: bytes | None, done: list[Note]) -> Image.Image:
    """L, LA, RGB or RGBA of what `_plain` gives, in sRGB, by the profile where there is one."""
    mode, convert = image.mode.removesuffix("A"), None
    if profile:
        from ebb.data.colour import ProfileError, into_srgb  # few pictures need it

        try:
            convert = into_srgb(profile, mode)
        except ProfileError:
            done.append(("unusable colour profile", "ignored: read as sRGB"))
    if mode == "CMYK":
        done.append(("CMYK", "converted to RGB"))
    if convert is None:
        return image.convert("RGB") if mode == "CMYK" else image
    done.append(("colour profile", "converted to sRGB"))
    if image.mode == mode:
        return convert(image)
    *colours, alpha = image.split()
    made = convert(Image.merge(mode, colours))
    made.putalpha(alpha)
    return made


def _on_white(image: Image.Image, done: list[Note]) -> Image.Image:
    """An L, LA, RGB or RGBA image in mode L or RGB."""
    if image.mode in ("L", "RGB"):
        return image
    if image.getextrema()[-1] == (255, 255):
        return image.convert(image.mode.removesuffix("A"))
    done.append(("transparency", "composited on white"))
    white = Image.new("RGBA", image.size, "white")
    white.alpha_composite(image.convert("RGBA"))
    return white.convert(image.mode.removesuffix("A"))


def fit(image: Image.Image, shape: Shape) -> np.ndarray:
    """An L or RGB image as uint8 [c, h, w]: scaled with LANCZOS to cover h x w, then cropped at the centre."""
    channels, height, width = shape
    if image.mode != (mode := "L" if channels == 1 else "RGB"):
        image = image.convert(mode)
    if image.size != (width, height):
        image = ImageOps.fit(image, (width, height), Image.Resampling.LANCZOS)
    pixels = np.asarray(image)
    return pixels[None] if channels == 1 else pixels.transpose(2, 0, 1)


def picture_of(path: Path, shape: Shape | None = None) -> tuple[Head, np.ndarray]:
    """What a picture file is, with the notes of all that had to be done, and its pixels uint8 [c, h, w] in `shape`, or
    as large as they are, in grey or colour. Raises UnusableError."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UnusableError(error.strerror or "unreadable") from error
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what Pillow warns about becomes a note here
        found = head(BytesIO(content))
        own = (3 if found.colour else 1, found.height, found.width)
        pixels, done = decode(BytesIO(content), path.suffix.lower(), shape or own)
    return replace(found, done=done), pixels.copy()


def read_picture(path: Path, shape: Shape | None = None) -> tuple[Head, np.ndarray]:
    """As `picture_of`. Raises DataError for a file that is no picture or cannot be read."""
    try:
        return picture_of(path, shape)
    except UnusableError as error:
        raise refused(path, error) from error


def read_layers(path: Path) -> tuple[Image.Image, list[Note]]:
    """A picture file as large as it is, in mode L, LA, RGB or RGBA, and the notes of all that had to be done.

    Raises DataError for a file that is no picture or cannot be read.
    """
    try:
        with warnings.catch_warnings(), path.open("rb") as file, _opened(file) as image:
            warnings.simplefilter("ignore")
            return _seen(image, path.suffix.lower())
    except OSError as error:
        raise refused(path, UnusableError(error.strerror or "unreadable")) from error
    except UnusableError as error:
        raise refused(path, error) from error


def refused(path: Path, error: UnusableError) -> DataError:
    """What a user is told of the one picture that was asked for and cannot be used."""
    kind, action = error.note
    known = f"expected one of {', '.join(FORMATS)}"
    hint = f"{known}; convert it, as with: magick {quote(str(path))} {quote(path.stem)}.png"
    return DataError(f"{path} is not a picture ebb can read: {kind}", hint if CONVERT in action else known)
