"""Words for a terminal: text in the characters that it has, commands as a shell takes them, times in words."""

from __future__ import annotations

import codecs
import os
import shlex
import sys
import unicodedata
from collections.abc import Mapping
from pathlib import Path
from typing import Any

PLAIN = {
    "→": "->", "←": "<-", "…": "...", "–": "-", "—": "-", "−": "-", "‑": "-", "·": ".", "•": "*",
    "“": '"', "”": '"', "„": '"', "‘": "'", "’": "'", "«": '"', "»": '"',
    "±": "+-", "×": "x", "√": "sqrt", "∞": "inf", "≤": "<=", "≥": ">=", "≠": "!=", "≈": "~",
    "²": "^2", "³": "^3", "½": "1/2", "¼": "1/4", "━": "-", "╸": "-", "╺": "-",
}  # fmt: skip
"""What stands for the signs of our own messages where a terminal lacks them."""

LENIENT = "ebb.plain"
"""The name under which `plain` is an error handler of codecs."""


def plain(error: UnicodeError) -> tuple[str, int]:
    """The error handler of an output that lacks some characters: each in its nearest ASCII, and nothing is lost."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(map(nearest_ascii, error.object[error.start : error.end])), error.end


codecs.register_error(LENIENT, plain)


def nearest_ascii(character: str) -> str:
    """→ as ->, é as e, a sign of a spinner as a dot, and what has no such form as its escape, 写 as \\u5199.

    A byte of a file name that is no text, which Python keeps as a lone surrogate, is escaped as that byte.
    """
    base = unicodedata.normalize("NFKD", character)[0]
    if character in PLAIN:
        return PLAIN[character]
    if base.isascii():
        return base
    if "\u2800" <= character <= "\u28ff":  # braille, of which spinners are made
        return "."
    if "\udc80" <= character <= "\udcff":
        return f"\\x{ord(character) - 0xDC00:02x}"
    return character.encode("ascii", "backslashreplace").decode()


def opened() -> None:
    """Put the null device where stdout or stderr is closed, so that no file we open takes its number."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf8"))  # noqa: SIM115


def command(verb: str, *words: object) -> str:
    """The command `ebb VERB WORD …` as a shell takes it: what has blanks or signs in it is quoted."""
    return shlex.join(["ebb", verb, *map(argument, words)])


def as_options(values: Mapping[str, Any]) -> list[str]:
    """Values by the names of their options, as words of a command: of a sequence each is one, a flag that is off is
    --no-FLAG, and None is left out. A single word that begins with a dash is joined to its option."""
    words = list[str]()
    for name, value in values.items():
        if isinstance(value, bool):
            group, dot, leaf = name.rpartition(".")
            words.append(f"--{name}" if value else f"--{group}{dot}no-{leaf}")
        elif isinstance(value, tuple | list):
            words += [f"--{name}", *map(str, value)]
        elif value is not None:
            words += [f"--{name}={value}"] if str(value).startswith("-") else [f"--{name}", str(value)]
    return words


def argument(word: object) -> str:
    """A word of a command; a path that begins with a dash, and would be taken for an option, as ./-PATH."""
    return f"./{word}" if isinstance(word, Path) and str(word).startswith("-") else str(word)


def duration(seconds: float) -> str:
    """Seconds in words, in the unit that leaves one or two digits before the point: "40 seconds", "5 minutes"."""
    for unit, size, most in (("second", 1, 90), ("minute", 60, 5400), ("hour", 3600, 172_800)):
        if seconds < most:
            whole = max(1, round(seconds / size))
            return f"{whole} {unit}{'s' * (whole > 1)}"
    return f"{seconds / 86_400:.0f} days"
