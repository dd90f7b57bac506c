"""What long work reports while it goes on: a stream of frozen events, each a line of JSON.

Training and evaluating are generators of events, `for event in train("photos"): …`, and print nothing: the terminal,
the run's log and `--json` are readers of one stream. Closing the generator ends the work; `finished` reads to its
end and gives the result.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Generator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from functools import wraps
from queue import SimpleQueue
from typing import Any, ParamSpec, TypeAlias, TypeVar, get_args

from ebb.errors import UsageError

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True)
class Message:
    """Something said, in words; a warning asks for attention."""

    text: str
    warning: bool = False


@dataclass(frozen=True)
class Overview:
    """Several facts at once: what was found in the data, or what was chosen and why."""

    title: str
    rows: tuple[tuple[str, ...], ...]
    heads: tuple[str, ...] = ()


@dataclass(frozen=True)
class Progress:
    """What is being done now, with how much of it is done of how much, where that can be counted (else 0 of 0)."""

    what: str
    done: int = 0
    of: int = 0
    left: float | None = None
    """seconds, as far as can be told"""


@dataclass(frozen=True)
class Update:
    """One line of the run's log: its figures at an update of `of`."""

    step: int
    of: int
    figures: Mapping[str, Any]
    """the line of log.jsonl: step, images, seconds, loss, grad_norm, lr, …"""
    preview: int
    """the step of the next preview"""
    left: float
    """seconds to the last update, at the speed so far"""


@dataclass(frozen=True)
class Preview:
    """Samples to look at were drawn after an update, into a file."""

    step: int
    file: str


@dataclass(frozen=True)
class Saved:
    """All that it takes to go on from an update is on the disk, in a folder."""

    step: int
    checkpoint: str


@dataclass(frozen=True)
class Skipped:
    """Updates that were not made, and why the last of them was not."""

    steps: tuple[int, ...]
    cause: str


@dataclass(frozen=True)
class RolledBack:
    """Training went from update `step` back to an earlier one, `to`, and on with this share of the learning rate."""

    step: int
    to: int
    share: float
    cause: str


@dataclass(frozen=True)
class Figure:
    """What was measured, under the name that it has in evaluation.json or sweep.json."""

    name: str
    value: Mapping[str, Any]


@dataclass(frozen=True)
class Done:
    """The work is done, and all of it is in the run's folder."""

    run: str


@dataclass(frozen=True)
class Failed:
    """The work ended before it was done: what is wrong, what to do about it, and the exit code."""

    what: str
    hint: str
    code: int


Event = Message | Overview | Progress | Update | Preview | Saved | Skipped | RolledBack | Figure | Done | Failed

KINDS = {kind.__name__: kind for kind in get_args(Event)}
"""Every event by its name in JSON."""

Work: TypeAlias = Generator[Event, None, T]
"""Work that reports what it does and has a result."""

Sink = Callable[[Event], None]
"""A reader of one event after the other."""


def ignored(_: Event) -> None:
    """The sink of what nobody reads."""


def noted(notes: Mapping[tuple[str, str], Sequence[object]], progress: Sink) -> None:
    """One message for each (kind, action): the first it was found in, how many more, and what was done."""
    for (kind, action), names in notes.items():
        if names:
            others = f" and {len(names) - 1:,} more" if len(names) > 1 else ""
            progress(Message(f"{names[0]}{others}: {kind}, {action}"))


def finished(work: Work[T], sink: Sink = ignored) -> T:
    """The result of `work`, done to its end, with `sink` told of every event; where it fails, the work is ended."""
    with closing(work):
        while True:
            try:
                event = next(work)
            except StopIteration as end:
                result: T = end.value
                return result
            sink(event)


def to_the_end(work: Callable[P, Work[T]]) -> Callable[P, T]:
    """`work` as a function of the same arguments that gives the result, for who does not read the events."""

    @wraps(work)
    def result(*arguments: P.args, **options: P.kwargs) -> T:
        return finished(work(*arguments, **options))

    return result


def to_json(event: Event) -> str:
    """One line: the event's name and fields; a number that is not finite is null."""
    return json.dumps(strict({"event": type(event).__name__, **vars(event)}))


def from_json(line: str) -> Event:
    """The event of a line that `to_json` made. Raises UsageError for any other."""
    try:
        fields = json.loads(line)
        return KINDS[fields.pop("event")](**{name: frozen(value) for name, value in fields.items()})  # type: ignore[no-any-return]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UsageError(f"expected an event in JSON, got {line!r:.120}", f"one of {', '.join(KINDS)}") from error


def frozen(value: Any) -> Any:
    """A JSON value as a field holds it: lists are tuples; what stands under a name of its own is as it is."""
    return tuple(map(frozen, value)) if isinstance(value, list) else value


def strict(value: Any) -> Any:
    """A JSON value with null for every number that JSON has no word for."""
    if isinstance(value, Mapping):
        return {name: strict(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [strict(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


class _EndedError(BaseException):
    """Nobody reads what is reported any more."""


@dataclass
class _Pipe:
    """A queue of events from one thread to another, which ends what writes into it once nobody reads."""

    events: SimpleQueue[Event | None] = field(default_factory=SimpleQueue)
    closed: bool = False

    def __call__(self, event: Event) -> None:
        if self.closed:
            raise _EndedError
        self.events.put(event)


def streamed(work: Callable[[Sink], T]) -> Work[T]:
    """What `work(sink)` reports, as it comes, from a thread of its own; its result.

    For work that cannot be a generator, such as reading data. Closed, it ends the work at its next report.
    """
    pipe = _Pipe()
    with ThreadPoolExecutor(1) as pool:
        done = pool.submit(work, pipe)
        done.add_done_callback(lambda _: pipe.events.put(None))
        try:
            while (event := pipe.events.get()) is not None:
                yield event
        finally:
            pipe.closed = True
        return done.result()
