"""A folder, a zip or a tar seen as one thing: named files that can be opened. Nothing is ever unpacked to disk."""

from __future__ import annotations

import json
import lzma
import os
import posixpath
import re
import stat
import struct
import tarfile
import threading
import tokenize
import zipfile
import zlib
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from io import BufferedIOBase, BytesIO
from pathlib import Path

from ebb.errors import DamagedError, DataError

Notes = dict[tuple[str, str], list[str]]
"""What was found while reading: (kind, action) → names."""

DAMAGED = (
    OSError, EOFError, ValueError, LookupError, ArithmeticError, RuntimeError, MemoryError, struct.error,
    SyntaxError, tokenize.TokenError, zlib.error, lzma.LZMAError, zipfile.BadZipFile, tarfile.TarError,
)  # fmt: skip
"""What archive readers, and NumPy's reader of headers, raise on bytes that are not what they claim."""

MEMBER_LIMIT = 256 * 2**20  # bytes: larger than any image within the pixel limit
ENCRYPTED = 1  # the first bit of a member's flags (PKWARE APPNOTE 4.4.4)
RATIO_LIMIT, RATIO_FROM = 200, 10 * 2**20  # deflate reaches 1032:1 on zeros, images do not


LEFTOVERS = ("__MACOSX", "Thumbs.db", "@eaDir", "$RECYCLE.BIN", "System Volume Information", "lost+found")
"""What operating systems and network drives put beside files."""


@dataclass(frozen=True)
class Files:
    """Named files: their sizes in bytes by relative name, in sorted order, and how to open one."""

    kind: str
    sizes: dict[str, int]
    open: Callable[[str], BufferedIOBase]

    def less(self, names: Collection[str]) -> Files:
        """All but some."""
        return replace(self, sizes={name: size for name, size in self.sizes.items() if name not in names})

    def read(self, name: str) -> bytes:
        """The whole content of one file."""
        with self.open(name) as file:
            return file.read(self.sizes[name])


@dataclass(frozen=True)
class Place:
    """Where data lies: as it was given, as an absolute path without the suffix of an archive, and a short name."""

    given: str
    path: str
    name: str

    @classmethod
    def of(cls, given: str, path: Path) -> Place:
        """The place that was `given`, at a path."""
        bare = re.sub(r"(\.(tar|tgz|zip|npz|npy|gz|csv|tsv))+$", "", path.resolve().as_posix())
        return cls(given, bare, re.sub(r"[^\w.-]+", "-", posixpath.basename(bare)).strip("-.") or "data")


def shown(name: str) -> str:
    """A name as it may be printed: archives and file systems allow control characters and undecodable bytes."""
    return name if name.isprintable() else ascii(name)[1:-1]


def decoded(data: bytes) -> str:
    """A text in UTF-8, 16 or 32, which its first bytes tell. Raises UnicodeDecodeError."""
    return data.decode(json.detect_encoding(data))


def _plain(name: str) -> str:
    """The name of a member of an archive, relative and with slashes."""
    return posixpath.normpath(name.replace("\\", "/")).lstrip("/")


def _visible(name: str) -> bool:
    """Whether no part of a path is hidden or the leftover of an operating system."""
    return not any(part.startswith(".") or part in LEFTOVERS for part in name.split("/"))


def folder(root: Path, notes: Notes) -> Files:
    """Every regular file below `root`; links to folders are followed, each real folder once."""
    sizes, seen = {}, {os.path.realpath(root)}

    def unseen(path: str) -> bool:
        if (real := os.path.realpath(path)) in seen:
            notes["link to a folder that is read already", "skipped"].append(os.path.relpath(path, root))
            return False
        seen.add(real)
        return True

    def unreadable(error: OSError) -> None:
        notes["unreadable folder", "skipped"].append(os.path.relpath(error.filename, root))

    for top, folders, names in os.walk(root, followlinks=True, onerror=unreadable):
        if "run.yaml" in names:  # what ebb made is not what it learns from
            notes["a run of ebb", "skipped"].append(os.path.relpath(top, root))
            folders[:] = []
            continue
        folders.sort(key=lambda name: (os.path.islink(os.path.join(top, name)), name))  # a folder keeps its own name
        folders[:] = [name for name in folders if _visible(name) and unseen(os.path.join(top, name))]
        for name in filter(_visible, names):
            relative = Path(top, name).relative_to(root).as_posix()
            try:
                status = os.stat(os.path.join(top, name))
            except OSError:
                notes["unreadable", "skipped"].append(relative)
                continue
            if stat.S_ISREG(status.st_mode):  # opening a pipe would wait for ever
                sizes[relative] = status.st_size
    return Files("", dict(sorted(sizes.items())), lambda name: open(root / name, "rb"))


def zipped(path: Path, notes: Notes) -> Files:
    """The members of a zip, each judged by its declared size before anything is read.

    Raises DamagedError if the archive cannot be read.
    """
    try:
        archive = zipfile.ZipFile(path)
    except DAMAGED as error:
        raise DamagedError(f"{path} is not a readable zip: {error}", "copy or download it again") from error
    members, lock = {}, threading.Lock()
    for member in archive.infolist():
        name = _plain(member.filename)
        if name.startswith("../"):
            notes["points out of the archive", "skipped: make the archive again"].append(name)
        if not _visible(name) or member.is_dir():  # in this order: is_dir fails on an empty name
            continue
        if name in members:
            notes["several members of one name", "the last is used"].append(name)
        if member.flag_bits & ENCRYPTED:
            notes["encrypted", "skipped: unpack the archive with its password"].append(name)
            continue
        packed = max(member.compress_size, 1)
        swells = member.file_size > RATIO_FROM and member.file_size / packed > RATIO_LIMIT
        if swells or member.file_size > MEMBER_LIMIT:
            notes["suspected bomb", "skipped"].append(name)
        else:
            members[name] = member

    def read(name: str) -> BufferedIOBase:
        with lock, archive.open(members[name]) as file:
            return BytesIO(file.read(members[name].file_size))

    return Files("zip of ", {name: members[name].file_size for name in sorted(members)}, read)


def tarred(path: Path) -> Files:
    """The regular members of a tar, compressed or not. Raises DamagedError, or DataError for a member too large."""
    try:
        archive = tarfile.open(path)  # noqa: SIM115  its members are opened later
        members = {}
        for member in archive:
            if member.size > MEMBER_LIMIT:
                raise DataError(f"{path}: {member.name!r} declares {member.size} bytes, the limit is {MEMBER_LIMIT}")
            if member.isreg() and _visible(name := _plain(member.name)):
                members[name] = member
    except DAMAGED as error:
        raise DamagedError(f"{path} is not a readable tar: {error}", "copy or download it again") from error

    def read(name: str) -> BufferedIOBase:
        file = archive.extractfile(members[name])
        return BytesIO(file.read() if file else b"")

    return Files("tar of ", {name: members[name].size for name in sorted(members)}, read)
