"""One writer at a time: a lock that the operating system takes back when its process ends, however that is."""

from __future__ import annotations

import errno
import json
import os
import platform
import shlex
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from ebb.errors import Exit, ResourceError
from ebb.events import Message, Work
from ebb.store.failure import explained

TRAINED, MEASURED, MADE = "trained", "measured", "made"
"""What a folder can be by one process at a time: each has its lock, so that a run is measured while it is trained."""

LOCKS = frozenset(f".{doing}.lock" for doing in (TRAINED, MEASURED, MADE))
"""The names of the files that are locked."""

TAKEN = (errno.EWOULDBLOCK, errno.EACCES, errno.EDEADLK)
"""What a system says of a lock that another process holds."""

PATIENCE = 0.2
"""Seconds between two looks at a lock that is waited for."""


class BusyError(ResourceError):
    """Another process is at work there."""

    code = Exit.BUSY


@contextmanager
def held(folder: Path, doing: str, *, instead: str = "") -> Iterator[tuple[Message, ...]]:
    """Be the only process by which `folder` is `doing` (TRAINED, …) within the block; the folder is made for it.

    Where another is, raises the BusyError that says which, and what to do `instead`. Where the file system has no
    locks, goes on, and gives a message that says so. What was made for it is gone afterwards, but for folders that came
    to hold something. Raises ResourceError for a folder that cannot be written to.
    """
    file = folder / f".{doing}.lock"
    made = [each for each in (folder, *folder.parents) if not each.exists()]
    handle = locked(file, doing, instead)
    lockless = f"{folder}: this file system has no locks, so see to it that no second process writes there"
    try:
        signed(handle)
        yield (Message(lockless),) if handle is None else ()
    finally:
        if handle is not None:
            with suppress(OSError):  # while it is still held, so that nobody locks a file that is about to go
                file.unlink()
            os.close(handle)
        for each in made:
            with suppress(OSError):
                each.rmdir()


def turn(folder: Path, doing: str) -> Work[ExitStack]:
    """Wait until no other process is `doing` with the folder, and report by which it is: `held`, entered."""
    waited = False
    while True:
        holding = ExitStack()
        try:
            yield from holding.enter_context(held(folder, doing))
            return holding
        except BusyError as error:
            if not waited:
                yield Message(f"{error.what}: waiting for it")
            waited = True
            time.sleep(PATIENCE)


def locked(file: Path, doing: str, instead: str) -> int | None:
    """The handle of a locked file; None where the file system has no locks."""
    while True:
        handle = at(file)
        try:
            lock(handle)
            if stands(file, handle):
                return handle
        except OSError as error:
            found = busy(file, doing, instead) if error.errno in TAKEN else None
            os.close(handle)
            if found is None:
                return None
            raise found from error
        os.close(handle)


def at(file: Path) -> int:
    """The handle of a file that is made if it is not there, with the folder it lies in."""
    with explained(file.parent):
        while True:
            file.parent.mkdir(parents=True, exist_ok=True)
            try:
                return os.open(file, os.O_RDWR | os.O_CREAT, 0o666)
            except FileNotFoundError:
                if file.parent.is_dir():
                    raise
                # the process that had made the folder has just taken it away


def stands(file: Path, handle: int) -> bool:
    """Whether a locked file is the one of this name still; if not, its holder before has just taken it away."""
    try:
        return os.path.samestat(os.fstat(handle), os.stat(file))
    except FileNotFoundError:
        return False


def lock(handle: int) -> None:
    """Lock a file, or raise OSError at once where another process has."""
    if sys.platform == "win32":
        import msvcrt

        os.lseek(handle, 2**30, os.SEEK_SET)  # a byte that nobody reads
        msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
    else:
        import fcntl

        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)


def signed(handle: int | None) -> None:
    """Write into a lock who holds it: a courtesy, so what the system refuses is no matter."""
    if handle is None:
        return
    command = shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])
    since = time.strftime("%Y-%m-%d %H:%M:%S")
    holder = {"pid": os.getpid(), "host": platform.node(), "since": since, "command": command}
    with suppress(OSError):
        os.ftruncate(handle, 0)
        os.lseek(handle, 0, os.SEEK_SET)
        os.write(handle, json.dumps(holder).encode())


def busy(file: Path, doing: str, instead: str) -> BusyError:
    """The error that says by which process a folder is `doing`."""
    try:
        holder: dict[str, Any] = json.loads(file.read_text(encoding="utf8"))
        here = holder["host"] == platform.node()
        where = "" if here else f" on {holder['host']}"
        who = f"process {holder['pid']}{where} since {holder['since']} ({holder['command']})"
        stop = f"stop it with `kill {holder['pid']}`" if here else "stop it there"
    except (OSError, ValueError, KeyError, TypeError):
        who, stop = "another process", "stop it"
    ways = ["wait until it is done", stop, *([instead] if instead else [])]
    hint = f"{', '.join(ways[:-1])}, or {ways[-1]}"
    return BusyError(f"{file.parent} is being {doing} by {who}", hint)
