"""The verb that a command names, read with its options by tyro, and run."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import tyro

from ebb.cli.options import check_options, class_of
from ebb.cli.output import screen
from ebb.cli.overview import JSON
from ebb.errors import UsageError


def run(arguments: Sequence[str]) -> None:
    """Run the verb that the arguments name."""
    arguments = longer(arguments)
    check_options(arguments)
    try:
        asked(arguments)(screen(stderr=JSON in arguments), given_in(arguments))
    except ValueError as error:
        from pydantic import ValidationError

        from ebb.recipe.document import explained

        if not isinstance(error, ValidationError):
            raise
        raise explained(error, "the command line") from error


def asked(arguments: Sequence[str]) -> Any:
    """The verb; where what is wrong with its options was printed for people, a program is told as well."""
    try:
        return verb(arguments)
    except SystemExit as end:
        if end.code and JSON in arguments:
            raise UsageError("the options cannot be read, as said on stderr", f"ebb {arguments[0]} --help") from end
        raise


def longer(arguments: Sequence[str]) -> list[str]:
    """The arguments with `--steps +500`, which as a number would be 500, as the `--extend 500` that it means."""
    words = re.sub(r"(?<=\0)--steps[\0=]\+(?=\d)", "--extend\0", "\0".join(arguments))
    return words.split("\0") if arguments[0] == "train" else list(arguments)


def verb(arguments: Sequence[str]) -> Any:
    """The verb that the arguments name, with its options: it is called with a console and the options given."""
    name, *others = arguments
    return tyro.cli(class_of(name), args=others, prog=f"ebb {name}")


def given_in(arguments: Sequence[str]) -> set[str]:
    """The dotted names of the options that were given, also where the value is the default: {"seed", "data.flip"}."""
    names = (word[2:].split("=")[0] for word in arguments if word.startswith("--"))
    return {name.replace(".no-", ".").replace("-", "_") for name in names}
