"""Checkpoints that are absent or complete, never in between; tensors and JSON only, nothing that runs.

Protocol: write `step-N.tmp/`, fsync every file, write the manifest (sizes, sha256), fsync, rename to `step-N/`, fsync
the parent, replace `latest`, and only then prune. Whenever the process dies, `newest` finds a whole checkpoint or none.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from ebb.errors import DamagedError, EbbError, ResourceError
from ebb.store.failure import explained
from ebb.store.owned import CHECKPOINT, STATE, delete
from ebb.store.tensors import save_tensors
from ebb.store.write import replace_text, synced

State = dict[str, dict[str, Tensor]]


def sha256(path: Path) -> str:
    """The hash of a file, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def save(folder: Path, step: int, state: State, about: dict[str, Any], keep: int = 2) -> Path:
    """Commit `state` and the JSON document `about` as `folder/step-N`, and keep the newest `keep`.

    Raises ResourceError for what the system refuses, such as on a full disk, and EbbError for non-finite weights; what
    was committed before stays whole.
    """
    for name, tensor in (item for part in ("model", "ema") for item in state[part].items()):
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise EbbError(f"step {step}: {name} is not finite, so no checkpoint was written", "lower --optimiser.lr")
    final = folder / f"step-{step:08d}"
    try:
        with explained(final):
            folder.mkdir(parents=True, exist_ok=True)
            if not final.exists():
                write(partial(final), state, about, step)
                partial(final).rename(final)
                synced(folder)
            newest_is(final, keep)
    except ResourceError as error:
        raise ResourceError(error.what, f"{error.hint}; {outlook(folder)}") from error
    finally:
        with suppress(OSError):
            for left in folder.glob("step-*.tmp"):  # by this process, or one that was killed
                if CHECKPOINT.fullmatch(left.stem):
                    delete(left, STATE)
    return final


def admitted(source: Path, folder: Path, keep: int = 2) -> Path:
    """A committed checkpoint from elsewhere on the same disk, moved into `folder` as its newest; an interrupted call is
    completed by the next. Raises ResourceError for what the system refuses."""
    final = folder / source.name
    with explained(final):
        if not final.exists():
            source.rename(final)
            synced(folder)
        newest_is(final, keep)
    return final


def newest_is(final: Path, keep: int) -> None:
    """Name the newest checkpoint of its folder in `latest`, and take away all but the last `keep`."""
    replace_text(final.parent.parent / "latest", final.name)
    for old in finished(final.parent)[:-keep]:
        remove(old)


def partial(checkpoint: Path) -> Path:
    """The name of a checkpoint that is not committed yet, or no longer."""
    return checkpoint.with_name(checkpoint.name + ".tmp")


def outlook(folder: Path) -> str:
    """What the command that trains would do with these checkpoints, if it were given again."""
    last = newest(folder)
    resumed = last and f"the same command resumes from step {int(last.name.removeprefix('step-')):,}"
    return resumed or "there is no checkpoint yet, so the same command begins anew"


def remove(checkpoint: Path) -> None:
    """Take a checkpoint away whole: it loses its name before its files go."""
    gone = checkpoint.rename(partial(checkpoint))
    synced(gone.parent)
    delete(gone, STATE)


PARTS = ("model", "ema", "optim", "rng")
"""What a run goes on from."""


def resumable(checkpoint: Path) -> bool:
    """Whether it holds all that a run goes on from."""
    return all((checkpoint / f"{part}.safetensors").is_file() for part in PARTS)


def lessen(checkpoint: Path, parts: Iterable[str]) -> None:
    """Take some parts out of a checkpoint; its manifest goes without them first, so that it is whole at any time."""
    names = {f"{part}.safetensors" for part in parts}
    manifest = json.loads((checkpoint / "manifest.json").read_text(encoding="utf8"))
    files = {name: entry for name, entry in manifest["files"].items() if name not in names}
    replace_text(checkpoint / "manifest.json", json.dumps(manifest | {"files": files}, indent=1))
    with explained(checkpoint):
        for name in names:
            (checkpoint / name).unlink(missing_ok=True)


def room(folder: Path, state: State) -> None:
    """Raise ResourceError unless a checkpoint of `state` fits in the space that is free."""
    size = sum(t.numel() * t.element_size() for part in state.values() for t in part.values())
    free = shutil.disk_usage(folder).free
    if free < 1.1 * size:
        what = f"a checkpoint needs {size / 1e6:.0f} MB, {folder} has {free / 1e6:.0f} MB free"
        raise ResourceError(what, "free some space, or choose another place")


def write(folder: Path, state: State, about: dict[str, Any], step: int) -> None:
    """All files of a checkpoint and then its manifest, each on the disk before the next line runs."""
    room(folder.parent, state)
    if folder.is_dir():
        delete(folder, STATE)
    folder.mkdir(exist_ok=True)
    for name, tensors in state.items():
        save_tensors(tensors, folder / f"{name}.safetensors")
    (folder / "system.json").write_text(json.dumps(about, indent=1), encoding="utf8")
    files = sorted(path for path in folder.iterdir() if STATE.fullmatch(path.name))
    for file in files:
        synced(file)
    listed = {file.name: {"size": file.stat().st_size, "sha256": sha256(file)} for file in files}
    manifest = folder / "manifest.json"
    manifest.write_text(json.dumps({"step": step, "files": listed}, indent=1), encoding="utf8")
    synced(manifest)
    synced(folder)


def finished(folder: Path) -> list[Path]:
    """The committed checkpoints of a folder, oldest first."""
    return sorted(p for p in folder.glob("step-*") if CHECKPOINT.fullmatch(p.name) and p.is_dir())


def newest(folder: Path) -> Path | None:
    """The newest committed checkpoint, or None."""
    committed = finished(folder)
    return committed[-1] if committed else None


def verify(checkpoint: Path) -> None:
    """Raise DamagedError unless every file is what the manifest says."""
    try:
        files = json.loads((checkpoint / "manifest.json").read_text(encoding="utf8"))["files"]
        for name, expected in files.items():
            file = checkpoint / Path(name).name
            if file.stat().st_size != expected["size"] or sha256(file) != expected["sha256"]:
                raise DamagedError(
                    f"{file} is not the file that was saved (size or sha256 differs from manifest.json)",
                    "restore it from a copy, or delete this checkpoint folder to use the one before it",
                )
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DamagedError(
            f"{checkpoint} is not a whole checkpoint: {error}", "delete this folder to use the one before it"
        ) from error


def about(checkpoint: Path) -> dict[str, Any]:
    """The JSON document saved beside the tensors."""
    document: dict[str, Any] = json.loads((checkpoint / "system.json").read_text(encoding="utf8"))
    return document


def read(checkpoint: Path, part: str) -> dict[str, Tensor]:
    """The tensors of one part: model, ema, optim or rng."""
    try:
        tensors: dict[str, Tensor] = load_file(checkpoint / f"{part}.safetensors")
    except (OSError, SafetensorError) as error:
        raise DamagedError(f"cannot read {checkpoint / part}.safetensors: {error}") from error
    return tensors
