"""How data differs from what a run was trained on, as far as the run's documents and the files' dates tell."""

from __future__ import annotations

import json
from collections import defaultdict
from datetime import datetime
from pathlib import Path
from typing import Any

from ebb.data.archive import Notes, folder, shown
from ebb.data.dataset import Summary
from ebb.data.listing import pictures_in
from ebb.shapes import sides
from ebb.store.place import expanded
from ebb.store.png import made_by_ebb

NAMED = 3
"""Files that are named; more are counted."""


def changed(run: Path, now: Summary, where: str) -> str:
    """What is known of the difference between the data that a run was trained on and the data at a place, in words:
    counts and sizes then and now, and the pictures in a folder that are newer than the run."""
    then, made = _document(run / "data.json"), _document(run / "env.json")
    said = []
    count, size = then.get("count"), then.get("shape", [])[1:]
    if count is not None and count != now.count:
        said.append(f"{now.count:,} images now, {count:,} then")
    if size and size != list(now.shape[1:]):
        said.append(f"of {sides(now.shape[1:])} now, {sides(size)} then")
    if names := _newer(expanded(where), str(made.get("started", ""))):
        more = f" and {len(names) - NAMED:,} more" if len(names) > NAMED else ""
        said.append(f"added or changed since: {', '.join(map(shown, names[:NAMED]))}{more}")
    return "; ".join(said) or "other pixels, labels or captions"


def _document(file: Path) -> dict[str, Any]:
    """A document of a run; nothing where it is missing or damaged, since it would only explain."""
    try:
        found = json.loads(file.read_text(encoding="utf8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _newer(root: Path, started: str) -> list[str]:
    """The pictures in a folder that came or were written after a run was started, the newest first."""
    try:
        since = datetime.fromisoformat(started).timestamp() + 1  # it is written without fractions
    except ValueError:
        return []
    if not root.is_dir():
        return []
    notes: Notes = defaultdict(list)
    times = {name: _time(root / name) for name in pictures_in(folder(root, notes))}
    newer = [name for name, time in times.items() if time > since and not made_by_ebb(root / name)]
    return sorted(newer, key=lambda name: (-times[name], name))


def _time(file: Path) -> float:
    status = file.stat()
    return max(status.st_mtime, status.st_ctime)  # what was moved or copied keeps the first
