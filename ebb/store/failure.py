"""What the operating system refuses, as the error that says what to do about it."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from ebb.errors import ResourceError

REMEDIES = {
    errno.ENOSPC: "free some space, or choose another place",
    errno.EDQUOT: "your quota there is used up: delete something of yours, or choose another place",
    errno.EFBIG: "files may not become so large here: see `ulimit -f`, or choose another place",
    errno.EACCES: "give yourself the permission (ls -ld shows whose it is), or choose another place",
    errno.EPERM: "give yourself the permission (ls -ld shows whose it is), or choose another place",
    errno.EROFS: "nothing can be written on this disk: choose another place, or copy it to one first",
    errno.EEXIST: "what stands there is not a folder: move it away, or choose another name",
    errno.ENOTDIR: "a file stands where a folder should be: move it away, or choose another name",
    errno.EISDIR: "a folder stands where a file should be: move it away, or choose another name",
    errno.ENOTEMPTY: "move away what the folder holds, or choose another name",
    errno.ENOENT: "look at the spelling, or make the folder first: mkdir",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.ELOOP: "its links lead in a circle: choose another place",
    errno.EBUSY: "something else uses it, such as a mount or another program: choose another place",
    errno.EXDEV: "a link leads to another disk: put what it leads to in its place, or choose another place",
    errno.EMFILE: "too many files are open: raise the limit with `ulimit -n 4096`",
    errno.ENFILE: "too many files are open on this machine: end other programs",
    errno.EIO: "the disk or the way to it fails: copy what you need from it, and choose another place",
    errno.ESTALE: "the disk of another machine went away: mount it again, or choose another place",
}


def number_of(error: Exception) -> int | None:
    """The errno of an error, also where safetensors tells it in words; None where there is none."""
    if isinstance(error, OSError):
        return error.errno
    found = re.search(r"os error (\d+)", str(error))
    return int(found[1]) if found else None


def failed(what: Path | str, error: Exception) -> ResourceError:
    """The error of a user's: what it was about, what the system said, and the remedy for that."""
    number = number_of(error)
    said = os.strerror(number) if number is not None else str(error)
    return ResourceError(f"{what}: {said}", REMEDIES.get(number or 0, "choose another place"))


@contextmanager
def explained(what: Path | str) -> Iterator[None]:
    """Raise what the system refuses within the block as the ResourceError of `what`."""
    try:
        yield
    except OSError as error:
        raise failed(what, error) from error
    except SafetensorError as error:
        if number_of(error) is None:
            raise
        raise failed(what, error) from error
