"""What a frozen network makes of a data set, computed once: latents and text states on disk, read by index."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save
from torch import Tensor

from ebb.errors import EbbError, ResourceError, UsageError
from ebb.events import Message, Progress, Work
from ebb.shapes import Int
from ebb.store import memory
from ebb.store.checkpoint import sha256
from ebb.store.lock import MADE, turn
from ebb.store.write import PARTIAL, replace_bytes, replace_text

INDEX = "index.json"
SHARD = re.compile(r"\d{5,}\.safetensors")
HALF = re.compile(rf"{SHARD.pattern}\.tmp|{PARTIAL.pattern}")  # the first by older versions

Make = Callable[[int, int], Mapping[str, Tensor]]


@dataclass(frozen=True, eq=False)
class Rows:
    """A tensor [n, *d] in parts of `rows` rows each (the last may have fewer): in memory, or mapped from files."""

    parts: tuple[Tensor, ...]
    rows: int

    def __len__(self) -> int:
        return self.rows * (len(self.parts) - 1) + len(self.parts[-1])

    def __getitem__(self, index: NDArray[np.int64] | Int[Tensor, "b"]) -> Tensor:
        """The rows `index` [b] as one tensor [b, *d]. Raises IndexError outside of 0 … n−1."""
        at = torch.as_tensor(index)
        if len(at) and not 0 <= int(at.min()) <= int(at.max()) < len(self):
            raise IndexError(f"expected rows 0 … {len(self) - 1}, got {int(at.min())} … {int(at.max())}")
        if len(self.parts) == 1:
            return self.parts[0][at]
        part, row = at // self.rows, at % self.rows
        found = self.parts[0].new_empty((len(at), *self.parts[0].shape[1:]))
        for number in sorted({*part.tolist()}):
            here = part == number
            found[here] = self.parts[number][row[here]]
        return found


def cached(
    folder: str | Path,
    key: Mapping[str, Any],
    count: int,
    make: Make,
    *,
    rows: int = 1024,
    what: str = "making shards",
) -> Work[Mapping[str, Rows]]:
    """The tensors `make` gives for `count` items, from the shards in `folder`, and made where they are not there.

    `make(first, last)` gives tensors by name, each with last − first rows, as a function of `key` and the items alone:
    `key` is JSON and holds all that they depend on (the fingerprints of the data and of the network, the settings).
    A shard holds `rows` items; it is written whole or not at all, so an interrupted call goes on where it was. Where
    `key`, `count` or `rows` differ from what the folder was made of, or a shard is not what was written (size,
    sha256), it is made anew, which is reported. What comes back is in memory where it takes less than half of what
    is available, and mapped from the files where not.

    One process at a time makes what is missing; others wait for it. What is being made is reported in words as `what`.

    Raises UsageError for a count or key that cannot be, and for a folder with shards that ebb did not make, EbbError
    where `make` gives rows that do not fit or are not finite, and ResourceError for a full disk; the shards that were
    done stay.
    """
    if count < 1 or rows < 1:
        raise UsageError(f"expected at least one item and one row to a shard, got {count} and {rows}")
    try:
        about = json.loads(json.dumps({"key": dict(key), "count": count, "rows": rows}, sort_keys=True))
    except (TypeError, ValueError) as error:
        raise UsageError(f"expected a key of plain JSON values, got {dict(key)!r:.120}: {error}") from error
    about["fingerprint"] = hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()
    with (yield from alone(folder := Path(folder))):
        return (yield from _made(folder, about, make, what))


def alone(folder: Path) -> Work[AbstractContextManager[object]]:
    """Be the only process that makes this folder's shards; where it cannot be written to, there are none to make."""
    if folder.is_dir() and not os.access(folder, os.W_OK):
        return nullcontext()
    return (yield from turn(folder, MADE))


