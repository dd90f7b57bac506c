"""A system for others: its weights and its contract alone, in a folder as a checkpoint is, or in one safetensors file.

The file holds every tensor as "PART.NAME", and in its header the contract as JSON with a sha256 over both.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from ebb.errors import DamagedError, UsageError
from ebb.store import checkpoint
from ebb.store.checkpoint import State
from ebb.store.failure import explained
from ebb.store.owned import STATE, delete
from ebb.store.place import beside_something, room_for, room_in
from ebb.store.write import replace_bytes, synced

ONE = ".safetensors"
"""What the name of one file ends in; any other name is a folder."""

OTHERS = {
    ".bin", ".ckpt", ".gguf", ".gz", ".h5", ".json", ".npz", ".onnx", ".pkl", ".png", ".pt", ".pth", ".tar", ".yaml",
    ".zip",
}  # fmt: skip
"""Ends of names by which a file of another kind is meant."""

KEY = "ebb"
"""Of the contract in a file's header."""

BESIDE = {"card.md", "samples.png"}
"""What may lie beside weights and contract in a folder that is shared."""

Read = Callable[[str], Mapping[str, Tensor]]
"""The tensors of a part, such as "ema"; KeyError where there is none of that name."""


def place_for(out: Path) -> None:
    """Raise UsageError for a name of another kind of file, for what was not exported there, which stays, and a place
    far from being there; ResourceError for what the system refuses. Nothing is made."""
    if out.suffix.lower() in OTHERS:
        raise UsageError(
            f"cannot write {out}: a model is a folder, or one file", f"end the name in {ONE}, or in nothing"
        )
    if out.suffix == ONE:
        beside_something(out.parent)
        room_for(out)
        if out.exists():
            opened(out)  # what is not ebb's is refused
        return
    beside_something(out)
    room_in(out)
    if out.exists() and not out.is_dir():
        raise UsageError(f"{out} is a file", "name another folder")
    inside = out.iterdir() if out.exists() else ()
    other = [path.name for path in inside if path.name not in BESIDE and not STATE.fullmatch(path.name)]
    if (out / "run.yaml").exists() or other:
        raise UsageError(f"{out} holds {min(other, default='a run')}, which was not exported", "name another folder")


def write(out: Path, state: State, about: Mapping[str, Any]) -> None:
    """Write parts of weights with the JSON document `about`, whole or not at all, in the place of what was exported
    there before; as one file where the name ends so. Raises as `place_for`."""
    place_for(out)
    if out.suffix == ONE:
        replace_bytes(out, packed(state, json.dumps(about)))
        return
    made, gone = (out.with_name(f"{out.name}.{end}") for end in ("tmp", "old"))
    with explained(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        checkpoint.write(made, state, dict(about), 0)
        if out.is_dir():
            out.rename(gone)
        made.rename(out)
        synced(out.parent)
        if gone.is_dir():
            for name in BESIDE:
                (gone / name).unlink(missing_ok=True)
            delete(gone, STATE)


def packed(state: State, contract: str) -> bytes:
    """Parts of weights and a contract as the bytes of one safetensors file."""
    tensors = {f"{part}.{name}": value.contiguous() for part, some in state.items() for name, value in some.items()}
    return save(tensors, {KEY: contract, "sha256": digest(contract, save(tensors))})


def digest(contract: str, file: bytes) -> str:
    """The sha256 of a contract and of all tensors of a safetensors file."""
    _, start = header(file)
    return hashlib.sha256(contract.encode() + b"\0" + file[start:]).hexdigest()


def header(file: bytes) -> tuple[dict[str, Any], int]:
    """What the header of a safetensors file says besides its tensors, and where these begin. Raises ValueError."""
    start = 8 + int.from_bytes(file[:8], "little")
    return dict(json.loads(file[8:start]).get("__metadata__", {})), start


def opened(where: Path) -> tuple[dict[str, Any], Read]:
    """The contract of a checkpoint, a shared folder or a shared file, and what reads its weights, verified.

    Raises DamagedError for what is not as it was written, UsageError for a file of something else.
    """
    if not where.is_file():
        checkpoint.verify(where)
        return checkpoint.about(where), partial(part_of, where)
    with explained(where):
        data = where.read_bytes()
    try:
        about, _ = header(data)
        contract = str(about[KEY])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UsageError(
            f"{where} is no model that ebb exported", "export one: ebb export RUN NAME.safetensors"
        ) from error
    if digest(contract, data) != about.get("sha256"):
        raise DamagedError(f"{where} is not the file that was saved (its sha256 differs)", "copy it again")
    try:
        tensors, state = load(data), dict[str, dict[str, Tensor]]()
    except SafetensorError as error:
        raise DamagedError(f"{where} cannot be read: {error}", "copy it again") from error
    for name, tensor in tensors.items():
        part, _, own = name.partition(".")
        state.setdefault(part, {})[own] = tensor
    return dict(json.loads(contract)), state.__getitem__


def part_of(folder: Path, part: str) -> Mapping[str, Tensor]:
    """The tensors of a part of a checkpoint."""
    if not (folder / f"{part}.safetensors").is_file():
        raise KeyError(part)
    return checkpoint.read(folder, part)
