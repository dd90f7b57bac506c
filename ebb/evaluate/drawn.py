"""Samples of a run on disk, in shards, so that a long measurement can be interrupted and go on."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ebb.events import Progress, Work
from ebb.store.failure import explained
from ebb.store.owned import SAMPLES, SHARDS, delete
from ebb.store.write import replace_bytes, replace_text
from ebb.system.sampler import Request, Sampler
from ebb.system.system import System
from ebb.understand.cost import counted

SHARD = 500
"""Samples in a file: at most so many are floats at a time, and so many are lost by an interruption."""


@dataclass(frozen=True, eq=False)
class Drawn:
    """Samples as their modality stores them, where they lie, and what each of them cost, whenever it was drawn."""

    rows: NDArray[Any]
    folder: Path
    seconds: float
    """for each sample"""
    evaluations: float
    """of the network, for each sample"""
    reused: int = 0
    """how many were there before"""
    since: float = 0.0
    """when the oldest of these were drawn, in seconds of the clock"""


def draw(system: System, home: Path, request: Request, facts: Mapping[str, Any], what: str = "sampling") -> Work[Drawn]:
    """The samples of a request to `system`, from the shards under `home` and, where one is missing, anew; `what` it is
    in words.

    The folder `home/samples-<hash>` belongs to the request's settings and seed and to `facts` (what else the samples
    depend on: weights and data), so that a set is never taken for another. Sample i depends on seed + i alone: a set
    that was interrupted goes on at its next shard, and a larger one begins with the smaller one's samples. Once the
    set is whole, the sets of other settings in `home` are deleted.
    """
    about = dict(facts) | {"seed": request.seed, "ebb": version("ebb"), "sampling": request.sampling.model_dump()}
    folder = home / f"samples-{hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:12]}"
    with explained(folder):
        folder.mkdir(parents=True, exist_ok=True)
    count, sampler, shards = len(request), Sampler(system), listed(folder)
    blank = system.modality.stored(torch.zeros(1, *system.shape))  # says what samples are stored as
    stored = np.empty((count, *blank.shape[1:]), blank.dtype)
    began, fresh, spent, shown, since = time.perf_counter(), 0, 0.0, 0.0, time.time()
    for first in range(0, count, SHARD):
        size, name = min(SHARD, count - first), f"{first // SHARD:05d}.npy"
        found = shard(folder / name, size, blank) if shards.get(name, {}).get("count", 0) >= size else None
        if found is None:
            with counted(*system.networks(request.sampling)) as seen:
                start = time.perf_counter()
                found = system.modality.stored(sampler(request.part(first, size)))
                took = time.perf_counter() - start
            keep(folder / name, found)
            shards[name] = {"count": size, "seconds": took, "evaluations": seen[0]}
            replace_text(folder / "manifest.json", json.dumps(about | {"shards": shards}, indent=1))
            fresh += size
        else:
            since = min(since, (folder / name).stat().st_mtime)
        stored[first : first + size] = found
        share = size / shards[name]["count"]
        spent, shown = spent + share * shards[name]["seconds"], shown + share * shards[name]["evaluations"]
        left = (time.perf_counter() - began) / max(1, fresh) * (count - first - size)
        yield Progress(what, first + size, count, left if fresh else None)
    forget(home, folder)
    return Drawn(stored, folder, spent / count, shown / count, count - fresh, since)


def sets(home: Path) -> list[Path]:
    """The folders of samples that were drawn under `home`."""
    return [path for path in sorted(home.glob("samples-*")) if SAMPLES.fullmatch(path.name) and path.is_dir()]


def forget(home: Path, but: Path | None = None) -> None:
    """Delete the samples that were drawn under `home`, but for one set."""
    for folder in sets(home):
        if folder != but:
            delete(folder, SHARDS)


def waiting(home: Path) -> int:
    """How many samples lie under `home` for a measurement to go on with."""
    return sum(shard["count"] for folder in sets(home) for shard in listed(folder).values())


def listed(folder: Path) -> dict[str, dict[str, Any]]:
    """The shards of a folder by file name, as its manifest has them; {} where that is absent or cannot be read."""
    try:
        shards: dict[str, dict[str, Any]] = json.loads((folder / "manifest.json").read_text(encoding="utf8"))["shards"]
    except (OSError, ValueError, KeyError, TypeError):
        return {}
    return shards


def shard(path: Path, size: int, like: NDArray[Any]) -> NDArray[Any] | None:
    """The first `size` samples of a file; None where it does not hold so many samples of this kind."""
    try:
        found = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    whole = found.dtype == like.dtype and found.shape[1:] == like.shape[1:] and len(found) >= size
    return found[:size] if whole else None


def keep(path: Path, rows: NDArray[Any]) -> None:
    """Write a shard so that it is whole or absent."""
    made = BytesIO()
    np.save(made, rows, allow_pickle=False)
    replace_bytes(path, made.getbuffer())
