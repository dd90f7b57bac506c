"""The exit codes of the command line, and the errors a user can cause, each with its code.

Every message names the thing, says what was expected and what came, and `hint` is the next thing to do.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from enum import IntEnum


class Exit(IntEnum):
    """What the command line ends with, and what that says."""

    meaning: str

    def __new__(cls, code: int, meaning: str) -> Exit:
        """A code with its meaning."""
        one = int.__new__(cls, code)
        one._value_, one.meaning = code, meaning
        return one

    DONE = 0, "done; of `ebb doctor`: every check that applies was made, and none found an error"
    ERROR = 1, "`ebb doctor` found an error; of other verbs, a failure without a code of its own"
    USAGE = 2, "a wrong option or argument"
    DATA = 3, "data that cannot be used"
    RESOURCE = 4, "memory, disk or a missing extra"
    DAMAGED = 5, "a damaged file"
    BUSY = 6, "another process is at work on this run"
    UNCHECKED = 7, "`ebb doctor` found no error, and could not make every check: the data is gone, a part is missing"
    INTERRUPTED = 130, "stopped by Ctrl-C; while training, after a checkpoint (a second time: at once)"
    TERMINATED = 143, "stopped by SIGTERM, in the same way"


class EbbError(Exception):
    """An internal failure; its subclasses are failures with a known cause."""

    code = Exit.ERROR

    def __init__(self, what: str, hint: str = "") -> None:
        super().__init__(what)
        self.what, self.hint = what, hint

    def __str__(self) -> str:
        return f"{self.what}\n  → {self.hint}" if self.hint else self.what


class UsageError(EbbError, ValueError):
    """A wrong option or argument."""

    code = Exit.USAGE


class DataError(EbbError):
    """Data that cannot be used."""

    code = Exit.DATA


class ResourceError(EbbError):
    """Memory, disk or a missing extra package."""

    code = Exit.RESOURCE


class DamagedError(EbbError):
    """A file that is not what it claims to be."""

    code = Exit.DAMAGED


def memory_is_full(error: Exception) -> bool:
    """Whether an error says that the machine's memory or a GPU's is full; torch's for a CPU is a bare RuntimeError."""
    return isinstance(error, MemoryError) or bool(re.search("(out of|allocate|enough) memory", str(error)))


def nearest(name: str, known: Iterable[str]) -> str:
    """A sentence that offers the closest known name, and lists them all."""
    known = list(known)
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return (f"did you mean {close[0]!r}? " if close else "") + "known: " + ", ".join(known)
