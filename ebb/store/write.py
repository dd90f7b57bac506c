"""One way to write a file: absent or complete, whoever reads it and whenever the process dies."""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ebb.store.failure import explained

PARTIAL = re.compile(r"\.ebb-[0-9a-f]{8}\.tmp")
"""The name of a file that is being written, or was when its process was killed."""


def synced(path: Path) -> None:
    """Have the operating system put a file or folder on the disk before going on."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A name of one's own beside `path` to write to; at the end of the block it takes the place of `path`.

    Readers see the old file or the new, never a part, and two writers do not meet. Where `path` is a link, the file it
    leads to is replaced. Raises ResourceError, with nothing left behind, for what the system refuses.
    """
    target = Path(os.path.realpath(path))
    partial = target.with_name(f".ebb-{secrets.token_hex(4)}.tmp")
    try:
        with explained(path):
            yield partial
            synced(partial)
            partial.replace(target)
    finally:
        with suppress(OSError):
            partial.unlink()


def replace_bytes(path: Path, data: bytes | memoryview) -> None:
    """Write a file as `replacing` does."""
    with replacing(path) as partial:
        partial.write_bytes(data)


def replace_text(path: Path, text: str) -> None:
    """Write a file of UTF-8 as `replacing` does."""
    replace_bytes(path, text.encode())


def append_text(path: Path, text: str) -> None:
    """Add to the end of a file, whole or not at all; raises ResourceError for what the system refuses."""
    data = text.encode()
    with explained(path), path.open("ab", buffering=0) as file:
        end = file.tell()
        try:
            while data:
                data = data[file.write(data) :]
        except OSError:
            with suppress(OSError):
                file.truncate(end)
            raise