def _made(folder: Path, about: dict[str, Any], make: Make, what: str) -> Work[Mapping[str, Rows]]:
    """What `cached` gives, in a folder that is nobody else's."""
    count, rows, listed = about["count"], about["rows"], (yield from _listed(folder, about))
    for left in folder.iterdir():
        if HALF.fullmatch(left.name):  # by a process that was killed
            left.unlink()
    files = [f"{number:05d}.safetensors" for number in range(-(-count // rows))]
    kind: dict[str, Any] | None = None
    for number, file in enumerate(files):
        first, last = number * rows, min((number + 1) * rows, count)
        if not (yield from _whole(folder / file, listed.get(file))):
            yield Progress(what, first, count)
            tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in make(first, last).items()}
            kind = _checked(tensors, first, last, kind)
            listed[file] = _keep(folder, file, tensors, about, listed)
        else:
            kind = kind or _kind(load_file(folder / file))
    return _opened(folder, files, rows)


def _listed(folder: Path, about: dict[str, Any]) -> Work[dict[str, Any]]:
    """The shards of a folder by name, if its index says they were made of the same; else none, and they are deleted."""
    found: Any = {}
    try:
        found = json.loads((folder / INDEX).read_text(encoding="utf8"))
        if found["fingerprint"] == about["fingerprint"]:
            return dict(found["shards"])
        before, now = ({"count": one["count"], "rows": one["rows"], **one["key"]} for one in (found, about))
        differ = sorted(name for name in before.keys() | now.keys() if before.get(name) != now.get(name))
        yield Message(f"{folder} was made of other things ({', '.join(differ)}): making it anew")
    except FileNotFoundError:
        if strange := next((file for file in sorted(folder.iterdir()) if SHARD.fullmatch(file.name)), None):
            what = f"{strange} has no {INDEX} beside it, so it may be yours and would be replaced"
            raise UsageError(what, "move it elsewhere, or delete it") from None
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        yield Message(f"{folder / INDEX} cannot be read: making its tensors anew")
    for file in folder.iterdir():
        if SHARD.fullmatch(file.name):
            file.unlink()
    return {}


def _whole(path: Path, expected: Any) -> Work[bool]:
    """Whether a shard is what the index says was written."""
    if expected is None:
        return False
    try:
        if path.stat().st_size == expected["size"] and sha256(path) == expected["sha256"]:
            return True
    except (OSError, LookupError, TypeError):
        pass
    yield Message(f"{path} is damaged or missing: making it anew")
    return False


def _kind(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """The shape of a row and the type of each tensor."""
    return {name: (tuple(tensor.shape[1:]), tensor.dtype) for name, tensor in tensors.items()}


def _checked(tensors: Mapping[str, Tensor], first: int, last: int, kind: dict[str, Any] | None) -> dict[str, Any]:
    """The kind of the tensors; raises EbbError unless they have the rows that were asked for, and all are finite."""
    for name, tensor in tensors.items():
        if len(tensor) != last - first:
            raise EbbError(f"expected {last - first} rows of {name!r} for items {first} to {last}, got {len(tensor)}")
        if tensor.is_floating_point() and not bool(
            (finite := torch.isfinite(tensor).reshape(len(tensor), -1).all(1)).all()
        ):
            row = first + int((~finite).nonzero()[0])
            raise EbbError(f"{name!r} of item {row} is not finite", "encode in float32, or leave the item out")
    if not tensors or (kind is not None and _kind(tensors) != kind):
        raise EbbError(f"expected tensors {kind or 'by name'} for items {first} to {last}, got {_kind(tensors)}")
    return _kind(tensors)


def _keep(
    folder: Path, file: str, tensors: dict[str, Tensor], about: dict[str, Any], listed: dict[str, Any]
) -> dict[str, Any]:
    """Write a shard and the index that lists it; returns its entry. Raises ResourceError for a full disk.

    An index comes first: without one, a shard is not known to be ebb's.
    """
    data = save(tensors)
    entry = {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    try:
        if not (folder / INDEX).is_file():
            replace_text(folder / INDEX, json.dumps(about | {"shards": {}}, indent=1))
        replace_bytes(folder / file, data)
        replace_text(folder / INDEX, json.dumps(about | {"shards": listed | {file: entry}}, indent=1))
    except ResourceError as error:
        done = f"; the same command goes on with the {len(listed)} shards that are done" if listed else ""
        raise ResourceError(f"{error.what} ({memory.gigabytes(len(data))})", f"{error.hint}{done}") from error
    return entry


def _opened(folder: Path, files: list[str], rows: int) -> dict[str, Rows]:
    """All shards as one tensor to each name."""
    parts = [load_file(folder / file) for file in files]  # mapped: nothing is read before it is asked for
    size = sum(tensor.nbytes for part in parts for tensor in part.values())
    if size > memory.available() // 2:
        return {name: Rows(tuple(part[name] for part in parts), rows) for name in parts[0]}
    whole = {name: torch.cat([part.pop(name) for part in parts]) for name in list(parts[0])}
    return {name: Rows((tensor,), len(tensor)) for name, tensor in whole.items()}
