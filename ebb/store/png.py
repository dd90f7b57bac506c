"""PNG files chunk by chunk, without decoding them: what stands before and behind the pixels, and the mark of ebb."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Iterator
from contextlib import suppress
from io import BufferedIOBase
from pathlib import Path

SETTINGS = "ebb"
"""The text chunk in which ebb stores the settings of a picture that it made, as JSON."""

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


def marked(file: BufferedIOBase) -> bool:
    """Whether a PNG says before its pixels that ebb made it."""
    for kind, start in chunks(file):
        if kind == b"IDAT":
            return False
        if kind == b"tEXt" and start.startswith(SETTINGS.encode() + b"\0"):
            return True
    return False


def made_by_ebb(path: Path) -> bool:
    """Whether a file is a picture with the settings of ebb, or an .npz with the seeds of its samples."""
    with suppress(OSError, zipfile.BadZipFile):
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                return "seeds.npy" in archive.namelist()
        with path.open("rb") as file:
            return marked(file)
    return False
