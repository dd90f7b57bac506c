"""Words for a terminal: text in the characters that it has, commands as a shell takes them."""

from __future__ import annotations

import codecs
import os
import shlex
import sys
import unicodedata
from pathlib import Path

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


def argument(word: object) -> str:
    """A word of a command; a path that begins with a dash, and would be taken for an option, as ./-PATH."""
    return f"./{word}" if isinstance(word, Path) and str(word).startswith("-") else str(word)
