"""The command line: few verbs, every option a field of the recipe or an argument of the function it calls.

Help, the version and a misspelt verb are answered from the table of verbs; the chosen one is imported, and it imports
torch when it is at work, so that help and mistakes are answered at once.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

from ebb.cli.overview import JSON, VERBS, Look, complaint, overview
from ebb.errors import EbbError, ResourceError, UsageError, memory_is_full, nearest
from ebb.terminal import LENIENT, command, opened


def main(arguments: list[str] | None = None) -> None:
    """Run one verb; a mistake ends with one short message and its exit code, never a traceback."""
    opened()
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors=LENIENT)
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        answered(arguments)
    except EbbError as error:
        fail(error, arguments)
    except BrokenPipeError:  # the reader of our output, such as `head`, has seen enough
        os._exit(0)
    except OSError as error:
        from ebb.store.failure import REMEDIES, failed

        if error.filename is None and error.errno not in REMEDIES:
            raise
        fail(failed(error.filename or "a file", error), arguments)
    except (MemoryError, RuntimeError) as error:
        if not memory_is_full(error):
            raise
        hint = "end other programs that use it, or train with a smaller --batch, --network.width or --data.size"
        fail(ResourceError("out of memory", hint), arguments)
    except KeyboardInterrupt as stop:
        number, words = signal.SIGINT, list[str]()
        for what in stop.args:  # by which signal, and what there is to say about it
            if isinstance(what, int):
                number = signal.Signals(what)
            else:
                words.append(str(what))
        sys.stderr.write("; ".join(["stopped", *words]) + "\n")
        end(128 + number, arguments, "stopped", "; ".join(words))


def answered(arguments: list[str]) -> None:
    """Do what the arguments ask for, with all that it printed on its way out."""
    first = arguments[0] if arguments else "--help"
    try:
        if first in ("-h", "--help"):
            sys.stdout.write(overview(Look.here()) + "\n")
        elif first == "--version":
            from importlib.metadata import version

            sys.stdout.write(f"ebb {version('ebb')}\n")
        elif first in VERBS:
            from ebb.cli.parse import run

            run(arguments)
        else:
            raise unknown(first)
    finally:  # also where help ends the program: a reader that is gone is met here, and not while Python ends
        sys.stdout.flush()


def unknown(word: str) -> UsageError:
    """What to say of a first word that is no verb."""
    if word.startswith("-"):
        return UsageError(f"ebb has no option {word}", "options stand behind a verb: ebb VERB --help lists those of it")
    if os.path.exists(word):
        return UsageError(f"{word} is not a verb", f"to train on it: {command('train', Path(word))}; all: ebb --help")
    return UsageError(f"ebb has no verb {word}", nearest(word, VERBS))


def fail(error: EbbError, arguments: list[str]) -> None:
    """Print the message and end with its code."""
    sys.stderr.write(complaint(error, Look.here(errors=True)) + "\n")
    end(error.code, arguments, error.what, error.hint)


def end(code: int, arguments: list[str], what: str, hint: str) -> None:
    """End with a code; with `--json` the last line on stdout says why."""
    if JSON in arguments:
        from ebb.events import Failed, to_json

        sys.stdout.write(to_json(Failed(what, hint, code)) + "\n")
        sys.stdout.flush()
    sys.exit(code)
