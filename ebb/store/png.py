"""The mark of ebb in the pictures that it makes, and PNG files chunk by chunk, without decoding them."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Iterator
from contextlib import suppress
from io import BufferedIOBase
from pathlib import Path

from PIL import Image

SETTINGS = "ebb"
"""Where ebb stores the settings of a picture that it made, as JSON: a text chunk of this name, or behind this word."""

DESCRIPTION = 0x010E
"""The tag of EXIF that holds it in a WebP."""

START = b"\x89PNG\r\n\x1a\n"


def chunks(file: BufferedIOBase) -> Iterator[tuple[bytes, bytes]]:
    """(type, beginning of the data) of every chunk, as PNG, third edition, §5.3 has them, up to where it is cut."""
    file.seek(0)
    if file.read(len(START)) != START:
        return
    while len(head := file.read(8)) == 8:
        size, kind = int.from_bytes(head[:4]), head[4:]
        start = file.read(min(size, 16))
        yield kind, start
        file.seek(size - len(start) + 4, os.SEEK_CUR)  # 4: its checksum


def inscription(image: Image.Image) -> str | None:
    """The settings that ebb wrote into a PNG, GIF or WebP that is open, as JSON; None where there are none."""
    if image.format == "PNG":
        text = image.info.get(SETTINGS)
        return text if isinstance(text, str) else None
    text = image.info.get("comment", b"") if image.format == "GIF" else ""
    if image.format == "WEBP" and "exif" in image.info:
        with suppress(Exception):  # nearly every type is raised on damaged tags, and those are not ebb's
            text = str(image.getexif().get(DESCRIPTION, ""))
    name, _, rest = (text.decode(errors="replace") if isinstance(text, bytes) else text).partition(" ")
    return rest if name == SETTINGS and rest else None


def made_by_ebb(path: Path) -> bool:
    """Whether a file is a picture with the settings of ebb, or an .npz with the seeds of its samples."""
    with suppress(OSError, zipfile.BadZipFile, Image.DecompressionBombError, SyntaxError, ValueError):
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                return "seeds.npy" in archive.namelist()
        with Image.open(path, formats=["PNG", "GIF", "WEBP"]) as image:
            return inscription(image) is not None
    return False
