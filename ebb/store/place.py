"""Whether something can be written at a place, found out before the work that would be lost."""

from __future__ import annotations

import errno
import os
import secrets
import shlex
from pathlib import Path

from ebb.errors import UsageError
from ebb.store.failure import explained, failed


def expanded(name: str | Path) -> Path:
    """The place that `name` means: ~ is the home, and ~USER that of a user, where there is one of that name."""
    return Path(os.path.expanduser(name))


def by_name(folder: Path) -> Path:
    """`folder` with a name and a parent of its own, also where it is written as `.` or ends in `..`."""
    return folder if folder.name not in ("", "..") else folder.resolve()


def room_for(file: Path) -> None:
    """Raise ResourceError unless `file` can be written, and as `room_in` does for the folder it lies in."""
    if file.is_dir():
        raise failed(file, OSError(errno.EISDIR, ""))
    if file.exists() and not os.access(file, os.W_OK):
        raise failed(file, OSError(errno.EACCES, ""))
    room_in(Path(os.path.realpath(file)).parent if file.is_symlink() else file.parent)


def room_in(folder: Path) -> None:
    """Raise ResourceError unless files can be made in `folder`, or it in the nearest folder that there is."""
    there = next(way for way in (folder, *folder.parents) if os.path.lexists(way))
    if not there.is_dir():
        raise failed(there, OSError(errno.ENOTDIR, ""))
    trial = there / f".ebb-{secrets.token_hex(4)}.tmp"
    with explained(folder):
        trial.touch()
        trial.unlink()


def beside_something(folder: Path) -> None:
    """Raise UsageError unless `folder` is there, or at least the one it will be made in: a whole chain of new folders
    is a slip of the pen."""
    if not folder.exists() and not folder.parent.exists():
        missing = [way for way in folder.parents if not way.exists()][-1]
        how = f"make it first, if that is the place you mean: mkdir -p {shlex.quote(str(folder))}"
        raise UsageError(f"there is no folder {missing}", how)
