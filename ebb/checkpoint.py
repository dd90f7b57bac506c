"""Checkpoints that are absent or complete, never in between; tensors and JSON only, nothing that runs.

Protocol: write `step-N.tmp/`, fsync every file, write the manifest (sizes, sha256), fsync, rename to `step-N/`, fsync
the parent, replace `latest`, and only then prune. Whenever the process dies, `newest` finds a whole checkpoint or none.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from ebb.errors import DamagedError, EbbError, ResourceError

State = dict[str, dict[str, Tensor]]


def sha256(path: Path) -> str:
    """The hash of a file, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def synced(path: Path) -> None:
    """Have the operating system put a file or folder on the disk before going on."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def replace_text(path: Path, text: str) -> None:
    """Write a small file so that readers see the old text or the new, never a part."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(text, encoding="utf8")
    synced(temporary)
    temporary.replace(path)


def save(folder: Path, step: int, state: State, about: dict[str, Any], keep: int = 2) -> Path:
    """Commit `state` and the JSON document `about` as `folder/step-N`, and keep the newest `keep`.

    Raises ResourceError on a full disk and EbbError for non-finite weights; what was committed before stays whole.
    """
    for name, tensor in (item for part in ("model", "ema") for item in state[part].items()):
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise EbbError(f"step {step}: {name} is not finite, so no checkpoint was written", "lower --optimiser.lr")
    folder.mkdir(parents=True, exist_ok=True)
    size = sum(t.numel() * t.element_size() for part in state.values() for t in part.values())
    free = shutil.disk_usage(folder).free
    remedy = "free some space and run the same command: it resumes from the last checkpoint"
    if free < 1.1 * size:
        raise ResourceError(f"a checkpoint needs {size / 1e6:.0f} MB, {folder} has {free / 1e6:.0f} MB free", remedy)
    final, temporary = folder / f"step-{step:08d}", folder / f"step-{step:08d}.tmp"
    try:
        if not final.exists():
            write(temporary, state, about, step)
            temporary.rename(final)
            synced(folder)
        replace_text(folder.parent / "latest", final.name)
    except OSError as error:
        shutil.rmtree(temporary, ignore_errors=True)
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise ResourceError(f"the disk is full: {final} was not written", remedy) from error
        raise
    for left in folder.glob("step-*.tmp"):  # by a process that was killed
        shutil.rmtree(left)
    for old in finished(folder)[:-keep]:
        remove(old)
    return final


def remove(checkpoint: Path) -> None:
    """Take a checkpoint away whole: it loses its name before its files go."""
    gone = checkpoint.rename(checkpoint.with_name(checkpoint.name + ".tmp"))
    synced(gone.parent)
    shutil.rmtree(gone)


def write(folder: Path, state: State, about: dict[str, Any], step: int) -> None:
    """All files of a checkpoint and then its manifest, each on the disk before the next line runs."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for name, tensors in state.items():
        save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, folder / f"{name}.safetensors")
    (folder / "system.json").write_text(json.dumps(about, indent=1), encoding="utf8")
    files = sorted(folder.iterdir())
    for file in files:
        synced(file)
    listed = {file.name: {"size": file.stat().st_size, "sha256": sha256(file)} for file in files}
    manifest = folder / "manifest.json"
    manifest.write_text(json.dumps({"step": step, "files": listed}, indent=1), encoding="utf8")
    synced(manifest)
    synced(folder)


def finished(folder: Path) -> list[Path]:
    """The committed checkpoints of a folder, oldest first."""
    return sorted(p for p in folder.glob("step-*") if re.fullmatch(r"step-\d+", p.name) and p.is_dir())


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
