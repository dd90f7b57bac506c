"""The errors a user can cause, each with the exit code the command line ends with.

Every message names the thing, says what was expected and what came, and `hint` is the next thing to do.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable


class EbbError(Exception):
    """An internal failure, exit code 1; its subclasses are failures with a known cause."""

    code = 1

    def __init__(self, what: str, hint: str = "") -> None:
        super().__init__(what)
        self.what, self.hint = what, hint

    def __str__(self) -> str:
        return f"{self.what}\n  → {self.hint}" if self.hint else self.what


class UsageError(EbbError, ValueError):
    """A wrong option or argument, exit code 2."""

    code = 2


class DataError(EbbError):
    """Data that cannot be used, exit code 3."""

    code = 3


class ResourceError(EbbError):
    """Memory, disk or a missing extra package, exit code 4."""

    code = 4


class DamagedError(EbbError):
    """A file that is not what it claims to be, exit code 5."""

    code = 5


def memory_is_full(error: Exception) -> bool:
    """Whether an error says that the machine's memory or a GPU's is full; torch's for a CPU is a bare RuntimeError."""
    return isinstance(error, MemoryError) or bool(re.search("(out of|allocate|enough) memory", str(error)))


def nearest(name: str, known: Iterable[str]) -> str:
    """A sentence that offers the closest known name, and lists them all."""
    known = list(known)
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return (f"did you mean {close[0]!r}? " if close else "") + "known: " + ", ".join(known)
