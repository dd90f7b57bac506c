"""Room for examples: in memory, or on disk when they would crowd it."""

from __future__ import annotations

import math
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from ebb.errors import ResourceError
from ebb.store.failure import explained

_MEMINFO = Path("/proc/meminfo")
_CGROUP = Path("/sys/fs/cgroup")


def available() -> int:
    """Bytes of memory this process may still take, the limit of its container included."""
    try:
        fields = dict(line.split(":", 1) for line in _MEMINFO.read_text().splitlines())
        free = int(fields["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError):  # not Linux: all physical memory is the best figure the standard library has
        free = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else 2**33
    try:
        limit, used = ((_CGROUP / f"memory.{kind}").read_text() for kind in ("max", "current"))
        return min(free, int(limit) - int(used))
    except (OSError, ValueError):  # no container, or one without a limit ("max")
        return free


def gigabytes(size: int) -> str:
    """A number of bytes for a message."""
    return f"{size / 1e9:.3g} GB"


def check(size: int, what: str, hint: str) -> None:
    """Raise ResourceError if `size` bytes are more than half of the available memory."""
    if size > (half := available() // 2):
        raise ResourceError(f"{what} needs {gigabytes(size)}; half of the available memory is {gigabytes(half)}", hint)


def allocate(shape: tuple[int, ...], cache: Path | None) -> np.ndarray:
    """An uninitialised uint8 array of `shape`: in memory, or under `cache` if it is over half of what is available.

    The file under `cache` has no name and its space is given back when the array is gone. Raises ResourceError when
    there is no room in either place.
    """
    size = math.prod(shape)
    if cache is None or size <= available() // 2:
        check(size, f"decoding to {' x '.join(map(str, shape))} bytes", "choose a smaller size, or free some memory")
        return np.empty(shape, np.uint8)
    with explained(cache):
        cache.mkdir(parents=True, exist_ok=True)
        if size > (free := shutil.disk_usage(cache).free):
            what = f"{cache} needs {gigabytes(size)} of free space, it has {gigabytes(free)}"
            raise ResourceError(what, "free some space, or choose another place with --run FOLDER")
        with tempfile.TemporaryFile(dir=cache) as file:
            if hasattr(os, "posix_fallocate"):  # else two processes are promised the same space, and the later one dies
                os.posix_fallocate(file.fileno(), 0, size)
            return np.memmap(file, np.uint8, "w+", shape=shape)


Progress = Callable[[str, int, int], None]
