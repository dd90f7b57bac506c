"""What of a run folder ebb made, known by its name, and what it did not: only the first is ever replaced or deleted."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path

from ebb.errors import UsageError
from ebb.store.lock import LOCKS
from ebb.store.write import PARTIAL

CHECKPOINT = re.compile(r"step-\d+")
"""The name of a committed checkpoint."""

SAMPLES = re.compile(r"samples-[0-9a-f]{12}")
"""The name of a folder of samples that a measurement drew."""

EXTENSION = "extension"
"""The folder in a finished run in which it is gone on with, until that is better: a run of its own."""

FOLDERS = re.compile(
    rf"{EXTENSION}|({EXTENSION}/)?"
    rf"(samples|evaluation|checkpoints|checkpoints/{CHECKPOINT.pattern}(\.tmp)?|evaluation/{SAMPLES.pattern})"
)
"""The folders that ebb makes in a run folder."""

STATE = re.compile(r"(model|ema|optim|rng|memory|nearest|autoencoder)\.safetensors|(system|manifest)\.json|\.tmp\w{6}")
"""The files of a checkpoint, the last where safetensors was interrupted."""

SHARDS = re.compile(r"\d{5,}\.npy|manifest\.json")
"""The files of a folder of samples."""

OWN = re.compile(
    rf"({EXTENSION}/)?"
    r"(run\.yaml|(env|data|choices|guard|evaluation|effect|doctor|sweep|references|sampling|guidance|against-.+)\.json|log\.jsonl|latest|card\.md"
    r"|(report|sweep)\.html|(sweep|with-and-without)\.png|(classifier|earlier)\.safetensors"
    r"|samples/(data-(sheet|grid)|step-\d+)\.png|evaluation/(closest|reconstructions|between|captions|temperatures)\.png"
    rf"|evaluation/{SAMPLES.pattern}/({SHARDS.pattern})"
    rf"|checkpoints/{CHECKPOINT.pattern}(\.tmp)?/({STATE.pattern}))(\.tmp)?|(.*/)?{PARTIAL.pattern}"
)
"""The files that ebb makes in a run folder, by their names from there."""


def is_run(folder: Path) -> bool:
    """Whether a folder holds a run of ebb: a run.yaml with a recipe in it."""
    try:
        return bool(re.search(r"^recipe:", (folder / "run.yaml").read_text(encoding="utf8"), re.MULTILINE))
    except (OSError, UnicodeDecodeError):
        return False


def claimable(folder: Path) -> None:
    """Raise UsageError for a place that holds something, but no run. Hidden files and a disk's `lost+found` do not
    count: they stay where they are."""
    elsewhere = "choose another place with --run FOLDER"
    if folder.is_file():
        raise UsageError(f"{folder} is a file", elsewhere)
    if folder.is_dir() and not is_run(folder):
        found = [path.name for path in folder.iterdir() if not path.name.startswith(".") and path.name != "lost+found"]
        if found:
            why = "its run.yaml holds no recipe" if "run.yaml" in found else f"it holds {min(found)}"
            raise UsageError(f"{folder} exists and is not a run of ebb: {why}", elsewhere)


def spared(folder: Path, read: Mapping[str, Path]) -> None:
    """Raise UsageError where something that is read lies in a run folder that is about to be replaced."""
    for what, path in read.items():
        if path.exists() and path.resolve().is_relative_to(folder.resolve()):
            raise UsageError(
                f"{what} {path} lies in {folder}, which would be replaced",
                "move it elsewhere first, or choose another place with --run FOLDER",
            )


def contents(folder: Path, inside: str = "") -> Iterator[tuple[str, bool]]:
    """What a run folder holds, by its name from there, and whether ebb made it; a folder that is not ebb's is one."""
    for path in sorted((folder / inside).iterdir()):
        name = f"{inside}{path.name}"
        if path.is_dir() and FOLDERS.fullmatch(name):
            yield from contents(folder, f"{name}/")
        elif name not in LOCKS:
            yield name, path.is_file() and OWN.fullmatch(name) is not None


def delete(folder: Path, names: re.Pattern[str]) -> None:
    """Delete the files of these names in a folder, and those half written; the folder too if it held nothing else."""
    for path in folder.iterdir():
        if (names.fullmatch(path.name) or PARTIAL.fullmatch(path.name)) and path.is_file():
            path.unlink()
    with suppress(OSError):
        folder.rmdir()


def clear(folder: Path) -> None:
    """Delete what ebb made in a run folder, its run.yaml first, and folders that come to be empty; no other file."""
    if not own_folder(folder):
        return
    own = [name for name, ours in contents(folder) if ours]
    for name in sorted(own, key="run.yaml".__ne__):
        (folder / name).unlink()
    inside = [place for place in sorted(folder.rglob("*")) if own_folder(place)]
    mine = [place for place in inside if FOLDERS.fullmatch(place.relative_to(folder).as_posix())]
    for place in reversed([folder, *mine]):
        with suppress(OSError):
            place.rmdir()


def move(names: Iterable[str], source: Path, target: Path) -> None:
    """Move files from one folder to another on the same disk, and take away folders that came to be empty."""
    for name in names:
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).replace(target / name)
        for empty in (source / name).parents:
            if empty == source or any(empty.iterdir()):
                break
            with suppress(OSError):  # such as a link to a folder
                empty.rmdir()


def every_file(folder: Path) -> list[str]:
    """The names of all files below a folder, from there."""
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir())


def own_folder(path: Path) -> bool:
    """Whether a name that ebb uses for itself alone is that of a folder: what a link leads to is somebody else's."""
    return path.is_dir() and not path.is_symlink()


def forget(folder: Path) -> None:
    """Delete a folder that ebb made for itself alone, with all that is in it."""
    if own_folder(folder):
        shutil.rmtree(folder)
