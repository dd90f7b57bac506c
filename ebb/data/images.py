"""Between tensors and pictures: values in [−1, 1] to 8-bit pixels, sheets, and PNG files that carry their settings."""

from __future__ import annotations

import json
import math
import re
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from PIL import Image, ImageDraw
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from ebb.data.pictures import to_unit
from ebb.errors import DataError, UsageError
from ebb.shapes import Float
from ebb.store.failure import explained
from ebb.store.place import beside_something, room_for, room_in
from ebb.store.png import DESCRIPTION, SETTINGS, inscription, made_by_ebb
from ebb.store.write import replace_bytes

WRITTEN = ("PNG", "GIF", "WEBP")
"""The formats in which ebb writes pictures."""

NUMBERED = re.compile(r"\d{6,}\.png")
"""The names of single pictures in a folder."""

LINES = 8
"""The most lines of a caption that a sheet shows."""

FORMS = {".png": "sheet", ".npz": "arrays", ".csv": "table", ".gif": "film", ".webp": "film"}
"""What is written by the end of the name; any other name is a folder of single pictures, such as guidance_1.5."""

SOME = {"sheet": "a sheet", "arrays": "arrays", "table": "a table", "film": "a film"}
"""The same in words."""

OTHER_FILES = {
    ".jpg", ".jpeg", ".jpe", ".jfif", ".avif", ".heic", ".bmp", ".tif", ".tiff", ".svg", ".pdf",
    ".eps", ".ps", ".ppm", ".pgm", ".ico", ".mp4", ".mov", ".webm", ".npy", ".pt", ".pth", ".safetensors",
    ".zip", ".tar", ".gz", ".json", ".yaml", ".txt", ".tsv", ".html",
}  # fmt: skip
"""Ends of names by which a file is meant, of a kind that is not written."""


