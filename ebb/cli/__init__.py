"""The command line: few verbs, every option a field of the recipe or an argument of the function it calls.

Only the chosen verb imports torch, so that help and mistakes are answered at once.
"""

from __future__ import annotations

import os
import signal
import sys
from typing import Annotated

import tyro
from pydantic import ValidationError
from rich.console import Console

from ebb.cli.config import ConfigVerb
from ebb.cli.distil import Distil
from ebb.cli.edit import EditVerb
from ebb.cli.evaluate import Doctor, Evaluate, Sweep
from ebb.cli.options import check_options
from ebb.cli.output import echo, screen
from ebb.cli.sample import Sample
from ebb.cli.train import Train, overlaid
from ebb.errors import EbbError, ResourceError, memory_is_full
from ebb.recipe.recipe import explained
from ebb.store.failure import REMEDIES, failed
from ebb.terminal import opened

__all__ = ["Verbs", "given_in", "main", "overlaid"]

Verbs = (
    Annotated[Train, tyro.conf.subcommand("train")]
    | Annotated[Distil, tyro.conf.subcommand("distil")]
    | Annotated[Sample, tyro.conf.subcommand("sample")]
    | Annotated[EditVerb, tyro.conf.subcommand("edit")]
    | Annotated[Evaluate, tyro.conf.subcommand("evaluate")]
    | Annotated[Doctor, tyro.conf.subcommand("doctor")]
    | Annotated[Sweep, tyro.conf.subcommand("sweep")]
    | Annotated[ConfigVerb, tyro.conf.subcommand("config")]
)


def given_in(arguments: list[str]) -> set[str]:
    """The dotted names of the options that were given, also where the value is the default: {"seed", "data.flip"}."""
    names = (word[2:].split("=")[0] for word in arguments if word.startswith("--"))
    return {name.replace(".no-", ".").replace("-", "_") for name in names}


def main(arguments: list[str] | None = None) -> None:
    """Run one verb; a mistake ends with one short message and its exit code, never a traceback."""
    opened()
    console, errors = screen(), screen(stderr=True)
    try:
        spoken(sys.argv[1:] if arguments is None else arguments, console)
    except EbbError as error:
        fail(errors, error)
    except ValidationError as error:
        fail(errors, explained(error, "the command line"))
    except BrokenPipeError:  # the reader of our output, such as `head`, has seen enough
        os._exit(0)
    except OSError as error:
        if error.filename is None and error.errno not in REMEDIES:
            raise
        fail(errors, failed(error.filename or "a file", error))
    except (MemoryError, RuntimeError) as error:
        if not memory_is_full(error):
            raise
        hint = "end other programs that use it, or train with a smaller --batch, --network.width or --data.size"
        fail(errors, ResourceError("out of memory", hint))
    except KeyboardInterrupt as stop:
        number, said = signal.SIGINT, list[str]()
        for what in stop.args:  # by which signal, and what there is to say about it
            if isinstance(what, int):
                number = signal.Signals(what)
            else:
                said.append(str(what))
        echo(errors, "; ".join(["stopped", *said]))
        sys.exit(128 + number)


def spoken(arguments: list[str], console: Console) -> None:
    """Run the verb that the arguments name, with all that it printed on its way out."""
    check_options(Verbs, arguments)
    try:
        verb = tyro.cli(
            Verbs, args=arguments, prog="ebb", description="Train, sample, measure and diagnose diffusion models."
        )
        verb(console, given_in(arguments))
    finally:  # also where help ends the program: a reader that is gone is met here, and not while Python ends
        sys.stdout.flush()


def fail(console: Console, error: EbbError) -> None:
    """Print the message and end with its code."""
    console.print("[bold red]error[/] ", end="")
    echo(console, str(error))
    sys.exit(error.code)
