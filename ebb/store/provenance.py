"""What made a file, written into it so that it can be made again: command, weights by their hash, and machine."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save

from ebb.errors import DamagedError
from ebb.store import shared
from ebb.store.checkpoint import sha256
from ebb.terminal import command

KEY = "made"
"""Under which it stands among the settings of a file."""

VERBS = ("sample", "edit")
"""The verbs whose results say it."""


@dataclass(frozen=True)
class Provenance:
    """A command of `ebb` with every setting, and what its result depends on besides.

    Places are those that may be given away (`public`).
    """

    verb: str
    """such as "sample" or "edit vary" """
    run: str
    options: tuple[str, ...]
    """its other words, but for the place to write to and the number of samples"""
    weights: str
    """sha256 of the file of the averaged weights"""
    count: int
    """how many it makes"""
    number: int | None = None
    """which of them this file holds, from 0; None: all"""
    files: Mapping[str, str] = field(default_factory=dict)
    """sha256 of every file or folder that it reads besides"""
    maker: Mapping[str, str | int] = field(default_factory=dict)
    """versions, device and threads, on which the last bits depend"""

    @classmethod
    def of(cls, verb: str, run: Path, checkpoint: Path, options: Sequence[str], files: Iterable[Path]) -> Provenance:
        """That of a command which is about to make something here, with a checkpoint of a run; of how many is open."""
        weights, read = weights_of(checkpoint), {name: digest(file) for name, file in named_apart(files).items()}
        return cls(verb, public(run), tuple(options), weights, 0, files=read, maker=here())

    @classmethod
    def read(cls, settings: Mapping[str, Any], path: Path) -> Provenance | None:
        """That of the settings that the file at `path` holds; None where they have none, as those of before it.

        Raises DamagedError for one that is none.
        """
        facts = settings.get(KEY)
        if facts is None:
            return None
        try:
            made = cls(**facts | {"options": tuple(map(str, facts["options"]))})
            known = made.verb.split()[0] in VERBS
        except (TypeError, KeyError, AttributeError, IndexError, ValueError):
            known = False
        if not known:
            raise DamagedError(f"{path} says how it was made in a way that this ebb does not know")
        return made

    def facts(self) -> dict[str, Any]:
        """It as JSON."""
        facts: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return facts

    def entry(self, count: int, number: int | None = None) -> dict[str, Any]:
        """It among the settings of a file, of so many, or of that one among them."""
        return {KEY: replace(self, count=count, number=number).facts()}

    def words(self, run: str | Path | None = None) -> list[str]:
        """The command as words behind `ebb`; with another `run`, where it has moved."""
        count = ["--n", str(self.count)] if self.verb == "sample" else []  # of an edit it is among the options
        return [*self.verb.split(), str(run or self.run), *self.options, *count]

    def line(self) -> str:
        """The command as a shell takes it."""
        return command(*self.words())

    def differences(self, now: Provenance) -> list[str]:
        """In what, of all that a result depends on besides the command, `now` is another, in words."""
        lines = (
            [] if self.weights == now.weights else [f"other weights: {short(self.weights)}, now {short(now.weights)}"]
        )
        lines += [f"another {name}" for name, was in self.files.items() if now.files.get(name) != was]
        return lines + [
            f"{name} {was}, now {now.maker.get(name)}" for name, was in self.maker.items() if now.maker.get(name) != was
        ]


def short(hashed: str) -> str:
    """The beginning of a hash, as it is shown."""
    return f"{hashed[:12]}…"


def here() -> dict[str, str | int]:
    """What this process makes files with, as far as their last bits depend on it."""
    gpu = torch.cuda.is_available()
    return {
        "ebb": version("ebb"),
        "torch": torch.__version__,
        "device": torch.cuda.get_device_name() if gpu else f"CPU, {torch.backends.cpu.get_cpu_capability()}",
        "threads": torch.get_num_threads(),
    }


def weights_of(system: Path) -> str:
    """sha256 of the file of averaged weights that a checkpoint or an exported folder has by its manifest, and of the
    same file where one holds all; DamagedError where there is none."""
    try:
        if system.is_file():
            return hashlib.sha256(save(dict(shared.opened(system)[1]("ema")))).hexdigest()
        files = json.loads((system / "manifest.json").read_text(encoding="utf8"))["files"]
        return str(files["ema.safetensors"]["sha256"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DamagedError(f"{system} names no averaged weights: {error!r}", "restore it from a copy") from error


def digest(place: Path) -> str:
    """sha256 of a file, or of the names and hashes of all files in a folder; "" where there is none."""
    if place.is_dir():
        inside = sorted(file for file in place.rglob("*") if file.is_file())
        listed = json.dumps([[file.relative_to(place).as_posix(), sha256(file)] for file in inside])
        return hashlib.sha256(listed.encode()).hexdigest()
    return sha256(place) if place.is_file() else ""


def named_apart(files: Iterable[Path]) -> dict[str, Path]:
    """Files by names that may be given away, the second of one name as "NAME (2)": those of adapters' runs elsewhere
    are all called alike."""
    found = dict[str, Path]()
    for file in dict.fromkeys(Path(os.path.abspath(file)) for file in files):
        name, count = public(file), 1
        while (apart := name if count == 1 else f"{name} ({count})") in found:
            count += 1
        found[apart] = file
    return found


def public(place: str | Path) -> str:
    """A place as it may stand in a file that is given away: from the working folder on where it lies in that, else its
    name alone."""
    whole, here = Path(os.path.abspath(place)), Path.cwd()
    return whole.relative_to(here).as_posix() if whole.is_relative_to(here) else whole.name