def to_pixels(x: Float[Tensor, "n c h w"]) -> np.ndarray:
    """Values in [−1, 1] as uint8 [n, c, h, w], rounded; values outside are clipped."""
    return ((x.float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).cpu().numpy()


def picture(pixels: np.ndarray) -> Image.Image:
    """uint8 [c, h, w] as a picture, grey for one channel and RGB for three."""
    if pixels.shape[0] not in (1, 3):
        raise UsageError(f"a picture has 1 or 3 channels, got {pixels.shape[0]}", "write .npz instead")
    return Image.fromarray(pixels[0] if pixels.shape[0] == 1 else pixels.transpose(1, 2, 0))


def sheet(pixels: np.ndarray, columns: int | None = None, captions: Sequence[str] = ()) -> Image.Image:
    """uint8 [n, c, h, w] side by side, small ones enlarged by a whole factor, with a caption under each if given."""
    count, channels, height, width = pixels.shape
    columns = columns or math.ceil(math.sqrt(count))
    least = 64 if max(map(len, captions), default=0) <= 12 else 112  # a sentence needs room
    rows, zoom, gap = math.ceil(count / columns), max(1, least // max(height, width)), 2
    wide = width * zoom + gap
    lines = [textwrap.wrap(caption, wide // 6)[:LINES] for caption in captions]
    below = 12 * max(map(len, lines), default=0)
    tall = height * zoom + gap + below
    made = Image.new("L" if channels == 1 else "RGB", (columns * wide + gap, rows * tall + gap), "white")
    pen = ImageDraw.Draw(made)
    for i in range(count):
        at = (gap + i % columns * wide, gap + i // columns * tall)
        one = picture(pixels[i]).resize((width * zoom, height * zoom), Image.Resampling.NEAREST)
        made.paste(one, at)
        if lines:
            pen.text((at[0], at[1] + height * zoom), "\n".join(lines[i]), fill="black", spacing=1)
    return made


@dataclass(frozen=True)
class Pixels:
    """8-bit pictures [n, c, h, w]; x holds their values from −1, black, to 1, white."""

    axes: ClassVar = ("channel", "height", "width")
    things: ClassVar = "images"
    forms: ClassVar = ("sheet", "arrays", "film", "folder")

    def unit(self, stored: Tensor) -> Float[Tensor, "n c h w"]:
        """0…255 as −1…1."""
        return to_unit(stored)

    def bounded(self, x: Float[Tensor, "n *d"]) -> Float[Tensor, "n *d"]:
        """x, clipped to what is black or white."""
        return x.clamp(-1, 1)

    def stored(self, x: Float[Tensor, "n c h w"]) -> np.ndarray:
        """−1…1 as 0…255, clipped and rounded."""
        return to_pixels(x)

    def sheet(self, stored: np.ndarray, columns: int | None = None, captions: Sequence[str] = ()) -> Image.Image:
        """Side by side."""
        return sheet(stored, columns, captions)

    def arrays(self, stored: np.ndarray) -> dict[str, np.ndarray]:
        """Images."""
        return {"images": stored}

    def table(self, stored: np.ndarray, labels: Sequence[str] = ()) -> str:
        """None: UsageError."""
        raise UsageError("pictures are no table", "write .png or .npz")

    def to_json(self) -> dict[str, Any]:
        """Nothing: all 8-bit pictures are alike."""
        return {}

    @classmethod
    def from_json(cls, seen: Mapping[str, Any]) -> Pixels:
        """The pixels of a contract."""
        return cls()


PICTURES = Pixels()


def save_png(image: Image.Image, path: str | Path, settings: Mapping[str, Any]) -> None:
    """Write a PNG whose text chunk `ebb` holds `settings` as JSON (read it back with `settings_of`)."""
    info = PngInfo()
    info.add_text(SETTINGS, json.dumps(dict(settings)))
    made = BytesIO()
    image.save(made, format="PNG", pnginfo=info)
    placed(Path(path), made)


FRAME, LAST = 120, 1200
"""Milliseconds for which a film shows a frame, and its last one."""


def save_film(frames: Sequence[Image.Image], path: Path, settings: Mapping[str, Any]) -> None:
    """Write pictures of one size as an endless film, a .gif or, without loss, a .webp, that holds `settings` as a PNG
    does; a .gif has 256 colours a frame."""
    made, text = BytesIO(), f"{SETTINGS} {json.dumps(dict(settings))}"
    how = {"save_all": True, "loop": 0, "duration": [FRAME] * (len(frames) - 1) + [LAST]}
    if path.suffix.lower() == ".gif":
        frames = [frame if frame.mode == "L" else frame.quantize(256) for frame in frames]
        frames[0].save(made, format="GIF", append_images=frames[1:], comment=text.encode(), **how)
    else:
        tags = Image.Exif()
        tags[DESCRIPTION] = text
        frames[0].save(made, format="WEBP", append_images=frames[1:], lossless=True, exif=tags, **how)
    placed(path, made)


def copy_png(source: Path, target: Path) -> None:
    """Write a PNG once more without the settings that it carries, which name places of the machine."""
    with Image.open(source, formats=["PNG"]) as image:
        save_png(image.copy(), target, {})


def save_npz(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write named arrays, compressed."""
    made = BytesIO()
    np.savez_compressed(made, **arrays)  # type: ignore[arg-type]  # its own options have other types
    placed(path, made)


def placed(path: Path, made: BytesIO) -> None:
    """Put a file that is whole in its place, with the folder that it lies in."""
    with explained(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    replace_bytes(path, made.getbuffer())


def form(out: Path) -> str:
    """What a name asks for: sheet, film, arrays, table or folder."""
    return FORMS.get(out.suffix.lower(), "folder")


def writable(out: Path, forms: Sequence[str] = PICTURES.forms) -> None:
    """Raise UsageError for the name of a file of none of these `forms`, for one that ebb did not make, which stays, and
    for a place in a folder that is far from being there; ResourceError for what the system refuses.

    Nothing is made yet: a folder that is not there comes with its first file.
    """
    if (out.suffix.lower() in OTHER_FILES or form(out) not in forms) and not out.is_dir():
        ends = ", ".join(f"{suffix} for {SOME[kind]}" for suffix, kind in FORMS.items() if kind in forms)
        written = "pictures are written as .png" if "folder" in forms else "they are written as .csv"
        raise UsageError(
            f"cannot write {out}: {written}", f"end --out in {ends}{', or name a folder' * ('folder' in forms)}"
        )
    single = form(out) != "folder"
    if out.is_dir() and single:
        raise UsageError(f"{out} is a folder", "name a file that ends in .png or .npz, or a folder without a suffix")
    beside_something(out.parent if single else out)
    if single:
        room_for(out)
    else:
        room_in(out)
    inside = out.iterdir() if out.is_dir() else ()
    in_the_way = [out] if single else sorted(path for path in inside if NUMBERED.fullmatch(path.name))
    for path in in_the_way:
        if path.exists() and not made_by_ebb(path):
            whose = "says not whether ebb made it" if form(path) == "table" else "was not made by ebb"
            raise UsageError(
                f"{path} is there and {whose}: it would be lost", "name another with --out, or move it away"
            )


def settings_of(path: str | Path) -> dict[str, Any]:
    """The settings that a picture or film made by ebb carries. Raises DataError for a file that is not there or no
    picture, UsageError for one that carries none."""
    try:
        with Image.open(path) as image:
            text, kind = inscription(image), image.format
    except FileNotFoundError as error:
        raise DataError(f"there is no {path}", "name a picture that ebb sample or ebb edit made") from error
    except Exception as error:  # decoders raise nearly every type on damaged bytes
        raise DataError(f"{path} is not a picture ebb can read", "name one that ebb sample or ebb edit made") from error
    try:
        settings = json.loads(text or "null")
    except ValueError:
        settings = None
    if not isinstance(settings, dict):
        raise UsageError(
            f"{path} carries no settings of ebb, it is {'another' if kind in WRITTEN else 'a'} {kind}",
            "they stand in the .png, .gif and .webp files that ebb writes, until another program saves them anew",
        )
    return settings
